//! A listener's settings: names, defaults and their meaning, for the configuration file and the flags.

use std::time::Duration;

use anyhow::bail;
use reprise_node::ListenAddress;
use reprise_node::config::{ByteSize, duration};
use serde::{Deserialize, Serialize};

use crate::capture::CaptureSpec;
use crate::governor::CpuLimit;
use crate::{SourceSettings, budget};

/// Where people and probes find a listener's admin port by default.
pub const ADMIN_PORT: u16 = 28493;

/// A larger request would not fit into a message with what surrounds it.
pub const MAX_EXCHANGE: ByteSize = ByteSize::mib(64);

/// A listener's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Member name; by default made of host name and admin port.
    pub id: Option<String>,
    /// Interfaces and ports to capture: `lo:8080`, `eth0:80,8080`, `:80`.
    pub capture: Vec<CaptureSpec>,
    /// Where proxies send copies of requests.
    pub mirror: Vec<ListenAddress>,
    /// Relays, `HOST:PORT`, in a cluster without etcd.
    pub relay: Vec<String>,
    /// etcd's endpoints, `http://HOST:PORT`: relays come from there.
    pub etcd: Vec<String>,
    /// Count what is captured and ship nothing, to see what a listener would cost here. Excludes `relay` and `etcd`.
    pub discard: bool,
    /// Metrics, health and ledger.
    pub admin: ListenAddress,
    /// Resident memory of the whole process; past what it leaves for requests, sessions are shed and counted.
    pub memory: ByteSize,
    /// CPU time of the whole process; past it sessions are shed and counted.
    pub cpu_limit: CpuLimit,
    /// Kernel memory for packets that wait to be read, of all captures together.
    pub ring: ByteSize,
    /// A request larger than this is dropped whole and counted.
    pub max_exchange: ByteSize,
    /// How long a stopping listener waits for what is under way.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            id: None,
            capture: Vec::new(),
            mirror: Vec::new(),
            relay: Vec::new(),
            etcd: Vec::new(),
            discard: false,
            admin: ListenAddress::loopback(ADMIN_PORT),
            memory: ByteSize::mib(64),
            cpu_limit: CpuLimit::default(),
            ring: ByteSize::mib(16),
            max_exchange: ByteSize::mib(32),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// What is to be captured, and within which bounds.
    pub fn sources(&self) -> SourceSettings {
        SourceSettings {
            capture: self.capture.clone(),
            mirror: self.mirror.clone(),
            ring: self.ring,
            max_exchange: self.max_exchange,
            memory: self.memory,
            process: budget::LISTENER,
        }
    }

    /// Checks what one setting alone does not show.
    ///
    /// # Errors
    /// One line that says which settings don't go together.
    pub fn validate(&self) -> anyhow::Result<()> {
        if self.max_exchange > MAX_EXCHANGE {
            bail!(
                "max_exchange {} is over {MAX_EXCHANGE}, which is all that the wire carries",
                self.max_exchange
            );
        }
        if self.capture.is_empty() && self.mirror.is_empty() {
            bail!("nothing to capture: give --capture IFACE:PORT or --mirror ADDR");
        }
        self.sources().plan().budget()?;
        if self.discard && !(self.etcd.is_empty() && self.relay.is_empty()) {
            bail!("--discard ships nothing: leave out --etcd and --relay");
        }
        match (self.etcd.is_empty(), self.relay.is_empty()) {
            (true, true) if !self.discard => {
                bail!("nowhere to ship to: give --etcd URL, --relay HOST:PORT or --discard")
            }
            (false, false) => bail!("--etcd and --relay exclude each other"),
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
    fn what_is_captured_goes_to_one_place_or_is_discarded() {
        let to = |relay: &[&str], etcd: &[&str], discard| {
            let config = Config {
                capture: vec!["lo:80".parse().unwrap()],
                relay: relay.iter().map(|text| (*text).to_owned()).collect(),
                etcd: etcd.iter().map(|text| (*text).to_owned()).collect(),
                discard,
                ..Config::default()
            };
            config.validate().is_ok()
        };
        assert!(to(&["r:1"], &[], false) && to(&[], &["http://e:1"], false));
        assert!(to(&[], &[], true));
        assert!(!to(&[], &[], false) && !to(&["r:1"], &["http://e:1"], false));
        assert!(!to(&["r:1"], &[], true) && !to(&[], &["http://e:1"], true));
    }

    #[test]
    fn the_sample_is_good_and_shows_each_setting_with_its_default() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/listener.toml");
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
