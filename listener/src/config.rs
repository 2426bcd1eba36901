//! A listener's settings: names, defaults and their meaning, for the configuration file and the flags.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use reprise_node::ListenAddress;
use reprise_node::config::{ByteSize, duration};
use reprise_node::privileges::Account;
use reprise_traffic::kafka::KafkaSettings;
use serde::{Deserialize, Serialize};

use crate::capture::{self, CaptureSpec, NamePattern, Tunnel};
use crate::governor::CpuLimit;
use crate::kafka::Begin;
use crate::limit::SourceLimit;
use crate::packet::VniRule;
use crate::reading::crowd::Users;
use crate::reading::pace::{Pacing, Rate, Repeat, Speed, Stage};
use crate::reassembly::{Answers, Limits};
use crate::{SourceSettings, budget, limit, mirror, reading, record_port, topic};

/// Where people and probes find a listener's admin port by default.
pub const ADMIN_PORT: u16 = 28493;

/// What is done about answers where they are not asked for. The kernel's filter lets those pass that accept an upgrade.
const ANSWERS: Answers = Answers::Switches;

/// A larger request would not fit into a message with what surrounds it.
pub const MAX_EXCHANGE: ByteSize = ByteSize::mib(64);

/// What is said where nothing is to be captured.
pub const NO_SOURCE: &str =
    "nothing to capture: give --capture IFACE:PORT, --mirror ADDR, --read FILE or --kafka URL";

