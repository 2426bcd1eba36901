//! Live capture: all interfaces of a listener by one ring and one thread, or by several that share the connections.
//!
//! What enters: packets off the wire, chosen by a filter in the kernel. What leaves: whole requests, and the ends of
//! connections, into a sink that must not wait.
//! What may be lost: packets that come while a ring is full (`kernel_dropped`) or a device is gone; what the parts
//! behind lose, they count.
//!
//! capture --packets--> reassembly. When the ring is full: the kernel drops and counts; the wire cannot wait.
//!
//! A packet that several interfaces show, as a bridge and its ports do, comes several times to the same reassembly,
//! which knows it by its place in the stream.

mod cooked;
mod device;
mod filter;
mod handover;
mod interfaces;
mod opening;
mod pattern;
mod pods;
mod precedence;
mod program;
mod scope;
mod socket;
mod spec;
mod tunnel;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use reprise_traffic::changes::check_settable;
use reprise_traffic::exchange::Captured;
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::edge::Edge;
use crate::packet::{DecodeSettings, Decoder, VniRule};
use crate::reassembly::{self, Answers, Limits};
use crate::shed::Shed;
use device::{Device, Fanout, SNAP_LENGTH};
use handover::Handover;
use interfaces::Present;
pub use pattern::{NamePattern, PatternError};
use pods::{Addresses, follow};
pub use pods::{Cluster, PodChoice, Pods};
use program::Body;
use scope::Scope;
pub use spec::{CaptureSpec, Place, SpecError};
pub use tunnel::{Tunnel, TunnelError, TunnelKind};
use worker::{Worker, now_ns};

/// More threads than any machine's share for a bystander.
pub const MOST_THREADS: usize = 64;

/// 4095 is reserved (IEEE 802.1Q §9.6).
const LAST_VLAN: u16 = 4094;

/// The smallest ring of a thread: some blocks of one packet each at most.
pub const LEAST_RING: usize = 4 * SNAP_LENGTH as usize;

/// Where whole requests go. It must not wait.
pub trait Sink: reassembly::Sink {
    /// Much was taken, or all that was there: what is whole goes on.
    fn caught_up(&mut self) {}
}

impl<F: FnMut(Captured)> Sink for F {}

/// What to capture, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where, and which ports.
    pub specs: Vec<CaptureSpec>,
    /// Interfaces that are left out, whatever the specs say.
    pub ignore: Vec<NamePattern>,
    /// Bytes of the rings of all threads together, which the kernel allocates.
    pub ring: usize,
    /// Each follows its share of the connections.
    pub threads: usize,
    /// Tunnels to look into.
    pub tunnels: Vec<Tunnel>,
    /// Of which virtual networks.
    pub vni: Vec<VniRule>,
    /// Only packets with a tag of one of these VLANs, 0 to 4094, where there are any. An interface that is a VLAN itself
    /// shows no tags.
    pub vlans: Vec<u16>,
    /// Asks the interfaces that are named or matched for packets to other hosts too.
    pub promiscuous: bool,
    /// A filter (pcap-filter(7), over IP packets) in the place of the one made of ports.
    pub bpf: Option<String>,
    /// A header that each request gets, with its client's address, in the place of all of that name.
    pub real_ip_header: Option<String>,
    /// Where specs name pods: whom to ask for them; without one the cluster of this process's own pod.
    pub cluster: Option<Cluster>,
    /// What of the servers' answers is needed.
    pub answers: Answers,
    /// Bounds of the reassembly.
    pub limits: Limits,
    /// What its bytes come out of.
    pub budget: Arc<Budget>,
    /// Which sessions are left out.
    pub shed: Option<Arc<Shed>>,
}

impl Settings {
    /// Tunnels are looked into where they are asked for: a host's own traffic shows up outside of them too.
    fn decoding(&self) -> DecodeSettings {
        let ports = |kind| {
            let of_kind = self.tunnels.iter().filter(move |t| t.kind == kind);
            of_kind.map(|t| t.port).collect()
        };
        DecodeSettings {
            tunnels: !self.tunnels.is_empty() || self.bpf.is_some(),
            vxlan_ports: ports(TunnelKind::Vxlan),
            geneve_ports: ports(TunnelKind::Geneve),
            vni: self.vni.iter().copied().collect(),
            // The kernel's filter has looked already, at tags that nobody sees behind it.
            vlans: Vec::new(),
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            specs: Vec::new(),
            ignore: Vec::new(),
            ring: 16 << 20,
            threads: 1,
            tunnels: Vec::new(),
            vni: Vec::new(),
            vlans: Vec::new(),
            promiscuous: false,
            bpf: None,
            real_ip_header: None,
            cluster: None,
            answers: Answers::Unseen,
            limits: Limits::default(),
            budget: Arc::new(Budget::new(64 << 20)),
            shed: None,
        }
    }
}

