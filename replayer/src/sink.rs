//! Sinks: targets that take all that comes in the order in which it comes, and answer nothing.
//!
//! What enters: exchanges that a target's rules let through. What leaves: the same, written; and how each ended, once
//! whoever takes it has its bytes. What may be lost: what finds no room in a sink's queue (`replayer_full`); the rest is said
//! by each of them. None of them waits for another, nor anybody for one of them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reprise_traffic::target::Destination;
use reprise_traffic::{Disposition, DropReason, Exchange, Target};

use crate::recording::Recorder;
use crate::sessions::Room;

/// Called once, with how an exchange ended.
pub(crate) type End = Box<dyn FnOnce(Arc<Exchange>, Disposition) + Send>;

/// An exchange to be written.
pub(crate) struct Entry {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) end: End,
}

/// What a target is that takes all in order.
#[derive(Debug)]
pub(crate) enum Sink {
    /// A row of files.
    Files(Recorder),
}

impl Sink {
    /// What a target's document asks for.
    ///
    /// # Errors
    /// One line, when it can't be had.
    pub(crate) fn of(target: &Target) -> Result<Sink, String> {
        match &target.destination {
            Destination::Recording(recording) => {
                let started = Recorder::start(target, recording);
                started.map(Sink::Files).map_err(|e| e.to_string())
            }
            _ => Err(format!("target {}: is no sink", target.name)),
        }
    }

    /// True where it does what a newer document asks for.
    pub(crate) fn serves(&self, newer: &Target) -> bool {
        match (self, &newer.destination) {
            (Sink::Files(recorder), Destination::Recording(_)) => recorder.serves(newer),
            _ => false,
        }
    }

    /// Takes an exchange where there is room for it; one is always taken, whatever its size.
    pub(crate) fn take(&self, exchange: Arc<Exchange>, most: Room, end: End) {
        let entry = Entry { exchange, end };
        match self {
            Sink::Files(recorder) => recorder.take(entry, most),
        }
    }

    /// Exchanges that have not ended.
    pub(crate) fn load(&self) -> usize {
        match self {
            Sink::Files(recorder) => recorder.load(),
        }
    }
}

/// What waits in a sink, shared by those who give it work and the one who does it.
pub(crate) struct Queue {
    used: Mutex<Room>,
    over: AtomicBool,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a queue of {} exchanges", self.load())
    }
}

impl Queue {
    pub(crate) fn new() -> Arc<Queue> {
        Arc::new(Queue {
            used: Mutex::new(Room { bytes: 0, jobs: 0 }),
            over: AtomicBool::new(false),
        })
    }

    fn used(&self) -> MutexGuard<'_, Room> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for an entry, to be given back by [`Queue::settle`]. Where there is none, the entry ends here.
    pub(crate) fn admit(&self, entry: Entry, most: Room) -> Option<Entry> {
        let size = entry.exchange.request.size();
        {
            let mut used = self.used();
            let full = used.bytes + size > most.bytes || used.jobs >= most.jobs;
            if !full || used.jobs == 0 {
                used.bytes += size;
                used.jobs += 1;
                return Some(entry);
            }
        }
        (entry.end)(
            entry.exchange,
            Disposition::Dropped(DropReason::ReplayerFull),
        );
        None
    }

    /// An entry has ended.
    pub(crate) fn settle(&self, entry: Entry, disposition: Disposition) {
        let size = entry.exchange.request.size();
        // Before it ends: whoever waits for the end may send the next at once.
        let mut used = self.used();
        used.bytes -= size;
        used.jobs -= 1;
        drop(used);
        (entry.end)(entry.exchange, disposition);
    }

    /// Entries that have not ended.
    pub(crate) fn load(&self) -> usize {
        self.used().jobs
    }

    /// Nothing will be taken any more.
    pub(crate) fn close(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// True after [`Queue::close`].
    pub(crate) fn is_closed(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}
