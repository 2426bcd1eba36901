//! The thread that reads a topic.
//!
//! What enters: messages, of the partitions that are ours. What leaves: the same into the queue, as long as there is room
//! there and not too many are open; commits. What may be lost: nothing. While there is no room the partitions are paused,
//! and the brokers keep what is in them; the group still hears of us.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use reprise_kafka::{ConfigError, client_config};
use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::error;

use super::member::Member;
use super::{Begin, Message, Settings, Shared};

/// Between two looks at whether to stop.
const POLL: Duration = Duration::from_millis(100);

/// Between two looks for room.
const WAIT: Duration = Duration::from_millis(2);

/// Without room for so long, the partitions are paused: what was fetched of them is given up, and fetched again.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// Between two commits, in milliseconds: what a kill makes others read again.
const COMMIT_EVERY_MS: &str = "1000";

/// Between two looks at what has ended.
const STORE_EVERY: Duration = Duration::from_millis(250);

/// Brokers that are away for less cost nothing. The partitions of a listener that died wait for so long; one that stops
/// gives them back.
const SESSION_MS: &str = "30000";

pub(super) struct Reader {
    /// First, so that nobody waits for more while the group is left.
    queue: mpsc::Sender<Message>,
    consumer: BaseConsumer<Member>,
    settings: Settings,
    shared: Arc<Shared>,
    /// What found no room; one, as what is paused yields nothing.
    waiting: VecDeque<Message>,
    without_room: Option<Instant>,
    paused: bool,
    store_at: Instant,
}

impl Reader {
    /// # Errors
    /// One line, where a file of the settings is of no use.
    pub(super) fn new(
        settings: Settings,
        shared: Arc<Shared>,
        queue: mpsc::Sender<Message>,
    ) -> Result<Reader, ConfigError> {
        let kafka = &settings.kafka;
        let mut config = client_config(kafka)?;
        config.set("group.id", &settings.group);
        // What has ended is committed, not what was read.
        config.set("enable.auto.offset.store", "false");
        config.set("auto.commit.interval.ms", COMMIT_EVERY_MS);
        config.set("partition.assignment.strategy", "cooperative-sticky");
        config.set("session.timeout.ms", SESSION_MS);
        // Only where the brokers couldn't be asked, or what was asked for is deleted meanwhile.
        let reset = match settings.begin {
            Begin::Newest => "latest",
            Begin::Oldest | Begin::At(_) => "earliest",
        };
        config.set("auto.offset.reset", reset);
        let kbytes = (settings.prefetch.0 >> 10).clamp(1, 2_097_151);
        config.set("queued.max.messages.kbytes", kbytes.to_string());
        let context = Member::new(kafka.topic.clone(), settings.begin, shared.clone());
        let failed = |error| ConfigError::client(kafka, &error);
        let consumer: BaseConsumer<Member> = config.create_with_context(context).map_err(failed)?;
        consumer.subscribe(&[&kafka.topic]).map_err(failed)?;
        Ok(Reader {
            consumer,
            shared,
            queue,
            waiting: VecDeque::new(),
            without_room: None,
            paused: false,
            store_at: Instant::now() + STORE_EVERY,
            settings,
        })
    }

    /// Reads until it is told to stop.
    pub(super) fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.store();
            let wait = match self.has_room() {
                true => {
                    self.resume();
                    POLL
                }
                false if self.paused => POLL / 10,
                false => {
                    std::thread::sleep(WAIT);
                    self.pause();
                    continue;
                }
            };
            match self.consumer.poll(wait) {
                Some(Ok(message)) => self.waiting.extend(taken(&message, &self.shared)),
                Some(Err(error)) if !self.goes_on(&error) => break,
                Some(Err(_)) | None => {}
            }
            // New partitions are not paused.
            self.paused &= !self.consumer.context().has_more();
        }
        // Leaving the group, which its drop does, commits what has ended.
    }

    /// Hands on what waits; true where more may be read.
    fn has_room(&mut self) -> bool {
        while let Some(message) = self.waiting.pop_front() {
            let size = message.value.len();
            self.shared.queued.fetch_add(size, Ordering::Relaxed);
            match self.queue.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => {
                    self.shared.queued.fetch_sub(size, Ordering::Relaxed);
                    self.waiting.push_front(message);
                    return false;
                }
                // Whoever took them is gone, and has said so.
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        let queued = self.shared.queued.load(Ordering::Relaxed);
        queued < self.settings.prefetch.as_usize().max(1)
            && self.shared.delivered().held() < self.settings.unsettled.max(1)
    }

    /// Pauses where there has been no room for long.
    fn pause(&mut self) {
        let since = *self.without_room.get_or_insert_with(Instant::now);
        if since.elapsed() < PAUSE_AFTER {
            return;
        }
        match self.assignment(|consumer, all| consumer.pause(all)) {
            Ok(()) => self.paused = true,
            Err(error) => self.tell(&error),
        }
    }

    fn resume(&mut self) {
        self.without_room = None;
        if !self.paused {
            return;
        }
        match self.assignment(|consumer, all| consumer.resume(all)) {
            Ok(()) => self.paused = false,
            Err(error) => self.tell(&error),
        }
    }

    fn assignment(
        &self,
        change: impl FnOnce(&BaseConsumer<Member>, &TopicPartitionList) -> KafkaResult<()>,
    ) -> KafkaResult<()> {
        let all = self.consumer.assignment()?;
        change(&self.consumer, &all)
    }

    /// Hands what is due to the library, which commits it in its own time, and when a partition is given back.
    fn store(&mut self) {
        let now = Instant::now();
        if now >= self.store_at {
            self.store_at = now + STORE_EVERY;
            self.consumer.context().store(&self.consumer, None);
        }
    }

    /// False where it's over.
    fn goes_on(&self, error: &KafkaError) -> bool {
        match error {
            KafkaError::MessageConsumptionFatal(code) => {
                error!(kafka = %self.settings.kafka, "{code}: nothing more is read");
                false
            }
            // The context has told it.
            KafkaError::MessageConsumption(_) => true,
            error => {
                self.tell(error);
                true
            }
        }
    }

    fn tell(&self, error: &KafkaError) {
        self.consumer.context().tell(error);
    }
}

/// A message on its way. Nothing, where its partition isn't ours.
fn taken(message: &BorrowedMessage<'_>, shared: &Shared) -> Option<Message> {
    let ticket = shared
        .delivered()
        .read(message.partition(), message.offset())?;
    Some(Message {
        ticket,
        timestamp_ms: message.timestamp().to_millis(),
        value: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    })
}
