//! Standard output as a target: records, for people and pipes.
//!
//! What enters: exchanges, as they come. What leaves: their records, with one write as many as are there, and how each exchange
//! ended, once the kernel has its bytes. What may be lost: what no record can be made of (`failed`, ours); all that comes
//! after a write that failed, as that of a pipe whose reader is gone (`recording_stopped`); what finds no room behind a
//! reader that is slow (`replayer_full`). Nothing waits for the reader but this target's own thread.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use reprise_traffic::outcome::TAKEN;
use reprise_traffic::{Disposition, DropReason, Fault, Target, TargetDocument, TargetName};
use tracing::warn;

use super::records::Records;
use super::{Entry, Queue};
use crate::sessions::Room;

/// A batch of so many bytes is written, also if more waits.
const BATCH_BYTES: usize = 64 << 10;

/// How all ends that comes after a write that failed.
const STOPPED: Disposition = Disposition::Dropped(DropReason::RecordingStopped);

/// Standard output, as one target has it.
pub(crate) struct Stdout {
    document: TargetDocument,
    /// Its thread ends with this.
    inbox: mpsc::Sender<Entry>,
    queue: Arc<Queue>,
}

impl fmt::Debug for Stdout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output")
    }
}

impl Stdout {
    /// Starts its thread.
    ///
    /// # Errors
    /// When the system grants none.
    pub(crate) fn start(target: &Target) -> io::Result<Stdout> {
        // Each write is whole records, so that targets share it.
        Stdout::into(target, io::stdout())
    }

    fn into(target: &Target, out: impl Write + Send + 'static) -> io::Result<Stdout> {
        let queue = Queue::new();
        let (sender, inbox) = mpsc::channel();
        let writer = Writer {
            target: target.name.clone(),
            records: Records::of(target),
            out,
            pending: Vec::new(),
            batch: Vec::new(),
            queue: queue.clone(),
        };
        thread::Builder::new()
            .name("stdout".to_owned())
            .spawn(move || writer.run(&inbox))?;
        Ok(Stdout {
            document: target.document.clone(),
            inbox: sender,
            queue,
        })
    }

    /// True where it does what a newer document asks for.
    pub(crate) fn serves(&self, newer: &Target) -> bool {
        self.document.changes_as(&newer.document) && !self.queue.is_closed()
    }

    /// Takes an exchange where there is room for it.
    pub(crate) fn take(&self, entry: Entry, most: Room) {
        if let Some(entry) = self.queue.admit(entry, most) {
            // The thread ends with this sender, and a panic of it ends the process.
            let _ = self.inbox.send(entry);
        }
    }

    /// Exchanges that have not ended.
    pub(crate) fn load(&self) -> usize {
        self.queue.load()
    }
}

struct Writer<W> {
    target: TargetName,
    records: Records,
    out: W,
    pending: Vec<u8>,
    /// Exchanges whose records are pending.
    batch: Vec<Entry>,
    queue: Arc<Queue>,
}

impl<W: Write> Writer<W> {
    /// Writes until nobody can send any more.
    fn run(mut self, inbox: &Receiver<Entry>) {
        while let Ok(first) = inbox.recv() {
            self.take(first);
            while self.pending.len() < BATCH_BYTES
                && let Ok(next) = inbox.try_recv()
            {
                self.take(next);
            }
            self.flush();
        }
    }

    fn take(&mut self, entry: Entry) {
        if self.queue.is_closed() {
            return self.queue.settle(entry, STOPPED);
        }
        let pending = &mut self.pending;
        let written = self.records.write(&entry.exchange, |first, second| {
            for part in [Some(first), second].into_iter().flatten() {
                part.parts()
                    .for_each(|part| pending.extend_from_slice(part));
            }
        });
        match written {
            Ok(()) => self.batch.push(entry),
            Err(_) => self.queue.settle(entry, Disposition::Failed(Fault::Ours)),
        }
    }

    /// Writes what is pending, and ends the exchanges whose records these are.
    fn flush(&mut self) {
        let out = &mut self.out;
        let written = out.write_all(&self.pending).and_then(|()| out.flush());
        self.pending.clear();
        self.pending.shrink_to(4 * BATCH_BYTES);
        if let Err(error) = &written
            && !self.batch.is_empty()
        {
            self.queue.close();
            warn!(
                "target {}: write to standard output: {error}; what comes from now on is dropped (recording_stopped)",
                self.target
            );
        }
        // Some of a batch that failed may have been written. Saying of what is there that it isn't does less harm than the
        // other way round.
        let end = written.map_or(STOPPED, |()| Disposition::Replayed(TAKEN));
        for entry in self.batch.drain(..) {
            self.queue.settle(entry, end);
        }
    }
}

#[cfg(test)]
mod tests;
