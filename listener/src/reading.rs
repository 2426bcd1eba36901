//! Recordings as a source: what files and pipes hold enters like what is captured live, but can wait.
//!
//! What enters: capture files (pcap, pcapng) and recordings (`.gor`), packed or not, and pipes of them. What leaves:
//! whole requests into the window; of files in order of time, each with the instant at which it is due ([`pace`]), of
//! pipes as they come; between them the ends of captured connections, which recordings don't have. What may be lost:
//! requests that aren't whole, counted as those of a live capture; what lies behind the place where a file is cut
//! off, which a warning names. Nothing is shed because it comes from a file. Without a pace nothing is dropped
//! either: while the window is full, the reader waits. A schedule doesn't wait: what finds no room by the time at
//! which it is due is dropped, and counted; so are ends of connections that are too many at once.
//!
//! file --packets, records--> requests, in order of time --> window.

pub mod answer;
mod at_hand;
pub mod crowd;
mod found;
mod merge;
pub mod pace;
mod pipe;
mod reader;
pub mod record;
mod recording;
mod timetable;

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
use crate::limit::Limiter;
use crate::packet::VniRule;
use crate::reassembly::{self, Answers, Limits, Ports};
use crate::records::Turns;
use crowd::Users;
use merge::Files;
use pace::Pacing;
use pipe::Stop;
use reader::{Part, Reader};
use recording::Wanted;

/// What stands for standard input.
pub const STDIN: &str = "-";

/// What becomes of the records of a recording.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Records {
    /// Requests are replayed, and answers go with them where they are needed.
    #[default]
    Joined,
    /// Each is a message of its own ([`crate::records`]), answers and replays too. All count alike where a pace asks for so
    /// many a second.
    Apart,
}

/// What becomes of a request with a pace when it is due and there is no room for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is dropped, and counted: a schedule waits for nobody.
    #[default]
    Drop,
    /// It waits, and all behind it are due later by as much.
    Wait,
}

/// What to read, and what to look for in it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Files, as one stream; [`STDIN`] is standard input.
    pub files: Vec<PathBuf>,
    /// When their requests leave; of pipes as they come, unless a pace is set.
    pub pacing: Pacing,
    /// What becomes of those that find no room then.
    pub when_full: WhenFull,
    /// How many users each recorded one becomes.
    pub users: Users,
    /// Ports that servers listen on; none for any.
    pub ports: Vec<u16>,
    /// Virtual networks to look into.
    pub vni: Vec<VniRule>,
    /// What of the servers' answers is needed.
    pub answers: Answers,
    /// What becomes of the records of a recording.
    pub records: Records,
    /// Bounds of the reassembly. In files, those on time don't hold ([`crate::capture_file::without_hurry`]).
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            files: Vec::new(),
            pacing: Pacing::default(),
            when_full: WhenFull::default(),
            users: Users::default(),
            ports: Vec::new(),
            vni: Vec::new(),
            answers: Answers::Watched,
            records: Records::default(),
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
            bail!("standard input (-) can be read once only");
        }
        if self.files.is_empty() && !self.ports.is_empty() {
            bail!("--read-port says what to look for in the files of --read: give one");
        }
        if self.files.is_empty() && self.pacing != Pacing::default() {
            bail!(
                "--speed, --rate, --stages, --loop and --max-gap are about the files of --read: give one"
            );
        }
        if self.records == Records::Apart && !self.users.are_as_recorded() {
            bail!("records that are read apart have no users that could be multiplied");
        }
        self.pacing.check().map_err(anyhow::Error::msg)?;
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

/// Where what is read goes.
pub(crate) struct Entrance {
    pub(crate) intake: Arc<Intake>,
    /// It is only counted.
    pub(crate) discards: bool,
    /// Numbers the requests of records.
    pub(crate) turns: Arc<Turns>,
    /// What of it is taken, by when it leaves.
    pub(crate) limiter: Limiter,
}

/// Files that can be read, and aren't yet.
#[derive(Debug)]
pub struct Opened {
    settings: Settings,
    parts: Vec<Part>,
    budget: Arc<Budget>,
}

/// Looks at the files' headers. A pipe is looked at when its turn comes, because its header may be long in
/// coming.
///
/// # Errors
/// One line, when a file can't be read, or is neither a capture nor a recording.
pub fn open(settings: Settings, budget: Arc<Budget>) -> anyhow::Result<Opened> {
    settings.check()?;
    let mut parts = Vec::new();
    let mut files = Vec::new();
    let is_paced = settings.pacing != Pacing::default();
    for path in &settings.files {
        let is_pipe = merge::is_pipe(path)?;
        if is_pipe && settings.pacing.is_repeated() {
            bail!(
                "read {}: what comes through a pipe can't be read again; leave out --loop and --stages",
                path.display()
            );
        }
        match is_pipe && !is_paced {
            true => parts.push(Part::Pipe(path.clone())),
            false => files.push(path.clone()),
        }
    }
    if !files.is_empty() {
        parts.insert(0, Part::Files(Files::look_at(&files)?));
    }
    Ok(Opened {
        settings,
        parts,
        budget,
    })
}

impl Opened {
    /// Starts the thread that reads all.
    ///
    /// # Errors
    /// If the system grants no thread, or nothing to stop it by.
    pub(crate) fn start(self, edge: &Arc<Edge>, entrance: Entrance) -> io::Result<Reading> {
        let stop = Arc::new(Stop::new()?);
        let (done, unreadable) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let mut reading = Reading {
            intake: entrance.intake.clone(),
            stop: stop.clone(),
            done: done.clone(),
            unreadable: unreadable.clone(),
            thread: None,
        };
        if self.parts.is_empty() {
            done.cancel();
            return Ok(reading);
        }
        let mut reader = Reader {
            wanted: Wanted {
                reassembly: self.settings.reassembly(&self.budget),
                vni: self.settings.vni.iter().copied().collect(),
                records: self.settings.records,
                edge: edge.clone(),
                stop,
                tells: true,
            },
            pacing: self.settings.pacing,
            when_full: self.settings.when_full,
            users: self.settings.users,
            entrance,
        };
        let parts = self.parts;
        let run = move || {
            let _done = done.drop_guard();
            unreadable.store(reader.read_all(parts), Ordering::Relaxed);
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

    /// Has it read no further.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.ask();
        self.intake.wake_readers();
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.ask_to_stop();
    }
}
