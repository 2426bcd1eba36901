//! The listener: captures requests on a web host and ships them to a relay.
//!
//! What enters: packets from interfaces ([`capture`], [`packet`]), put together to streams ([`reassembly`]) and read
//! as requests ([`http`]); packets from files the same way ([`reading`], [`capture_file`]); or whole requests from
//! proxies ([`mirror`]). Each enters the resend window ([`intake`], [`window`]). What leaves: batches to a relay
//! ([`ship`]). What may be lost: packets that the kernel could not hand over, requests that lack a byte, whole
//! sessions where memory or CPU is short ([`budget`], [`shed`], [`governor`]), requests for which the window had no
//! room; each is counted by its reason ([`edge`], the ledger). A listener never stands in the path of production and
//! never waits for anything behind it.

pub mod capture;
pub mod capture_file;
pub mod packet;
pub mod reassembly;

pub mod http;

pub mod kafka;
pub mod mirror;
pub mod reading;

pub mod budget;
pub mod edge;
pub mod governor;
pub mod intake;
pub mod shed;
pub mod window;

pub mod ship;

pub mod config;
mod gauges;
mod run;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use reprise_node::config::ByteSize;
use reprise_node::{Health, ListenAddress};
use reprise_proto::Hello;
use reprise_traffic::Epoch;
use reprise_traffic::exchange::{Captured, Closed};
use reprise_traffic::ledger::{EpochReport, LedgerReport};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

pub use capture::CaptureSpec;
pub use config::Config;
pub use run::run;

use crate::budget::{Budget, Plan};
use crate::capture::Captures;
use crate::edge::Edge;
use crate::governor::{CpuLimit, Governed};
use crate::intake::Intake;
use crate::mirror::Mirror;
use crate::reading::Reading;
use crate::shed::Shed;
use crate::ship::Relays;

/// Unsettled exchanges in the window; their bytes, which come out of the budget, are the bound that counts.
const WINDOW_EXCHANGES: usize = 1 << 18;

/// What to capture.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Interfaces, ports, and how.
    pub capture: capture::Settings,
    /// Where proxies send copies.
    pub mirror: Vec<ListenAddress>,
    /// Capture files.
    pub reading: reading::Settings,
    /// A larger request is dropped whole.
    pub max_exchange: ByteSize,
    /// Resident memory of the whole process.
    pub memory: ByteSize,
    /// What of that the process takes without a request: [`budget::LISTENER`] or [`budget::RUN`].
    pub process: ByteSize,
}

impl SourceSettings {
    /// How the memory is shared out.
    pub fn plan(&self) -> Plan {
        let rings = match self.capture.specs.is_empty() {
            true => ByteSize(0),
            false => ByteSize(self.capture.ring as u64),
        };
        Plan {
            memory: self.memory,
            process: self.process,
            rings,
            max_exchange: self.max_exchange,
        }
    }
}

/// Interfaces and ports that are open, and not read yet.
pub struct Sources {
    captures: capture::Opened,
    mirrors: Vec<TcpListener>,
    reading: reading::Opened,
    /// True where something is captured as it happens, and can't wait.
    live: bool,
    max_exchange: usize,
    budget: Arc<Budget>,
    shed: Arc<Shed>,
}

impl Sources {
    /// Opens all, so that nothing has begun when one of them can't be had.
    ///
    /// # Errors
    /// One line, when the memory doesn't suffice, or a file, an interface, a port or the right to capture can't be had.
    pub fn open(settings: &SourceSettings) -> anyhow::Result<Sources> {
        let max_exchange = settings.max_exchange.as_usize();
        let budget = Arc::new(Budget::new(settings.plan().budget()?));
        let reading = reading::open(settings.reading.clone(), budget.clone())?;
        let bind = |address: &ListenAddress| address.bind("mirror", "--mirror");
        let mirrors = settings
            .mirror
            .iter()
            .map(bind)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let shed = Arc::new(Shed::new(budget.clone()));
        let captures = capture::open(capture::Settings {
            budget: budget.clone(),
            shed: Some(shed.clone()),
            ..settings.capture.clone()
        })?;
        Ok(Sources {
            captures,
            live: !(settings.capture.specs.is_empty() && mirrors.is_empty()),
            mirrors,
            reading,
            max_exchange,
            budget,
            shed,
        })
    }

    /// What all parts of the listener may hold together.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}

/// What a listener is made of.
pub struct Parts {
    /// Its member name.
    pub node: String,
    /// Start of this life, unix nanoseconds.
    pub started_ns: u64,
    /// Where requests come from.
    pub sources: Sources,
    /// The share of a core that this process may use.
    pub cpu_limit: CpuLimit,
    /// Where to ship to.
    pub relays: Relays,
    /// Gets the condition `relay`.
    pub health: Health,
}

/// How a listener's life ended.
#[derive(Debug)]
pub struct Ended {
    /// Its closed books.
    pub books: EpochReport,
    /// Files that could not be read.
    pub unreadable: usize,
}

/// Takes in what is captured. Reassembly has asked which sessions are shed.
#[derive(Clone)]
struct CaptureSink {
    intake: Arc<Intake>,
    discards: bool,
}

impl reassembly::Sink for CaptureSink {
    fn take(&mut self, request: Captured) {
        match self.discards {
            true => self.intake.discard(request),
            false => self.intake.admit(request),
        }
    }

