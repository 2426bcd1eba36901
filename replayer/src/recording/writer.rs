//! The thread of a recording: from exchanges to files.
//!
//! What enters: exchanges, as they come. What leaves: batches of records, each with one write to each file, and how each
//! exchange ended. What may be lost: what the format can't hold (`failed`, ours); all that comes after a write that failed
//! (`recording_stopped`); with a kill, what was not written yet, and that was never said to be recorded.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Zoned;
use jiff::civil::DateTime;
use reprise_node::LogLimit;
use reprise_traffic::gor::{self, Encoded, Kind};
use reprise_traffic::outcome::TAKEN;
use reprise_traffic::recording::{Packing, Recording, RecordingSettings};
use reprise_traffic::{Changes, Disposition, DropReason, Fault, Target, TargetName};
use tracing::{error, info, warn};

use super::Word;
use super::file::{self, OpenError, RecordFile};
use super::name::Names;
use super::pack::Packer;
use crate::sink::{Entry, Queue};

/// A batch of so many bytes is written before its time: memory, and what a reader of the file holds at once.
const BATCH_BYTES: usize = 1 << 20;

/// So is one of so many exchanges. Whoever reads files has 1,024 of them unsettled at the most, and waits for these.
const BATCH_EXCHANGES: usize = 512;

/// More than this is not kept for the next batch.
const KEEP: usize = 4 * BATCH_BYTES;

/// Requests that can't be written come as clients send them.
const REFUSED_LINES: Duration = Duration::from_secs(60);

/// Why a recording stops.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("write to {file}: {source}")]
    Write { file: String, source: io::Error },
    #[error("{written} bytes are written, and max_size allows {most}")]
    MaxSize { written: u64, most: u64 },
}

impl Stop {
    fn remedy(&self) -> &'static str {
        let source = match self {
            Stop::MaxSize { .. } => return "Move its files away or raise max_size",
            Stop::Open(OpenError::Io { source, .. }) | Stop::Write { source, .. } => source,
            Stop::Open(_) => return "Mend that",
        };
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "Make room",
            _ => "Mend that",
        }
    }
}

/// A file that is being written, and what is to be written into it next.
struct Chunk {
    /// Its name without a number.
    name: String,
    kind: Kind,
    file: Option<RecordFile>,
    pending: Vec<u8>,
    /// In all, pending ones included.
    records: u64,
}

pub(super) struct Writer {
    target: TargetName,
    settings: RecordingSettings,
    packing: Packing,
    names: Names,
    packer: Packer,
    chunks: Vec<Chunk>,
    clock: Clock,
    /// The number of the next chunk of that name.
    next: (String, Option<u64>),
    /// Exchanges whose records are pending.
    batch: Vec<Entry>,
    bytes: usize,
    deadline: Option<Instant>,
    /// What waits is written as soon as nothing else comes.
    hurries: bool,
    written: u64,
    /// How all that comes ends, once nothing can be recorded any more.
    over: Option<Disposition>,
    refused: LogLimit,
    changes: Changes,
    queue: Arc<Queue>,
}

impl Writer {
    /// # Errors
    /// When there is no memory to pack in.
    pub(super) fn new(
        target: &Target,
        recording: Recording,
        names: Names,
        queue: Arc<Queue>,
    ) -> io::Result<Writer> {
        let packing = recording.name.packing();
        Ok(Writer {
            target: target.name.clone(),
            changes: target.changes.clone(),
            settings: recording.settings,
            packing,
            names,
            packer: Packer::new(packing)?,
            chunks: Vec::new(),
            clock: Clock::default(),
            next: (String::new(), None),
            batch: Vec::new(),
            bytes: 0,
            deadline: None,
            hurries: false,
            written: 0,
            over: None,
            refused: LogLimit::every(REFUSED_LINES),
            queue,
        })
    }

