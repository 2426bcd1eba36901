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
use std::sync::{Arc, mpsc};
use std::thread;

use reprise_traffic::recording::Recording;
use reprise_traffic::target::Destination;
use reprise_traffic::{Target, TargetDocument, TargetName};

pub use file::OpenError;

use crate::sessions::Room;
use crate::sink::{Entry, Queue};
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

/// What a recording's thread is told.
enum Word {
    /// To write this.
    Take(Entry),
    /// To wait for nothing more than what is there.
    Hurry,
}

/// One target's files.
pub(crate) struct Recorder {
    recording: Recording,
    document: Box<TargetDocument>,
    /// Its thread ends with this.
    inbox: mpsc::Sender<Word>,
    queue: Arc<Queue>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recorder of {:?}", self.recording.name)
    }
}

impl Recorder {
    /// Starts a target's recording.
    ///
    /// # Errors
    /// When its directory isn't there or may not be written into, or no thread can be had.
    pub(crate) fn start(
        target: &Target,
        recording: &Recording,
    ) -> Result<Recorder, RecordingError> {
        let failed = |source| RecordingError {
            target: target.name.clone(),
            source,
        };
        let names = Names::new(recording.name.clone());
        file::check_directory(names.directory()).map_err(failed)?;
        let queue = Queue::new();
        let (sender, inbox) = mpsc::channel();
        let no_thread = |source: io::Error| OpenError::Io {
            path: recording.name.as_str().into(),
            source,
        };
        let writer = Writer::new(target, recording.clone(), names, queue.clone())
            .map_err(|e| failed(no_thread(e)))?;
        thread::Builder::new()
            .name("recording".to_owned())
            .spawn(move || writer.run(&inbox))
            .map_err(|e| failed(no_thread(e)))?;
        Ok(Recorder {
            recording: recording.clone(),
            document: Box::new(target.document.clone()),
            inbox: sender,
            queue,
        })
    }

    /// True where it does what a newer document asks for.
    pub(crate) fn serves(&self, newer: &Target) -> bool {
        let Destination::Recording(recording) = &newer.destination else {
            return false;
        };
        self.recording == *recording
            && self.document.changes_as(&newer.document)
            && !self.queue.is_closed()
    }

    /// Takes an exchange where there is room for it.
    pub(crate) fn take(&self, entry: Entry, most: Room) {
        if let Some(entry) = self.queue.admit(entry, most) {
            // The thread ends with this sender, and a panic of it ends the process.
            let _ = self.inbox.send(Word::Take(entry));
        }
    }

    /// From now on what waits is written as soon as nothing else comes.
    pub(crate) fn hurry(&self) {
        let _ = self.inbox.send(Word::Hurry);
    }

    /// Exchanges that have not ended.
    pub(crate) fn load(&self) -> usize {
        self.queue.load()
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
