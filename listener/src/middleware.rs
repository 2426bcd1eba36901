//! Middleware: a program of the user's between the sources and the window, in GoReplay's protocol.
//!
//! What enters: requests, their answers and what replays were answered. What leaves: what the program writes back, changed or
//! not, in whichever order. What may be lost: what it leaves out, which is its right; what waits for it when its queue is
//! full, what it had when it died, and lines that are no messages; each is counted. The program is started again when it ends.
//! Nobody who captures waits for it; files wait, but not for one that takes nothing for five seconds.
//!
//! source --messages--> queue --lines--> program --lines--> window.

mod line;
mod pending;
mod program;
mod queue;

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use reprise_traffic::exchange::Captured;
use reprise_traffic::gor::{self, Kind, Record};
use reprise_traffic::{Epoch, Exchange, ExchangeId, Label};
use rustix::process::{Pid, Signal, kill_process};
use tracing::warn;

use crate::edge::{Edge, EdgeEvent};
use pending::Pending;
use program::Program;
use queue::Queue;

/// How a program is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The program and its arguments; not empty.
    pub command: Vec<String>,
    /// A larger message is not taken from it.
    pub max_message: usize,
    /// Bytes of messages that wait for it.
    pub queue: usize,
}

/// A program that takes nothing for so long while its queue is full isn't waited for.
const STALLED: Duration = Duration::from_secs(5);

/// Where a message came from that is now in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) turn: u64,
}

/// Gets what the program writes back, with where it came from where that is known.
pub(crate) type Back = dyn Fn(&Record<'_>, Option<Origin>) + Send + Sync;

/// What those who give it work, the one who writes and the one who reads share.
struct Shared {
    queue: Queue,
    pending: Mutex<Pending>,
    edge: Arc<Edge>,
    /// No more is to come: its input is closed once the queue is empty.
    finishing: AtomicBool,
    stopping: AtomicBool,
    /// The running program, for those who have to end it while it takes nothing.
    running: Mutex<Option<Pid>>,
    back: Box<Back>,
    settings: Settings,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        // Every change under the lock leaves it whole, so a panic elsewhere does not spoil it.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Option<Pid>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the program, if one is running. Its number is its own as long as it stands here.
    fn kill(&self) {
        let mut running = self.running();
        if let Some(pid) = running.take()
            && let Err(error) = kill_process(pid, Signal::KILL)
        {
            warn!(%error, "can't end the middleware");
        }
    }
}

/// A program that is run.
pub struct Middleware {
    shared: Arc<Shared>,
    /// For ids of what was captured here.
    epoch: Arc<Epoch>,
    turns: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Middleware {
    /// Starts the program.
    ///
    /// # Errors
    /// One line, when it can't be started.
    pub(crate) fn start(
        settings: Settings,
        epoch: Arc<Epoch>,
        edge: Arc<Edge>,
        back: Box<Back>,
    ) -> anyhow::Result<Middleware> {
        let shared = Arc::new(Shared {
            queue: Queue::new(settings.queue),
            pending: Mutex::default(),
            edge,
            finishing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            running: Mutex::new(None),
            back,
            settings,
        });
        // What can't be started at all is a mistake; what ends later is started again.
        let first = Program::start(&shared)?;
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new().name("middleware".to_owned());
        let thread = thread
            .spawn(move || program::keep_running(&for_thread, first))
            .context("start a thread for the middleware")?;
        Ok(Middleware {
            shared,
            epoch,
            turns: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Gives it a message, or counts it as dropped where too many wait.
    pub(crate) fn offer(&self, message: Captured) {
        let entry = self.entry(message);
        if self.shared.queue.offer(entry).is_err() {
            self.shared.edge.count(EdgeEvent::MiddlewareFull, 1);
        }
    }

    /// True where those who can wait should: half of its queue is full, and it goes on taking.
    pub(crate) fn is_busy(&self) -> bool {
        self.shared.queue.is_half_full() && self.shared.queue.still_for() < STALLED
    }

    /// What came as a record keeps its id; of all else it is made now.
    fn entry(&self, message: Captured) -> Exchange {
        let sequence = match message.label.is_some() {
            true => 0,
            false => self.turns.fetch_add(1, Ordering::Relaxed),
        };
        let mut exchange = Exchange {
            id: ExchangeId {
                epoch: self.epoch.clone(),
                sequence,
            },
            due_ns: None,
            request: message,
        };
        if exchange.request.label.is_none() {
            let id = gor::id(&exchange);
            let line = gor::header(Kind::Request, &id, exchange.request.captured_ns, None);
            // A line of our own is well-formed.
            exchange.request.label = Label::new(&line, sequence).ok().map(Box::new);
        }
        exchange
    }

    /// True where nothing waits for the program, and all that it has came back, or nothing came for so long that the rest
    /// is left out on purpose; or where it takes nothing any more.
    pub(crate) fn is_quiet(&self, patience: Duration) -> bool {
        if !self.shared.queue.is_empty() {
            return self.shared.queue.still_for() >= STALLED;
        }
        let pending = self.shared.pending();
        pending.is_empty() || pending.quiet_for(Instant::now()) >= patience
    }

    /// Closes the program's input, waits for what it still writes, and for its end; not for longer than so.
    pub(crate) fn finish(&self, patience: Duration) {
        self.shared.finishing.store(true, Ordering::Relaxed);
        self.shared.queue.close();
        let deadline = Instant::now() + patience;
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = thread.take() else {
            return;
        };
        while !running.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.stopping.store(true, Ordering::Relaxed);
        if !running.is_finished() {
            self.shared.kill();
        }
        if running.join().is_err() {
            warn!("the middleware's thread failed");
        }
        let left = self.shared.pending().clear() as u64;
        self.shared.edge.count(EdgeEvent::MiddlewareLeftOut, left);
    }
}

impl fmt::Debug for Middleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "middleware {:?}", self.shared.settings.command)
    }
}

impl Drop for Middleware {
    fn drop(&mut self) {
        self.finish(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests;