    fn closed(&mut self, closed: Closed) {
        if !self.discards {
            self.intake.admit_closed(closed);
        }
    }
}

impl capture::Sink for CaptureSink {
    fn caught_up(&mut self) {
        self.intake.announce();
    }
}

/// A running listener.
pub struct Listener {
    node: String,
    intake: Arc<Intake>,
    budget: Arc<Budget>,
    shed: Arc<Shed>,
    captures: Captures,
    mirrors: Vec<Mirror>,
    mirror_addresses: Vec<SocketAddr>,
    reading: Reading,
    live: bool,
    stop_shipping: CancellationToken,
    shipping: JoinHandle<()>,
    /// Ends the governor.
    _governing: DropGuard,
}

impl Listener {
    /// Starts to capture and to ship.
    ///
    /// # Errors
    /// When the system grants no thread.
    pub fn start(parts: Parts) -> anyhow::Result<Listener> {
        let Sources {
            captures,
            mirrors: sockets,
            reading,
            live,
            max_exchange,
            budget,
            shed,
        } = parts.sources;
        let edge = Arc::new(Edge::default());
        let epoch = Epoch::new(&parts.node, parts.started_ns);
        let intake = Arc::new(Intake::new(
            epoch,
            WINDOW_EXCHANGES,
            budget.clone(),
            shed.clone(),
            edge.clone(),
        ));
        let discards = matches!(parts.relays, Relays::Nowhere);
        let sink = || {
            let intake = intake.clone();
            move |request| match discards {
                true => intake.discard(request),
                false => intake.offer(request),
            }
        };
        let mut mirrors = Vec::new();
        for socket in sockets {
            let settings = mirror::Settings {
                max_exchange,
                ..mirror::Settings::default()
            };
            let (budget, edge) = (budget.clone(), edge.clone());
            mirrors.push(mirror::start(socket, settings, budget, edge, sink())?);
        }
        let mirror_addresses = mirrors.iter().map(Mirror::address).collect();
        let captured = CaptureSink {
            intake: intake.clone(),
            discards,
        };
        let captures = captures.start(&edge, captured)?;
        let reading = reading.start(&edge, &intake, discards)?;
        let stop_governing = CancellationToken::new();
        let governed = Governed {
            shed: shed.clone(),
            budget: budget.clone(),
            edge,
            limit: parts.cpu_limit,
        };
        // Of files nothing is shed.
        if live {
            tokio::spawn(governor::govern(governed, stop_governing.clone()));
        }
        let hello = Hello {
            node: parts.node.clone(),
            version: reprise_node::identity::VERSION.to_owned(),
            measures: false,
        };
        let stop_shipping = CancellationToken::new();
        let shipping = tokio::spawn(ship::ship(
            intake.clone(),
            parts.relays,
            hello,
            parts.health,
            stop_shipping.clone(),
        ));
        Ok(Listener {
            node: parts.node,
            intake,
            budget,
            shed,
            captures,
            mirrors,
            mirror_addresses,
            reading,
            live,
            stop_shipping,
            shipping,
            _governing: stop_governing.drop_guard(),
        })
    }

    /// Where the mirror endpoints listen.
    pub fn mirrors(&self) -> &[SocketAddr] {
        &self.mirror_addresses
    }

    /// Waits until all files are read and settled and nothing else can come; for ever, where something is captured live.
    pub async fn exhausted(&self) {
        match self.live {
            true => std::future::pending().await,
            false => self.reading.done().await,
        }
        // Files can wait: a stop's patience is not for them.
        self.intake.settled().await;
    }

    /// Shows the budget and the share of sessions that is captured among a node's metrics.
    pub fn register(&self, registry: &mut Registry) {
        gauges::register(registry, self.budget.clone(), self.shed.clone());
    }

    /// The books of this life, as they stand when called.
    pub fn ledger(&self) -> impl Fn() -> LedgerReport + Send + Sync + 'static {
        let (node, intake) = (self.node.clone(), self.intake.clone());
        move || LedgerReport {
            node: node.clone(),
            role: "listener".to_owned(),
            epochs: vec![intake.report()],
        }
    }

    /// Stops to capture, waits until all that was captured is settled, and closes the books. What can't be settled in
    /// time is counted as dropped or, where it was sent, as unknown.
    pub async fn drain(self, patience: Duration) -> Ended {
        for mirror in self.mirrors {
            mirror.stop().await;
        }
        let (captures, reading) = (self.captures, self.reading);
        let stopping = tokio::task::spawn_blocking(move || {
            captures.stop();
            reading.stop()
        });
        let unreadable = stopping.await.unwrap_or_else(|error| {
            warn!(%error, "a capture thread failed");
            0
        });
        let waiting = self.intake.used().exchanges;
        info!(waiting, "draining");
        if tokio::time::timeout(patience, self.intake.settled())
            .await
            .is_err()
        {
            let unsettled = self.intake.used().exchanges;
            warn!(
                unsettled,
                "not all was settled in time: what was never sent is dropped, the rest is unknown"
            );
            self.intake.give_up();
        }
        self.stop_shipping.cancel();
        if let Err(error) = self.shipping.await {
            warn!(%error, "shipping failed");
        }
        Ended {
            books: self.intake.report(),
            unreadable,
        }
    }
}
