//! Takes parcels from relays: each delivery once, whatever is sent again.
//!
//! What enters: batches and target documents on one stream for each relay. What leaves: jobs for the targets'
//! runners, and an answer for each parcel. What may be lost: nothing; a parcel for a target that nobody described,
//! or that comes while we leave, is given back untouched.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use reprise_proto::{Batch, Delivery, Downstream, Inlet, Upstream};
use reprise_traffic::ledger::Tally;
use reprise_traffic::{Disposition, Exchange, Target, TargetName};
use tokio_util::sync::CancellationToken;
use tracing::{info, info_span, warn};

use crate::dedup::{OUT_OF_REACH, SETTLED_BEFORE, Seen, Windows};
use crate::metrics::Latencies;
use crate::outbox::{Outbox, Reply};
use crate::runner::{Job, Runner};

/// What all streams share.
pub(crate) struct Desk {
    inner: Mutex<Inner>,
    tally: Arc<Mutex<Tally>>,
    latencies: Latencies,
    queue_bytes: usize,
    leaving: CancellationToken,
}

#[derive(Default)]
struct Inner {
    windows: Windows,
    runners: HashMap<TargetName, Arc<Runner<Ticket>>>,
    /// Copies that wait for the end of the first.
    copies: HashMap<Delivery, Vec<Reply>>,
}

/// Whom to answer when a job ends.
#[derive(Debug)]
struct Ticket {
    target: TargetName,
    reply: Reply,
}

impl Desk {
    pub(crate) fn new(
        tally: Arc<Mutex<Tally>>,
        latencies: Latencies,
        queue_bytes: usize,
        leaving: CancellationToken,
    ) -> Desk {
        Desk {
            inner: Mutex::default(),
            tally,
            latencies,
            queue_bytes,
            leaving,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a relay until it closes its side and has all its answers.
    #[tracing::instrument(name = "relay", skip_all, fields(node = inlet.hello.node))]
    pub(crate) async fn serve(self: Arc<Desk>, inlet: Inlet) {
        let Inlet {
            hello,
            peer,
            mut down,
            up,
        } = inlet;
        info!(version = hello.version, peer, "relay connected");
        let outbox = Arc::new(Outbox::default());
        let input_ended = CancellationToken::new();
        let sending = outbox
            .clone()
            .send(up.clone(), input_ended.clone(), self.leaving.clone());
        let sender = tokio::spawn(sending);
        loop {
            match down.recv().await {
                Some(Ok(Downstream::Targets(targets))) => self.learn(&targets),
                Some(Ok(Downstream::Batch(batch))) => {
                    let accepted = Upstream::Accepted(batch.id);
                    info_span!("batch", id = batch.id, parcels = batch.parcels.len())
                        .in_scope(|| self.take(batch, &outbox));
                    if up.send(accepted).await.is_err() {
                        break;
                    }
                }
                Some(Err(error)) => {
                    warn!("lost a relay: {error}");
                    break sender.abort();
                }
                None => break,
            }
        }
        input_ended.cancel();
        drop(up);
        if let Err(error) = sender.await
            && !error.is_cancelled()
        {
            warn!(%error, "the writer of a relay's answers failed");
        }
    }

    /// Targets as a relay describes them.
    fn learn(&self, targets: &[Arc<Target>]) {
        let mut inner = self.lock();
        for target in targets {
            if let Some(runner) = inner.runners.get(&target.name) {
                runner.update(target);
                continue;
            }
            let latency = self.latencies.of(&target.name);
            let runner = Arc::new(Runner::new(target.clone(), self.queue_bytes, latency));
            inner.runners.insert(target.name.clone(), runner);
        }
    }

    fn take(self: &Arc<Desk>, batch: Batch, outbox: &Arc<Outbox>) {
        let now = Instant::now();
        for parcel in batch.parcels {
            let reply = outbox.owe();
            let exchange = parcel.exchange;
            let Some(target) = parcel.target else {
                warn!(id = %exchange.id, "a parcel without a target");
                continue;
            };
            let delivery = Delivery {
                id: exchange.id.clone(),
                target,
            };
            let mark = batch
                .settled_below
                .iter()
                .find(|(epoch, _)| *epoch == delivery.id.epoch);
            let mark = mark.map_or(0, |(_, below)| *below);
            let mut inner = self.lock();
            let runner = inner.runners.get(&delivery.target).cloned();
            let (Some(runner), false) = (runner, self.leaving.is_cancelled()) else {
                drop(inner);
                reply.give_back(delivery);
                continue;
            };
            match inner.windows.begin(&delivery, mark, now) {
                Seen::Never => {
                    drop(inner);
                    let ticket = Ticket {
                        target: delivery.target,
                        reply,
                    };
                    let desk = self.clone();
                    let end = move |ticket, exchange: &Exchange, disposition| {
                        desk.end(ticket, exchange, disposition);
                    };
                    runner.submit(
                        Job {
                            exchange,
                            since: now,
                            ticket,
                        },
                        end,
                    );
                }
                Seen::InFlight => inner.copies.entry(delivery).or_default().push(reply),
                Seen::Ended(disposition) => reply.settle(&delivery, disposition),
                Seen::Settled => reply.settle(&delivery, SETTLED_BEFORE),
                Seen::OutOfReach => reply.settle(&delivery, OUT_OF_REACH),
            }
        }
    }

    fn end(&self, ticket: Ticket, exchange: &Exchange, disposition: Disposition) {
        let Ticket { target, reply } = ticket;
        {
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.add(&exchange.id.epoch, &target, disposition);
        }
        let delivery = Delivery {
            id: exchange.id.clone(),
            target,
        };
        let copies = {
            let mut inner = self.lock();
            inner.windows.end(&delivery, Some(disposition));
            inner.copies.remove(&delivery).unwrap_or_default()
        };
        for copy in copies {
            copy.settle(&delivery, disposition);
        }
        reply.settle(&delivery, disposition);
    }

    /// Forgets listeners that have been silent for long. To be called now and then.
    pub(crate) fn forget_silent(&self) {
        self.lock().windows.forget_silent(Instant::now());
    }

    /// Jobs under way, and jobs that wait behind them.
    pub(crate) fn load(&self) -> (usize, usize) {
        let runners: Vec<_> = self.lock().runners.values().cloned().collect();
        runners
            .iter()
            .map(|runner| runner.load())
            .fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    }
}
