//! Sends one target's jobs: each when it is due, each session in order, as many sessions at a time as the target allows.
//! Those of a sink are written as they come, and those of a target that does nothing end at once; there sessions don't wait for
//! answers.
//!
//! What enters: jobs, and ends of production's connections. What leaves: requests, and how each ended; the connection of a
//! session is closed behind its last. What may be lost: a job that waited longer than the
//! target's `max_age` is dropped (`expired`), one that finds no room (`replayer_full`), one whose target doesn't answer
//! (`breaker_open`), and one whose target was deleted while it waited (`not_a_target`). Where too many
//! ends of connections are scheduled, further ones are counted and gone.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use reprise_traffic::outcome::TAKEN;
use reprise_traffic::{Closed, Disposition, DropReason, Exchange, Fault, Target};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::fidelity::Fidelity;
use crate::measuring::Measures;
use crate::metrics::{Latency, Meters, SenderMeters, TargetAnswers};
use crate::replayed::{Replayed, Tap};
use crate::schedule::Schedule;
use crate::sender::Sender;
use crate::sessions::{Next, Placed, Room, Sessions};
use crate::sink::Sink;

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

/// A job that ended.
#[derive(Debug)]
pub(crate) struct Ended<T> {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) disposition: Disposition,
    pub(crate) ticket: T,
}

impl<T> Job<T> {
    fn ended(self, disposition: Disposition) -> Ended<T> {
        Ended {
            exchange: self.exchange,
            disposition,
            ticket: self.ticket,
        }
    }
}

/// One target on this replayer.
pub(crate) struct Runner<T> {
    current: Mutex<Arc<Current>>,
    sessions: Mutex<Sessions<Job<T>>>,
    /// What may be here.
    room: Room,
    latency: Latency,
    fidelity: Fidelity,
    measures: Arc<Measures>,
    sending: SenderMeters,
    answers: TargetAnswers,
    /// Ends of connections that are not due yet.
    closings: AtomicUsize,
    closed_dropped: Counter,
    retired: AtomicBool,
    tap: Option<Tap>,
}

/// The target as its newest document has it.
struct Current {
    target: Arc<Target>,
    since: Instant,
    sender: Arc<Sender>,
}

impl Current {
    fn new(target: Arc<Target>, room: Room, sending: &SenderMeters) -> Arc<Current> {
        let sender = Arc::new(Sender::new(&target, room, sending));
        Current::by(target, sender)
    }

    fn by(target: Arc<Target>, sender: Arc<Sender>) -> Arc<Current> {
        Arc::new(Current {
            target,
            since: Instant::now(),
            sender,
        })
    }

    /// A newer revision; the client, its connections and the breaker stay where the document is the same.
    fn with(&self, target: &Arc<Target>, room: Room, sending: &SenderMeters) -> Arc<Current> {
        let has_changed = target.document != self.target.document;
        if self.sender.serves(target, has_changed) {
            return Current::by(target.clone(), self.sender.clone());
        }
        self.sender.retire();
        Current::new(target.clone(), room, sending)
    }
}

/// Relays may be so far apart in what they know of a target.
const SKEW: Duration = Duration::from_secs(10);