    /// Records until nobody can send any more.
    pub(super) fn run(mut self, inbox: &Receiver<Word>) {
        self.open_early();
        loop {
            let wait = self.deadline.map(|at| match self.hurries {
                true => Duration::ZERO,
                false => at.saturating_duration_since(Instant::now()),
            });
            let next = match wait {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => inbox.recv_timeout(wait),
            };
            match next {
                Ok(Word::Take(entry)) => self.take(entry),
                Ok(Word::Hurry) => self.hurries = true,
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.flush();
        let (target, written) = (&self.target, self.written);
        info!(%target, written, "recording closed");
    }

    /// What is wrong with a file that is to be gone on with is said before the first request comes.
    fn open_early(&mut self) {
        if !self.settings.append || self.names.are_single() || self.names.tell_kinds_apart() {
            return;
        }
        let name = self.names.of(&self.clock.now(false), Kind::Request, b"");
        let chunk = Chunk::new(name, Kind::Request);
        self.chunks.push(chunk);
        if let Err(stop) = self.open(0) {
            self.chunks.clear();
            self.over = Some(Disposition::Failed(Fault::Ours));
            self.queue.close();
            warn!("target {}: {stop}; its exchanges fail", self.target);
        }
    }

    fn take(&mut self, entry: Entry) {
        if let Some(disposition) = self.over {
            return self.queue.settle(entry, disposition);
        }
        let exchange = entry.exchange.clone();
        let head = match self.changes.apply(&exchange.request.head) {
            Ok(head) => head,
            Err(reason) => return self.refuse(entry, &reason),
        };
        let records = match gor::encode(&exchange, &head) {
            Ok(records) => records,
            Err(reason) => return self.refuse(entry, &reason),
        };
        let now = self.clock.now(self.names.are_single());
        for record in [Some(&records.0), records.1.as_ref()].into_iter().flatten() {
            self.put(record, &now);
        }
        if self.over.is_some() {
            // What was pending before it could not be written.
            return self.queue.settle(entry, STOPPED);
        }
        self.batch.push(entry);
        let started = *self
            .deadline
            .get_or_insert_with(|| Instant::now() + self.settings.flush_interval);
        let is_full = self.bytes >= BATCH_BYTES || self.batch.len() >= BATCH_EXCHANGES;
        let ends_chunk = self.chunks.iter().any(|chunk| self.is_full(chunk));
        if is_full || ends_chunk || started <= Instant::now() {
            self.flush();
        }
    }

    fn refuse(&self, entry: Entry, reason: &dyn Error) {
        if let Some(suppressed) = self.refused.allow() {
            let (target, id) = (&self.target, &entry.exchange.id);
            warn!(%target, exchange = %id, suppressed, "can't be recorded: {reason}");
        }
        self.queue.settle(entry, Disposition::Failed(Fault::Ours));
    }

    /// Puts a record to those that are pending for its file.
    fn put(&mut self, record: &Encoded<'_>, now: &DateTime) {
        let name = self.names.of(now, record.kind, &record.id);
        let known = self.chunks.iter().position(|chunk| chunk.name == name);
        let at = known.unwrap_or_else(|| {
            self.close_for(record.kind);
            self.chunks.push(Chunk::new(name, record.kind));
            self.chunks.len() - 1
        });
        let chunk = &mut self.chunks[at];
        let before = chunk.pending.len();
        for part in record.parts() {
            chunk.pending.extend_from_slice(part);
        }
        chunk.records += 1;
        self.bytes += chunk.pending.len() - before;
    }

    /// A file of another name is due: the one before it is done with. Where each record has a file of its own, they are
    /// closed when they are written.
    fn close_for(&mut self, kind: Kind) {
        if self.names.are_single() {
            return;
        }
        let by_kind = self.names.tell_kinds_apart();
        let stays = |chunk: &Chunk| by_kind && chunk.kind != kind;
        if self
            .chunks
            .iter()
            .any(|chunk| !stays(chunk) && !chunk.pending.is_empty())
        {
            self.flush();
        }
        self.chunks.retain(stays);
    }

    /// Writes what is pending, and ends the exchanges whose records these are.
    fn flush(&mut self) {
        self.deadline = None;
        self.bytes = 0;
        let mut written = Ok(());
        for at in 0..self.chunks.len() {
            written = written.and_then(|()| self.write(at));
        }
        let batch = std::mem::take(&mut self.batch);
        if let Err(stop) = written {
            self.stop(&stop);
        }
        // Where a request and its answer go into files of their own, one of these may have been written. Saying of what
        // is there that it isn't does less harm than the other way round.
        let end = self.over.unwrap_or(Disposition::Replayed(TAKEN));
        for entry in batch {
            self.queue.settle(entry, end);
        }
        if self.names.are_single() {
            self.chunks.clear();
        }
        let mut chunks = std::mem::take(&mut self.chunks);
        chunks.retain(|chunk| !self.is_full(chunk));
        self.chunks = chunks;
    }

    fn write(&mut self, at: usize) -> Result<(), Stop> {
        if self.chunks[at].pending.is_empty() {
            return Ok(());
        }
        if self.chunks[at]
            .file
            .as_ref()
            .is_none_or(RecordFile::is_gone)
        {
            self.open(at)?;
        }
        let chunk = &mut self.chunks[at];
        let Some(file) = &mut chunk.file else {
            return Ok(());
        };
        let failed = |file: &RecordFile, source| Stop::Write {
            file: file.path().display().to_string(),
            source,
        };
        let packed = file.pack(&mut self.packer, &chunk.pending);
        let packed = packed.map_err(|source| failed(file, source))?;
        let (written, most) = (self.written, self.settings.max_size.0);
        if most > 0 && written.saturating_add(packed.len() as u64) > most {
            return Err(Stop::MaxSize { written, most });
        }
        file.write(packed, self.packing)
            .map_err(|source| failed(file, source))?;
        self.written += packed.len() as u64;
        chunk.pending.clear();
        chunk.pending.shrink_to(KEEP);
        Ok(())
    }

    /// Opens a chunk's file.
    fn open(&mut self, at: usize) -> Result<(), Stop> {
        let chunk = &mut self.chunks[at];
        if self.names.directory_varies() {
            file::make_directory(&chunk.name)?;
        }
        let opened = if self.settings.append {
            let mut first = Vec::new();
            let file = RecordFile::append(&chunk.name, self.packing, &mut first)?;
            if !first.is_empty() {
                first.append(&mut chunk.pending);
                chunk.pending = first;
            }
            file
        } else {
            if self.next.0 != chunk.name {
                // A name of its own has no chunks but its own, as a rule; looking for them takes as long as there are files.
                let first = self.names.are_single().then_some(0);
                self.next = (chunk.name.clone(), first);
            }
            RecordFile::create(&chunk.name, &mut self.next.1)?
        };
        chunk.file = Some(opened);
        Ok(())
    }

    fn stop(&mut self, stop: &Stop) {
        self.over = Some(STOPPED);
        self.queue.close();
        self.chunks.clear();
        error!(
            "target {}: recording stopped: {stop}; what comes from now on is dropped (recording_stopped). {}, then change the \
             target's document or restart this process",
            self.target,
            stop.remedy()
        );
    }

    /// True where a chunk is followed by the next.
    fn is_full(&self, chunk: &Chunk) -> bool {
        if self.settings.append {
            return false;
        }
        let size = chunk.file.as_ref().map_or(0, RecordFile::size);
        // How much packed records take is known when they are written.
        let pending = match self.packing {
            Packing::Plain => chunk.pending.len() as u64,
            Packing::Gzip | Packing::Zstd => 0,
        };
        let RecordingSettings {
            size_limit,
            queue_limit,
            ..
        } = self.settings;
        let too_large = size_limit.0 > 0 && size + pending >= size_limit.0;
        too_large || (queue_limit > 0 && chunk.records >= queue_limit)
    }
}

/// How all ends that comes after a failure.
const STOPPED: Disposition = Disposition::Dropped(DropReason::RecordingStopped);

impl Chunk {
    fn new(name: String, kind: Kind) -> Chunk {
        Chunk {
            name,
            kind,
            file: None,
            pending: Vec::new(),
            records: 0,
        }
    }
}

/// The wall clock of this place, as names have it.
#[derive(Debug, Default)]
struct Clock {
    /// Unix time, and what a clock on the wall says then.
    second: Option<(u64, DateTime)>,
}

impl Clock {
    /// The second alone, unless it is to be exact: where a time zone stands need not be asked for each record.
    fn now(&mut self, exact: bool) -> DateTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let second = since.map_or(0, |since| since.as_secs());
        match self.second {
            Some((known, time)) if known == second && !exact => time,
            _ => {
                let time = Zoned::now().datetime();
                self.second = Some((second, time));
                time
            }
        }
    }
}
