//! Sinks: targets that take all that comes in the order in which it comes, and answer nothing.
//!
//! What enters: exchanges that a target's rules let through. What leaves: the same, written; and how each ended, once
//! whoever takes it has its bytes. What may be lost: what finds no room in a sink's queue (`replayer_full`); the rest is said
//! by each of them. None of them waits for another, nor anybody for one of them.

mod records;
mod stdout;
mod stream;
mod topic;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reprise_traffic::target::Destination;
use reprise_traffic::{Disposition, DropReason, Exchange, Target};

use crate::metrics::Streams;
use crate::recording::Recorder;
use crate::sessions::Room;
use stdout::Stdout;
use stream::Streamer;
use topic::Topic;

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
    /// Standard output.
    Stdout(Stdout),
    /// Connections that take a stream.
    Stream(Streamer),
    /// A topic of Kafka's.
    Topic(Box<Topic>),
}

impl Sink {
    /// What a target's document asks for; of a topic so much may be here.
    ///
    /// # Errors
    /// One line, when it can't be had.
    pub(crate) fn of(target: &Target, room: Room, streams: &Streams) -> Result<Sink, String> {
        match &target.destination {
            Destination::Recording(recording) => {
                let started = Recorder::start(target, recording);
                started.map(Sink::Files).map_err(|e| e.to_string())
            }
            Destination::Stdout => {
                let started = Stdout::start(target);
                started
                    .map(Sink::Stdout)
                    .map_err(|e| format!("target {}: start a thread: {e}", target.name))
            }
            Destination::Stream(stream) => {
                let started = Streamer::start(target, stream, streams);
                started
                    .map(Sink::Stream)
                    .map_err(|e| format!("target {}: {e}", target.name))
            }
            Destination::Kafka(kafka) => {
                let started = Topic::start(target, kafka, room);
                started
                    .map(|topic| Sink::Topic(Box::new(topic)))
                    .map_err(|e| format!("target {}: {e}", target.name))
            }
            Destination::Server(_) | Destination::Nowhere => {
                Err(format!("target {}: is no sink", target.name))
            }
        }
    }

    /// True where it does what a newer document asks for.
    pub(crate) fn serves(&self, newer: &Target) -> bool {
        match (self, &newer.destination) {
            (Sink::Files(recorder), Destination::Recording(_)) => recorder.serves(newer),
            (Sink::Stdout(stdout), Destination::Stdout) => stdout.serves(newer),
            (Sink::Stream(streamer), Destination::Stream(_)) => streamer.serves(newer),
            (Sink::Topic(topic), Destination::Kafka(_)) => topic.serves(newer),
            _ => false,
        }
    }

    /// Takes an exchange where there is room for it; one is always taken, whatever its size.
    pub(crate) fn take(&self, exchange: Arc<Exchange>, most: Room, end: End) {
        let entry = Entry { exchange, end };
        match self {
            Sink::Files(recorder) => recorder.take(entry, most),
            Sink::Stdout(stdout) => stdout.take(entry, most),
            Sink::Stream(streamer) => streamer.take(entry, most),
            Sink::Topic(topic) => topic.take(entry, most),
        }
    }

    /// Nothing more is to be waited for: what is there is written as soon as nothing else comes.
    pub(crate) fn hurry(&self) {
        match self {
            Sink::Files(recorder) => recorder.hurry(),
            // They never wait for more.
            Sink::Stdout(_) | Sink::Stream(_) | Sink::Topic(_) => {}
        }
    }

    /// Exchanges that have not ended.
    pub(crate) fn load(&self) -> usize {
        match self {
            Sink::Files(recorder) => recorder.load(),
            Sink::Stdout(stdout) => stdout.load(),
            Sink::Stream(streamer) => streamer.load(),
            Sink::Topic(topic) => topic.load(),
        }
    }
}

/// What waits in a sink, shared by those who give it work and those who do it. It may be in parts, each for one of these: then
/// no part has more than it leaves to the others.
pub(crate) struct Queue {
    used: Mutex<Used>,
    over: AtomicBool,
}

struct Used {
    all: Room,
    parts: Box<[Room]>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a queue of {} exchanges", self.load())
    }
}

impl Queue {
    pub(crate) fn new() -> Arc<Queue> {
        Queue::in_parts(1)
    }

    fn in_parts(count: usize) -> Arc<Queue> {
        const EMPTY: Room = Room { bytes: 0, jobs: 0 };
        Arc::new(Queue {
            used: Mutex::new(Used {
                all: EMPTY,
                parts: vec![EMPTY; count].into(),
            }),
            over: AtomicBool::new(false),
        })
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for an entry, to be given back by [`Queue::settle`]. Where there is none, the entry ends here.
    pub(crate) fn admit(&self, entry: Entry, most: Room) -> Option<Entry> {
        self.admit_to(0, entry, most)
    }

    /// The same in one of its parts; [`Queue::settle_of`] gives it back.
    fn admit_to(&self, part: usize, entry: Entry, most: Room) -> Option<Entry> {
        let size = entry.exchange.request.size();
        if self.used().admit(part, size, most) {
            return Some(entry);
        }
        (entry.end)(
            entry.exchange,
            Disposition::Dropped(DropReason::ReplayerFull),
        );
        None
    }

    /// An entry has ended.
    pub(crate) fn settle(&self, entry: Entry, disposition: Disposition) {
        self.settle_of(0, entry, disposition);
    }

    fn settle_of(&self, part: usize, entry: Entry, disposition: Disposition) {
        let size = entry.exchange.request.size();
        // Before it ends: whoever waits for the end may send the next at once.
        let mut used = self.used();
        let Used { all, parts } = &mut *used;
        for room in [all, &mut parts[part]] {
            room.bytes -= size;
            room.jobs -= 1;
        }
        drop(used);
        (entry.end)(entry.exchange, disposition);
    }

    /// Entries that have not ended.
    pub(crate) fn load(&self) -> usize {
        self.used().all.jobs
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

impl Used {
    /// One entry always fits.
    fn admit(&mut self, part: usize, size: usize, most: Room) -> bool {
        let fits =
            |used: &Room, most: &Room| used.jobs < most.jobs && used.bytes + size <= most.bytes;
        let Used { all, parts } = self;
        let free = Room {
            bytes: most.bytes.saturating_sub(all.bytes),
            jobs: most.jobs.saturating_sub(all.jobs),
        };
        let is_shared = parts.len() > 1;
        let own = &mut parts[part];
        let is_fair = !is_shared || own.jobs == 0 || fits(own, &free);
        if all.jobs > 0 && !(is_fair && fits(all, &most)) {
            return false;
        }
        for room in [all, own] {
            room.bytes += size;
            room.jobs += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests;
