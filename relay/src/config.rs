//! A relay's settings: names, defaults and their meaning, for the configuration file and the flags.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use reprise_node::ListenAddress;
use reprise_node::config::{ByteSize, duration};
use serde::{Deserialize, Serialize};

/// Where listeners find a relay by default.
pub const PORT: u16 = 28400;

/// Where people and probes find a relay's admin port by default.
pub const ADMIN_PORT: u16 = 28491;

/// A relay's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Member name; by default made of host name and port.
    pub id: Option<String>,
    /// Where listeners connect.
    pub listen: ListenAddress,
    /// `HOST:PORT` that listeners should use, where it isn't the address bound.
    pub advertise: Option<String>,
    /// Metrics, health and ledger.
    pub admin: ListenAddress,
    /// etcd's endpoints, `http://HOST:PORT`: members and targets come from there.
    pub etcd: Vec<String>,
    /// Replayers, `HOST:PORT`, in a cluster without etcd.
    pub replayer: Vec<String>,
    /// File of targets, watched, in a cluster without etcd.
    pub targets: Option<PathBuf>,
    /// Memory for exchanges in custody; when it is full, listeners wait and shed.
    pub memory: ByteSize,
    /// Unsettled bytes that one listener may have here.
    pub listener_window: ByteSize,
    /// How long a stopping relay waits for what is under way.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            id: None,
            listen: ListenAddress::any(PORT),
            advertise: None,
            admin: ListenAddress::loopback(ADMIN_PORT),
            etcd: Vec::new(),
            replayer: Vec::new(),
            targets: None,
            memory: ByteSize::mib(512),
            listener_window: ByteSize::mib(64),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Checks what one setting alone does not show.
    ///
    /// # Errors
    /// One line that says which settings don't go together.
    pub fn validate(&self) -> anyhow::Result<()> {
        let without_etcd = !self.replayer.is_empty() || self.targets.is_some();
        match (self.etcd.is_empty(), without_etcd) {
            (false, true) => bail!(
                "with --etcd the replayers and targets come from etcd: leave out --replayer and --targets"
            ),
            (true, _) if self.replayer.is_empty() || self.targets.is_none() => {
                bail!("a relay needs --etcd URL, or --replayer HOST:PORT and --targets FILE")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use reprise_node::config;

    use super::*;

    #[test]
    fn the_sample_is_good_and_shows_each_setting_with_its_default() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/relay.toml");
        let no_flags = BTreeMap::<String, String>::new();
        let sample: Config = config::load(Some(Path::new(path)), &no_flags).unwrap();
        sample.validate().unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        for default in config::to_toml(&Config::default()).unwrap().lines() {
            let (key, _) = default.split_once(" = ").unwrap();
            let is_shown = text.contains(&format!("\n#{default}\n"));
            let is_set = text.contains(&format!("\n{key} = "));
            assert!(is_shown || is_set, "{default}");
        }
    }
}
