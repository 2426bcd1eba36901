//! Feeds one replayer: keeps a stream to it open and moves jobs of its [`Link`] over it.
//!
//! What enters: the link's jobs and ends of connections, and the targets' documents. What leaves: batches; a target's
//! document always goes ahead of its first parcel. What may be lost: nothing unsaid. When the stream breaks, jobs
//! that were never sent and safe ones go to other replayers. Unsafe ones that were sent wait for the same life of the
//! replayer to come back, which recognises them; if it doesn't within [`DOUBT`], they end as `unknown`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reprise_node::membership::Targets;
use reprise_node::{Backoff, LogLimit};
use reprise_proto::{Batch, Downstream, Hello, LinkError, Outlet, Pace, Upstream};
use reprise_traffic::{Disposition, DropReason};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::Observer;
use crate::custody::Job;
use crate::link::{Link, Load, Orphans, Refused};
use crate::pools::Pools;
use crate::watermarks::Watermarks;

/// A batch that is this large is sent at once, a smaller one in its turn ([`Pace`]).
const BATCH: Load = Load {
    bytes: 512 << 10,
    jobs: 1024,
};

/// How long a replayer may be gone before what it had is given up as unknown.
const DOUBT: Duration = Duration::from_secs(3);

/// Everything a feed needs besides its link.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    pub(crate) link: Arc<Link>,
    pub(crate) pools: Arc<Pools>,
    pub(crate) targets: watch::Receiver<Targets>,
    pub(crate) watermarks: Watermarks,
    pub(crate) observer: Option<Observer>,
    /// Cancelled when the member is gone for good, or the relay stops.
    pub(crate) retire: CancellationToken,
}

/// What the answers' reader saw last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamState {
    Open,
    Leaving,
    Ended,
}

impl Feed {
    /// Feeds a replayer at an address until it is retired.
    pub(crate) async fn connected(self, address: String, hello: Hello) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let complaints = LogLimit::every(Duration::from_secs(10));
        let mut doubtful = Doubtful::default();
        while !self.retire.is_cancelled() {
            let connecting = reprise_proto::connect(&address, hello.clone());
            let connected = tokio::select! {
                connected = connecting => connected,
                () = self.retire.cancelled() => break,
            };
            match connected {
                Ok(outlet) => {
                    backoff.reset();
                    info!(replayer = self.link.name, address, "connected to replayer");
                    doubtful = self.clone().pump(outlet, doubtful).await;
                }
                Err(error) if complaints.allow().is_some() => {
                    warn!(replayer = self.link.name, "{error}");
                }
                Err(_) => {}
            }
            doubtful.give_up_after(DOUBT);
            tokio::select! {
                () = backoff.wait() => {}
                () = self.retire.cancelled() => {}
            }
        }
        doubtful.give_up_after(Duration::ZERO);
    }

    /// Feeds a replayer over one stream until it ends. Returns the jobs that may have been delivered.
    #[tracing::instrument(name = "replayer", skip_all, fields(node = self.link.name))]
    pub(crate) async fn pump(self, outlet: Outlet, doubtful: Doubtful) -> Doubtful {
        let Outlet { welcome, down, up } = outlet;
        let returning = doubtful.of(welcome.incarnation);
        self.link.open(&welcome);
        for job in returning {
            // The lane is empty, and its bound does not matter to what was in custody before.
            if let Err(Refused::Down(job) | Refused::Full(job)) = self.link.offer(job) {
                job.settle(Disposition::Unknown);
            }
        }
        self.pools.rebuild();
        self.pools.retry_parked();
        let (state, mut answers) = watch::channel(StreamState::Open);
        let reader = tokio::spawn(self.clone().read(up, state));
        self.send(down, &mut answers).await;
        if self.retire.is_cancelled() {
            self.pools.send_all(self.link.leave());
        }
        await_end(reader).await;
        let Orphans { unsent, sent } = self.link.close();
        self.pools.rebuild();
        let (safe, unsafe_): (Vec<Job>, Vec<Job>) = sent
            .into_iter()
            .partition(|job| job.exchange.request.head.is_safe());
        if !(unsent.is_empty() && safe.is_empty() && unsafe_.is_empty()) {
            let (unsent, safe, doubtful) = (unsent.len(), safe.len(), unsafe_.len());
            warn!(
                replayer = self.link.name,
                unsent, safe, doubtful, "replayer went with jobs"
            );
        }
        self.pools.send_all(safe.into_iter().map(again).collect());
        self.pools.send_all(unsent);
        Doubtful {
            incarnation: welcome.incarnation,
            since: Instant::now(),
            jobs: unsafe_,
        }
    }

    async fn send(
        &self,
        down: mpsc::Sender<Downstream>,
        answers: &mut watch::Receiver<StreamState>,
    ) {
        let mut targets = self.targets.clone();
        targets.mark_changed();
        let mut id = 0;
        let mut pace = Pace::default();
        let mut full = true;
        while *answers.borrow() == StreamState::Open && !self.retire.is_cancelled() {
            if !full {
                tokio::select! {
                    () = self.link.changed.notified() => {}
                    _ = answers.changed() => {}
                    Ok(()) = targets.changed() => targets.mark_changed(),
                    () = self.retire.cancelled() => {}
                }
                pace.turn().await;
            }
            // Before the look at the targets: a job's document is never newer than what that look finds.
            let taken = self.link.take(BATCH);
            full = taken.is_full(BATCH);
            if targets.has_changed().unwrap_or(false) {
                let documents = targets.borrow_and_update().values().cloned().collect();
                if down.send(Downstream::Targets(documents)).await.is_err() {
                    return;
                }
            }
            if taken.is_empty() {
                continue;
            }
            id += 1;
            pace.sent();
            let settled_below = self.watermarks.of(&taken.parcels);
            let batch = Downstream::Batch(Batch {
                id,
                settled_below,
                parcels: taken.parcels,
                closed: taken.closed,
            });
            tokio::select! {
                sent = down.send(batch) => if sent.is_err() { return },
                // What the batch held is in flight on the link, and is handed back with it.
                _ = answers.wait_for(|state| *state == StreamState::Ended) => return,
            }
        }
    }

    async fn read(
        self,
        mut up: mpsc::Receiver<Result<Upstream, LinkError>>,
        state: watch::Sender<StreamState>,
    ) {
        let replayer = &self.link.name;
        while let Some(answer) = up.recv().await {
            match answer {
                Ok(Upstream::Settled(settlements)) => self.link.settle(settlements),
                Ok(Upstream::Returned(deliveries)) => {
                    let jobs = self.link.returned(&deliveries);
                    debug!(replayer, jobs = jobs.len(), "replayer returned jobs");
                    // One that stays and does not want them won't want them a moment later.
                    match self.link.is_up() {
                        true => jobs
                            .into_iter()
                            .for_each(|job| job.give_up(DropReason::NoReplayer)),
                        false => self.pools.send_all(jobs),
                    }
                }
                Ok(Upstream::GoAway(reason)) => {
                    info!(replayer, "replayer is leaving: {reason}");
                    let unsent = self.link.leave();
                    self.pools.rebuild();
                    self.pools.send_all(unsent);
                    state.send_replace(StreamState::Leaving);
                }
                Ok(Upstream::Measured(measured)) => {
                    if let Some(Observer(observe)) = &self.observer {
                        observe(replayer, measured);
                    }
                }
                Ok(Upstream::Accepted(_)) => {}
                Err(error) => warn!(replayer, "lost the replayer: {error}"),
            }
        }
        state.send_replace(StreamState::Ended);
    }
}

