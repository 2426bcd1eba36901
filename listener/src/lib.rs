//! The listener: captures requests on a web host and ships them to a relay.
//!
//! What enters: packets from interfaces ([`capture`], [`packet`]), put together to streams ([`reassembly`]) and read
//! as requests ([`http`]); packets from files the same way ([`reading`], [`capture_file`]); or whole requests from
//! proxies ([`mirror`]); or records that others send ([`record_port`]), that a topic of Kafka's holds ([`topic`], [`kafka`]) or the process itself has ([`feed`]). Each enters the resend window ([`intake`], [`window`]). What leaves: batches to a relay
//! ([`ship`]). What may be lost: packets that the kernel could not hand over, requests that lack a byte, whole
//! sessions where memory or CPU is short ([`budget`], [`shed`], [`governor`]), requests for which the window had no
//! room; each is counted by its reason ([`edge`], the ledger). A listener never stands in the path of production and
//! never waits for anything behind it.

pub mod capture;
pub mod capture_file;
pub mod packet;
pub mod reassembly;

pub mod http;

pub mod dummy;
pub mod feed;
pub mod kafka;
pub mod mirror;
pub mod reading;
pub mod record_port;
pub mod records;
pub mod topic;

pub mod middleware;
mod prettify;

pub mod budget;
pub mod edge;
pub mod governor;
pub mod intake;
pub mod limit;
pub mod shed;
pub mod window;

pub mod ship;

pub mod config;
mod gauges;
mod run;
mod sources;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use reprise_node::Health;
use reprise_proto::Hello;
use reprise_traffic::Epoch;
use reprise_traffic::exchange::Captured;
use reprise_traffic::ledger::{EpochReport, LedgerReport};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

pub use capture::CaptureSpec;
pub use config::Config;
pub use run::run;
pub use sources::{SourceSettings, Sources};

use crate::budget::Budget;
use crate::capture::Captures;
use crate::dummy::Dummy;
use crate::edge::Edge;
use crate::feed::Feed;
use crate::governor::{CpuLimit, Governed};
use crate::intake::Intake;
use crate::limit::Limiter;
use crate::mirror::Mirror;
use crate::reading::{Entrance, Reading};
use crate::record_port::RecordPort;
use crate::records::Turns;
use crate::shed::Shed;
use crate::ship::Relays;
use crate::sources::CaptureSink;
use crate::topic::Topic;

/// Unsettled exchanges in the window; their bytes, which come out of the budget, are the bound that counts.
const WINDOW_EXCHANGES: usize = 1 << 18;

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

