//! A Kafka topic that is read.
//!
//! What enters: messages of a topic ([`reader`]), of those partitions that the group gives to this listener ([`member`]);
//! their ends, in any order ([`delivered`]). What leaves: each message's value; to the brokers, for each partition the
//! offset below which all has ended, once a second and at the end. What may be lost: nothing that the topic keeps;
//! messages whose end was not committed are read again, by this listener or another. Whoever reads too slowly stops the
//! reading, no more.

mod delivered;
mod member;
mod reader;

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reprise_kafka::{Complaints, ConfigError};
use reprise_traffic::{ByteSize, Kafka};
use serde_with::{DeserializeFromStr, SerializeDisplay};
use tokio::sync::{mpsc, oneshot};

pub use delivered::{Delivered, Ticket};

use reader::Reader;

/// How long a stop may take.
const STOP: Duration = Duration::from_secs(1);

/// Messages between the reader and whoever takes them; their bytes are the bound that counts.
const QUEUE: usize = 1024;

/// Where to begin. Written `newest`, `oldest`, or as an offset; `-1` and `-2` are GoReplay's words for the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub enum Begin {
    /// With what comes from now on, where the group has committed nothing.
    Newest,
    /// With all that the topic keeps, where the group has committed nothing.
    Oldest,
    /// With that offset in each partition that this process is given for the first time, whatever the group has committed.
    At(i64),
}

impl FromStr for Begin {
    type Err = String;

    fn from_str(text: &str) -> Result<Begin, String> {
        match (text, text.parse()) {
            ("newest", _) | (_, Ok(-1)) => Ok(Begin::Newest),
            ("oldest", _) | (_, Ok(-2)) => Ok(Begin::Oldest),
            (_, Ok(offset @ 0..)) => Ok(Begin::At(offset)),
            _ => Err(format!(
                "offset {text:?}: write newest or -1, oldest or -2, or an offset from 0"
            )),
        }
    }
}

impl fmt::Display for Begin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Begin::Newest => f.write_str("newest"),
            Begin::Oldest => f.write_str("oldest"),
            Begin::At(offset) => write!(f, "{offset}"),
        }
    }
}

/// What to read, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The topic.
    pub kafka: Kafka,
    /// Consumer group: those of one name share the partitions and what is committed.
    pub group: String,
    /// Where to begin.
    pub begin: Begin,
    /// Bytes that may be read ahead, in each of two places; and one message more.
    pub prefetch: ByteSize,
    /// Messages that may be read before the first of them has ended.
    pub unsettled: usize,
}

/// Why nothing can be read. One line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file of the settings is of no use.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The system grants no thread.
    #[error("start a thread for kafka: {0}")]
    Thread(#[from] io::Error),
}

/// A message that was read.
pub struct Message {
    /// What to say when it has ended: to [`Ends::end`].
    pub ticket: Ticket,
    /// When it was made, or came to the broker, unix milliseconds, where it says so.
    pub timestamp_ms: Option<i64>,
    /// What it holds.
    pub value: Bytes,
}

impl fmt::Debug for Message {
    /// Without what production's clients sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ticket {
            partition, offset, ..
        } = self.ticket;
        write!(f, "{partition}/{offset}, {} bytes", self.value.len())
    }
}

/// A topic that is being read, by a thread of its own, which ends with this.
#[derive(Debug)]
pub struct Consumer {
    messages: mpsc::Receiver<Message>,
    shared: Arc<Shared>,
    ended: oneshot::Receiver<()>,
}

impl Consumer {
    /// Starts to read. Whether brokers and topic are there shows later, in the log; [`reprise_kafka::check`] asks.
    ///
    /// # Errors
    /// One line, where a file of the settings is of no use or no thread can be had.
    pub fn start(settings: Settings) -> Result<Consumer, StartError> {
        let shared = Arc::new(Shared {
            delivered: Mutex::default(),
            queued: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            complaints: Complaints::new(&settings.kafka),
        });
        let (sender, messages) = mpsc::channel(QUEUE);
        let (end, ended) = oneshot::channel();
        let reader = Reader::new(settings, shared.clone(), sender)?;
        std::thread::Builder::new()
            .name("kafka".to_owned())
            .spawn(move || {
                reader.run();
                // Nobody waits any more where the stop took too long.
                let _ = end.send(());
            })?;
        Ok(Consumer {
            messages,
            shared,
            ended,
        })
    }

