//! The listener: captures requests on a web host and ships them to a relay.
//!
//! What enters: packets from interfaces ([`capture`], [`packet`]), put together to streams ([`reassembly`]) and read
//! as requests ([`http`]); or whole requests from proxies ([`mirror`]). Each enters the resend window ([`intake`],
//! [`window`]). What leaves: batches to a relay ([`ship`]). What may be lost: packets that the kernel could not hand
//! over, requests that lack a byte, requests for which the window had no room; each is counted by its reason
//! ([`edge`], the ledger). A listener never stands in the path of production and never waits for anything behind it.

pub mod capture;
pub mod packet;
pub mod reassembly;

pub mod http;

pub mod mirror;

pub mod edge;
pub mod intake;
pub mod window;

pub mod ship;

pub mod config;
mod run;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reprise_node::config::ByteSize;
use reprise_node::{Health, ListenAddress};
use reprise_proto::Hello;
use reprise_traffic::Epoch;
use reprise_traffic::ledger::{EpochReport, LedgerReport};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use capture::CaptureSpec;
pub use config::Config;
pub use run::run;

use crate::capture::Captures;
use crate::edge::Edge;
use crate::intake::Intake;
use crate::mirror::Mirror;
use crate::ship::Relays;
use crate::window::Room;

/// Unsettled exchanges in the window; their bytes are the bound that counts.
const WINDOW_EXCHANGES: usize = 1 << 18;

/// What to capture.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Interfaces, ports, and how.
    pub capture: capture::Settings,
    /// Where proxies send copies.
    pub mirror: Vec<ListenAddress>,
    /// A larger request is dropped whole.
    pub max_exchange: ByteSize,
    /// For requests that are not complete yet.
    pub memory: ByteSize,
}

/// Interfaces and ports that are open, and not read yet.
pub struct Sources {
    captures: capture::Opened,
    mirrors: Vec<TcpListener>,
    max_exchange: usize,
    budget: usize,
}

impl Sources {
    /// Opens all, so that nothing has begun when one of them can't be had.
    ///
    /// # Errors
    /// One line, when an interface, a port or the right to capture can't be had.
    pub fn open(settings: &SourceSettings) -> anyhow::Result<Sources> {
        let max_exchange = settings.max_exchange.as_usize();
        let budget = settings.memory.as_usize();
        let bind = |address: &ListenAddress| address.bind("mirror", "--mirror");
        let mirrors = settings
            .mirror
            .iter()
            .map(bind)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let captures = capture::open(settings.capture.clone())?;
        Ok(Sources {
            captures,
            mirrors,
            max_exchange,
            budget,
        })
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
    /// Bytes of unsettled requests.
    pub memory: usize,
    /// Where to ship to.
    pub relays: Relays,
    /// Gets the condition `relay`.
    pub health: Health,
}

/// A running listener.
pub struct Listener {
    node: String,
    intake: Arc<Intake>,
    captures: Captures,
    mirrors: Vec<Mirror>,
    mirror_addresses: Vec<SocketAddr>,
    stop_shipping: CancellationToken,
    shipping: JoinHandle<()>,
}

impl Listener {
    /// Starts to capture and to ship.
    ///
    /// # Errors
    /// When the system grants no thread.
    pub fn start(parts: Parts) -> anyhow::Result<Listener> {
        let edge = Arc::new(Edge::default());
        let limit = Room {
            bytes: parts.memory,
            exchanges: WINDOW_EXCHANGES,
        };
        let epoch = Epoch::new(&parts.node, parts.started_ns);
        let intake = Arc::new(Intake::new(epoch, limit, edge.clone()));
        let sink = || {
            let intake = intake.clone();
            move |request| intake.offer(request)
        };
        let Sources {
            captures,
            mirrors: sockets,
            max_exchange,
            budget,
        } = parts.sources;
        let mut mirrors = Vec::new();
        for socket in sockets {
            let settings = mirror::Settings {
                max_exchange,
                budget,
                ..mirror::Settings::default()
            };
            mirrors.push(mirror::start_with(socket, settings, edge.clone(), sink())?);
        }
        let mirror_addresses = mirrors.iter().map(Mirror::address).collect();
        let captures = captures.start(&edge, sink())?;
        let hello = Hello {
            node: parts.node.clone(),
            version: reprise_node::identity::VERSION.to_owned(),
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
            captures,
            mirrors,
            mirror_addresses,
            stop_shipping,
            shipping,
        })
    }

    /// Where the mirror endpoints listen.
    pub fn mirrors(&self) -> &[SocketAddr] {
        &self.mirror_addresses
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
    pub async fn drain(self, patience: Duration) -> EpochReport {
        for mirror in self.mirrors {
            mirror.stop().await;
        }
        let captures = self.captures;
        if let Err(error) = tokio::task::spawn_blocking(move || captures.stop()).await {
            warn!(%error, "a capture thread failed");
        }
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
        self.intake.report()
    }
}
