//! Whether a topic can be used: asked before traffic comes, where a line to a person helps most.
//!
//! What enters: a topic. What leaves: the number of its partitions, or what is wrong with it. What may be lost: nothing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use reprise_traffic::Kafka;

use crate::config::{ConfigError, client_config, one_line};

/// How long each question, and listening for complaints, may take.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a topic can't be used. One line for its owner.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A file of its settings is of no use.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The brokers are there and have no such topic.
    #[error("{kafka}: there is no such topic; make it, or mend its name")]
    NoTopic {
        /// The topic's address.
        kafka: String,
    },
    /// The brokers don't take the user, or the password, or don't let this user see the topic.
    #[error("{kafka}: the broker doesn't let {user} in: {reason}")]
    Refused {
        /// The topic's address.
        kafka: String,
        /// Who.
        user: String,
        /// The broker's words.
        reason: String,
    },
    /// No TLS with them.
    #[error("{kafka}: {reason}")]
    Tls {
        /// The topic's address.
        kafka: String,
        /// What went wrong.
        reason: String,
    },
    /// None of them answers in time. They may come.
    #[error("{kafka}: no broker answers: {reason}")]
    Unreachable {
        /// The topic's address.
        kafka: String,
        /// Why, where it is known.
        reason: String,
    },
}

impl CheckError {
    /// True where waiting might help.
    pub fn may_pass(&self) -> bool {
        matches!(self, CheckError::Unreachable { .. })
    }
}

/// Asks the brokers for a topic, and blocks for `patience` at the longest.
///
/// # Errors
/// One line about what is wrong.
pub fn check(kafka: &Kafka, patience: Duration) -> Result<usize, CheckError> {
    let deadline = Instant::now() + patience;
    let mut config = client_config(kafka)?;
    config.set("reconnect.backoff.max.ms", "200");
    let client: BaseConsumer<Heard> = config
        .create_with_context(Heard::default())
        .map_err(|error| ConfigError::client(kafka, &error))?;
    let name = kafka.to_string();
    loop {
        let asked = client.fetch_metadata(Some(&kafka.topic), PAUSE);
        // What went wrong is told only to those who listen, one thing at a time.
        let until = deadline.min(Instant::now() + PAUSE);
        while asked.is_err() && Instant::now() < until {
            client.poll(PAUSE / 10);
        }
        let refused = |reason| CheckError::Refused {
            kafka: name.clone(),
            user: match &kafka.settings.sasl {
                Some(sasl) => format!("user {:?} ({})", sasl.username, sasl.mechanism),
                None => "an unnamed user".to_owned(),
            },
            reason,
        };
        match (asked, client.context().heard()) {
            (Ok(metadata), _) => {
                let topic = metadata.topics().first();
                let error = topic.and_then(|topic| topic.error()).map(Code::from);
                match (topic, error) {
                    (Some(topic), None) if !topic.partitions().is_empty() => {
                        return Ok(topic.partitions().len());
                    }
                    (_, Some(Code::TopicAuthorizationFailed)) => {
                        return Err(refused("it may not use the topic".to_owned()));
                    }
                    (_, Some(Code::UnknownTopicOrPartition | Code::InvalidTopic)) => {
                        return Err(CheckError::NoTopic { kafka: name });
                    }
                    // No leader yet, as a rule.
                    _ => {}
                }
            }
            (Err(_), Some((Code::Authentication, reason))) => return Err(refused(reason)),
            (Err(_), Some((Code::SSL, reason))) => {
                return Err(CheckError::Tls {
                    kafka: name,
                    reason,
                });
            }
            (Err(_), _) => {}
        }
        if Instant::now() >= deadline {
            let reason = client.context().heard();
            let reason = reason.map_or_else(|| "no answer".to_owned(), |(_, reason)| reason);
            return Err(CheckError::Unreachable {
                kafka: name,
                reason,
            });
        }
        std::thread::sleep(PAUSE / 10);
    }
}

/// The last thing that a client was told.
#[derive(Default)]
struct Heard(Mutex<Option<(Code, String)>>);

impl Heard {
    fn heard(&self) -> Option<(Code, String)> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.clone()
    }
}

impl ClientContext for Heard {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, _line: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        if code != Code::AllBrokersDown {
            let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *heard = Some((code, one_line(reason)));
        }
    }
}

impl ConsumerContext for Heard {}

#[cfg(test)]
mod tests {
    use reprise_traffic::kafka::KafkaSettings;

    use super::*;

    #[test]
    fn a_broker_that_is_not_there_is_named_with_the_reason() {
        let kafka = Kafka::new("kafka://127.0.0.1:1/t", KafkaSettings::default()).unwrap();
        let error = check(&kafka, Duration::from_millis(500)).unwrap_err();
        assert!(error.may_pass());
        let error = error.to_string();
        assert!(
            error.starts_with("kafka://127.0.0.1:1/t: no broker answers: "),
            "{error}"
        );
        assert!(error.contains("refused"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