    /// The next message; nothing once no more can come, of which the log says why.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            let message = self.messages.recv().await?;
            if self.accept(&message) {
                return Some(message);
            }
        }
    }

    /// The same for a thread that may wait.
    pub fn blocking_next(&mut self) -> Option<Message> {
        loop {
            let message = self.messages.blocking_recv()?;
            if self.accept(&message) {
                return Some(message);
            }
        }
    }

    /// False where another listener reads it, too, because its partition was taken from us.
    fn accept(&self, message: &Message) -> bool {
        self.shared
            .queued
            .fetch_sub(message.value.len(), Ordering::Relaxed);
        self.shared.delivered().counts(message.ticket)
    }

    /// Where to say that messages have ended.
    pub fn ends(&self) -> Ends {
        Ends(self.shared.clone())
    }

    /// Reads no more, commits what has ended and leaves the group; within a second, where brokers answer or not.
    pub async fn stop(mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // The thread goes on by itself where leaving takes longer: the brokers are away, and notice in time.
        let _ = tokio::time::timeout(STOP, &mut self.ended).await;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Takes ends of messages, after the end of its [`Consumer`], too, though then for nothing.
#[derive(Debug, Clone)]
pub struct Ends(Arc<Shared>);

impl Ends {
    /// A message has ended, in whichever way: it needs not be read again.
    pub fn end(&self, ticket: Ticket) {
        self.0.delivered().end(ticket);
    }
}

#[cfg(test)]
impl Ends {
    /// Of a topic of one partition without brokers.
    pub(crate) fn of_nobody() -> Ends {
        let kafka = Kafka::new("kafka://127.0.0.1:1/t", Default::default()).unwrap();
        let shared = Shared {
            delivered: Mutex::default(),
            queued: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            complaints: Complaints::new(&kafka),
        };
        shared.delivered().assign(0, None);
        Ends(Arc::new(shared))
    }

    /// A message was read.
    pub(crate) fn read(&self, offset: i64) -> Ticket {
        self.0.delivered().read(0, offset).unwrap()
    }

    /// The same, with what is owed for it.
    pub(crate) fn owe(&self, offset: i64) -> Debt {
        Debt::new(self.clone(), self.read(offset))
    }

    /// The offset below which all has ended.
    pub(crate) fn due(&self) -> i64 {
        self.0.delivered().due()[0].1
    }
}

/// What is owed for a message: its end, said once. Where this is dropped the message never ends, and is read again.
#[derive(Debug)]
pub(crate) struct Debt {
    ends: Ends,
    ticket: Ticket,
}

impl Debt {
    pub(crate) fn new(ends: Ends, ticket: Ticket) -> Debt {
        Debt { ends, ticket }
    }

    /// The message has ended.
    pub(crate) fn end(self) {
        self.ends.end(self.ticket);
    }
}

impl fmt::Display for Debt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ticket.partition, self.ticket.offset)
    }
}

/// What the thread and those whom it serves share.
#[derive(Debug)]
struct Shared {
    delivered: Mutex<Delivered>,
    /// Bytes that were handed on and not taken yet.
    queued: AtomicUsize,
    stop: AtomicBool,
    complaints: Complaints,
}

impl Shared {
    fn delivered(&self) -> MutexGuard<'_, Delivered> {
        self.delivered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use reprise_traffic::kafka::KafkaSettings;

    use super::*;

    #[test]
    fn begins_are_goreplays_offsets() {
        for (text, begin) in [
            ("-1", Begin::Newest),
            ("-2", Begin::Oldest),
            ("0", Begin::At(0)),
            ("77", Begin::At(77)),
        ] {
            let read: Begin = text.parse().unwrap();
            assert_eq!((read, read.to_string().parse()), (begin, Ok(begin)));
        }
        for text in ["-3", "", "new", "1.5"] {
            assert!(text.parse::<Begin>().unwrap_err().contains("-2"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_stop_needs_no_broker() {
        let kafka = Kafka::new("kafka://127.0.0.1:1/t", KafkaSettings::default()).unwrap();
        let mut consumer = Consumer::start(Settings {
            kafka,
            group: "g".to_owned(),
            begin: Begin::Oldest,
            prefetch: ByteSize::mib(1),
            unsettled: 10,
        })
        .unwrap();
        let wait = tokio::time::timeout(Duration::from_millis(300), consumer.next());
        assert!(wait.await.is_err(), "nobody is there");
        let start = std::time::Instant::now();
        consumer.stop().await;
        assert!(start.elapsed() < STOP + Duration::from_millis(200));
    }
}
