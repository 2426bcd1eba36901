//! What the flags of Kafka say together.
//!
//! What enters: flags, one by one. What leaves: an input, an output. What may be lost: nothing.

use std::path::PathBuf;

use crate::gor::limit::{self, Address, Limit, Meaning};
use crate::gor::number;
use crate::gor::options::{
    Identity, Input, KafkaClient, KafkaTls, Mechanism, Offset, Output, Sasl,
};
use crate::gor::place::{self, Login, Secret};
use crate::gor::syntax::{Given, UsageError};

/// Both sides, and what they share.
#[derive(Debug, Default)]
pub(super) struct Kafka {
    input: Side,
    output: Side,
    offset: Option<(Offset, Option<Limit>)>,
    authority: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Side {
    hosts: Vec<String>,
    topic: Option<String>,
    json: bool,
    use_sasl: bool,
    mechanism: Option<Mechanism>,
    user: Option<String>,
    password: Option<String>,
}

impl Kafka {
    /// Whether the flag is one of Kafka's.
    pub(super) fn take(&mut self, given: &Given) -> Result<bool, UsageError> {
        let path = || given.some_text().map(PathBuf::from);
        match given.flag.name {
            "kafka-tls-ca-cert" => self.authority = path(),
            "kafka-tls-client-cert" => self.certificate = path(),
            "kafka-tls-client-key" => self.key = path(),
            "input-kafka-offset" => self.offset = Some(given.read(offset)?),
            name => {
                return match (
                    name.strip_prefix("input-kafka-"),
                    name.strip_prefix("output-kafka-"),
                ) {
                    (Some(name), _) => self.input.take(name, given),
                    (_, Some(name)) => self.output.take(name, given),
                    _ => Ok(false),
                };
            }
        }
        Ok(true)
    }

    pub(super) fn finish(self) -> Result<(Option<Input>, Option<Output>), UsageError> {
        let tls = tls(self.authority, self.certificate, self.key)?;
        let (offset, limit) = self.offset.unwrap_or((Offset::Newest, None));
        let (speed, at_most) = match limit {
            None => (None, None),
            Some(Limit::PerSecond(most)) => (None, Some(most)),
            Some(Limit::Percent(percent)) => (Some(percent / 100.0), None),
        };
        let input = self.input.finish("input", tls.as_ref())?;
        let output = self.output.finish("output", tls.as_ref())?;
        let input = input.map(|client| Input::Kafka {
            client,
            offset,
            speed,
            at_most,
        });
        Ok((input, output.map(|client| Output::Kafka { client })))
    }
}

impl Side {
    fn take(&mut self, name: &str, given: &Given) -> Result<bool, UsageError> {
        match name {
            "host" => self.hosts = given.read(place::hosts)?,
            "topic" => self.topic = given.some_text(),
            "json-format" => self.json = given.switch()?,
            "use-sasl" => self.use_sasl = given.switch()?,
            "mechanism" => {
                self.mechanism = Some(match given.word()? {
                    "scram-sha-256" => Mechanism::ScramSha256,
                    "scram-sha-512" => Mechanism::ScramSha512,
                    _ => Mechanism::Plain,
                });
            }
            "username" => self.user = given.some_text(),
            "password" => self.password = given.some_text(),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// None where there are no brokers.
    fn finish(self, side: &str, tls: Option<&KafkaTls>) -> Result<Option<KafkaClient>, UsageError> {
        if self.hosts.is_empty() {
            return Ok(None);
        }
        let missing = |what: &str, needs: &str| {
            UsageError(format!(
                "--{side}-kafka-{what} needs --{side}-kafka-{needs}"
            ))
        };
        let topic = self.topic.ok_or_else(|| missing("host", "topic"))?;
        // Whoever names a user wants to log in.
        let wanted = self.use_sasl || self.mechanism.is_some() || self.user.is_some();
        let sasl = match (wanted, self.user) {
            (false, _) if self.password.is_some() => return Err(missing("password", "username")),
            (false, _) => None,
            (true, None) => return Err(missing("use-sasl", "username")),
            (true, Some(user)) => Some(Sasl {
                mechanism: self.mechanism.unwrap_or(Mechanism::Plain),
                login: Login {
                    user,
                    password: Secret(self.password.unwrap_or_default()),
                },
            }),
        };
        Ok(Some(KafkaClient {
            hosts: self.hosts,
            topic,
            json: self.json,
            sasl,
            tls: tls.cloned(),
        }))
    }
}

fn tls(
    authority: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<KafkaTls>, UsageError> {
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
        (None, None) => None,
        _ => {
            return Err(UsageError(
                "--kafka-tls-client-cert and --kafka-tls-client-key need each other".to_owned(),
            ));
        }
    };
    let wanted = authority.is_some() || identity.is_some();
    Ok(wanted.then_some(KafkaTls {
        authority,
        identity,
    }))
}

fn offset(text: &str) -> Result<(Offset, Option<Limit>), String> {
    let Address { address, limit } = limit::split(text, Meaning::Speed)?;
    let offset = match number::integer(&address) {
        Some(-1) => Offset::Newest,
        Some(-2) => Offset::Oldest,
        Some(at) if at >= 0 => Offset::At(at),
        _ => {
            return Err(
                "write -1 for the newest, -2 for the oldest, or an offset from 0 on".to_owned(),
            );
        }
    };
    Ok((offset, limit))
}
