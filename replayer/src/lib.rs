//! The replayer: sends its share of the traffic to the targets.
//!
//! What enters: parcels from relays ([`take`]); what came before is recognised ([`dedup`]). Each target has a runner
//! that waits until each is due and keeps sessions in order ([`runner`], [`schedule`], [`sessions`]), and one who
//! takes them ([`sender`]): a client that sends a request as it was captured ([`client`], [`rewrite`],
//! [`connection`], [`response`]), or a [`sink`], which takes all in order: files ([`recording`]), standard output, a
//! stream. What leaves: requests and records, and an answer to the relay for each parcel ([`outbox`]). What may be lost: nothing unsaid;
//! an unsafe request is sent at most once, and where its end is not known it ends as `unknown`.

mod dedup;
mod take;

mod breaker;
mod clock;
mod fidelity;
mod gate;
mod measuring;
mod runner;
mod schedule;
mod sender;
mod sessions;
mod teller;

mod client;
mod connection;
mod credentials;
mod dial;
mod names;
mod pool;
mod redirect;
mod replayed;
mod resolve;
mod response;
mod retry;
mod rewrite;
mod tls;

mod recording;
mod sink;

pub mod documents;
pub mod kafka;

mod outbox;

pub mod config;
mod metrics;
mod run;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use reprise_proto::Inlet;
use reprise_traffic::ledger::{LedgerReport, Tally};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use client::{ClientError, Delivery, SetUpError, TargetClient};
pub use config::Config;
pub use credentials::CredentialsError;
pub use recording::{OpenError, RecordingError, check_recording};
pub use replayed::{Kept, Replayed, Tap};
pub use run::run;
pub use tls::TlsError;

use crate::metrics::Metrics;
use crate::schedule::Schedule;
use crate::sessions::Room;
use crate::take::Desk;

/// Exchanges of one target that may be here, under way or waiting; past it they are dropped (`replayer_full`).
pub const TARGET_JOBS: usize = 1 << 15;

/// Between two looks for listeners that have been silent.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// What documents have at the end in any case.
const LAST: Duration = Duration::from_secs(2);

/// A running replayer.
pub struct Replayer {
    node: String,
    desk: Arc<Desk>,
    tally: Arc<Mutex<Tally>>,
    leaving: CancellationToken,
    stopped: CancellationToken,
    relays: TaskTracker,
}

impl Replayer {
    /// Starts a replayer; relays come by [`Replayer::accept`]. Of each target so many bytes may be here. The tap gets the
    /// answers that documents ask to be kept.
    ///
    /// # Errors
    /// If the system grants no thread.
    pub fn start(
        node: String,
        queue_bytes: usize,
        tap: Option<Tap>,
        registry: &mut Registry,
    ) -> io::Result<Replayer> {
        let tally: Arc<Mutex<Tally>> = Arc::default();
        let leaving = CancellationToken::new();
        let metrics = Metrics::register(registry);
        let room = Room {
            bytes: queue_bytes,
            jobs: TARGET_JOBS,
        };
        let schedule = Schedule::start()?;
        let desk = Desk::new(tally.clone(), metrics, schedule, room, tap, leaving.clone());
        let desk = Arc::new(desk);
        let stopped = CancellationToken::new();
        let forgetful = desk.clone();
        tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
            let mut ticks = tokio::time::interval(FORGET_EVERY);
            loop {
                ticks.tick().await;
                forgetful.forget_silent();
            }
        }));
        Ok(Replayer {
            node,
            desk,
            tally,
            leaving,
            stopped,
            relays: TaskTracker::new(),
        })
    }

    /// Serves a relay's stream.
    pub fn accept(&self, inlet: Inlet) {
        self.relays.spawn(self.desk.clone().serve(inlet));
    }

    /// What passed through this replayer, by listener epoch and target.
    pub fn ledger(&self) -> impl Fn() -> LedgerReport + Send + Sync + 'static {
        let (node, tally) = (self.node.clone(), self.tally.clone());
        move || LedgerReport {
            node: node.clone(),
            role: "replayer".to_owned(),
            epochs: tally
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .reports(),
        }
    }

    /// The sources have ended: sinks that collect what comes write it as soon as nothing else does.
    pub fn hurry(&self) {
        self.desk.hurry();
    }

    /// Gives back what comes from now on, and waits until all that was taken has ended.
    pub async fn drain(self, patience: Duration) {
        let started = Instant::now();
        self.leaving.cancel();
        self.hurry();
        self.relays.close();
        let (under_way, waiting) = self.desk.load();
        info!(relays = self.relays.len(), under_way, waiting, "draining");
        if tokio::time::timeout(patience, self.relays.wait())
            .await
            .is_err()
        {
            let (under_way, waiting) = self.desk.load();
            warn!(
                under_way,
                waiting, "not all ended in time; what waited was not sent"
            );
        }
        // Each ends with the answer that it is about, or before.
        self.desk
            .close_documents(patience.saturating_sub(started.elapsed()).max(LAST))
            .await;
        self.stopped.cancel();
    }
}
