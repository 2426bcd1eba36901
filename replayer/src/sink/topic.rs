//! A topic of Kafka's as a target: a message for each record, or the JSON of each request.
//!
//! What enters: exchanges, as they come. What leaves: messages, in that order within each partition, and how each exchange
//! ended, once the brokers have acknowledged all of its messages. What may be lost: what finds no room in the queue
//! (`replayer_full`); what no message can be made of, and what the brokers refuse (`failed`, ours); what they don't
//! acknowledge within `max_age` is `unknown`, as it may be in the topic all the same.
//!
//! A message's timestamp says when it was sent, since a topic keeps messages by it; when a request was captured stands in
//! the record.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reprise_node::LogLimit;
use reprise_traffic::kafka::Format;
use reprise_traffic::outcome::TAKEN;
use reprise_traffic::target::Destination;
use reprise_traffic::{
    Disposition, DropReason, Exchange, Fault, Kafka, SessionKey, Target, TargetDocument, gor,
};
use tokio::runtime::Handle;
use tracing::warn;

use super::records::{Records, Refused};
use super::{Entry, Queue};
use crate::kafka::{Limits, Producer, Refusal, SendError};
use crate::sessions::Room;

/// Between two producers, where one can do no more.
const RENEW_EVERY: Duration = Duration::from_secs(1);

const LOG_EVERY: Duration = Duration::from_secs(10);

/// How an exchange ends whose fault is ours.
const OURS: Disposition = Disposition::Failed(Fault::Ours);

/// One target's topic.
pub(crate) struct Topic {
    document: TargetDocument,
    kafka: Kafka,
    records: Records,
    limits: Limits,
    queue: Arc<Queue>,
    /// Held while an exchange's messages are handed over, so that nothing gets between them.
    current: Mutex<Current>,
    runtime: Handle,
    log: LogLimit,
}

struct Current {
    producer: Option<Producer>,
    since: Instant,
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kafka)
    }
}

impl Topic {
    /// Starts to write; whether brokers and topic are there shows later, in the log.
    ///
    /// # Errors
    /// One line, when a file of the settings is of no use or no runtime is there.
    pub(crate) fn start(target: &Target, kafka: &Kafka, room: Room) -> Result<Topic, String> {
        let runtime = Handle::try_current().map_err(|error| error.to_string())?;
        let limits = Limits {
            bytes: room.bytes,
            // A request, and its answer.
            messages: 2 * room.jobs,
            patience: target.document.max_age,
        };
        let producer = Producer::start(kafka, limits).map_err(|error| error.to_string())?;
        Ok(Topic {
            document: target.document.clone(),
            kafka: kafka.clone(),
            records: Records::framed(target),
            limits,
            queue: Queue::new(),
            current: Mutex::new(Current {
                producer: Some(producer),
                since: Instant::now(),
            }),
            runtime,
            log: LogLimit::every(LOG_EVERY),
        })
    }

    /// True where it does what a newer document asks for.
    pub(crate) fn serves(&self, newer: &Target) -> bool {
        let Destination::Kafka(kafka) = &newer.destination else {
            return false;
        };
        self.kafka == *kafka
            && self.document.changes_as(&newer.document)
            && self.document.session_key == newer.document.session_key
            && self.document.max_age == newer.document.max_age
    }

    /// Takes an exchange where there is room for it.
    pub(crate) fn take(&self, entry: Entry, most: Room) {
        let Some(entry) = self.queue.admit(entry, most) else {
            return;
        };
        let Ok(values) = self.values(&entry.exchange) else {
            return self.queue.settle(entry, OURS);
        };
        let key = self.key(&entry.exchange).into_owned();
        let shipment = Arc::new(Shipment {
            queue: self.queue.clone(),
            state: Mutex::new(State {
                left: values.iter().flatten().count(),
                end: Disposition::Replayed(TAKEN),
                entry: Some(entry),
            }),
        });
        let mut refused = [None, None];
        let mut current = self.current();
        for (value, refused) in values.iter().zip(&mut refused) {
            if let Some(value) = value {
                *refused = self.send(&mut current, &key, value, &shipment).err();
            }
        }
        drop(current);
        for end in refused.into_iter().flatten() {
            shipment.ended(end);
        }
    }