/// A listener's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Member name; by default made of host name and admin port.
    pub id: Option<String>,
    /// Interfaces and ports to capture: `lo:8080`, `eth0:80,8080`, `veth*:80`, `:80`, `eth0:*`, `k8s://deployment/web:80`.
    pub capture: Vec<CaptureSpec>,
    /// Interfaces that are left out; `*` and `?` stand for other characters.
    pub capture_ignore: Vec<NamePattern>,
    /// Threads that capture, each its share of the connections.
    pub capture_threads: usize,
    /// A filter of one's own, pcap-filter(7) over IP packets.
    pub bpf: Option<String>,
    /// Tunnels to look into: `vxlan`, `geneve:6081`.
    pub tunnel: Vec<Tunnel>,
    /// With `tunnel`: only these VXLAN or GENEVE networks, `10`, or not those, `!20`.
    pub vni: Vec<VniRule>,
    /// Captures the answers too.
    pub track_response: bool,
    /// Bytes of an answer's body that are kept.
    pub track_response_body: ByteSize,
    /// So long after its last byte a request leaves without the rest of its answer.
    #[serde(with = "duration")]
    pub track_response_wait: Duration,
    /// The user to become, `NAME` or `NAME:GROUP`, keeping only the right to capture.
    pub user: Option<Account>,
    /// Niceness of the process, 0 to 19.
    pub nice: u8,
    /// Where proxies send copies of requests.
    pub mirror: Vec<ListenAddress>,
    /// Topics to read, `kafka://HOST:PORT[,HOST:PORT]/TOPIC`.
    pub kafka: Vec<String>,
    /// Their consumer group.
    pub kafka_group: String,
    /// Where to begin in what the group has not committed: `newest`, `oldest`, or an offset for whatever it has.
    pub kafka_begin: Begin,
    /// Production's pace times this; without it messages leave as they come.
    pub kafka_speed: Option<Speed>,
    /// Of each topic so many requests a second; the excess is dropped and counted.
    pub kafka_limit: Option<NonZeroU32>,
    /// How brokers are spoken to, and what messages are.
    pub kafka_client: Option<KafkaSettings>,
    /// Capture files and recordings to read, as one stream; `-` is standard input.
    pub read: Vec<PathBuf>,
    /// Ports that servers listen on in those files; none for any.
    pub read_port: Vec<u16>,
    /// Production's pace times this; `"max"` for as fast as possible.
    pub speed: Option<Speed>,
    /// Evenly, at this rate.
    pub rate: Option<Rate>,
    /// At a rate that changes.
    pub stages: Vec<Stage>,
    /// How often what is read is replayed.
    #[serde(rename = "loop")]
    pub repeat: Repeat,
    /// The longest pause.
    #[serde(with = "duration::option")]
    pub max_gap: Option<Duration>,
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
    /// Kernel memory for packets that wait to be read, of all interfaces and threads together; part of `memory`.
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
            capture_ignore: Vec::new(),
            capture_threads: 1,
            bpf: None,
            tunnel: Vec::new(),
            vni: Vec::new(),
            track_response: false,
            track_response_body: ByteSize::kib(64),
            track_response_wait: Limits::default().answer,
            user: None,
            nice: 0,
            mirror: Vec::new(),
            kafka: Vec::new(),
            kafka_group: topic::GROUP.to_owned(),
            kafka_begin: Begin::Newest,
            kafka_speed: None,
            kafka_limit: None,
            kafka_client: None,
            read: Vec::new(),
            read_port: Vec::new(),
            speed: None,
            rate: None,
            stages: Vec::new(),
            repeat: Repeat::default(),
            max_gap: None,
            relay: Vec::new(),
            etcd: Vec::new(),
            discard: false,
            admin: ListenAddress::loopback(ADMIN_PORT),
            memory: ByteSize::mib(64),
            cpu_limit: CpuLimit::default(),
            ring: ByteSize::mib(16),
            max_exchange: ByteSize::mib(24),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Where requests come from.
    pub fn sources(&self) -> SourceSettings {
        let answers = |unless| match self.track_response {
            true => Answers::Kept {
                max_body: self.track_response_body.as_usize(),
            },
            false => unless,
        };
        let limits = Limits {
            max_exchange: self.max_exchange.as_usize(),
            answer: self.track_response_wait,
            ..Limits::default()
        };
        let reading = reading::Settings {
            files: self.read.clone(),
            pacing: Pacing {
                speed: self.speed,
                rate: self.rate,
                stages: self.stages.clone(),
                max_gap: self.max_gap,
                repeat: self.repeat,
            },
            users: Users::default(),
            ports: self.read_port.clone(),
            vni: self.vni.clone(),
            // In files they are there in any case.
            answers: answers(Answers::Watched),
            records: reading::Records::default(),
            when_full: reading::WhenFull::default(),
            limits: limits.clone(),
        };
        SourceSettings {
            capture: capture::Settings {
                specs: self.capture.clone(),
                ignore: self.capture_ignore.clone(),
                ring: self.ring.as_usize(),
                threads: self.capture_threads,
                tunnels: self.tunnel.clone(),
                vni: self.vni.clone(),
                bpf: self.bpf.clone(),
                answers: answers(ANSWERS),
                limits,
                ..capture::Settings::default()
            },
            mirror: self.mirror.clone(),
            mirror_status: mirror::Status::default(),
            record_ports: record_port::Settings::default(),
            topics: self.topics(),
            dummy: false,
            readings: vec![reading],
            limits: limit::Limits {
                topics: self.kafka_limit.map(SourceLimit::PerSecond),
                ..limit::Limits::default()
            },
            middleware: None,
            prettify: false,
            max_exchange: self.max_exchange,
            memory: self.memory,
            process: budget::LISTENER,
        }
    }

    fn topics(&self) -> Vec<topic::Settings> {
        let topic = |url: &String| topic::Settings {
            url: url.clone(),
            client: self.kafka_client.clone().unwrap_or_default(),
            group: self.kafka_group.clone(),
            begin: self.kafka_begin,
            speed: self.kafka_speed.and_then(Speed::factor),
        };
        self.kafka.iter().map(topic).collect()
    }

    /// True where nothing is to be captured.
    pub fn has_no_source(&self) -> bool {
        self.capture.is_empty()
            && self.mirror.is_empty()
            && self.read.is_empty()
            && self.kafka.is_empty()
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
        if self.has_no_source() {
            bail!("{NO_SOURCE}");
        }
        let sources = self.sources();
        for reading in &sources.readings {
            reading.check()?;
        }
        for topic in &sources.topics {
            topic.check()?;
        }
        sources.plan().budget()?;
        capture::check(&sources.capture)?;
        if self.nice > 19 {
            bail!("nice {} is not from 0 to 19", self.nice);
        }
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