/// A running listener.
pub struct Listener {
    node: String,
    intake: Arc<Intake>,
    budget: Arc<Budget>,
    shed: Arc<Shed>,
    captures: Captures,
    mirrors: Vec<Mirror>,
    mirror_addresses: Vec<SocketAddr>,
    record_ports: Vec<RecordPort>,
    record_addresses: Vec<SocketAddr>,
    topics: Vec<Topic>,
    dummy: Option<Dummy>,
    feed: Feed,
    readings: Vec<Reading>,
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
    /// When the system grants no thread, or a file of a topic's settings is of no use.
    pub fn start(parts: Parts) -> anyhow::Result<Listener> {
        let Sources {
            captures,
            mirrors: sockets,
            mirror_status,
            record_ports,
            topics,
            dummy,
            readings: files,
            limits,
            middleware,
            prettify,
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
        if let Some(settings) = middleware {
            intake.pass_through(settings, max_exchange)?;
        }
        if prettify {
            intake.make_readable(max_exchange);
        }
        let turns = Arc::new(Turns::default());
        let limiter = |limit| Limiter::new(limit, edge.clone());
        let sink = |limit| {
            let (intake, limiter) = (intake.clone(), Arc::new(limiter(limit)));
            move |request: Captured| match discards {
                _ if !limiter.takes(&request, Instant::now()) => {}
                true => intake.discard(request),
                false => intake.offer(request),
            }
        };
        let mut mirrors = Vec::new();
        for socket in sockets {
            let settings = mirror::Settings {
                max_exchange,
                status: mirror_status,
                ..mirror::Settings::default()
            };
            let (budget, edge) = (budget.clone(), edge.clone());
            let sink = sink(limits.mirrors);
            mirrors.push(mirror::start(socket, settings, budget, edge, sink)?);
        }
        let mirror_addresses = mirrors.iter().map(Mirror::address).collect();
        let entry = Arc::new(record_port::Entry::new(
            (intake.clone(), discards),
            turns.clone(),
            budget.clone(),
            edge.clone(),
            max_exchange,
        ));
        let record_ports =
            record_port::start(record_ports, &entry, || limiter(limits.record_ports))?;
        let record_addresses = record_ports.iter().map(RecordPort::address).collect();
        let entry = Arc::new(topic::Entry {
            intake: intake.clone(),
            discards,
            turns: turns.clone(),
            edge: edge.clone(),
            budget: budget.clone(),
            max_exchange,
        });
        let start = |topic: topic::Opened| topic.start(entry.clone(), limiter(limits.topics));
        let topics = topics
            .into_iter()
            .map(start)
            .collect::<anyhow::Result<_>>()?;
        let dummy = dummy.then(|| Dummy::start(sink(limits.dummy)));
        let captured = CaptureSink {
            intake: intake.clone(),
            limiter: Arc::new(limiter(limits.captures)),
            discards,
        };
        let captures = captures.start(&edge, captured)?;
        let mut readings = Vec::new();
        for files in files {
            let entrance = Entrance {
                intake: intake.clone(),
                discards,
                turns: turns.clone(),
                limiter: limiter(limits.files),
            };
            readings.push(files.start(&edge, entrance)?);
        }
        let feed = Feed::new(intake.clone(), discards, edge.clone(), max_exchange);
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
            record_ports,
            record_addresses,
            topics,
            dummy,
            feed,
            readings,
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

    /// Where the ports for streams of records listen.
    pub fn record_ports(&self) -> &[SocketAddr] {
        &self.record_addresses
    }

    /// By which this process itself brings in records.
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// Waits until all files are read and nothing else can come; for ever, where something is captured live or a port is open.
    pub async fn read_out(&self) {
        if self.live {
            return std::future::pending().await;
        }
        for reading in &self.readings {
            reading.done().await;
        }
    }

    /// Waits until all files are read, all is settled, what was fed included, and nothing else can come; for ever, where
    /// something is captured live or a port is open.
    pub async fn exhausted(&self) {
        self.read_out().await;
        // Files can wait: a stop's patience is not for them.
        self.intake.all_through().await;
    }

    /// Shows the budget and the share of sessions that is captured among a node's metrics.
    pub fn register(&self, registry: &mut Registry) {
        gauges::register(registry, self.budget.clone(), self.shed.clone());
    }

    /// The books of this life, as they stand when called.
    pub fn ledger(&self) -> impl Fn() -> LedgerReport + Send + Sync + use<> {
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
        drop(self.dummy);
        let stopping = self.record_ports.into_iter().map(RecordPort::stop);
        let stopping: Vec<_> = stopping.map(tokio::spawn).collect();
        for mirror in self.mirrors {
            mirror.stop().await;
        }
        let mut paused = Vec::new();
        for topic in self.topics {
            paused.push(topic.pause().await);
        }
        for stopped in stopping {
            if let Err(error) = stopped.await {
                warn!(%error, "a record port failed");
            }
        }
        let (captures, readings) = (self.captures, self.readings);
        let stopping = tokio::task::spawn_blocking(move || {
            captures.stop();
            // All at once: each may be waiting for room.
            readings.iter().for_each(Reading::ask_to_stop);
            readings.into_iter().map(Reading::stop).sum()
        });
        let unreadable = stopping.await.unwrap_or_else(|error| {
            warn!(%error, "a capture thread failed");
            0
        });
        let waiting = self.intake.used().exchanges;
        info!(waiting, "draining");
        let settled = async {
            self.intake.all_through().await;
            self.intake.finish_middleware().await;
            self.intake.settled().await;
        };
        if tokio::time::timeout(patience, settled).await.is_err() {
            let unsettled = self.intake.used().exchanges;
            warn!(
                unsettled,
                "not all was settled in time: what was never sent is dropped, the rest is unknown"
            );
            self.intake.end_feed();
            self.intake.finish_middleware().await;
            self.intake.give_up();
        }
        self.intake.end_feed();
        // Only now has ended what will.
        let stopping = paused.into_iter().map(|topic| tokio::spawn(topic.stop()));
        for stopped in stopping.collect::<Vec<_>>() {
            if let Err(error) = stopped.await {
                warn!(%error, "a topic's end failed");
            }
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
