//! All roles in one process: the same code, joined by channels instead of sockets; or all but the replayers.
//!
//! What enters: packets and mirrored requests on this host, capture files and recordings. What leaves: requests to
//! the targets, or to the replayers of a cluster. What may be lost: when memory or CPU is short, whole sessions are
//! left out and counted; production never waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use reprise_listener::feed::Feed;
use reprise_listener::governor::CpuLimit;
use reprise_listener::ship::Relays;
use reprise_listener::{Ended, Listener, SourceSettings, Sources};
use reprise_node::admin::{self, Admin};
use reprise_node::membership::{Members, Targets};
use reprise_node::{Health, ListenAddress, identity, metrics};
use reprise_proto::{Hello, Welcome, joined};
use reprise_relay::{Load, Observer, Relay, Replayers};
use reprise_replayer::{Replayer, Tap};
use reprise_traffic::ledger::EpochReport;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// What an embedded cluster needs to know.
#[derive(Debug)]
pub(crate) struct EmbeddedConfig {
    pub(crate) sources: SourceSettings,
    pub(crate) targets: watch::Receiver<Targets>,
    pub(crate) admin: ListenAddress,
    pub(crate) cpu_limit: CpuLimit,
    pub(crate) drain_timeout: Duration,
    /// Replayers elsewhere; without them one in this process.
    pub(crate) replayers: Option<watch::Receiver<Members>>,
    /// Gets what the replayers measure.
    pub(crate) observer: Option<Observer>,
    /// Gets the answers that targets ask to be kept.
    pub(crate) tap: Option<Tap>,
}

/// A running embedded cluster.
pub(crate) struct Embedded {
    listener: Listener,
    relay: Relay,
    replayer: Option<Replayer>,
    admin: SocketAddr,
    serving: JoinHandle<()>,
    drain_timeout: Duration,
}

const NODE: &str = "embedded";

impl Embedded {
    /// Starts all roles.
    ///
    /// # Errors
    /// One line, when an interface, a port or the right to capture can't be had.
    pub(crate) async fn start(config: EmbeddedConfig) -> anyhow::Result<Embedded> {
        let admin = admin::bind(&config.admin)?;
        let address = admin.address();
        let sources = Sources::open(&config.sources)?;
        let health = Health::new();
        let mut registry = Registry::default();
        // Whatever is unsettled is in the listener's window, so its bound is the bound of all; the others share
        // the same bytes and need none of their own.
        let memory = sources.budget().limit();

        let (replayer, replayers) = match config.replayers {
            Some(members) => (None, Replayers::Network(members)),
            None => {
                let replayer = Replayer::start(NODE.to_owned(), memory, config.tap, &mut registry)
                    .context("start the schedule")?;
                // What is too much for the replayer waits in the relay.
                let credit = reprise_replayer::TARGET_JOBS as u64;
                let hello = hello(config.observer.is_some());
                let (to_replayer, from_relay) = joined(hello, welcome(memory, credit));
                replayer.accept(from_relay);
                (Some(replayer), Replayers::InProcess(to_replayer))
            }
        };

        let relay = Relay::start(reprise_relay::Parts {
            node: NODE.to_owned(),
            targets: config.targets,
            replayers,
            memory: memory.saturating_mul(2),
            lane: Load {
                bytes: memory,
                jobs: usize::MAX,
            },
            health: health.clone(),
            observer: config.observer,
        });
        connected(&relay).await;
        let (to_relay, from_listener) = joined(hello(false), welcome(memory, u64::MAX));
        relay.accept(from_listener);

        let listener = Listener::start(reprise_listener::Parts {
            node: identity::hostname(),
            started_ns: identity::incarnation(),
            sources,
            cpu_limit: config.cpu_limit,
            relays: Relays::InProcess(to_relay),
            health: health.clone(),
        })?;

        let ledger = Arc::new(listener.ledger());
        metrics::register_ledger(&mut registry, ledger.clone());
        listener.register(&mut registry);
        relay.register(&mut registry);
        let serving = admin.serve(Admin {
            node: NODE.to_owned(),
            role: "run",
            registry: Arc::new(registry),
            health,
            ledger,
        });
        let admin = address;
        info!(%admin, mirrors = ?listener.mirrors(), records = ?listener.record_ports(), "ready");
        let drain_timeout = config.drain_timeout;
        Ok(Embedded {
            listener,
            relay,
            replayer,
            admin,
            serving,
            drain_timeout,
        })
    }

    /// The books as they stand.
    pub(crate) fn books(&self) -> EpochReport {
        self.reporter()()
    }

    /// The books as they stand whenever it is called.
    pub(crate) fn reporter(&self) -> impl Fn() -> EpochReport + Send + use<> {
        let ledger = self.listener.ledger();
        move || ledger().epochs.into_iter().next().unwrap_or_default()
    }

    /// By which this process itself brings in records.
    pub(crate) fn feed(&self) -> Feed {
        self.listener.feed()
    }

    /// Where metrics, health and ledger are.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where the mirror endpoints listen.
    pub(crate) fn mirrors(&self) -> &[SocketAddr] {
        self.listener.mirrors()
    }

    /// Waits until all files are read and settled and nothing else can come; for ever, where something is captured live.
    pub(crate) async fn exhausted(&self) {
        self.listener.read_out().await;
        self.hurry();
        self.listener.exhausted().await;
    }

    fn hurry(&self) {
        if let Some(replayer) = &self.replayer {
            replayer.hurry();
        }
    }

    /// Stops capturing, waits until all that was captured is settled, and returns the closed books.
    pub(crate) async fn drain(self) -> Ended {
        self.hurry();
        let started = Instant::now();
        let ended = self.listener.drain(self.drain_timeout).await;
        self.relay.drain(Duration::from_secs(2)).await;
        if let Some(replayer) = self.replayer {
            // All that it was given has ended. Documents about it may be on their way.
            let left = self.drain_timeout.saturating_sub(started.elapsed());
            replayer.drain(left.max(Duration::from_secs(2))).await;
        }
        self.serving.abort();
        ended
    }
}

/// Waits until all replayers can be reached, for a time in which those would that live.
async fn connected(relay: &Relay) {
    for _ in 0..100 {
        let (up, all) = relay.replayers();
        if up == all {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (up, all) = relay.replayers();
    warn!("{} of {all} replayers can't be reached", all - up);
}

fn hello(measures: bool) -> Hello {
    Hello {
        node: NODE.to_owned(),
        version: identity::VERSION.to_owned(),
        measures,
    }
}

fn welcome(memory: usize, window_exchanges: u64) -> Welcome {
    Welcome {
        node: NODE.to_owned(),
        version: identity::VERSION.to_owned(),
        incarnation: 1,
        window_exchanges,
        window_bytes: memory as u64,
    }
}
