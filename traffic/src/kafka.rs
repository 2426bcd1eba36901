//! A Kafka topic as a target's document or a listener's configuration has it.
//!
//! What enters: a URL, `kafka://HOST:PORT[,HOST:PORT]/TOPIC`, and what stands under `kafka`. What leaves: a checked
//! [`Kafka`]. What may be lost: nothing; what makes no sense is refused with one line.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where no port is said.
const PORT: u16 = 9092;

/// Kafka's own bound for the name of a topic.
const LONGEST_TOPIC: usize = 249;

/// What a document says under `kafka`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaSettings {
    /// How to log in; not at all without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// TLS where it is there, `{}` for this machine's authorities and no certificate of our own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// What a message's value is.
    pub format: Format,
}

/// A user and how the broker is to be convinced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// How the password is shown.
    pub mechanism: Mechanism,
    /// The user's name.
    pub username: String,
    /// A file with the password, one line.
    pub password_file: String,
}

/// How a password is shown to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// As it is (RFC 4616).
    Plain,
    /// By proof (RFC 5802, RFC 7677).
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// The same with the longer hash.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

impl fmt::Display for Mechanism {
    /// As Kafka calls it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        })
    }
}

/// Whom to trust, and who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the authorities to trust, instead of this machine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// PEM file of our certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<String>,
    /// PEM file of its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
}

/// What a message's value is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A record as in `.gor` files, without its separator.
    #[default]
    Record,
    /// An object with the request's parts ([`gor::encode_json`](crate::gor::encode_json)).
    Json,
}

/// A topic and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// Brokers to begin with, `HOST:PORT`, an IPv6 address in brackets; at least one.
    pub brokers: Vec<String>,
    /// The topic's name.
    pub topic: String,
    /// How it is spoken to.
    pub settings: KafkaSettings,
}

impl Kafka {
    /// From a URL and its settings.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn new(url: &str, settings: KafkaSettings) -> Result<Kafka, String> {
        let wrong =
            |what: &str| format!("url {url:?}: {what}; write kafka://HOST:PORT[,HOST:PORT]/TOPIC");
        let rest = url
            .strip_prefix("kafka://")
            .ok_or_else(|| wrong("the scheme is not kafka"))?;
        let (hosts, topic) = rest.split_once('/').unwrap_or((rest, ""));
        if hosts.contains('@') {
            return Err(wrong("user and password don't belong in it"));
        }
        let brokers: Result<Vec<_>, _> = hosts.split(',').map(broker).collect();
        let brokers = brokers.map_err(|what| wrong(&what))?;
        check_topic(topic).map_err(wrong)?;
        settings.check()?;
        Ok(Kafka {
            brokers,
            topic: topic.to_owned(),
            settings,
        })
    }
}

impl fmt::Display for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kafka://{}/{}", self.brokers.join(","), self.topic)
    }
}

impl KafkaSettings {
    fn check(&self) -> Result<(), String> {
        if let Some(sasl) = &self.sasl
            && (sasl.username.is_empty() || sasl.password_file.is_empty())
        {
            return Err("kafka: sasl: username or password_file is empty".to_owned());
        }
        match &self.tls {
            Some(tls) if tls.cert_file.is_some() != tls.key_file.is_some() => {
                Err("kafka: tls: cert_file and key_file go together".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// `HOST:PORT` of a broker that may lack its port.
fn broker(text: &str) -> Result<String, String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let is_address = address.parse::<std::net::Ipv6Addr>().is_ok();
            let port = port.strip_prefix(':').or(port.is_empty().then_some(""));
            (is_address.then(|| format!("[{address}]")), port)
        }
        None => {
            let (host, port) = text.split_once(':').unwrap_or((text, ""));
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            let is_host = !host.is_empty() && host.chars().all(is_name);
            (is_host.then(|| host.to_owned()), Some(port))
        }
    };
    let host = host.ok_or_else(|| format!("{text:?} is no host and port"))?;
    let port = match port {
        Some("") if !text.ends_with(':') => Some(PORT),
        Some(port) => port.parse().ok().filter(|port| *port > 0),
        None => None,
    };
    let port = port.ok_or_else(|| format!("{text:?} has no port between 1 and 65535"))?;
    Ok(format!("{host}:{port}"))
}

fn check_topic(topic: &str) -> Result<(), &'static str> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    match topic {
        "" => Err("no topic"),
        "." | ".." => Err("no topic may be called so"),
        _ if topic.len() > LONGEST_TOPIC => Err("the topic's name is over 249 characters"),
        _ if !topic.chars().all(is_legal) => {
            Err("a topic's name has only letters, digits, dots, underscores and hyphens")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<Kafka, String> {
        Kafka::new(url, KafkaSettings::default())
    }

    fn settings(text: &str) -> Result<KafkaSettings, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn brokers_and_topic() {
        for (url, canonical) in [
            ("kafka://k:1/t", "kafka://k:1/t"),
            (
                "kafka://k-1.x:1,10.0.0.1:2,[::1]:3/a.b_c-D",
                "kafka://k-1.x:1,10.0.0.1:2,[::1]:3/a.b_c-D",
            ),
            ("kafka://k,[::1]/t", "kafka://k:9092,[::1]:9092/t"),
        ] {
            assert_eq!(of(url).unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (url, part) in [
            ("http://k/t", "scheme"),
            ("kafka:k/t", "scheme"),
            ("kafka://k:1", "no topic"),
            ("kafka://k:1/", "no topic"),
            ("kafka://k:1/..", "so"),
            ("kafka://k:1/a/b", "letters"),
            ("kafka://k:1/a?b", "letters"),
            ("kafka://k:0/t", "port"),
            ("kafka://k:/t", "port"),
            ("kafka://k:x/t", "port"),
            ("kafka://k:70000/t", "port"),
            ("kafka://k:1,/t", "no host"),
            ("kafka:///t", "no host"),
            ("kafka://::1:3/t", "port"),
            ("kafka://[k]:3/t", "no host"),
            ("kafka://[::1]3/t", "port"),
            ("kafka://u:p@k:3/t", "user"),
        ] {
            let error = of(url).unwrap_err();
            assert!(error.contains(part), "{url}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        assert!(of(&format!("kafka://k/{}", "x".repeat(250))).is_err());
    }

    #[test]
    fn settings_are_read_and_checked() {
        assert_eq!(settings("{}").unwrap(), KafkaSettings::default());
        let all = "{format: json, tls: {ca_file: a, cert_file: b, key_file: c}, \
                   sasl: {mechanism: scram-sha-512, username: u, password_file: p}}";
        let all = settings(all).unwrap();
        assert_eq!(all.format, Format::Json);
        let sasl = all.sasl.as_ref().unwrap();
        assert_eq!(sasl.mechanism.to_string(), "SCRAM-SHA-512");
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(settings(&json).unwrap(), all);
        assert!(Kafka::new("kafka://k/t", all).is_ok());
        for (text, part) in [
            ("{fromat: json}", "fromat"),
            ("{format: avro}", "avro"),
            ("{sasl: {username: u, password_file: p}}", "mechanism"),
            ("{tls: {cafile: a}}", "cafile"),
        ] {
            let error = settings(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        for (text, part) in [
            ("{tls: {cert_file: a}}", "key_file"),
            (
                "{sasl: {mechanism: plain, username: '', password_file: p}}",
                "username",
            ),
        ] {
            let error = Kafka::new("kafka://k/t", settings(text).unwrap()).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
