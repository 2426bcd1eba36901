//! A replayer's settings: names, defaults and their meaning, for the configuration file and the flags.

use std::time::Duration;

use reprise_node::ListenAddress;
use reprise_node::config::{ByteSize, duration};
use serde::{Deserialize, Serialize};

/// Where relays find a replayer by default.
pub const PORT: u16 = 28410;

/// Where people and probes find a replayer's admin port by default.
pub const ADMIN_PORT: u16 = 28492;

/// A replayer's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Member name; by default made of host name and port.
    pub id: Option<String>,
    /// Where relays connect.
    pub listen: ListenAddress,
    /// `HOST:PORT` that relays should use, where it isn't the address bound.
    pub advertise: Option<String>,
    /// Metrics, health and ledger.
    pub admin: ListenAddress,
    /// etcd's endpoints, `http://HOST:PORT`; without any, relays must be told of this replayer.
    pub etcd: Vec<String>,
    /// The pools that it serves.
    pub pool: Vec<String>,
    /// Its share of a pool, relative to the others'.
    pub weight: u32,
    /// Bytes of exchanges that one relay may have here unsettled, and that may wait for one target.
    pub memory: ByteSize,
    /// How long a stopping replayer waits for what is under way.
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
            pool: vec!["default".to_owned()],
            weight: 1,
            memory: ByteSize::mib(256),
            drain_timeout: Duration::from_secs(30),
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
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/replayer.toml");
        let no_flags = BTreeMap::<String, String>::new();
        config::load::<Config>(Some(Path::new(path)), &no_flags).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        for default in config::to_toml(&Config::default()).unwrap().lines() {
            let (key, _) = default.split_once(" = ").unwrap();
            let is_shown = text.contains(&format!("\n#{default}\n"));
            let is_set = text.contains(&format!("\n{key} = "));
            assert!(is_shown || is_set, "{default}");
        }
    }
}
