//! Sends one target's jobs: each session in order, as many sessions at a time as the target allows. Those of a recording
//! are recorded, and those of a target that does nothing end at once; there sessions don't wait for answers.
//!
//! What enters: jobs. What leaves: requests, and how each ended. What may be lost: a job that waited longer than the
//! target's `max_age` is dropped (`expired`), one that finds no room (`replayer_full`), and one whose target was deleted
//! while it waited (`not_a_target`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use reprise_traffic::outcome::TAKEN;
use reprise_traffic::target::Destination;
use reprise_traffic::{Disposition, DropReason, Exchange, Fault, Target};
use tokio::sync::{Semaphore, oneshot};
use tracing::warn;

use crate::client::TargetClient;
use crate::metrics::Latency;
use crate::recording::Recorder;
use crate::sessions::{Placed, Room, Sessions};

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
    /// What may be here.
    room: Room,
    latency: Latency,
    retired: AtomicBool,
}

/// The target as its newest document has it.
struct Current {
    target: Arc<Target>,
    since: Instant,
    sender: Arc<Sender>,
}

enum Sender {
    Client {
        client: TargetClient,
        permits: Semaphore,
    },
    Recorder(Recorder),
    /// The target does nothing.
    Nowhere,
    /// None can be made of the document.
    Broken,
}

impl Sender {
    fn new(target: &Target) -> Sender {
        let made = match &target.destination {
            Destination::Server(endpoint) => TargetClient::new(target, endpoint)
                .map(|client| Sender::Client {
                    client,
                    permits: Semaphore::new(target.document.concurrency.get() as usize),
                })
                .map_err(|error| error.to_string()),
            Destination::Recording(recording) => Recorder::start(&target.name, recording)
                .map(Sender::Recorder)
                .map_err(|error| error.to_string()),
            Destination::Nowhere => Ok(Sender::Nowhere),
        };
        made.unwrap_or_else(|error| {
            warn!("{error}; its exchanges fail");
            Sender::Broken
        })
    }

    /// True where it need not be made anew for a newer version of the document: nothing has changed, or nothing that a
    /// row of files depends on. One that has stopped is tried again.
    fn serves(&self, newer: &Target, has_changed: bool) -> bool {
        match (self, &newer.destination) {
            (Sender::Recorder(recorder), Destination::Recording(recording)) => {
                recorder.serves(recording)
            }
            _ => !has_changed,
        }
    }
}

impl Current {
    fn new(target: Arc<Target>) -> Arc<Current> {
        let sender = Arc::new(Sender::new(&target));
        Current::by(target, sender)
    }

    fn by(target: Arc<Target>, sender: Arc<Sender>) -> Arc<Current> {
        Arc::new(Current {
            target,
            since: Instant::now(),
            sender,
        })
    }

    /// A newer revision; the client and its connections stay where the document is the same.
    fn with(self: &Arc<Current>, target: &Arc<Target>) -> Arc<Current> {
        let has_changed = target.document != self.target.document;
        match self.sender.serves(target, has_changed) {
            true => Current::by(target.clone(), self.sender.clone()),
            false => Current::new(target.clone()),
        }
    }
}

/// Relays may be so far apart in what they know of a target.
const SKEW: std::time::Duration = std::time::Duration::from_secs(10);

impl<T: Send + Sync + 'static> Runner<T> {
    /// A target of which so much may be here.
    pub(crate) fn new(target: Arc<Target>, room: Room, latency: Latency) -> Runner<T> {
        Runner {
            current: Mutex::new(Current::new(target)),
            sessions: Mutex::new(Sessions::new(room)),
            room,
            latency,
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
            *current = current.with(target);
        }
    }

    /// The target was deleted: what waits is not sent any more.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Takes a job; `end` is called once with how it ended.
    pub(crate) fn submit(
        self: &Arc<Self>,
        job: Job<T>,
        end: impl Fn(T, &Exchange, Disposition) + Clone + Send + 'static,
    ) {
        let current = self.current();
        match &*current.sender {
            Sender::Nowhere => return end(job.ticket, &job.exchange, NOTHING_DONE),
            Sender::Recorder(recorder) => {
                let ticket = job.ticket;
                let end =
                    move |exchange: &Exchange, disposition| end(ticket, exchange, disposition);
                return recorder.record(job.exchange, self.room, Box::new(end));
            }
            Sender::Client { .. } | Sender::Broken => {}
        }
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
            let size = job.exchange.request.size();
            end(job.ticket, &job.exchange, disposition);
            next = self
                .sessions
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next(session, size);
        }
    }

    async fn send(&self, job: &Job<T>) -> Disposition {
        let current = self.current();
        let (client, _permit) = match &*current.sender {
            // The semaphore is never closed.
            Sender::Client { client, permits } => (client, permits.acquire().await),
            Sender::Broken => return Disposition::Failed(Fault::Ours),
            // These were no web servers when the job came.
            Sender::Recorder(recorder) => return record(recorder, job, self.room).await,
            Sender::Nowhere => return NOTHING_DONE,
        };
        if self.retired.load(Ordering::Relaxed) {
            return Disposition::Dropped(DropReason::NotATarget);
        }
        if job.since.elapsed() > current.target.document.max_age {
            return Disposition::Dropped(DropReason::Expired);
        }
        let sent = client.send(&job.exchange).await;
        if matches!(sent.disposition, Disposition::Replayed(_)) {
            self.latency.observe(sent.latency);
        }
        sent.disposition
    }

    /// Sessions with a job under way, and jobs that wait behind them.
    pub(crate) fn load(&self) -> (usize, usize) {
        let to_record = match &*self.current().sender {
            Sender::Recorder(recorder) => recorder.load(),
            Sender::Client { .. } | Sender::Nowhere | Sender::Broken => 0,
        };
        let (under_way, waiting) = self
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .load();
        (under_way, waiting + to_record)
    }
}

