//! Topics of Kafka's as sources: messages with records, or with requests as JSON.
//!
//! What enters: messages of the partitions that the group gives to this listener ([`crate::kafka`]). What leaves: each as a
//! message of its own ([`crate::records`]) into the window, as they come or at production's pace ([`order`]); to the brokers,
//! the offsets below which every exchange has ended: delivered, filtered or dropped. What may be lost: what is no record, or
//! over a limit, counted. A topic can wait: while the window has no room nothing is taken, and nothing is dropped for
//! want of it. What has not ended when the listener does is not committed, and read again.
//!
//! Behind a middleware a message has ended once the program's queue has it.

mod order;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use bytes::Bytes;
use reprise_node::LogLimit;
use reprise_node::config::ByteSize;
use reprise_traffic::Kafka;
use reprise_traffic::gor::{self, Record};
use reprise_traffic::kafka::{Format, KafkaSettings};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use crate::budget::Budget;
use crate::edge::{Edge, EdgeEvent};
use crate::intake::Intake;
use crate::kafka::{self, Begin, Consumer, Debt, Ends, Message};
use crate::limit::Limiter;
use crate::records::{self, Turns};
use order::{Order, Waiting};

/// The group of those who name none.
pub const GROUP: &str = "reprise";

/// Messages that may be open: many times what waits in the window, so that one that is late holds up nobody.
const UNSETTLED: usize = 1 << 14;

/// The part of the budget that is read ahead, in each of three places …
const PREFETCH_PART: usize = 32;
/// … but no less and no more than this.
const PREFETCH: (usize, usize) = (256 << 10, 16 << 20);

/// So long before it is due a message is handed on: it has a way to go.
const AHEAD: Duration = Duration::from_millis(200);

const WARN_EVERY: Duration = Duration::from_secs(10);

/// A topic to be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `kafka://HOST:PORT[,HOST:PORT]/TOPIC`.
    pub url: String,
    /// How it is spoken to, and what its messages are.
    pub client: KafkaSettings,
    /// Consumer group: listeners of one name share the partitions, and what is committed.
    pub group: String,
    /// Where to begin.
    pub begin: Begin,
    /// Production's pace, by the records' timestamps, times this; without it as they come.
    pub speed: Option<f64>,
}

impl Settings {
    /// Checks what can be checked without asking anybody.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn check(&self) -> anyhow::Result<Kafka> {
        if self.group.is_empty() {
            bail!("kafka_group: is empty");
        }
        Kafka::new(&self.url, self.client.clone()).map_err(anyhow::Error::msg)
    }
}

/// A topic that can be read, and isn't yet.
pub(crate) struct Opened {
    kafka: Kafka,
    settings: Settings,
}

/// Checks all.
///
/// # Errors
/// One line for the first that can't be read.
pub(crate) fn open(all: &[Settings]) -> anyhow::Result<Vec<Opened>> {
    let opened = all.iter().map(|settings| {
        let kafka = settings.check()?;
        let settings = settings.clone();
        Ok(Opened { kafka, settings })
    });
    opened.collect()
}

/// Where messages go.
pub(crate) struct Entry {
    pub(crate) intake: Arc<Intake>,
    /// They are only counted.
    pub(crate) discards: bool,
    pub(crate) turns: Arc<Turns>,
    pub(crate) edge: Arc<Edge>,
    pub(crate) budget: Arc<Budget>,
    /// A larger message is passed over.
    pub(crate) max_exchange: usize,
}

/// A topic that is being read. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Topic {
    stop: DropGuard,
    reading: JoinHandle<Consumer>,
}

/// A topic of which nothing more is taken, so that what was taken can end.
#[derive(Debug)]
pub(crate) struct Paused(Option<Consumer>);

impl Opened {
    /// Starts to read.
    ///
    /// # Errors
    /// One line, when a file of its settings is of no use or no thread can be had.
    pub(crate) fn start(self, entry: Arc<Entry>, limiter: Limiter) -> anyhow::Result<Topic> {
        let Opened { kafka, settings } = self;
        let prefetch = (entry.budget.limit() / PREFETCH_PART).clamp(PREFETCH.0, PREFETCH.1);
        let consumer = Consumer::start(kafka::Settings {
            kafka: kafka.clone(),
            group: settings.group.clone(),
            begin: settings.begin,
            prefetch: ByteSize(prefetch as u64),
            unsettled: UNSETTLED,
        })?;
        info!(topic = %kafka, group = settings.group, begin = %settings.begin, "topic is read");
        let held = Held::new(entry.budget.clone(), 3 * prefetch);
        let stop = CancellationToken::new();
        let reader = Reader {
            ends: consumer.ends(),
            kafka,
            entry,
            limiter,
            held,
            flaws: LogLimit::every(WARN_EVERY),
            stop: stop.clone(),
        };
        let reading = match settings.speed {
            None => tokio::spawn(reader.unpaced(consumer)),
            Some(speed) => tokio::spawn(reader.paced(consumer, Order::new(speed, prefetch))),
        };
        Ok(Topic {
            stop: stop.drop_guard(),
            reading,
        })
    }
}