/// Why a capture can't begin; one line that says what to change.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No such interface.
    #[error("no network interface is named {name:?}; there are {there}")]
    UnknownInterface {
        /// As written.
        name: String,
        /// What could be meant.
        there: String,
    },
    /// The process may not open packet sockets.
    #[error(
        "capture {spec} needs the capability CAP_NET_RAW: run as root, `setcap cap_net_raw+ep` the executable, or set \
         AmbientCapabilities=CAP_NET_RAW in its systemd unit"
    )]
    NoRights {
        /// What needs it.
        spec: String,
    },
    /// The interface is there, but down.
    #[error("capture {spec}: the interface is down")]
    Down {
        /// Where.
        spec: String,
    },
    /// The same packets would reach two threads, once wrapped and once not.
    #[error(
        "--tunnel on several interfaces needs --capture-threads 1: with more, a request seen within a tunnel and \
         outside would be reported twice"
    )]
    Twice,
    /// A filter that libpcap doesn't understand.
    #[error("cannot compile the filter {expression:?}: {reason}")]
    Filter {
        /// As written, or as made of ports.
        expression: String,
        /// libpcap's words.
        reason: String,
    },
    /// More than the kernel takes.
    #[error(
        "the capture's filter has {instructions} instructions, the kernel takes 4096: name fewer ports or interfaces"
    )]
    FilterTooLong {
        /// Of the shortest program for it.
        instructions: usize,
    },
    /// A setting out of its range.
    #[error("{0}")]
    Setting(String),
    /// Packets that nobody here can read.
    #[error("capture {spec}: packets of link type {number} can't be decoded")]
    LinkType {
        /// Where.
        spec: String,
        /// libpcap's number.
        number: i32,
    },
    /// Whatever else libpcap or the system says.
    #[error("open capture {spec}: {reason}")]
    Open {
        /// Where.
        spec: String,
        /// Their words.
        reason: String,
    },
    /// The system doesn't say which interfaces there are.
    #[error("list the network interfaces: {0}")]
    Interfaces(std::io::Error),
    /// No thread could be started.
    #[error("start a capture thread: {0}")]
    Thread(std::io::Error),
}

/// Captures whose rings fill already, but whose packets nobody reads yet.
pub struct Opened {
    devices: Vec<Device>,
    fanout: Option<Fanout>,
    scope: Arc<Scope>,
    present: Present,
    pods: Arc<Addresses>,
    cluster: Option<Cluster>,
    ring: usize,
    reassembly: reassembly::Settings,
    decoding: DecodeSettings,
}

/// Opens what is to be captured: a socket for each thread.
///
/// # Errors
/// If that isn't possible; nothing is open then.
pub fn open(settings: Settings) -> Result<Opened, CaptureError> {
    check(&settings)?;
    let scope = Arc::new(Scope::new(&settings));
    let threads = if settings.specs.is_empty() {
        0
    } else {
        settings.threads
    };
    let each = threads.max(1);
    let cluster = match (scope.choices().is_empty(), &settings.cluster) {
        (true, _) => None,
        (false, Some(cluster)) => Some(cluster.clone()),
        (false, None) => Some(Cluster::of_this_pod()?),
    };
    let decoding = settings.decoding();
    let mut opened = Opened {
        devices: Vec::new(),
        fanout: None,
        present: interfaces::present().map_err(CaptureError::Interfaces)?,
        pods: scope.pods.now(),
        cluster,
        ring: settings.ring / each,
        reassembly: reassembly::Settings {
            limits: settings.limits,
            ports: scope.ports(),
            answers: settings.answers,
            budget: settings.budget,
            shed: settings.shed,
        },
        decoding,
        scope,
    };
    opened.scope.selection.require_named(&opened.present)?;
    for _ in 0..threads {
        opened.add_device(threads > 1)?;
    }
    let now = now_ns();
    for device in &mut opened.devices {
        device.begin(now);
    }
    if threads > 0 {
        opened
            .scope
            .selection
            .report(&Present::new(), &opened.present);
    }
    Ok(opened)
}

