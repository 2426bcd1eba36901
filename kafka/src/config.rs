//! From a topic's settings to a client's.
//!
//! What enters: a checked [`Kafka`]. What leaves: what librdkafka is to be told. What may be lost: nothing; a file that
//! can't be read is an error when the client is set up, not when traffic comes. What is in it goes into no message.

use std::fs::{self, File};

use rdkafka::ClientConfig;
use reprise_traffic::Kafka;
use reprise_traffic::kafka::{Sasl, Tls};

/// Why a client can't be set up. One line for its owner.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file isn't there, isn't readable or holds something else.
    #[error("read {key} {file}: {reason}")]
    File {
        /// In the settings.
        key: &'static str,
        /// As in the settings.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The library can't work with these settings: a file that is no PEM, as a rule.
    #[error("{kafka}: {reason}")]
    Client {
        /// The topic's address.
        kafka: String,
        /// Its own words.
        reason: String,
    },
}

impl ConfigError {
    /// For what the library says when a client is made of the configuration.
    pub fn client(kafka: &Kafka, reason: &rdkafka::error::KafkaError) -> ConfigError {
        ConfigError::Client {
            kafka: kafka.to_string(),
            reason: one_line(&reason.to_string()),
        }
    }
}

/// What every client of a topic is told; who it is for adds its own.
///
/// # Errors
/// When a file of the settings can't be read.
pub fn client_config(kafka: &Kafka) -> Result<ClientConfig, ConfigError> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.brokers.join(","));
    config.set("client.id", "reprise");
    config.set("socket.keepalive.enable", "true");
    // So long may a broker that is back go unnoticed.
    config.set("reconnect.backoff.max.ms", "2000");
    let settings = &kafka.settings;
    let protocol = match (&settings.tls, &settings.sasl) {
        (None, None) => "plaintext",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), None) => "ssl",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let Some(sasl) = &settings.sasl {
        config.set("sasl.mechanism", sasl.mechanism.to_string());
        config.set("sasl.username", &sasl.username);
        config.set("sasl.password", password(sasl)?);
    }
    if let Some(tls) = &settings.tls {
        let Tls {
            ca_file,
            cert_file,
            key_file,
        } = tls;
        for (key, name, file) in [
            ("ca_file", "ssl.ca.location", ca_file),
            ("cert_file", "ssl.certificate.location", cert_file),
            ("key_file", "ssl.key.location", key_file),
        ] {
            if let Some(file) = file {
                File::open(file).map_err(|error| refuse(key, file, error))?;
                config.set(name, file);
            }
        }
    }
    Ok(config)
}

fn password(sasl: &Sasl) -> Result<String, ConfigError> {
    let refuse = |reason: &str| refuse("password_file", &sasl.password_file, reason);
    let text = fs::read(&sasl.password_file).map_err(|error| refuse(&error.to_string()))?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match std::str::from_utf8(line) {
        Ok(line) if !line.is_empty() && !line.contains(|c: char| c.is_ascii_control()) => {
            Ok(line.to_owned())
        }
        _ => Err(refuse("is not one line with a password")),
    }
}

fn refuse(key: &'static str, file: &str, reason: impl ToString) -> ConfigError {
    ConfigError::File {
        key,
        file: file.to_owned(),
        reason: reason.to_string(),
    }
}

/// The library's words without its line breaks.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rdkafka::producer::BaseProducer;
    use reprise_traffic::kafka::{KafkaSettings, Mechanism};

    use super::*;

    fn with(settings: KafkaSettings) -> Kafka {
        Kafka::new("kafka://localhost:1/t", settings).unwrap()
    }

    fn login(password: &[u8]) -> Result<ClientConfig, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(password).unwrap();
        let settings = KafkaSettings {
            sasl: Some(Sasl {
                mechanism: Mechanism::ScramSha256,
                username: "u".to_owned(),
                password_file: file.path().to_str().unwrap().to_owned(),
            }),
            ..KafkaSettings::default()
        };
        client_config(&with(settings)).map_err(|error| error.to_string())
    }

    fn ca(file: &str) -> String {
        let settings = KafkaSettings {
            tls: Some(Tls {
                ca_file: Some(file.to_owned()),
                ..Tls::default()
            }),
            ..KafkaSettings::default()
        };
        let kafka = with(settings);
        let error = client_config(&kafka).and_then(|config| {
            let made: Result<BaseProducer, _> = config.create();
            made.map_err(|error| ConfigError::client(&kafka, &error))
        });
        error.err().unwrap().to_string()
    }

    #[test]
    fn a_password_is_one_line() {
        for end in ["", "\n", "\r\n"] {
            let config = login(format!("open sesame{end}").as_bytes()).unwrap();
            assert_eq!(config.get("sasl.password"), Some("open sesame"));
            assert_eq!(config.get("security.protocol"), Some("sasl_plaintext"));
        }
        for text in [&b""[..], b"\n", b"secret\nsecret", b"secret\xff"] {
            let error = login(text).unwrap_err();
            assert!(error.contains("one line"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_of_no_use_is_named_in_one_line() {
        let error = ca("/nowhere/ca.pem");
        assert!(
            error.starts_with("read ca_file /nowhere/ca.pem: No such file"),
            "{error}"
        );
        let error = ca(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        assert!(error.contains("ssl.ca.location"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
