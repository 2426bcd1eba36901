//! The flags that say where requests come from, the same for `run` and `listener`.
//!
//! What enters: flags. What leaves: those that were given, to be laid over the settings of a file. What may be lost:
//! nothing.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reprise_listener::capture::{CaptureSpec, NamePattern, Tunnel};
use reprise_listener::governor::CpuLimit;
use reprise_listener::kafka::Begin;
use reprise_listener::packet::VniRule;
use reprise_listener::reading::pace::{Rate, Repeat, Speed, Stage};
use reprise_node::ListenAddress;
use reprise_node::config::{self, ByteSize};
use reprise_node::privileges::Account;
use serde::Serialize;

/// What a listener captures.
#[derive(Debug, Args, Serialize)]
pub(super) struct SourceFlags {
    /// Capture requests to these ports: lo:8080, eth0:80,8080, veth*:80 (those that come later too), :80 (all
    /// interfaces), 10.0.0.1:80, eth0:* (any port), k8s://NAMESPACE/deployment/NAME:80 (pods of this node; also pod,
    /// daemonset, labelSelector, fieldSelector); repeatable. Needs CAP_NET_RAW [default: none]
    #[arg(long, value_name = "IFACE:PORTS")]
    capture: Vec<CaptureSpec>,
    /// Leave this interface out, whatever --capture says; a name, or a pattern as in docker*; repeatable [default: none]
    #[arg(long, value_name = "NAME")]
    capture_ignore: Vec<NamePattern>,
    /// Threads that capture, each its share of the connections, where one is not enough [default: 1]
    #[arg(long, value_name = "N")]
    capture_threads: Option<usize>,
    /// Filter packets by this expression (pcap-filter(7), over IP packets) instead of the one made of --capture's ports,
    /// which still say where servers are [default: none]
    #[arg(long, value_name = "EXPR")]
    bpf: Option<String>,
    /// Look into tunnels: vxlan, geneve, vxlan:PORT, geneve:PORT; repeatable [default: none]
    #[arg(long, value_name = "KIND")]
    tunnel: Vec<Tunnel>,
    /// With --tunnel, only this VXLAN or GENEVE network, or with '!N' all but that one; repeatable [default: all]
    #[arg(long, value_name = "N")]
    vni: Vec<VniRule>,
    /// Capture the servers' answers too [default: false]
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    track_response: bool,
    /// With --track-response: how much of an answer's body is kept [default: 64KiB]
    #[arg(long, value_name = "SIZE")]
    track_response_body: Option<ByteSize>,
    /// With --track-response: so long after its last byte a request leaves without the rest of its answer, as where that
    /// is a stream of events [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(
        with = "config::duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    track_response_wait: Option<Duration>,
    /// Become this user, NAME or NAME:GROUP, and keep no right but CAP_NET_RAW [default: none]
    #[arg(long, value_name = "USER")]
    user: Option<Account>,
    /// Niceness of the process, 0 to 19 [default: 0]
    #[arg(long, value_name = "N")]
    nice: Option<u8>,
    /// Take every HTTP request that arrives here as captured, and answer it 204 at once; repeatable [default: none]
    #[arg(long, value_name = "ADDR")]
    mirror: Vec<ListenAddress>,
    /// Take the messages of this topic, kafka://HOST:PORT[,HOST:PORT]/TOPIC (docs/kafka.md); repeatable [default: none]
    #[arg(long, value_name = "URL")]
    kafka: Vec<String>,
    /// With --kafka, the consumer group: processes of one name share the partitions [default: reprise]
    #[arg(long, value_name = "NAME")]
    kafka_group: Option<String>,
    /// With --kafka, begin with newest or oldest where the group has committed nothing; or at this offset [default: newest]
    #[arg(long, value_name = "OFFSET", allow_hyphen_values = true)]
    kafka_begin: Option<Begin>,
    /// With --kafka, production's pace times this factor [default: messages leave as they come]
    #[arg(long, value_name = "FACTOR")]
    kafka_speed: Option<Speed>,
    /// With --kafka, at most so many requests a second of each topic; the excess is counted as input_limited
    /// [default: none]
    #[arg(long, value_name = "N")]
    kafka_limit: Option<NonZeroU32>,
    /// Take the requests in this recording (.gor) or capture file (pcap, pcapng), packed by gzip or zstd or not; - is
    /// standard input. Repeatable: all files are one stream, in order of time. When all are read and nothing is captured
    /// live, the process ends [default: none]
    #[arg(long, value_name = "FILE")]
    read: Vec<PathBuf>,
    /// With --read, only requests to this port; repeatable [default: HTTP is recognised on any port]
    #[arg(long, value_name = "N")]
    read_port: Vec<u16>,
    /// With --read, production's pace times this factor: 0.5, 2, 10; or max, as fast as possible [default: 1 for files;
    /// what comes through a pipe leaves as it comes]
    #[arg(long, value_name = "FACTOR")]
    speed: Option<Speed>,
    /// With --read, evenly at this rate instead of production's pace: 500/s, 30/m [default: none]
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// With --read, at a rate that goes evenly from one to the next, from 0 on: 100/s:1m,1000/s:5m. The recording is read
    /// again and again until the last stage is over [default: none]
    #[arg(long, value_name = "RATE:TIME", value_delimiter = ',')]
    stages: Vec<Stage>,
    /// With --read, replay so many times, or for so long, as 10m, or forever [default: 1]
    #[arg(long = "loop", value_name = "N")]
    #[serde(rename = "loop")]
    repeat: Option<Repeat>,
    /// With --read, shorten pauses that are longer than this, after --speed [default: none]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(
        with = "config::duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    max_gap: Option<Duration>,
    /// A request larger than this is dropped whole and counted as too_large [default: 24MiB]
    #[arg(long, value_name = "SIZE")]
    max_exchange: Option<ByteSize>,
    /// CPU time of the whole process, in percent of one core, as 20%; past it sessions are left out and counted as
    /// shed_cpu [default: none]
    #[arg(long, value_name = "PERCENT")]
    cpu_limit: Option<CpuLimit>,
}

/// Flags that were not given stay out of what overrides the file.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
pub(super) fn is_false(flag: &bool) -> bool {
    !flag
}
