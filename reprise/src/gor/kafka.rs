//! From a client of Kafka's, as flags have it, to the settings of a topic.
//!
//! What enters: hosts, topic, login, TLS. What leaves: a URL and settings, and a file with the password, as settings hold
//! none. What may be lost: nothing.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use reprise_traffic::kafka::{Format, KafkaSettings, Mechanism, Sasl, Tls};
use tempfile::NamedTempFile;

use super::options::{self, KafkaClient, KafkaTls};

/// What a client's flags ask for. The file with its password has to be there as long as the settings are in use.
///
/// # Errors
/// One line, where the password can't be put into a file or a path is no text.
pub(super) fn topic(
    client: &KafkaClient,
    logins: &mut Vec<NamedTempFile>,
) -> anyhow::Result<(String, KafkaSettings)> {
    let url = format!("kafka://{}/{}", client.hosts.join(","), client.topic);
    let sasl = match &client.sasl {
        None => None,
        Some(options::Sasl { mechanism, login }) => {
            let password = &login.password.0;
            if password.is_empty() {
                bail!("kafka: user {:?} has no password", login.user);
            }
            // Only its owner may read it, and it is gone with the process.
            let mut file = NamedTempFile::with_prefix("reprise-login-").context("keep a login")?;
            file.write_all(password.as_bytes())
                .context("keep a login")?;
            let password_file = file.path().display().to_string();
            logins.push(file);
            Some(Sasl {
                mechanism: match mechanism {
                    options::Mechanism::Plain => Mechanism::Plain,
                    options::Mechanism::ScramSha256 => Mechanism::ScramSha256,
                    options::Mechanism::ScramSha512 => Mechanism::ScramSha512,
                },
                username: login.user.clone(),
                password_file,
            })
        }
    };
    let settings = KafkaSettings {
        sasl,
        tls: client.tls.as_ref().map(tls).transpose()?,
        format: match client.json {
            true => Format::Json,
            false => Format::Record,
        },
    };
    Ok((url, settings))
}

fn tls(tls: &KafkaTls) -> anyhow::Result<Tls> {
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.with_context(|| format!("--kafka-tls: {} is no text", path.display()))
    };
    let identity = tls.identity.as_ref();
    Ok(Tls {
        ca_file: tls.authority.as_deref().map(text).transpose()?,
        cert_file: identity.map(|i| text(&i.certificate)).transpose()?,
        key_file: identity.map(|i| text(&i.key)).transpose()?,
    })
}
