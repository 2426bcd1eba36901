//! Where captured requests enter the resend window.
//!
//! What enters: whole requests from capture threads and from the mirror endpoint, and ends of connections. What
//! leaves: parcels for the relay, by [`crate::ship`]. What may be lost: requests of sessions that are shed, counted
//! at the edge; when the window is full all the same, the request is dropped and counted (`listener_full`), as are
//! ends of connections (`closed_dropped`). Nobody who captures ever waits; those who read files do, and nothing of
//! theirs is shed or dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reprise_proto::Settlement;
use reprise_traffic::exchange::Captured;
use reprise_traffic::ledger::{Books, EpochReport};
use reprise_traffic::{Closed, Disposition, DropReason, Epoch};
use tokio::sync::Notify;

use crate::budget::Budget;
use crate::edge::{Edge, EdgeEvent};
use crate::shed::Shed;
use crate::window::{Lost, Room, StreamId, Taken, Window};

/// Unsettled exchanges at which those who read files wait: as many as were settled in [`WORTH`] of late, from 1,024, which
/// keep all replayers busy, to what a relay queues for a target at one of its replayers, by half. So a file that is read
/// faster than staging answers waits here and is neither dropped there for want of room nor, where a target takes 35 a
/// second, for its `max_age` (30 s).
#[derive(Debug)]
struct ReadAhead {
    exchanges: usize,
    settled: usize,
    since: Instant,
}

const LEAST_AHEAD: usize = 1 << 10;
const MOST_AHEAD: usize = 1 << 13;

/// What waits is settled in this time, if all goes on as it did: longer than an exchange and its answer take through relay
/// and replayer. More would only wait in larger queues, which processors' caches don't hold.
const WORTH: Duration = Duration::from_millis(20);

/// Between two looks at how fast exchanges are settled.
const LOOK: Duration = Duration::from_millis(50);

impl ReadAhead {
    fn new(now: Instant) -> ReadAhead {
        ReadAhead {
            exchanges: LEAST_AHEAD,
            settled: 0,
            since: now,
        }
    }

    /// So many were settled.
    fn settled(&mut self, exchanges: usize, now: Instant) {
        self.settled += exchanges;
        let passed = now.saturating_duration_since(self.since);
        if passed >= LOOK {
            let worth = self.settled as f64 * WORTH.as_secs_f64() / passed.as_secs_f64();
            self.exchanges = (worth as usize).clamp(LEAST_AHEAD, MOST_AHEAD);
            (self.settled, self.since) = (0, now);
        }
    }
}

/// The listener's window and its books, shared by those who capture and the one who ships.
#[derive(Debug)]
pub struct Intake {
    epoch: Arc<Epoch>,
    edge: Arc<Edge>,
    shed: Arc<Shed>,
    budget: Arc<Budget>,
    inner: Mutex<Inner>,
    /// Told when those who read files may have room.
    room: Condvar,
    /// Told when there is something to send, or room to send it.
    changed: Notify,
    /// Told when nothing is left to settle.
    emptied: Notify,
}

#[derive(Debug)]
struct Inner {
    window: Window,
    books: Books,
    ahead: ReadAhead,
    /// Bytes that were taken in since the last [`Intake::announce`].
    unannounced: usize,
}

/// When a request is to leave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    pub(crate) instant: Instant,
    /// The same for other hosts.
    pub(crate) unix_ns: u64,
}

/// Whoever ships is told once so much is there, however much more is to come at once.
const ANNOUNCE: usize = 256 << 10;