impl<T: Send + Sync + 'static> Runner<T> {
    /// A target of which so much may be here.
    pub(crate) fn new(
        target: Arc<Target>,
        room: Room,
        meters: Meters,
        tap: Option<Tap>,
    ) -> Runner<T> {
        Runner {
            current: Mutex::new(Current::new(target, room, &meters.sending)),
            sessions: Mutex::new(Sessions::new(room)),
            room,
            latency: meters.latency,
            fidelity: meters.fidelity,
            measures: Arc::default(),
            sending: meters.sending,
            answers: meters.answers,
            closings: AtomicUsize::new(0),
            closed_dropped: meters.closed_dropped,
            retired: AtomicBool::new(false),
            tap,
        }
    }

    /// When a live exchange is to leave, where the target's are put in order.
    pub(crate) fn due_ns(&self, captured_ns: u64) -> Option<u64> {
        let window = self.current().target.document.reorder_window?;
        Some(captured_ns.saturating_add(window.as_nanos() as u64))
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
            *current = current.with(target, self.room, &self.sending);
        }
    }

    /// The target was deleted: what waits is not sent any more.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.current().sender.retire();
    }

    /// True where jobs of the target end without anything being done about them ([`Runner::do_nothing`]).
    pub(crate) fn does_nothing(&self) -> bool {
        matches!(*self.current().sender, Sender::Nowhere)
    }

    /// Ends a job at once.
    pub(crate) fn do_nothing(&self, job: Job<T>) -> Ended<T> {
        self.answers.count(job.exchange.request.answer.as_deref());
        self.pass_over(job)
    }

    fn pass_over(&self, job: Job<T>) -> Ended<T> {
        self.measure_nothing(job.since);
        job.ended(NOTHING_DONE)
    }

    /// Nothing was done about a job that was due at `since`.
    fn measure_nothing(&self, since: Instant) {
        if self.measures.are_wanted() {
            self.measures.begun(0, since, Instant::now());
            self.measures
                .ended(since, NOTHING_DONE, Duration::ZERO, None);
        }
    }

    /// Takes a job; `end` is called once with how it ended. Must be called on a tokio runtime.
    pub(crate) fn submit(
        self: &Arc<Self>,
        job: Job<T>,
        schedule: &Schedule,
        end: impl Fn(Ended<T>) + Send + 'static,
    ) {
        self.answers.count(job.exchange.request.answer.as_deref());
        if !job.is_scheduled {
            let current = self.current();
            if let Sender::Sink(sink) = &*current.sender {
                return self.write(sink, job, end);
            }
        }
        if !self.sessions().reserve(job.exchange.request.size()) {
            if matches!(*self.current().sender, Sender::Server(_) | Sender::Broken) {
                self.fidelity.due();
            }
            return end(job.ended(Disposition::Dropped(DropReason::ReplayerFull)));
        }
        let runtime = Handle::current();
        // What is scheduled goes by the schedule even if it is late: it must not overtake what is due before it.
        match job.is_scheduled {
            true => {
                let runner = self.clone();
                schedule.at(job.since, move || runner.place(job, &runtime, end));
            }
            false => self.place(job, &runtime, end),
        }
    }

    /// Has a job, for which there is room, sent once those before it in its session have ended.
    fn place(
        self: &Arc<Self>,
        job: Job<T>,
        runtime: &Handle,
        end: impl Fn(Ended<T>) + Send + 'static,
    ) {
        let current = self.current();
        let request = &job.exchange.request;
        match &*current.sender {
            Sender::Server(_) | Sender::Broken => self.fidelity.due(),
            Sender::Sink(sink) => {
                self.sessions().release(request.size());
                return self.write(sink, job, end);
            }
            Sender::Nowhere => {
                self.sessions().release(request.size());
                return end(self.pass_over(job));
            }
        }
        if let Sender::Server(server) = &*current.sender
            && server.gate.is_shut(request.head.is_safe())
        {
            self.sessions().release(request.size());
            return end(job.ended(SHUT));
        }
        let session = current.target.document.session_key.hash(request);
        let placed = self.sessions().push(session, job);
        if let Placed::Start(first) = placed {
            runtime.spawn(self.clone().run_session(session, first, end));
        }
    }

    /// A connection of production's has ended: that of its session is closed, where sessions have their own, once all is
    /// sent that came before; with a schedule when that is `due`.
    pub(crate) fn close(
        self: &Arc<Self>,
        closed: &Closed,
        due: Option<Instant>,
        schedule: &Schedule,
    ) {
        let Some(session) = self.current().target.session_closed_by(closed) else {
            return;
        };
        let Some(due) = due else {
            return self.close_session(session);
        };
        if self.closings.fetch_add(1, Ordering::Relaxed) >= self.room.jobs {
            self.closings.fetch_sub(1, Ordering::Relaxed);
            self.closed_dropped.inc();
            return;
        }
        let runner = self.clone();
        schedule.at(due, move || {
            runner.closings.fetch_sub(1, Ordering::Relaxed);
            runner.close_session(session);
        });
    }

    /// Closes a session's connection, or has that done behind its jobs.
    fn close_session(&self, session: u64) {
        let waits = self.sessions().close(session);
        if !waits {
            self.close_idle(session);
        }
    }

    fn close_idle(&self, session: u64) {
        if let Sender::Server(server) = &*self.current().sender {
            server.client.close(session);
        }
    }

    /// Has a sink write a job.
    fn write(&self, sink: &Sink, job: Job<T>, end: impl Fn(Ended<T>) + Send + 'static) {
        let measures = self.measures.clone();
        let (since, begun, ticket) = (job.since, Instant::now(), job.ticket);
        let end = move |exchange, disposition| {
            measures.recorded(since, begun, disposition);
            end(Ended {
                exchange,
                disposition,
                ticket,
            });
        };
        sink.take(job.exchange, self.room, Box::new(end));
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions<Job<T>>> {
        // Every change under the lock leaves it whole, so a panic elsewhere does not spoil it.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run_session(self: Arc<Self>, session: u64, first: Job<T>, end: impl Fn(Ended<T>)) {
        let mut next = Some(Next::Send(first));
        while let Some(step) = next {
            let ended = match step {
                Next::Send(job) => {
                    let disposition = self.send(session, &job).await;
                    let size = job.exchange.request.size();
                    end(job.ended(disposition));
                    Some(size)
                }
                Next::Close => {
                    self.close_idle(session);
                    None
                }
            };
            let mut sessions = self.sessions();
            if let Some(size) = ended {
                sessions.release(size);
            }
            next = sessions.next(session);
        }
    }

    async fn send(&self, session: u64, job: &Job<T>) -> Disposition {
        let current = self.current();
        let server = match &*current.sender {
            Sender::Server(server) => server,
            Sender::Broken => return Disposition::Failed(Fault::Ours),
            // These were no web servers when the job came.
            Sender::Sink(sink) => {
                let begun = Instant::now();
                let disposition = write(sink, job, self.room).await;
                self.measures.recorded(job.since, begun, disposition);
                return disposition;
            }
            Sender::Nowhere => {
                self.measure_nothing(job.since);
                return NOTHING_DONE;
            }
        };
        let Some(pass) = server.gate.pass(job.exchange.request.head.is_safe()) else {
            return SHUT;
        };
        // The semaphore is never closed.
        let _permit = tokio::select! {
            biased;
            () = pass.revoked() => return SHUT,
            permit = server.permits.acquire() => permit,
        };
        if self.retired.load(Ordering::Relaxed) {
            return Disposition::Dropped(DropReason::NotATarget);
        }
        if job.since.elapsed() > current.target.document.max_age {
            return Disposition::Dropped(DropReason::Expired);
        }
        let begun = Instant::now();
        if job.is_scheduled {
            let lateness = begun.saturating_duration_since(job.since);
            self.latency.late(lateness);
        }
        let due_ns = job.exchange.due_ns;
        let due_ns = due_ns.unwrap_or(job.exchange.request.captured_ns);
        self.fidelity.begun(session, due_ns, begun);
        self.measures.begun(session, job.since, begun);
        let sent = server.client.send(&job.exchange, session).await;
        pass.ended(sent.disposition);
        let (disposition, latency) = (sent.disposition, sent.latency);
        self.measures
            .ended(job.since, disposition, latency, sent.cause);
        if matches!(sent.disposition, Disposition::Replayed(_)) {
            self.latency.observe(sent.latency);
        }
        let began_ns = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let began = now.unwrap_or_default().saturating_sub(latency);
            began.as_nanos() as u64
        };
        if let Some(teller) = &server.teller {
            teller.tell(&job.exchange, &sent, began_ns());
        }
        let is_tracked = current.target.document.track_response.is_some();
        let tap = self.tap.as_ref().filter(|_| is_tracked);
        if let (Some(answer), Some(tap)) = (sent.answer, tap) {
            (tap.0)(Replayed {
                exchange: job.exchange.clone(),
                target: current.target.name.clone(),
                began_ns: began_ns(),
                latency,
                answer,
            });
        }
        disposition
    }

    /// Nothing more is to be waited for.
    pub(crate) fn hurry(&self) {
        if let Sender::Sink(sink) = &*self.current().sender {
            sink.hurry();
        }
    }

    /// Waits until all documents about replays are sent, and gives up what is left then.
    pub(crate) async fn close_documents(&self, patience: Duration) {
        let current = self.current();
        if let Sender::Server(server) = &*current.sender
            && let Some(teller) = &server.teller
        {
            teller.close(patience).await;
        }
    }

    /// What is measured of the target, for those who want it.
    pub(crate) fn measures(&self) -> &Measures {
        &self.measures
    }

    /// Sessions with a job under way, and jobs that wait behind them or are not due yet.
    pub(crate) fn load(&self) -> (usize, usize) {
        let in_sink = match &*self.current().sender {
            Sender::Sink(sink) => sink.load(),
            Sender::Server(_) | Sender::Nowhere | Sender::Broken => 0,
        };
        let (under_way, waiting) = self.sessions().load();
        (under_way, waiting + in_sink)
    }
}

/// How all ends at a target that does nothing.
const NOTHING_DONE: Disposition = Disposition::Replayed(TAKEN);

/// How all ends at one that is left alone.
const SHUT: Disposition = Disposition::Dropped(DropReason::BreakerOpen);

async fn write<T>(sink: &Sink, job: &Job<T>, room: Room) -> Disposition {
    let (ended, end) = oneshot::channel();
    let ended = move |_, disposition| {
        // Whoever waits for it is only dropped with the runtime.
        let _ = ended.send(disposition);
    };
    sink.take(job.exchange.clone(), room, Box::new(ended));
    end.await.unwrap_or(Disposition::Failed(Fault::Ours))
}

#[cfg(test)]
mod tests;