impl Topic {
    /// Takes nothing more.
    pub(crate) async fn pause(self) -> Paused {
        drop(self.stop);
        let consumer = self.reading.await;
        Paused(
            consumer
                .inspect_err(|error| warn!(%error, "the reading of a topic failed"))
                .ok(),
        )
    }
}

impl Paused {
    /// Commits what has ended and leaves the group.
    pub(crate) async fn stop(self) {
        if let Some(consumer) = self.0 {
            consumer.stop().await;
        }
    }
}

/// What is read ahead, out of the budget.
struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Held {
    fn new(budget: Arc<Budget>, bytes: usize) -> Held {
        budget.take(bytes);
        Held { budget, bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

/// Takes one topic's messages.
struct Reader {
    kafka: Kafka,
    ends: Ends,
    entry: Arc<Entry>,
    limiter: Limiter,
    held: Held,
    flaws: LogLimit,
    stop: CancellationToken,
}

impl Reader {
    async fn unpaced(self, mut consumer: Consumer) -> Consumer {
        let stop = self.stop.clone();
        let taking = async {
            while let Some(message) = consumer.next().await {
                if let Some(message) = self.waiting(message) {
                    self.take(message, None).await;
                }
            }
        };
        // Where one is not taken any more, it has not ended.
        stop.run_until_cancelled(taking).await;
        consumer
    }

    async fn paced(self, mut consumer: Consumer, mut order: Order) -> Consumer {
        let stop = self.stop.clone();
        let lead = match self.entry.intake.has_middleware() {
            // Its lines leave when they come back.
            true => Duration::ZERO,
            false => AHEAD,
        };
        let taking = async {
            let mut is_over = false;
            while !(is_over && order.is_empty()) {
                let wakes = order.wakes(Instant::now(), lead);
                let is_due = async {
                    match wakes {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = is_due => if let Some((next, due)) = order.pop() {
                        self.take(next, Some(due)).await;
                    },
                    message = consumer.next(), if !is_over && order.has_room() => match message {
                        Some(message) => order.extend(self.waiting(message), Instant::now()),
                        None => is_over = true,
                    },
                }
            }
        };
        stop.run_until_cancelled(taking).await;
        consumer
    }

    /// A message with its record. One that holds none has ended.
    fn waiting(&self, message: Message) -> Option<Waiting> {
        let Message { ticket, value, .. } = message;
        let debt = Debt::new(self.ends.clone(), ticket);
        let record = match self.kafka.settings.format {
            Format::Record => Ok(value),
            Format::Json => gor::read_json(&value).map(Bytes::from),
        };
        let parsed = record.map_err(|flaw| flaw.to_string()).and_then(|record| {
            let parsed = Record::parse(&record, 1).map_err(|flaw| flaw.to_string())?;
            Ok((parsed.timestamp_ns, record))
        });
        match parsed {
            Ok((timestamp_ns, record)) => Some(Waiting {
                timestamp_ns,
                record,
                debt,
            }),
            Err(why) => {
                self.pass_over(EdgeEvent::BadRecord, &why, debt);
                None
            }
        }
    }

    /// Takes a record in when there is room for it.
    async fn take(&self, waiting: Waiting, due: Option<Instant>) {
        let Waiting { record, debt, .. } = waiting;
        let entry = &self.entry;
        let record = match Record::parse(&record, 1) {
            Ok(record) => record,
            Err(flaw) => {
                return self.pass_over(EdgeEvent::BadRecord, &flaw.to_string(), debt);
            }
        };
        if !self
            .limiter
            .takes_record(&record, std::time::Instant::now())
        {
            return debt.end();
        }
        let mut message = match records::message(&record, entry.max_exchange) {
            Ok(message) => message,
            Err(event) => return self.pass_over(event, event.as_str(), debt),
        };
        entry.turns.number(&mut message);
        if entry.discards {
            entry.intake.discard(message);
            return debt.end();
        }
        entry.intake.room(self.held.bytes).await;
        entry.intake.admit_owed(message, due.map(unix_ns), debt);
        entry.intake.announce();
    }

    fn pass_over(&self, event: EdgeEvent, why: &str, debt: Debt) {
        self.entry.edge.count(event, 1);
        if event != EdgeEvent::Marked
            && let Some(suppressed) = self.flaws.allow()
        {
            warn!(topic = %self.kafka, message = %debt, suppressed, "a message is passed over: {why}");
        }
        debt.end();
    }
}

/// The same instant for other hosts.
fn unix_ns(due: Instant) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let left = due.saturating_duration_since(Instant::now());
    let late = Instant::now().saturating_duration_since(due);
    (now + left).saturating_sub(late).as_nanos() as u64
}

#[cfg(test)]
mod tests;
