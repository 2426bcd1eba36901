//! A Kafka topic that is written to.
//!
//! What enters: messages, each with what is to be called at its end. What leaves: the messages, in their order within each
//! partition and each once, whatever the connection does (an idempotent producer); the partition follows from the key as
//! Java's clients have it. What may be lost: what finds no room ([`Refusal`]) and what the brokers don't take in time or
//! refuse; every message has one end, and a refused one has its end handed back. Nothing waits but [`Producer::close`].

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer,
};
use rdkafka::{ClientConfig, ClientContext};
use reprise_kafka::{Complaints, ConfigError, client_config};
use reprise_traffic::Kafka;
use reprise_traffic::gor::MAX_RECORD;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

/// Called once, with how a message ended.
pub type End = Box<dyn FnOnce(Result<(), SendError>) + Send>;

/// What a message takes beside its bytes.
const OVERHEAD: usize = 256;

/// The largest message: any record, with its key.
const LARGEST: usize = MAX_RECORD + (1 << 20);

/// What may wait for the brokers.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of keys and values; one message is always taken, whatever its size.
    pub bytes: usize,
    /// Messages.
    pub messages: usize,
    /// The longest that a message waits for its acknowledgement, retries included.
    pub patience: Duration,
}

/// Why a message isn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// [`Limits`] are reached.
    #[error("too much waits for the brokers")]
    Full,
    /// Over 66 MiB, more than any record has.
    #[error("it is over {} MiB", LARGEST >> 20)]
    TooLarge,
    /// This producer can do no more; another has to be made.
    #[error("the producer has failed")]
    Failed,
}

/// A message that isn't taken.
pub struct Refused {
    /// Why.
    pub reason: Refusal,
    /// What would have been called at its end.
    pub end: End,
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: {}", self.reason)
    }
}

/// Why a message that was taken is not in the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No acknowledgement within [`Limits::patience`]. Where the connection broke, it may be in the topic all the same.
    #[error("no acknowledgement in time")]
    TimedOut,
    /// The topic takes no messages of that size (`max.message.bytes`).
    #[error("too large for the topic")]
    TooLarge,
    /// [`Producer::close`] had no time for it. If it was under way, it may be in the topic.
    #[error("given up at the end")]
    GivenUp,
    /// Anything else.
    #[error("{0}")]
    Refused(Code),
}

impl SendError {
    fn of(code: Code) -> SendError {
        match code {
            Code::MessageTimedOut => SendError::TimedOut,
            Code::MessageSizeTooLarge => SendError::TooLarge,
            Code::PurgeQueue | Code::PurgeInflight => SendError::GivenUp,
            code => SendError::Refused(code),
        }
    }
}

/// Writes to one topic.
pub struct Producer {
    topic: String,
    limits: Limits,
    shared: Arc<Shared>,
    client: ThreadedProducer<Context>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "producer of {:?}", self.topic)
    }
}

impl Producer {
    /// Starts a producer. Whether the brokers are there shows later; [`reprise_kafka::check`] asks.
    ///
    /// # Errors
    /// One line, where a file of the settings is of no use.
    pub fn start(kafka: &Kafka, limits: Limits) -> Result<Producer, ConfigError> {
        let shared = Arc::new(Shared {
            bytes: AtomicUsize::new(0),
            messages: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            complaints: Complaints::new(kafka),
        });
        let context = Context(shared.clone());
        let client = config(kafka, limits)?
            .create_with_context(context)
            .map_err(|error| ConfigError::client(kafka, &error))?;
        Ok(Producer {
            topic: kafka.topic.clone(),
            limits,
            shared,
            client,
        })
    }

    /// Takes a message where there is room for it, and copies it. Never blocks. `end` is called on a thread of the
    /// producer's and must not block it either. Without a key any partition will do.
    ///
    /// # Errors
    /// When it isn't taken; `end` comes back, and wasn't called.
    pub fn send(
        &self,
        key: Option<&[u8]>,
        value: &[u8],
        timestamp_ms: i64,
        end: End,
    ) -> Result<(), Refused> {
        let refused = |reason, end| Err(Refused { reason, end });
        if self.has_failed() {
            return refused(Refusal::Failed, end);
        }
        let size = key.map_or(0, <[u8]>::len) + value.len() + OVERHEAD;
        if size > LARGEST {
            return refused(Refusal::TooLarge, end);
        }
        if !self.shared.reserve(size, self.limits) {
            return refused(Refusal::Full, end);
        }
        let ticket = Box::new(Ticket {
            end: Mutex::new(end),
            size,
        });
        let mut record = BaseRecord::with_opaque_to(&self.topic, ticket)
            .payload(value)
            .timestamp(timestamp_ms);
        record.key = key;
        let Err((error, record)) = self.client.send(record) else {
            return Ok(());
        };
        let end = record.delivery_opaque.free(&self.shared);
        match error.rdkafka_error_code() {
            Some(Code::QueueFull) => refused(Refusal::Full, end),
            Some(Code::MessageSizeTooLarge) => refused(Refusal::TooLarge, end),
            code => {
                let code = code.unwrap_or(Code::Unknown);
                self.shared.complaints.tell(code, &error.to_string());
                refused(Refusal::Failed, end)
            }
        }
    }

    /// True once nothing more can be written by it. What waits still ends.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Messages that have not ended.
    pub fn load(&self) -> usize {
        self.shared.messages.load(Ordering::Relaxed)
    }

