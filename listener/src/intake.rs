//! Where captured requests enter the resend window.
//!
//! What enters: whole requests from capture threads and from the mirror endpoint, records, and ends of connections. What
//! leaves: parcels for the relay, by [`crate::ship`]. What may be lost: requests of sessions that are shed, counted
//! at the edge; when the window is full all the same, the request is dropped and counted (`listener_full`), as are
//! ends of connections (`closed_dropped`). Nobody who captures ever waits; those who read files or streams of records do
//! ([`waiting`]), and nothing of theirs is shed or dropped.

mod ahead;
mod owed;
mod through;
mod waiting;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use reprise_proto::Settlement;
use reprise_traffic::exchange::Captured;
use reprise_traffic::ledger::{Books, EpochReport};
use reprise_traffic::{Closed, Disposition, DropReason, Epoch};
use tokio::sync::Notify;

use ahead::ReadAhead;
use owed::Owed;
pub(crate) use waiting::Due;

use crate::budget::Budget;
use crate::edge::{Edge, EdgeEvent};
use crate::middleware::Middleware;
use crate::shed::Shed;
use crate::window::{Lost, Room, StreamId, Taken, Window};

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
    /// The same for tasks.
    freed: Notify,
    /// Told when there is something to send, or room to send it.
    changed: Notify,
    /// Told when nothing is left to settle.
    emptied: Notify,
    /// What all messages pass before they are counted as captured.
    middleware: OnceLock<Middleware>,
    /// Whether messages are made readable, and how large they may become.
    prettify: OnceLock<usize>,
}

#[derive(Debug)]
struct Inner {
    window: Window,
    books: Books,
    ahead: ReadAhead,
    owed: Owed,
    /// Bytes that were taken in since the last [`Intake::announce`].
    unannounced: usize,
    /// The life is over: nothing that the process itself offers is taken in any more.
    is_over: bool,
}

/// Whoever ships is told once so much is there, however much more is to come at once.
const ANNOUNCE: usize = 256 << 10;

/// Unsettled exchanges at which records of the process itself are refused: many times what those who read files leave there.
const MOST_FED: usize = 1 << 16;

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
            owed: Owed::default(),
            unannounced: 0,
            is_over: false,
        });
        Intake {
            epoch,
            edge,
            shed,
            budget,
            inner,
            room: Condvar::new(),
            freed: Notify::new(),
            changed: Notify::new(),
            emptied: Notify::new(),
            middleware: OnceLock::new(),
            prettify: OnceLock::new(),
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
        if let Some(middleware) = self.middleware.get() {
            return middleware.offer(request);
        }
        let request = self.as_wanted(request);
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

    fn taken_in(&self, mut inner: MutexGuard<'_, Inner>, size: usize) {
        inner.unannounced += size;
        let enough = inner.unannounced >= ANNOUNCE;
        drop(inner);
        if enough {
            self.announce();
        }
    }

    /// Counts a captured request that goes nowhere: as ended for all targets, of which there are none.
    pub fn discard(&self, request: Captured) {
        drop(request);
        let mut inner = self.lock();
        inner.books.captured();
        inner.books.settle(&[]);
    }

    fn made_room(&self) {
        self.room.notify_all();
        self.freed.notify_waiters();
    }

    /// True where all messages pass a program.
    pub(crate) fn has_middleware(&self) -> bool {
        self.middleware.get().is_some()
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
                inner.owed.end(settlement.id.sequence);
            }
        }
        inner.ahead.settled(settlements.len(), Instant::now());
        if inner.window.unsettled() == 0 {
            self.emptied.notify_waiters();
        }
        // What was settled may have made credit for it.
        let waits = inner.window.has_waiting();
        drop(inner);
        self.made_room();
        if waits {
            self.changed.notify_one();
        }
    }

    /// A stream is gone; returns how many exchanges have to be sent again.
    pub(crate) fn close(&self, stream: StreamId) -> Lost {
        let mut inner = self.lock();
        let lost = inner.window.close(stream);
        inner.books.settle_all(Disposition::Unknown, lost.entrusted);
        if lost.entrusted > 0 {
            let Inner { window, owed, .. } = &mut *inner;
            owed.end_all(|sequence| window.has_settled(sequence));
        }
        if inner.window.unsettled() == 0 {
            self.emptied.notify_waiters();
        }
        drop(inner);
        self.made_room();
        self.changed.notify_one();
        lost
    }

    /// The relay of a stream has custody of a batch and of all before it.
    pub(crate) fn accepted(&self, stream: StreamId, batch: u64) {
        self.lock().window.accepted(stream, batch);
        self.made_room();
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
        inner.owed.give_up();
        inner.books.dropped(DropReason::ListenerStopped, unsent);
        inner.books.settle_all(Disposition::Unknown, sent);
    }

    /// Takes in a record of the process itself, unless three quarters of the budget are used or [`MOST_FED`] exchanges are
    /// unsettled: those who read files leave more, and what is captured comes first. False where it isn't taken, or the life is
    /// over.
    pub(crate) fn feed(&self, record: Captured) -> bool {
        if let Some(middleware) = self.middleware.get() {
            middleware.offer(record);
            return true;
        }
        let record = self.as_wanted(record);
        let size = record.size();
        let mut inner = self.lock();
        let is_short = self.budget.used() > self.budget.limit() / 4 * 3;
        if inner.is_over || inner.window.unsettled() >= MOST_FED || is_short {
            return false;
        }
        if inner.window.admit(record).is_err() {
            return false;
        }
        inner.books.captured();
        self.taken_in(inner, size);
        true
    }

    /// From now on nothing that the process itself offers is taken in.
    pub(crate) fn end_feed(&self) {
        self.lock().is_over = true;
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
mod tests;