/// How all ends at a target that does nothing.
const NOTHING_DONE: Disposition = Disposition::Replayed(TAKEN);

async fn record<T>(recorder: &Recorder, job: &Job<T>, room: Room) -> Disposition {
    let (ended, end) = oneshot::channel();
    let ended = move |_: &Exchange, disposition| {
        // Whoever waits for it is only dropped with the runtime.
        let _ = ended.send(disposition);
    };
    recorder.record(job.exchange.clone(), room, Box::new(ended));
    end.await.unwrap_or(Disposition::Failed(Fault::Ours))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc::{Sender as Ends, channel};
    use std::time::Duration;

    use prometheus_client::registry::Registry;
    use reprise_traffic::{Epoch, ExchangeId, Head, Source, TargetDocument, TargetName};

    use super::*;
    use crate::metrics::Latencies;

    const ROOM: Room = Room {
        bytes: 1 << 20,
        jobs: 100,
    };

    fn target(revision: u64, url: &str, change: impl FnOnce(&mut TargetDocument)) -> Arc<Target> {
        let mut document = TargetDocument::new(url);
        change(&mut document);
        let name = TargetName::new("t/a").unwrap();
        Arc::new(Target::new(name, revision, document).unwrap())
    }

    fn runner(target: Arc<Target>) -> Arc<Runner<u64>> {
        let latency = Latencies::register(&mut Registry::default()).of(&target.name);
        Arc::new(Runner::new(target, ROOM, latency))
    }

    fn submit(runner: &Arc<Runner<u64>>, ticket: u64, ended: &Ends<(u64, Disposition)>) {
        let exchange = Arc::new(Exchange {
            id: ExchangeId {
                epoch: Arc::new(Epoch::new("web", 1)),
                sequence: ticket,
            },
            request: reprise_traffic::exchange::Captured {
                captured_ns: 0,
                client: "10.0.0.2:1".parse().unwrap(),
                server: "10.0.0.1:80".parse().unwrap(),
                source: Source::Wire,
                head: Head::parse(bytes::Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n")).unwrap(),
                body: reprise_traffic::Body::default(),
                trailers: bytes::Bytes::new(),
                answer: None,
            },
        });
        let since = Instant::now();
        let ended = ended.clone();
        let job = Job {
            exchange,
            since,
            ticket,
        };
        runner.submit(job, move |ticket, _, end| {
            ended.send((ticket, end)).unwrap()
        });
    }

    #[test]
    fn a_target_that_does_nothing_takes_all_at_once() {
        // There is no runtime on which a task could be spawned.
        let runner = runner(target(1, "null:", |_| {}));
        let (ends, ended) = channel();
        for ticket in 0..1000 {
            submit(&runner, ticket, &ends);
            assert_eq!(ended.try_recv(), Ok((ticket, NOTHING_DONE)));
        }
        assert_eq!(runner.load(), (0, 0));
    }

    fn files(directory: &Path) -> usize {
        std::fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_recording_goes_on_while_what_it_is_made_of_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}/a.gor", dir.path().display());
        let runner = runner(target(1, &url, |_| {}));
        let (ends, ended) = channel();
        let record = |ticket| {
            submit(&runner, ticket, &ends);
            ended.recv_timeout(Duration::from_secs(20)).unwrap()
        };
        assert_eq!(record(1), (1, NOTHING_DONE));
        runner.update(&target(2, &url, |d| d.methods = vec!["any".to_owned()]));
        assert_eq!(record(2), (2, NOTHING_DONE));
        assert_eq!(files(dir.path()), 1);
        let change = |document: &mut TargetDocument| document.recording = Some(settings());
        runner.update(&target(3, &url, change));
        assert_eq!(record(3), (3, NOTHING_DONE));
        assert_eq!(files(dir.path()), 2);
        runner.update(&target(4, "file:///nowhere/a.gor", |_| {}));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _entered = runtime.enter();
        assert_eq!(record(4), (4, Disposition::Failed(Fault::Ours)));
    }

    fn settings() -> reprise_traffic::recording::RecordingSettings {
        reprise_traffic::recording::RecordingSettings {
            flush_interval: Duration::from_millis(10),
            ..Default::default()
        }
    }
}
