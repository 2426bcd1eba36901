//! Recordings: a target that is a row of files.
//!
//! What enters: exchanges that its rules let through, in the order in which they came. What leaves: records in files
//! ([`writer`], [`file`]), named as the target says ([`name`]) and packed as the name says ([`pack`]); how each exchange
//! ended, once the kernel has its bytes. What may be lost: what finds no room in the queue (`replayer_full`); the rest is
//! said there. Nothing waits for the disk but the recording's own thread.

mod file;
mod name;
mod pack;
mod tail;
mod writer;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use reprise_traffic::recording::Recording;
use reprise_traffic::target::Destination;
use reprise_traffic::{Disposition, DropReason, Exchange, Target, TargetName};

pub use file::OpenError;

use crate::sessions::Room;
use name::Names;
use writer::Writer;

/// Why a target can't be recorded by this replayer. One line for its owner.
#[derive(Debug, thiserror::Error)]
#[error("target {target}: {source}")]
pub struct RecordingError {
    /// Its name.
    pub target: TargetName,
    /// What is wrong with its files.
    pub source: OpenError,
}

/// Called once, with how an exchange ended.
pub(crate) type End = Box<dyn FnOnce(Arc<Exchange>, Disposition) + Send>;

/// An exchange to be recorded.
struct Entry {
    exchange: Arc<Exchange>,
    end: End,
}

/// One target's files.
pub(crate) struct Recorder {
    recording: Recording,
    /// Its thread ends with this.
    queue: mpsc::Sender<Entry>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recorder of {:?}", self.recording.name)
    }
}

/// What the thread and those who give it work share.
struct Shared {
    used: Mutex<Room>,
    over: AtomicBool,
}

impl Shared {
    fn used(&self) -> MutexGuard<'_, Room> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, entry: Entry, disposition: Disposition) {
        let size = entry.exchange.request.size();
        // Before it ends: whoever waits for the end may send the next at once.
        let mut used = self.used();
        used.bytes -= size;
        used.jobs -= 1;
        drop(used);
        (entry.end)(entry.exchange, disposition);
    }

    /// Nothing will be recorded any more.
    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Recorder {
    /// Starts a target's recording.
    ///
    /// # Errors
    /// When its directory isn't there or may not be written into, or no thread can be had.
    pub(crate) fn start(
        target: &TargetName,
        recording: &Recording,
    ) -> Result<Recorder, RecordingError> {
        let failed = |source| RecordingError {
            target: target.clone(),
            source,
        };
        let names = Names::new(recording.name.clone());
        file::check_directory(names.directory()).map_err(failed)?;
        let shared = Arc::new(Shared {
            used: Mutex::new(Room { bytes: 0, jobs: 0 }),
            over: AtomicBool::new(false),
        });
        let (queue, inbox) = mpsc::channel();
        let no_thread = |source: io::Error| OpenError::Io {
            path: recording.name.as_str().into(),
            source,
        };
        let writer = Writer::new(target.clone(), recording.clone(), names, shared.clone())
            .map_err(|e| failed(no_thread(e)))?;
        thread::Builder::new()
            .name("recording".to_owned())
            .spawn(move || writer.run(&inbox))
            .map_err(|e| failed(no_thread(e)))?;
        Ok(Recorder {
            recording: recording.clone(),
            queue,
            shared,
        })
    }

    /// True where it does what a newer document asks for.
    pub(crate) fn serves(&self, recording: &Recording) -> bool {
        self.recording == *recording && !self.shared.over.load(Ordering::Relaxed)
    }

    /// Takes an exchange where there is room for it; one is always taken, whatever its size.
    pub(crate) fn record(&self, exchange: Arc<Exchange>, most: Room, end: End) {
        let size = exchange.request.size();
        {
            let mut used = self.shared.used();
            let full = used.bytes + size > most.bytes || used.jobs >= most.jobs;
            if full && used.jobs > 0 {
                drop(used);
                return end(exchange, Disposition::Dropped(DropReason::ReplayerFull));
            }
            used.bytes += size;
            used.jobs += 1;
        }
        // The thread ends with this sender, and a panic of it ends the process.
        let _ = self.queue.send(Entry { exchange, end });
    }

    /// Exchanges that have not ended.
    pub(crate) fn load(&self) -> usize {
        self.shared.used().jobs
    }
}

/// Whether this host can record what a target asks for: to be asked where a process would better not start than fail all
/// that comes. A target that is no recording passes.
///
/// # Errors
/// When its directory isn't there or may not be written into, or the file can't be gone on with.
pub fn check_recording(target: &Target) -> Result<(), RecordingError> {
    let Destination::Recording(recording) = &target.destination else {
        return Ok(());
    };
    let names = Names::new(recording.name.clone());
    let checked = file::check_directory(names.directory()).and_then(|()| {
        if !recording.settings.append || recording.name.as_str().contains('%') {
            return Ok(());
        }
        file::check_append(Path::new(recording.name.as_str()), recording.name.packing())
    });
    checked.map_err(|source| RecordingError {
        target: target.name.clone(),
        source,
    })
}

#[cfg(test)]
mod tests;
