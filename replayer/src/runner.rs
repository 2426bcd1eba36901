//! Sends one target's jobs: each when it is due, each session in order, as many sessions at a time as the target allows.
//!
//! What enters: jobs. What leaves: requests, and how each ended. What may be lost: a job that waited longer than the
//! target's `max_age` is dropped (`expired`), one that finds no room (`replayer_full`), one whose target doesn't answer
//! (`breaker_open`), and one whose target was deleted while it waited (`not_a_target`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use reprise_traffic::{Disposition, DropReason, Exchange, Fault, Target};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::warn;

use crate::client::TargetClient;
use crate::gate::Gate;
use crate::measuring::Measures;
use crate::metrics::{BreakerMeter, Latency};
use crate::schedule::Schedule;
use crate::sessions::{Placed, Room, Sessions};

/// An exchange to be sent to the target.
#[derive(Debug)]
pub(crate) struct Job<T> {
    pub(crate) exchange: Arc<Exchange>,
    /// When it came; or when it is to leave, where a schedule says so.
    pub(crate) since: Instant,
    /// A schedule says when it is to leave.
    pub(crate) is_scheduled: bool,
    /// What the one who ends the job needs to know.
    pub(crate) ticket: T,
}

/// One target on this replayer.
pub(crate) struct Runner<T> {
    current: Mutex<Arc<Current>>,
    sessions: Mutex<Sessions<Job<T>>>,
    latency: Latency,
    measures: Measures,
    breaker: BreakerMeter,
    retired: AtomicBool,
}

/// The target as its newest document has it.
struct Current {
    target: Arc<Target>,
    since: Instant,
    sender: Arc<Sender>,
}

struct Sender {
    /// `None` where no client can be made of the document.
    client: Option<TargetClient>,
    permits: Semaphore,
    gate: Gate,
}

impl Current {
    fn new(target: Arc<Target>, breaker: &BreakerMeter) -> Arc<Current> {
        let client = TargetClient::new(&target);
        let client = client
            .inspect_err(|error| warn!("{error}; its exchanges fail"))
            .ok();
        let permits = Semaphore::new(target.document.concurrency.get() as usize);
        let gate = Gate::new(&target, breaker.clone());
        let sender = Arc::new(Sender {
            client,
            permits,
            gate,
        });
        let since = Instant::now();
        Arc::new(Current {
            target,
            since,
            sender,
        })
    }
}

impl Current {
    /// A newer revision; the client, its connections and the breaker stay where the document is the same.
    fn with(self: &Arc<Current>, target: &Arc<Target>, breaker: &BreakerMeter) -> Arc<Current> {
        if target.document != self.target.document {
            self.sender.gate.retire();
            return Current::new(target.clone(), breaker);
        }
        let (target, since) = (target.clone(), Instant::now());
        Arc::new(Current {
            target,
            since,
            sender: self.sender.clone(),
        })
    }
}

/// Relays may be so far apart in what they know of a target.
const SKEW: std::time::Duration = std::time::Duration::from_secs(10);

