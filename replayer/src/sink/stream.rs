//! Streams: targets that take records, or bare requests, one behind the other over a few connections.
//!
//! What enters: exchanges that a target's rules let through. What leaves: their records, a request and its answers over the
//! same connection ([`lane`], [`wire`]), and how each exchange ended. What may be lost: what finds no room in the queue
//! (`replayer_full`); the rest is said by the connections. None of them waits for another, and none fills the queue alone.

mod common;
mod lane;
mod timing;
mod window;

mod counted;
mod opener;
mod unacknowledged;
mod unsent;
mod wire;

use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::quality::FixedState;
use reprise_node::LogLimit;
use reprise_traffic::target::{Destination, Stream};
use reprise_traffic::{Exchange, Target, TargetDocument, gor};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, UnboundedSender};

use self::common::Common;
use self::lane::{Lane, Waiting};
use self::opener::Opener;
use self::unsent::Form;
use super::records::Records;
use super::{Entry, Queue};
use crate::metrics::Streams;
use crate::sessions::Room;

/// A far end that is away is told of by each connection, twice a second.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// One target's connections.
pub(crate) struct Streamer {
    document: TargetDocument,
    stream: Stream,
    /// To each connection's task, which ends with this; bounded by its part of the queue.
    lanes: Box<[UnboundedSender<Waiting>]>,
    queue: Arc<Queue>,
}

impl fmt::Debug for Streamer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream to {}", self.document.url)
    }
}

impl Streamer {
    /// Has a target's connections opened: the first at once, the others when they are needed.
    ///
    /// # Errors
    /// One line, when TLS can't be set up or no runtime is there.
    pub(crate) fn start(
        target: &Target,
        stream: &Stream,
        meters: &Streams,
    ) -> Result<Streamer, String> {
        let runtime = Handle::try_current().map_err(|error| error.to_string())?;
        let count = stream.settings.connections.get() as usize;
        let queue = Queue::in_parts(count);
        let opener = Opener::new(target, stream)?;
        let common = Arc::new(Common {
            target: target.name.clone(),
            records: match opener.form() {
                Form::Whole => Records::of(target),
                Form::Unseparated | Form::Payload => Records::framed(target),
            },
            opener,
            queue: queue.clone(),
            meter: meters.of(&target.name),
            max_age: target.document.max_age,
            log: LogLimit::every(LOG_EVERY),
        });
        let lane = |part| {
            let (lane, inbox) = mpsc::unbounded_channel();
            let task = Lane::new(common.clone(), part, inbox);
            runtime.spawn(task.run(part == 0));
            lane
        };
        Ok(Streamer {
            document: target.document.clone(),
            stream: stream.clone(),
            lanes: (0..count).map(lane).collect(),
            queue,
        })
    }

    /// True where it does what a newer document asks for.
    pub(crate) fn serves(&self, newer: &Target) -> bool {
        let Destination::Stream(stream) = &newer.destination else {
            return false;
        };
        let (own, new) = (&self.document, &newer.document);
        self.stream == *stream
            && own.changes_as(new)
            && own.session_key == new.session_key
            && own.max_age == new.max_age
            && own.connect_timeout == new.connect_timeout
            && own.skip_verify == new.skip_verify
            && own.ca_file == new.ca_file
            && own.client_cert_file == new.client_cert_file
            && own.client_key_file == new.client_key_file
            && own.server_name == new.server_name
    }

    /// Takes an exchange where there is room for it.
    pub(crate) fn take(&self, entry: Entry, most: Room) {
        let part = self.part_of(&entry.exchange);
        if let Some(entry) = self.queue.admit_to(part, entry, most) {
            let since = Instant::now();
            // The task ends with this sender, and a panic of it ends the process.
            let _ = self.lanes[part].send(Waiting { entry, since });
        }
    }

    /// Over which connection an exchange goes.
    fn part_of(&self, exchange: &Exchange) -> usize {
        let hash = match self.stream.settings.sticky {
            true => {
                let key = self.document.session_key.hash(&exchange.request);
                // That hash chose the replayer already.
                FixedState::default().hash_one(key)
            }
            false => FixedState::default().hash_one(&*gor::id(exchange)),
        };
        (hash % self.lanes.len() as u64) as usize
    }

    /// Exchanges that have not ended.
    pub(crate) fn load(&self) -> usize {
        self.queue.load()
    }
}

#[cfg(test)]
mod tests;