async fn await_end(reader: JoinHandle<()>) {
    if let Err(error) = reader.await {
        warn!(%error, "the reader of a replayer's answers failed");
    }
}

/// A job whose earlier copy may have arrived: whoever has it next must not take it for fresh.
fn again(mut job: Job) -> Job {
    job.resent.get_or_insert(Duration::ZERO);
    job
}

/// Unsafe jobs that were with a replayer when its stream broke.
#[derive(Debug)]
pub(crate) struct Doubtful {
    incarnation: u64,
    since: Instant,
    jobs: Vec<Job>,
}

impl Default for Doubtful {
    fn default() -> Doubtful {
        Doubtful {
            incarnation: 0,
            since: Instant::now(),
            jobs: Vec::new(),
        }
    }
}

impl Doubtful {
    /// The same life of the replayer is back: its jobs go to it again. Another life knows nothing of them.
    fn of(mut self, incarnation: u64) -> Vec<Job> {
        if self.incarnation != incarnation {
            self.give_up_after(Duration::ZERO);
        }
        self.jobs.drain(..).map(again).collect()
    }

    fn give_up_after(&mut self, patience: Duration) {
        if self.since.elapsed() >= patience {
            for job in self.jobs.drain(..) {
                job.settle(Disposition::Unknown);
            }
        }
    }
}

impl Drop for Doubtful {
    fn drop(&mut self) {
        self.give_up_after(Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use reprise_proto::{Budget, Welcome};

    use super::*;
    use crate::custody::Custody;
    use crate::samples::{request, target};

    /// Queued again for the same life of its replayer, it is handed back by a second break before it was sent again.
    #[tokio::test]
    async fn a_doubtful_job_is_never_taken_for_fresh() {
        let custody = Custody::new(Budget::new(1 << 20), Arc::default());
        let jobs = custody
            .take(vec![request("POST", 0)], &[target("t/a")], Instant::now())
            .await;
        let doubtful = Doubtful {
            incarnation: 7,
            since: Instant::now(),
            jobs,
        };
        let many = Load {
            bytes: usize::MAX,
            jobs: usize::MAX,
        };
        let link = Link::new("r".to_owned(), 1, many, Counter::default());
        link.open(&Welcome {
            node: String::new(),
            version: String::new(),
            incarnation: 7,
            window_exchanges: 10,
            window_bytes: 1 << 20,
        });
        for job in doubtful.of(7) {
            link.offer(job).unwrap();
        }
        let mut unsent = link.close().unsent;
        assert!(unsent[0].resent.is_some());
        unsent.remove(0).give_up(DropReason::Expired);
        let (settled, _) = custody.take_settled();
        assert_eq!(settled[0].outcomes[0].1, Disposition::Unknown);
    }

    #[tokio::test]
    async fn another_life_of_the_replayer_knows_nothing() {
        let custody = Custody::new(Budget::new(1 << 20), Arc::default());
        let jobs = custody
            .take(vec![request("POST", 0)], &[target("t/a")], Instant::now())
            .await;
        let doubtful = Doubtful {
            incarnation: 7,
            since: Instant::now(),
            jobs,
        };
        assert!(doubtful.of(8).is_empty());
        let (settled, _) = custody.take_settled();
        assert_eq!(settled[0].outcomes[0].1, Disposition::Unknown);
    }
}
