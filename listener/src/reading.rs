//! Capture files as a source: what a file or a pipe holds enters like what is captured live, but can wait.
//!
//! What enters: capture files (pcap, pcapng, packed or not) and pipes of them. What leaves: whole requests, in order
//! within each connection, into the window. What may be lost: requests that aren't whole in the file, counted as those
//! of a live capture; what lies behind the place where a file is cut off, which a warning names. Nothing is shed or
//! dropped because it comes from a file: while the window is full, the reader waits.
//!
//! file --packets--> reassembly --requests--> window. When the window is full: the reader waits.

mod pipe;
mod reader;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::bail;
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::edge::Edge;
use crate::intake::Intake;
use crate::packet::VniRule;
use crate::reassembly::{self, Answers, Limits, Ports};
use pipe::Stop;
use reader::Reader;

/// What stands for standard input.
pub const STDIN: &str = "-";

/// What to read, and what to look for in it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Files, one after the other; [`STDIN`] is standard input.
    pub files: Vec<PathBuf>,
    /// Ports that servers listen on; none for any.
    pub ports: Vec<u16>,
    /// Virtual networks to look into.
    pub vni: Vec<VniRule>,
    /// What of the servers' answers is needed.
    pub answers: Answers,
    /// Bounds of the reassembly. In files, those on time don't hold ([`crate::capture_file::without_hurry`]).
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            files: Vec::new(),
            ports: Vec::new(),
            vni: Vec::new(),
            answers: Answers::Watched,
            limits: Limits::default(),
        }
    }
}

impl Settings {
    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// One line that says which settings don't go together.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.files.iter().filter(|file| is_stdin(file)).count() > 1 {
            bail!("--read -: standard input can be read once only");
        }
        if self.files.is_empty() && !self.ports.is_empty() {
            bail!("--read-port says what to look for in the files of --read: give one");
        }
        Ok(())
    }

    fn reassembly(&self, budget: &Arc<Budget>) -> reassembly::Settings {
        reassembly::Settings {
            limits: self.limits.clone(),
            ports: match self.ports.is_empty() {
                true => Ports::Any,
                false => Ports::only(&self.ports),
            },
            answers: self.answers,
            budget: budget.clone(),
            // What can wait need not be shed.
            shed: None,
        }
    }
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new(STDIN)
}

/// Files that can be read, and aren't yet.
#[derive(Debug)]
pub struct Opened {
    settings: Settings,
    budget: Arc<Budget>,
}

/// Looks at the files' headers. A pipe is looked at when its turn comes, because its header may be long in coming.
///
/// # Errors
/// One line, when a file can't be read or is no capture.
pub fn open(settings: Settings, budget: Arc<Budget>) -> anyhow::Result<Opened> {
    settings.check()?;
    for file in &settings.files {
        reader::look_at(file)?;
    }
    Ok(Opened { settings, budget })
}

impl Opened {
    /// Starts the thread that reads one file after the other into `intake`, or only counts where that `discards`.
    ///
    /// # Errors
    /// If the system grants no thread, or nothing to stop it by.
    pub(crate) fn start(
        self,
        edge: &Arc<Edge>,
        intake: &Arc<Intake>,
        discards: bool,
    ) -> io::Result<Reading> {
        let stop = Arc::new(Stop::new()?);
        let (done, unreadable) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let mut reading = Reading {
            intake: intake.clone(),
            stop: stop.clone(),
            done: done.clone(),
            unreadable: unreadable.clone(),
            thread: None,
        };
        if self.settings.files.is_empty() {
            done.cancel();
            return Ok(reading);
        }
        let mut reader = Reader {
            reassembly: self.settings.reassembly(&self.budget),
            vni: self.settings.vni.iter().copied().collect(),
            edge: edge.clone(),
            intake: intake.clone(),
            discards,
            stop,
        };
        let files = self.settings.files;
        let run = move || {
            let _done = done.drop_guard();
            unreadable.store(reader.read_all(&files), Ordering::Relaxed);
        };
        let thread = std::thread::Builder::new().name("read".to_owned());
        reading.thread = Some(thread.spawn(run)?);
        Ok(reading)
    }
}

/// Files that are being read.
pub(crate) struct Reading {
    intake: Arc<Intake>,
    stop: Arc<Stop>,
    done: CancellationToken,
    unreadable: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Reading {
    /// Waits until all files are read.
    pub(crate) async fn done(&self) {
        self.done.cancelled().await;
    }

    /// Reads no further, and hands over what is whole. Blocks for as long as a packet takes. Returns the number of
    /// files that could not be read.
    pub(crate) fn stop(mut self) -> usize {
        self.ask_to_stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads files has panicked");
        }
        self.unreadable.load(Ordering::Relaxed)
    }

    fn ask_to_stop(&self) {
        self.stop.ask();
        self.intake.wake_readers();
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.ask_to_stop();
    }
}