impl Intake {
    /// An empty intake for a new life of this listener. It holds so many exchanges, whose bytes come out of `budget`.
    pub fn new(
        epoch: Epoch,
        exchanges: usize,
        budget: Arc<Budget>,
        shed: Arc<Shed>,
        edge: Arc<Edge>,
    ) -> Intake {
        let epoch = Arc::new(epoch);
        let window = Window::new(epoch.clone(), exchanges, budget.clone());
        let books = Books::new(epoch.clone());
        let inner = Mutex::new(Inner {
            window,
            books,
            ahead: ReadAhead::new(Instant::now()),
            unannounced: 0,
        });
        Intake {
            epoch,
            edge,
            shed,
            budget,
            inner,
            room: Condvar::new(),
            changed: Notify::new(),
            emptied: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock leaves it whole, so a panic elsewhere does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Intake::admit`], unless the request's session is shed, which is counted instead.
    pub fn offer(&self, request: Captured) {
        if let Some(reason) = self.shed.turned_away(request.client) {
            self.edge.count(reason.into(), 1);
            return;
        }
        self.admit(request);
        self.announce();
    }

    /// Counts a captured request and takes it in, or counts it as dropped where there is no room. For those who have
    /// asked [`Shed::turned_away`] already, when the request began, and who call [`Intake::announce`] at the end of
    /// what came at once.
    pub fn admit(&self, request: Captured) {
        let size = request.size();
        let mut inner = self.lock();
        inner.books.captured();
        if inner.window.admit(request).is_err() {
            inner.books.dropped(DropReason::ListenerFull, 1);
            return;
        }
        self.taken_in(inner, size);
    }

    /// Takes in the end of a connection of which requests were taken in, or counts it as dropped. As with
    /// [`Intake::admit`], [`Intake::announce`] is to follow.
    pub fn admit_closed(&self, closed: Closed) {
        let mut inner = self.lock();
        match inner.window.admit_closed(closed) {
            Ok(()) => self.taken_in(inner, size_of::<Closed>()),
            Err(_) => self.drop_closed(1),
        }
    }

    /// Counts ends of connections that nobody is told.
    pub(crate) fn drop_closed(&self, ends: u64) {
        self.edge.count(EdgeEvent::ClosedDropped, ends);
    }

    /// Tells the one who ships what was taken in, as one: waking it up costs more than a small request.
    pub fn announce(&self) {
        if std::mem::take(&mut self.lock().unannounced) > 0 {
            self.changed.notify_one();
        }
    }

    /// Blocks while the window has no room for what can wait, or until `stop` is set and [`Intake::wake_readers`] called.
    /// The caller holds `own` bytes itself, which waiting doesn't free.
    ///
    /// There is room while half of what the caller leaves of the budget is free: the other half is for live sources, which
    /// can't wait. An empty window is always room enough, since nothing that could be waited for would make more.
    pub(crate) fn wait_for_room(&self, own: usize, stop: &AtomicBool) {
        let is_short = |inner: &mut Inner| {
            let window = &inner.window;
            let full = window.unsettled() >= inner.ahead.exchanges
                || window.is_full()
                || self.is_half_used(own);
            full && window.unsettled() > 0 && !stop.load(Ordering::Relaxed)
        };
        let mut inner = self.lock();
        if !is_short(&mut inner) {
            return;
        }
        drop(inner);
        self.announce();
        let waited = self.room.wait_while(self.lock(), is_short);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Has those who wait for room look again.
    pub(crate) fn wake_readers(&self) {
        // Under the lock: whoever has just looked waits by now.
        let _inner = self.lock();
        self.room.notify_all();
    }

    /// Counts a captured request and takes it in, after [`Intake::wait_for_room`].
    pub(crate) fn admit_waited(&self, request: Captured) {
        let size = request.size();
        let mut inner = self.lock();
        inner.books.captured();
        inner.window.admit_waited(request, None);
        self.taken_in(inner, size);
    }

    /// Counts a captured request and takes it in, to be sent when it is due. It waits for room until then, but no longer:
    /// a schedule waits for nobody. Without room it is counted as dropped.
    pub(crate) fn admit_due(&self, request: Captured, due: Due, own: usize, stop: &AtomicBool) {
        let size = request.size();
        let is_short = |inner: &mut Inner| {
            !stop.load(Ordering::Relaxed) && (inner.window.is_full() || self.is_half_used(own))
        };
        let mut inner = self.lock();
        if is_short(&mut inner) {
            drop(inner);
            self.announce();
            let left = due.instant.saturating_duration_since(Instant::now());
            let waited = self.room.wait_timeout_while(self.lock(), left, is_short);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
            if is_short(&mut inner) {
                inner.books.captured();
                inner.books.dropped(DropReason::ListenerFull, 1);
                return;
            }
        }
        // Only now: whoever looks at the books meanwhile would find one that is neither in flight nor ended.
        inner.books.captured();
        inner.window.admit_waited(request, Some(due.unix_ns));
        self.taken_in(inner, size);
    }

    fn taken_in(&self, mut inner: MutexGuard<'_, Inner>, size: usize) {
        inner.unannounced += size;
        let enough = inner.unannounced >= ANNOUNCE;
        drop(inner);
        if enough {
            self.announce();
        }
    }

    /// The other half is for live sources, which can't wait. What the caller holds itself doesn't count.
    fn is_half_used(&self, own: usize) -> bool {
        let (used, limit) = (self.budget.used(), self.budget.limit());
        used.saturating_sub(own) > limit.saturating_sub(own) / 2
    }

    /// Counts a captured request that goes nowhere: as ended for all targets, of which there are none.
    pub fn discard(&self, request: Captured) {
        drop(request);
        let mut inner = self.lock();
        inner.books.captured();
        inner.books.settle(&[]);
    }

    /// This life of the listener.
    pub fn epoch(&self) -> &Arc<Epoch> {
        &self.epoch
    }

    /// Waits until there may be something to send, or room to send it.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn open(&self, stream: StreamId, credit: Room, entrusts: bool) {
        self.lock().window.open(stream, credit, entrusts);
    }

    /// What is next for a stream, and the number below which all is settled.
    pub(crate) fn take(&self, stream: StreamId, batch: u64, most: Room) -> (Taken, u64) {
        let mut inner = self.lock();
        let taken = inner.window.take(stream, batch, most, Instant::now());
        (taken, inner.window.settled_below())
    }

    pub(crate) fn settle(&self, settlements: &[Settlement]) {
        let mut inner = self.lock();
        for settlement in settlements {
            let own = *settlement.id.epoch == *self.epoch;
            if own && inner.window.settle(settlement.id.sequence) {
                inner.books.settle(&settlement.outcomes);
            }
        }
        inner.ahead.settled(settlements.len(), Instant::now());
        if inner.window.unsettled() == 0 {
            self.emptied.notify_waiters();
        }
        // What was settled may have made credit for it.
        let waits = inner.window.has_waiting();
        drop(inner);
        self.room.notify_all();
        if waits {
            self.changed.notify_one();
        }
    }

    /// A stream is gone; returns how many exchanges have to be sent again.
    pub(crate) fn close(&self, stream: StreamId) -> Lost {
        let mut inner = self.lock();
        let lost = inner.window.close(stream);
        inner.books.settle_all(Disposition::Unknown, lost.entrusted);
        if inner.window.unsettled() == 0 {
            self.emptied.notify_waiters();
        }
        drop(inner);
        self.room.notify_all();
        self.changed.notify_one();
        lost
    }

    /// The relay of a stream has custody of a batch and of all before it.
    pub(crate) fn accepted(&self, stream: StreamId, batch: u64) {
        self.lock().window.accepted(stream, batch);
        self.room.notify_all();
    }

    /// What is on a stream and not settled.
    pub(crate) fn outstanding(&self, stream: StreamId) -> usize {
        self.lock().window.outstanding(stream)
    }

    /// Waits until all that was captured is settled.
    pub async fn settled(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.lock().window.unsettled() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Bytes and exchanges in the window.
    pub fn used(&self) -> Room {
        self.lock().window.used()
    }

    /// Gives up what is left at the end of a life: what was never sent is dropped, what was sent is unknown.
    pub fn give_up(&self) {
        let mut inner = self.lock();
        let (unsent, sent) = inner.window.give_up();
        inner.books.dropped(DropReason::ListenerStopped, unsent);
        inner.books.settle_all(Disposition::Unknown, sent);
    }

    /// The books as they stand.
    pub fn report(&self) -> EpochReport {
        let inner = self.lock();
        let mut report = inner.books.report(inner.window.unsettled() as u64);
        report.edge = self.edge.snapshot();
        report
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytes::Bytes;
    use reprise_proto::Parcel;
    use reprise_traffic::{Head, Source};

    use super::*;

    fn request(port: u16) -> Captured {
        Captured {
            captured_ns: 0,
            client: ([10, 0, 0, 2], port).into(),
            server: ([10, 0, 0, 1], 80).into(),
            source: Source::Wire,
            head: Head::parse(Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n")).unwrap(),
            body: vec![0; 1000].into(),
            trailers: Bytes::new(),
            answer: None,
            label: None,
        }
    }

    /// With nobody to ship to, as many sessions as there are: each request has one end, and the budget holds.
    #[test]
    fn whatever_is_offered_is_counted_once() {
        let budget = Arc::new(Budget::new(1 << 20));
        let shed = Arc::new(Shed::new(budget.clone()));
        let edge = Arc::new(Edge::default());
        let epoch = Epoch::new("l", 1);
        let intake = Intake::new(epoch, 1 << 18, budget.clone(), shed.clone(), edge.clone());
        const SENT: u64 = 20_000;
        for n in 0..SENT {
            intake.offer(request(n as u16 % 2000));
            assert!(!budget.is_over());
        }
        let report = intake.report();
        let shed_memory = edge.get(EdgeEvent::ShedMemory);
        assert_eq!(report.captured + shed_memory, SENT);
        assert!(report.captured > 500 && shed_memory > 500, "{report:?}");
        // Shedding leaves the window room, so that nothing is dropped for want of it.
        assert_eq!(report.in_flight, report.captured);
        assert_eq!(shed.shares().memory, 0.0);
        intake.give_up();
        assert_eq!(budget.used(), 0);
    }

    fn small(limit: usize) -> (Arc<Budget>, Intake) {
        let budget = Arc::new(Budget::new(limit));
        let shed = Arc::new(Shed::new(budget.clone()));
        let edge = Arc::new(Edge::default());
        let intake = Intake::new(Epoch::new("l", 1), 1 << 18, budget.clone(), shed, edge);
        (budget, intake)
    }

    /// Sends and settles all that is there, as a relay would.
    fn settle_all(intake: &Intake) -> u64 {
        let all = Room {
            bytes: usize::MAX,
            exchanges: usize::MAX,
        };
        let (Taken { parcels, .. }, _) = intake.take(StreamId(1), 1, all);
        let end = |parcel: &Parcel| Settlement {
            id: parcel.exchange.id.clone(),
            outcomes: Default::default(),
        };
        let ends: Vec<Settlement> = parcels.iter().map(end).collect();
        intake.settle(&ends);
        ends.len() as u64
    }

    /// Far more than fits, of a size that fills the budget or of one that fills the window's share.
    #[test]
    fn who_can_wait_waits_and_loses_nothing() {
        const SENT: u64 = 5000;
        for limit in [1 << 20, 1 << 30] {
            let (budget, intake) = small(limit);
            let all = Room {
                bytes: usize::MAX,
                exchanges: usize::MAX,
            };
            intake.open(StreamId(1), all, false);
            let go_on = AtomicBool::new(false);
            let settled = std::thread::scope(|scope| {
                scope.spawn(|| {
                    for n in 0..SENT {
                        intake.wait_for_room(0, &go_on);
                        intake.admit_waited(request(n as u16));
                    }
                });
                let mut settled = 0;
                while settled < SENT {
                    assert!(intake.used().exchanges <= MOST_AHEAD);
                    assert!(budget.used() <= limit / 2 + 4000);
                    settled += settle_all(&intake);
                    std::thread::yield_now();
                }
                settled
            });
            let report = intake.report();
            assert_eq!(
                (settled, report.settled, report.captured),
                (SENT, SENT, SENT)
            );
            assert!(report.dropped.is_empty() && !report.edge.contains_key("shed_memory"));
        }
    }

    /// Else a file with a request larger than half of the budget would never be read to its end.
    #[test]
    fn nobody_waits_for_an_empty_window() {
        let (budget, intake) = small(1 << 20);
        budget.take(2 << 20);
        intake.wait_for_room(0, &AtomicBool::new(false));
        intake.admit_waited(request(1));
        assert_eq!(intake.report().captured, 1);
    }

    #[test]
    fn who_waits_goes_on_when_a_relay_dies_with_all_there_was() {
        let (_budget, intake) = small(1 << 20);
        let large = Captured {
            body: vec![0; 600_000].into(),
            ..request(1)
        };
        intake.admit_waited(large);
        let all = Room {
            bytes: usize::MAX,
            exchanges: usize::MAX,
        };
        intake.open(StreamId(1), all, true);
        let (parcels, _) = intake.take(StreamId(1), 1, all);
        let (stop, (woken, wakes)) = (AtomicBool::new(false), mpsc::channel());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                intake.wait_for_room(0, &stop);
                woken.send(()).unwrap();
            });
            let early = wakes.recv_timeout(Duration::from_millis(50));
            drop(parcels);
            assert_eq!(intake.close(StreamId(1)).entrusted, 1);
            let late = wakes.recv_timeout(Duration::from_secs(10));
            stop.store(true, Ordering::Relaxed);
            intake.wake_readers();
            assert!(early.is_err() && late.is_ok());
        });
    }

    #[test]
    fn who_reads_is_as_far_ahead_as_is_settled_in_a_while() {
        let start = Instant::now();
        let mut ahead = ReadAhead::new(start);
        for (settled, ms, expected) in [
            (10, 10, LEAST_AHEAD),
            (19_990, 100, 4000),
            (1000, 200, LEAST_AHEAD),
            (1_000_000, 300, MOST_AHEAD),
        ] {
            ahead.settled(settled, start + Duration::from_millis(ms));
            assert_eq!(ahead.exchanges, expected);
        }
    }

    /// A schedule waits for room until a request is due; meanwhile the books balance, and then it is dropped and counted.
    #[test]
    fn what_is_due_is_dropped_for_want_of_room_and_the_books_always_balance() {
        let (budget, intake) = small(1 << 20);
        budget.take(1 << 20);
        let go_on = AtomicBool::new(false);
        let due = Due {
            instant: Instant::now() + Duration::from_millis(100),
            unix_ns: 1,
        };
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| intake.admit_due(request(1), due, 0, &go_on));
            while !waiting.is_finished() {
                assert_eq!(intake.report().residue(), 0);
                std::thread::yield_now();
            }
        });
        let report = intake.report();
        assert_eq!((report.captured, report.dropped["listener_full"]), (1, 1));
        assert!(Instant::now() >= due.instant && report.residue() == 0);
    }

    #[test]
    fn who_waits_can_be_told_to_stop() {
        let (budget, intake) = small(1 << 20);
        intake.admit_waited(request(1));
        budget.take(1 << 20);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| intake.wait_for_room(0, &stop));
            assert!(!waiting.is_finished());
            stop.store(true, Ordering::Relaxed);
            intake.wake_readers();
        });
    }
}
