//! Sends one target's jobs: each session in order, as many sessions at a time as the target allows.
//!
//! What enters: jobs. What leaves: requests, and how each ended. What may be lost: a job that waited longer than the
//! target's `max_age` is dropped (`expired`); one that finds the queue full is dropped (`replayer_full`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use reprise_traffic::{Disposition, DropReason, Exchange, Fault, Target};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::client::TargetClient;
use crate::metrics::Latency;
use crate::sessions::{Placed, Sessions};

/// An exchange to be sent to the target.
#[derive(Debug)]
pub(crate) struct Job<T> {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) since: Instant,
    /// What the one who ends the job needs to know.
    pub(crate) ticket: T,
}

/// One target on this replayer.
pub(crate) struct Runner<T> {
    current: Mutex<Arc<Current>>,
    sessions: Mutex<Sessions<Job<T>>>,
    latency: Latency,
}

/// The target as its newest document has it.
struct Current {
    target: Arc<Target>,
    since: Instant,
    /// `None` where no client can be made of the document.
    client: Option<TargetClient>,
    permits: Semaphore,
}

impl Current {
    fn new(target: Arc<Target>) -> Arc<Current> {
        let client = TargetClient::new(&target);
        let client = client
            .inspect_err(|error| warn!("{error}; its exchanges fail"))
            .ok();
        let permits = Semaphore::new(target.document.concurrency.get() as usize);
        Arc::new(Current {
            target,
            since: Instant::now(),
            client,
            permits,
        })
    }
}

/// Relays may be so far apart in what they know of a target.
const SKEW: std::time::Duration = std::time::Duration::from_secs(10);

impl<T: Send + Sync + 'static> Runner<T> {
    /// A target whose queue may hold so many bytes.
    pub(crate) fn new(target: Arc<Target>, queue_bytes: usize, latency: Latency) -> Runner<T> {
        Runner {
            current: Mutex::new(Current::new(target)),
            sessions: Mutex::new(Sessions::new(queue_bytes)),
            latency,
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
            || (target.revision < known.revision && current.since.elapsed() > SKEW);
        if newer && target.document != known.document {
            *current = Current::new(target.clone());
        }
    }

    /// Takes a job; `end` is called once with how it ended.
    pub(crate) fn submit(
        self: &Arc<Self>,
        job: Job<T>,
        end: impl Fn(T, &Exchange, Disposition) + Clone + Send + 'static,
    ) {
        let current = self.current();
        let session = current
            .target
            .document
            .session_key
            .hash(&job.exchange.request);
        let size = job.exchange.request.size();
        let placed = {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.push(session, size, job)
        };
        match placed {
            Placed::Waits => {}
            Placed::Full(job) => {
                end(
                    job.ticket,
                    &job.exchange,
                    Disposition::Dropped(DropReason::ReplayerFull),
                );
            }
            Placed::Start(first) => {
                tokio::spawn(self.clone().run_session(session, first, end));
            }
        }
    }

    async fn run_session(
        self: Arc<Self>,
        session: u64,
        first: Job<T>,
        end: impl Fn(T, &Exchange, Disposition),
    ) {
        let mut next = Some(first);
        while let Some(job) = next {
            let disposition = self.send(&job).await;
            end(job.ticket, &job.exchange, disposition);
            next = self
                .sessions
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next(session);
        }
    }

    async fn send(&self, job: &Job<T>) -> Disposition {
        let current = self.current();
        // The semaphore is never closed.
        let _permit = current.permits.acquire().await;
        if job.since.elapsed() > current.target.document.max_age {
            return Disposition::Dropped(DropReason::Expired);
        }
        let Some(client) = &current.client else {
            return Disposition::Failed(Fault::Ours);
        };
        let sent = client.send(&job.exchange).await;
        if matches!(sent.disposition, Disposition::Replayed(_)) {
            self.latency.observe(sent.latency);
        }
        sent.disposition
    }

    /// Sessions with a job under way, and jobs that wait behind them.
    pub(crate) fn load(&self) -> (usize, usize) {
        self.sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .load()
    }
}
