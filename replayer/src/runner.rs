//! Sends one target's jobs: each session in order, as many sessions at a time as the target allows.
//!
//! What enters: jobs. What leaves: requests, and how each ended. What may be lost: a job that waited longer than the
//! target's `max_age` is dropped (`expired`), one that finds no room (`replayer_full`), one whose target doesn't answer
//! (`breaker_open`), and one whose target was deleted while it waited (`not_a_target`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use reprise_traffic::{Disposition, DropReason, Exchange, Fault, Target};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::client::TargetClient;
use crate::gate::Gate;
use crate::metrics::{BreakerMeter, Latency};
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
    latency: Latency,
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

    /// Takes a job; `end` is called once with how it ended.
    pub(crate) fn submit(
        self: &Arc<Self>,
        job: Job<T>,
        end: impl Fn(T, &Exchange, Disposition) + Clone + Send + 'static,
    ) {
        let current = self.current();
        if current
            .sender
            .gate
            .is_shut(job.exchange.request.head.is_safe())
        {
            let dropped = Disposition::Dropped(DropReason::BreakerOpen);
            return end(job.ticket, &job.exchange, dropped);
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
        let sent = client.send(&job.exchange).await;
        pass.ended(sent.disposition);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use prometheus_client::registry::Registry;
    use reprise_traffic::exchange::Captured;
    use reprise_traffic::{Body, Epoch, ExchangeId, Head, Source, TargetDocument, TargetName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::metrics::{Breakers, Latencies};

    const SHUT: Disposition = Disposition::Dropped(DropReason::BreakerOpen);
    const SILENT: Disposition = Disposition::Failed(Fault::Target);

    fn runner(url: &str, yaml: &str) -> Arc<Runner<u64>> {
        let document = TargetDocument::parse("t", &format!("{{url: '{url}', {yaml}}}")).unwrap();
        let target = Target::new(TargetName::new("t/a").unwrap(), 1, document).unwrap();
        let mut registry = Registry::default();
        let meters = (
            Latencies::register(&mut registry).of(&target.name),
            Breakers::register(&mut registry).of(&target.name),
        );
        let room = Room {
            bytes: 1 << 20,
            jobs: 1000,
        };
        Arc::new(Runner::new(Arc::new(target), room, meters))
    }

    /// A request of the session `client`: a GET, every other one a POST.
    fn job(number: u64, client: u16) -> Job<u64> {
        let method = ["GET", "POST"][number as usize % 2];
        let head = format!("{method} /{number} HTTP/1.1\r\n\r\n");
        let exchange = Exchange {
            id: ExchangeId {
                epoch: Arc::new(Epoch::new("web", 1)),
                sequence: number,
            },
            request: Captured {
                captured_ns: 0,
                client: ([10, 0, 0, 2], client).into(),
                server: ([10, 0, 0, 1], 80).into(),
                source: Source::Wire,
                head: Head::parse(Bytes::from(head)).unwrap(),
                body: Body::default(),
                trailers: Bytes::new(),
                answer: None,
            },
        };
        Job {
            exchange: Arc::new(exchange),
            since: Instant::now(),
            ticket: number,
        }
    }

    #[tokio::test]
    async fn what_waits_for_a_target_that_does_not_answer_is_dropped_at_once() {
        // The kernel accepts; nobody ever reads.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let yaml =
            "timeout: 300ms, concurrency: 2, breaker: {failures: 2, open_for: 1h, max_open: 1h}";
        let runner = runner(&url, yaml);
        let (ends, mut ended) = mpsc::unbounded_channel();
        let end = move |number, _: &Exchange, disposition| {
            ends.send((number, disposition, Instant::now())).unwrap();
        };
        let started = Instant::now();
        // 50 sessions of two each: one of the two waits for the other.
        for number in 0..100 {
            runner.submit(job(number, number as u16 / 2), end.clone());
        }
        let mut silences = 0;
        for _ in 0..100 {
            let (_, disposition, at) = ended.recv().await.unwrap();
            match disposition {
                SILENT | Disposition::Unknown => silences += 1,
                other => assert_eq!(other, SHUT),
            }
            // All at one timeout's end, though 50 timeouts would be due, two at a time.
            assert!(at - started < Duration::from_secs(3));
        }
        // The first two, and one that got the first one's place before the second had ended.
        assert!((2..=3).contains(&silences), "{silences}");
        assert_eq!(runner.load(), (0, 0));
        // And from now on nothing is queued.
        runner.submit(job(100, 1), end);
        let (number, disposition, _) = ended.try_recv().unwrap();
        assert_eq!((number, disposition, runner.load()), (100, SHUT, (0, 0)));
    }

    /// Closes without an answer while `is_down`; sends on the number of each request that it reads.
    async fn server(is_down: Arc<AtomicBool>, read: mpsc::UnboundedSender<u64>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (is_down, read) = (is_down.clone(), read.clone());
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        let text = String::from_utf8_lossy(&buffer[..length]);
                        let number = text.split(['/', ' ']).nth(2).unwrap().parse();
                        read.send(number.unwrap()).unwrap();
                        if is_down.load(Ordering::Relaxed) {
                            return;
                        }
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                        stream.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        url
    }

    #[tokio::test]
    async fn a_session_stays_in_order_and_nothing_is_sent_that_was_dropped() {
        let is_down = Arc::new(AtomicBool::new(false));
        let (read, mut arrived) = mpsc::unbounded_channel();
        let url = server(is_down.clone(), read).await;
        let yaml = "methods: [any], breaker: {failures: 2, open_for: 50ms, max_open: 50ms}";
        let runner = runner(&url, yaml);
        let (ends, mut ended) = mpsc::unbounded_channel();
        let submit = |number| {
            let ends = ends.clone();
            let end = move |number, _: &Exchange, disposition| {
                ends.send((number, disposition)).unwrap();
            };
            runner.submit(job(number, 1), end);
        };
        let replayed = Disposition::Replayed(200);

        (0..10).for_each(submit);
        for number in 0..10 {
            assert_eq!(ended.recv().await, Some((number, replayed)));
        }
        is_down.store(true, Ordering::Relaxed);
        (10..20).for_each(submit);
        // The first goes over a kept connection, which the server closes: it is safe, and goes once more.
        assert_eq!(ended.recv().await, Some((10, SILENT)));
        assert_eq!(ended.recv().await, Some((11, Disposition::Unknown)));
        for number in 12..20 {
            assert_eq!(ended.recv().await, Some((number, SHUT)));
        }
        is_down.store(false, Ordering::Relaxed);
        // Until a safe one gets through.
        let mut next = 20;
        loop {
            submit(next);
            next += 1;
            match ended.recv().await.unwrap().1 {
                SHUT => tokio::time::sleep(Duration::from_millis(1)).await,
                end => break assert_eq!((end, next % 2), (replayed, 1)),
            }
        }
        let last = next + 10;
        (next..last).for_each(submit);
        for number in next..last {
            assert_eq!(ended.recv().await, Some((number, replayed)));
        }
        let expected = (0..10).chain([10, 10, 11]).chain(next - 1..last);
        for number in expected {
            assert_eq!(arrived.recv().await, Some(number));
        }
        assert!(arrived.is_empty());
    }
}