    /// What messages are to hold: that of the request, or of what came as a record, and that of production's answer.
    fn values(&self, exchange: &Exchange) -> Result<[Option<Vec<u8>>; 2], Refused> {
        let value = |record: &gor::Encoded<'_>| {
            let parts = [record.header(), b"\n"].into_iter();
            parts.chain(record.payload()).collect::<Vec<_>>().concat()
        };
        match self.kafka.settings.format {
            Format::Json => Ok([Some(self.records.json(exchange)?), None]),
            Format::Record => self.records.write(exchange, |first, second| {
                [Some(value(first)), second.map(value)]
            }),
        }
    }

    /// What keeps messages in one partition. A record's id is the same for a request and all its answers, whoever made
    /// them messages of their own; of other keys there are only hashes, which say nothing about clients.
    fn key<'a>(&self, exchange: &'a Exchange) -> Cow<'a, [u8]> {
        match &self.document.session_key {
            SessionKey::Exchange => gor::id(exchange),
            key => Cow::Owned(format!("{:016x}", key.hash(&exchange.request)).into_bytes()),
        }
    }

    /// Hands a message over.
    ///
    /// # Errors
    /// How it ended, where it isn't taken.
    fn send(
        &self,
        current: &mut Current,
        key: &[u8],
        value: &[u8],
        shipment: &Arc<Shipment>,
    ) -> Result<(), Disposition> {
        self.renew(current);
        let producer = current.producer.as_ref().ok_or(OURS)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis() as i64;
        let ending = shipment.clone();
        let end = Box::new(move |result: Result<(), SendError>| {
            ending.ended(match result {
                Ok(()) => Disposition::Replayed(TAKEN),
                Err(error) => ended(error),
            });
        });
        let sent = producer.send(Some(key), value, now, end);
        sent.map_err(|refused| match refused.reason {
            Refusal::Full => Disposition::Dropped(DropReason::ReplayerFull),
            reason @ (Refusal::TooLarge | Refusal::Failed) => {
                self.complain(&reason.to_string());
                OURS
            }
        })
    }

    /// Has another producer take the place of one that can do no more. What that one had has ended, or will.
    fn renew(&self, current: &mut Current) {
        let is_good = current
            .producer
            .as_ref()
            .is_some_and(|producer| !producer.has_failed());
        if is_good || current.since.elapsed() < RENEW_EVERY {
            return;
        }
        current.since = Instant::now();
        self.retire(current);
        match Producer::start(&self.kafka, self.limits) {
            Ok(producer) => current.producer = Some(producer),
            Err(error) => self.complain(&error.to_string()),
        }
    }

    /// Lets a producer end what it has.
    fn retire(&self, current: &mut Current) {
        if let Some(producer) = current.producer.take() {
            self.runtime.spawn(producer.close(self.limits.patience));
        }
    }

    fn complain(&self, reason: &str) {
        if let Some(suppressed) = self.log.allow() {
            let topic = &self.kafka;
            warn!(%topic, suppressed, "a message isn't sent: {reason}");
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exchanges that have not ended.
    pub(crate) fn load(&self) -> usize {
        self.queue.load()
    }
}

impl Drop for Topic {
    /// What is under way may go on for as long as it might have had.
    fn drop(&mut self) {
        let mut current = self.current();
        self.retire(&mut current);
    }
}

/// How an exchange ends whose message isn't in the topic for certain.
fn ended(error: SendError) -> Disposition {
    match error {
        SendError::TimedOut | SendError::GivenUp => Disposition::Unknown,
        SendError::TooLarge | SendError::Refused(_) => OURS,
    }
}

/// The messages of one exchange.
struct Shipment {
    queue: Arc<Queue>,
    state: Mutex<State>,
}

struct State {
    entry: Option<Entry>,
    /// Messages that have not ended.
    left: usize,
    /// The first that is not good, where there is one.
    end: Disposition,
}

impl Shipment {
    /// One of them has ended.
    fn ended(&self, end: Disposition) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(state.end, Disposition::Replayed(_)) {
            state.end = end;
        }
        state.left = state.left.saturating_sub(1);
        let is_last = state.left == 0;
        let entry = state.entry.take_if(|_| is_last);
        let end = state.end;
        drop(state);
        if let Some(entry) = entry {
            self.queue.settle(entry, end);
        }
    }
}

#[cfg(test)]
mod tests;