    /// Waits until all have ended, and gives up what is left then: it ends as [`SendError::GivenUp`]. How many those were.
    pub async fn close(self, patience: Duration) -> usize {
        let topic = self.topic.clone();
        let closing = spawn_blocking(move || {
            // How many are left says more than its error.
            let _ = self.client.flush(patience);
            let left = self.load();
            drop(self);
            left
        });
        let left = closing.await.unwrap_or(0);
        match left {
            0 => info!(topic, "closed"),
            left => warn!(
                topic,
                left, "not all was acknowledged in time; the rest is given up"
            ),
        }
        left
    }
}

fn config(kafka: &Kafka, limits: Limits) -> Result<ClientConfig, ConfigError> {
    let mut config = client_config(kafka)?;
    config.set("enable.idempotence", "true");
    config.set("acks", "all");
    config.set("partitioner", "murmur2_random");
    let patience = limits.patience.as_millis().clamp(1, i32::MAX as u128);
    config.set("message.timeout.ms", patience.to_string());
    config.set("message.max.bytes", LARGEST.to_string());
    let messages = limits.messages.clamp(1, i32::MAX as usize);
    config.set("queue.buffering.max.messages", messages.to_string());
    // The bytes are counted here. This bound is beyond ours, and one message may be.
    let kbytes = (limits.bytes.saturating_add(2 * LARGEST) >> 10).min(i32::MAX as usize);
    config.set("queue.buffering.max.kbytes", kbytes.to_string());
    Ok(config)
}

/// What a message's end needs.
struct Ticket {
    // Taken by value only. The lock makes it shareable between threads, which the library asks for.
    end: Mutex<End>,
    size: usize,
}

impl Ticket {
    /// Gives back its room.
    fn free(self, shared: &Shared) -> End {
        shared.bytes.fetch_sub(self.size, Ordering::Relaxed);
        shared.messages.fetch_sub(1, Ordering::Relaxed);
        self.end
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the producer and its thread share.
struct Shared {
    bytes: AtomicUsize,
    messages: AtomicUsize,
    failed: AtomicBool,
    complaints: Complaints,
}

impl Shared {
    /// False where there is no room.
    fn reserve(&self, size: usize, limits: Limits) -> bool {
        let messages = self.messages.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.fetch_add(size, Ordering::Relaxed);
        let full = bytes.saturating_add(size) > limits.bytes || messages >= limits.messages;
        if full && messages > 0 {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            self.messages.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }
}

struct Context(Arc<Shared>);

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.complaints.debug(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        if code == Code::Fatal {
            self.0.failed.store(true, Ordering::Relaxed);
        }
        self.0.complaints.tell(code, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        // Before it ends: whoever waits for the end may send the next at once.
        let end = ticket.free(&self.0);
        let Err((error, _)) = result else {
            return end(Ok(()));
        };
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let reason = SendError::of(code);
        if reason != SendError::GivenUp {
            self.0
                .complaints
                .tell(code, "a message is not in the topic");
        }
        end(Err(reason));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use reprise_traffic::kafka::KafkaSettings;

    use super::*;

    fn producer(bytes: usize, messages: usize, patience: Duration) -> Producer {
        // Nobody listens at port 1.
        let kafka = Kafka::new("kafka://127.0.0.1:1/t", KafkaSettings::default()).unwrap();
        let limits = Limits {
            bytes,
            messages,
            patience,
        };
        Producer::start(&kafka, limits).unwrap()
    }

    fn send(
        producer: &Producer,
        value: &[u8],
    ) -> Result<mpsc::Receiver<Option<SendError>>, Refusal> {
        let (ended, end) = mpsc::channel();
        let callback: End = Box::new(move |result| {
            // Not every test looks at all ends.
            let _ = ended.send(result.err());
        });
        match producer.send(Some(b"key"), value, 0, callback) {
            Ok(()) => Ok(end),
            Err(refused) => {
                drop(refused.end);
                assert!(end.recv().is_err(), "its end was called");
                Err(refused.reason)
            }
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_waits_is_bounded_in_bytes_and_messages() {
        let bytes = producer(3 * 1000, 100, LONG);
        let waiting: Vec<_> = (0..3).map(|_| send(&bytes, &[0; 700]).unwrap()).collect();
        assert_eq!(send(&bytes, &[0; 700]).unwrap_err(), Refusal::Full);
        assert_eq!((bytes.load(), waiting.len()), (3, 3));
        let large = producer(3 * 1000, 100, LONG);
        assert!(send(&large, &[0; 9000]).is_ok(), "one always fits");
        assert_eq!(send(&large, b"").unwrap_err(), Refusal::Full);
        let messages = producer(1 << 20, 2, LONG);
        let _waiting: Vec<_> = (0..2).map(|_| send(&messages, b"").unwrap()).collect();
        assert_eq!(send(&messages, b"").unwrap_err(), Refusal::Full);
        let huge = vec![0; LARGEST];
        assert_eq!(send(&messages, &huge).unwrap_err(), Refusal::TooLarge);
    }

    #[test]
    fn what_no_broker_takes_in_time_ends_and_makes_room() {
        let producer = producer(1000, 1, Duration::from_millis(200));
        let end = send(&producer, b"a").unwrap();
        assert_eq!(end.recv().unwrap(), Some(SendError::TimedOut));
        assert_eq!(producer.load(), 0);
        assert!(send(&producer, b"b").is_ok());
    }

    #[tokio::test]
    async fn what_is_left_at_the_end_is_given_up() {
        let producer = producer(1000, 2, LONG);
        let ends = [
            send(&producer, b"a").unwrap(),
            send(&producer, b"b").unwrap(),
        ];
        let start = std::time::Instant::now();
        assert_eq!(producer.close(Duration::from_millis(100)).await, 2);
        assert!(start.elapsed() < Duration::from_secs(3));
        for end in ends {
            assert_eq!(end.recv().unwrap(), Some(SendError::GivenUp));
        }
    }
}
