//! Files and pipes as streams whose reader can be told to stop.
//!
//! What enters: a path. What leaves: its bytes as they come, and an error instead of more once the reader is to stop.
//! What may be lost: what is in a pipe by then.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::is_stdin;

/// The word that a reader is to stop, which also wakes one that waits for a pipe.
#[derive(Debug)]
pub(super) struct Stop {
    asked: AtomicBool,
    bell: OwnedFd,
}

impl Stop {
    /// Nobody has asked.
    ///
    /// # Errors
    /// Without file descriptors.
    pub(super) fn new() -> io::Result<Stop> {
        Ok(Stop {
            asked: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }

    pub(super) fn ask(&self) {
        if !self.asked.swap(true, Ordering::Relaxed) {
            // A counter at 0 takes a 1.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Waits for so long, or until somebody asks.
    pub(super) fn wait(&self, time: Duration) {
        let Ok(timeout) = Timespec::try_from(time) else {
            return;
        };
        // Whatever ends the wait early, the caller looks at the clock.
        let _ = poll(
            &mut [PollFd::new(&self.bell, PollFlags::IN)],
            Some(&timeout),
        );
    }

    /// For those who wait for something else than a pipe.
    pub(super) fn flag(&self) -> &AtomicBool {
        &self.asked
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

/// True where what is at `path` comes in its own time.
///
/// # Errors
/// When there is nothing, or it may not be looked at.
pub(super) fn is_pipe(path: &Path) -> io::Result<bool> {
    match is_stdin(path) {
        // A file whose reader waits for nothing, as in `reprise … --read - < FILE`.
        true => Ok(!stdin()?.metadata()?.is_file()),
        false => {
            let kind = std::fs::metadata(path)?;
            Ok(!kind.is_file() && !kind.is_dir())
        }
    }
}

fn stdin() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Opens a file, a pipe or standard input.
///
/// # Errors
/// The system's words.
pub(super) fn open(path: &Path, stop: &Arc<Stop>) -> io::Result<Stoppable> {
    let file = match is_stdin(path) {
        true => stdin()?,
        // A named pipe that nobody writes to would hold up its opening.
        false => OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?,
    };
    let stop = stop.clone();
    Ok(Stoppable { file, stop })
}

/// A stream that fails once its reader is to stop.
#[derive(Debug)]
pub(super) struct Stoppable {
    file: File,
    stop: Arc<Stop>,
}

impl Read for Stoppable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut both = [
                PollFd::new(&self.file, PollFlags::IN),
                PollFd::new(&self.stop.bell, PollFlags::IN),
            ];
            match poll(&mut both, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            if !both[1].revents().is_empty() {
                return Err(io::Error::other("told to stop"));
            }
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A pipe that never says anything doesn't hold up the end.
    #[test]
    fn who_waits_for_a_pipe_can_be_told_to_stop() {
        let (reader, mut writer) = io::pipe().unwrap();
        let stop = Arc::new(Stop::new().unwrap());
        let mut stream = Stoppable {
            file: File::from(OwnedFd::from(reader)),
            stop: stop.clone(),
        };
        writer.write_all(b"some").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(stream.read(&mut buffer).unwrap(), 4);
        let reading = std::thread::spawn(move || stream.read(&mut [0; 8]));
        stop.ask();
        assert!(reading.join().unwrap().is_err());
        assert!(stop.is_asked());
    }
}