impl<T: Send + Sync + 'static> Runner<T> {
    /// A target of which so much may be here.
    pub(crate) fn new(
        target: Arc<Target>,
        room: Room,
        (latency, breaker): (Latency, BreakerMeter),
    ) -> Runner<T> {
        Runner {
            current: Mutex::new(Current::new(target, &breaker)),
            sessions: Mutex::new(Sessions::new(room)),
            latency,
            measures: Measures::default(),
            breaker,
            retired: AtomicBool::new(false),
        }
    }

    fn current(&self) -> Arc<Current> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A relay's version of the document. The newest counts; an older one only where it is no relay that lags, but
    /// an etcd that was set up anew.
    pub(crate) fn update(&self, target: &Arc<Target>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &current.target;
        let newer = target.revision > known.revision
            || (target.document != known.document && current.since.elapsed() > SKEW);
        if newer {
            *current = current.with(target, &self.breaker);
        }
    }

    /// The target was deleted: what waits is not sent any more.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.current().sender.gate.retire();
    }

    /// Takes a job; `end` is called once with how it ended. Must be called on a tokio runtime.
    pub(crate) fn submit(
        self: &Arc<Self>,
        job: Job<T>,
        schedule: &Schedule,
        end: impl Fn(T, &Exchange, Disposition) + Send + 'static,
    ) {
        if !self.sessions().reserve(job.exchange.request.size()) {
            let full = Disposition::Dropped(DropReason::ReplayerFull);
            return end(job.ticket, &job.exchange, full);
        }
        // What is scheduled goes by the schedule even if it is late: it must not overtake what is due before it.
        match job.is_scheduled {
            true => {
                let (runner, runtime) = (self.clone(), Handle::current());
                schedule.at(job.since, move || runner.place(job, &runtime, end));
            }
            false => self.place(job, &Handle::current(), end),
        }
    }

    /// Has a job sent once those before it in its session have ended.
    fn place(
        self: &Arc<Self>,
        job: Job<T>,
        runtime: &Handle,
        end: impl Fn(T, &Exchange, Disposition) + Send + 'static,
    ) {
        let current = self.current();
        let request = &job.exchange.request;
        if current.sender.gate.is_shut(request.head.is_safe()) {
            self.sessions().release(request.size());
            let dropped = Disposition::Dropped(DropReason::BreakerOpen);
            return end(job.ticket, &job.exchange, dropped);
        }
        let session = current.target.document.session_key.hash(request);
        let placed = self.sessions().push(session, job);
        if let Placed::Start(first) = placed {
            runtime.spawn(self.clone().run_session(session, first, end));
        }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions<Job<T>>> {
        // Every change under the lock leaves it whole, so a panic elsewhere does not spoil it.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run_session(
        self: Arc<Self>,
        session: u64,
        first: Job<T>,
        end: impl Fn(T, &Exchange, Disposition),
    ) {
        let mut next = Some(first);
        while let Some(job) = next {
            let disposition = self.send(session, &job).await;
            let size = job.exchange.request.size();
            end(job.ticket, &job.exchange, disposition);
            next = self.sessions().next(session, size);
        }
    }

    async fn send(&self, session: u64, job: &Job<T>) -> Disposition {
        let current = self.current();
        let sender = &current.sender;
        let dropped = Disposition::Dropped(DropReason::BreakerOpen);
        let Some(pass) = sender.gate.pass(job.exchange.request.head.is_safe()) else {
            return dropped;
        };
        // The semaphore is never closed.
        let _permit = tokio::select! {
            biased;
            () = pass.revoked() => return dropped,
            permit = sender.permits.acquire() => permit,
        };
        if self.retired.load(Ordering::Relaxed) {
            return Disposition::Dropped(DropReason::NotATarget);
        }
        if job.since.elapsed() > current.target.document.max_age {
            return Disposition::Dropped(DropReason::Expired);
        }
        let Some(client) = &sender.client else {
            return Disposition::Failed(Fault::Ours);
        };
        let begun = Instant::now();
        if job.is_scheduled {
            let lateness = begun.saturating_duration_since(job.since);
            self.latency.late(lateness);
        }
        self.measures.begun(session, job.since, begun);
        let sent = client.send(&job.exchange).await;
        pass.ended(sent.disposition);
        let (disposition, latency) = (sent.disposition, sent.latency);
        self.measures
            .ended(job.since, disposition, latency, sent.cause);
        if matches!(sent.disposition, Disposition::Replayed(_)) {
            self.latency.observe(sent.latency);
        }
        sent.disposition
    }

    /// What is measured of the target, for those who want it.
    pub(crate) fn measures(&self) -> &Measures {
        &self.measures
    }

    /// Sessions with a job under way, and jobs that wait behind them or are not due yet.
    pub(crate) fn load(&self) -> (usize, usize) {
        self.sessions().load()
    }
}

#[cfg(test)]
mod tests;