/// Checks what can be checked without opening anything.
///
/// # Errors
/// The first setting that can't work.
pub fn check(settings: &Settings) -> Result<(), CaptureError> {
    let threads = settings.threads;
    if !(1..=MOST_THREADS).contains(&threads) {
        let problem = format!("capture_threads {threads} is not from 1 to {MOST_THREADS}");
        return Err(CaptureError::Setting(problem));
    }
    if settings.ring / threads < LEAST_RING {
        let least = LEAST_RING >> 20;
        let problem = format!("ring: each capture thread needs {least}MiB of it at least");
        return Err(CaptureError::Setting(problem));
    }
    if let Some(expression) = &settings.bpf {
        Body::compile(expression)?;
    }
    if let Some(vlan) = settings.vlans.iter().find(|vlan| **vlan > LAST_VLAN) {
        let problem = format!("VLAN {vlan} is not from 0 to {LAST_VLAN}");
        return Err(CaptureError::Setting(problem));
    }
    if let Some(header) = &settings.real_ip_header {
        check_settable("real_ip_header", header).map_err(CaptureError::Setting)?;
    }
    let several = Scope::new(settings).selection.only().is_none();
    match threads > 1 && several && !settings.tunnels.is_empty() {
        true => Err(CaptureError::Twice),
        false => Ok(()),
    }
}

impl Opened {
    fn add_device(&mut self, shares: bool) -> Result<(), CaptureError> {
        let device = opening::open(&self.scope, &self.present, &self.pods, self.ring)?;
        if shares {
            let joined = device.join(self.fanout);
            self.fanout = Some(
                joined
                    .map_err(|error| CaptureError::Setting(format!("capture_threads: {error}")))?,
            );
        }
        self.devices.push(device);
        Ok(())
    }

    /// Starts the threads. Every one gets its own copy of the sink.
    ///
    /// # Errors
    /// If the system grants no thread; those started before are stopped.
    pub fn start<S>(self, edge: &Arc<Edge>, sink: S) -> Result<Captures, CaptureError>
    where
        S: Sink + Clone + Send + 'static,
    {
        let mut captures = Captures {
            stop: Arc::default(),
            stop_following: CancellationToken::new(),
            threads: Vec::new(),
        };
        if let Some(cluster) = self.cluster {
            let (choices, pods) = (self.scope.choices(), self.scope.pods.clone());
            let stop = captures.stop_following.clone();
            let thread = follow::start(cluster, choices, pods, stop);
            captures.threads.push(thread.map_err(CaptureError::Thread)?);
        }
        if !self.devices.is_empty() {
            let (capture, threads) = (self.scope.name(), self.devices.len());
            tracing::info!(capture, threads, ring_each = self.ring, "capture started");
        }
        for (n, device) in self.devices.into_iter().enumerate() {
            let worker = Worker {
                scope: self.scope.clone(),
                ring: self.ring,
                reassembly: self.reassembly.clone(),
                edge: edge.clone(),
                sink: Handover {
                    inner: sink.clone(),
                    scope: self.scope.clone(),
                    edge: edge.clone(),
                },
                stop: captures.stop.clone(),
                fanout: self.fanout,
                first: n == 0,
                present: self.present.clone(),
                pods: self.pods.clone(),
                retry_at: None,
                decoder: Decoder::new(self.decoding.clone()),
                interface_drops: BTreeMap::new(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("capture {n}"))
                .spawn(move || worker.run(device))
                .map_err(CaptureError::Thread)?;
            captures.threads.push(thread);
        }
        Ok(captures)
    }
}

/// Captures that run.
#[must_use = "captures stop when this is dropped"]
pub struct Captures {
    stop: Arc<AtomicBool>,
    stop_following: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Captures {
    /// Takes what was on the wire until now, and ends. Blocks for some 0.2 s, at most for 2 s and a bit.
    pub fn stop(mut self) {
        self.tell();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a capture thread has panicked");
            }
        }
    }

    fn tell(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.stop_following.cancel();
    }
}

impl Drop for Captures {
    fn drop(&mut self) {
        self.tell();
    }
}
