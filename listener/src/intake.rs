//! Where captured requests enter the resend window.
//!
//! What enters: whole requests from capture threads and from the mirror endpoint. What leaves: parcels for the
//! relay, by [`crate::ship`]. What may be lost: requests of sessions that are shed, counted at the edge; when the window
//! is full all the same, the request is dropped and counted (`listener_full`). Nobody who captures ever waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use reprise_proto::{Parcel, Settlement};
use reprise_traffic::exchange::Captured;
use reprise_traffic::ledger::{Books, EpochReport};
use reprise_traffic::{Disposition, DropReason, Epoch};
use tokio::sync::Notify;

use crate::budget::Budget;
use crate::edge::Edge;
use crate::shed::Shed;
use crate::window::{Room, StreamId, Window};

/// The listener's window and its books, shared by those who capture and the one who ships.
#[derive(Debug)]
pub struct Intake {
    epoch: Arc<Epoch>,
    edge: Arc<Edge>,
    shed: Arc<Shed>,
    inner: Mutex<Inner>,
    /// Told when there is something to send, or room to send it.
    changed: Notify,
    /// Told when nothing is left to settle.
    emptied: Notify,
}

#[derive(Debug)]
struct Inner {
    window: Window,
    books: Books,
}

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
        let window = Window::new(epoch.clone(), exchanges, budget);
        let books = Books::new(epoch.clone());
        let inner = Mutex::new(Inner { window, books });
        Intake {
            epoch,
            edge,
            shed,
            inner,
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
    }

    /// Counts a captured request and takes it in, or counts it as dropped where there is no room. For those who have
    /// asked [`Shed::turned_away`] already, when the request began.
    pub fn admit(&self, request: Captured) {
        let mut inner = self.lock();
        inner.books.captured();
        if inner.window.admit(request).is_err() {
            inner.books.dropped(DropReason::ListenerFull, 1);
            return;
        }
        drop(inner);
        self.changed.notify_one();
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

    pub(crate) fn open(&self, stream: StreamId, credit: Room) {
        self.lock().window.open(stream, credit);
    }

    /// The next parcels for a stream, and the number below which all is settled.
    pub(crate) fn take(&self, stream: StreamId, most: Room) -> (Vec<Parcel>, u64) {
        let mut inner = self.lock();
        let parcels = inner.window.take(stream, most, Instant::now());
        (parcels, inner.window.settled_below())
    }

    pub(crate) fn settle(&self, settlements: &[Settlement]) {
        let mut inner = self.lock();
        for settlement in settlements {
            let own = *settlement.id.epoch == *self.epoch;
            if own && inner.window.settle(settlement.id.sequence) {
                inner.books.settle(&settlement.outcomes);
            }
        }
        if inner.window.unsettled() == 0 {
            self.emptied.notify_waiters();
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// A stream is gone; returns how many exchanges have to be sent again.
    pub(crate) fn close(&self, stream: StreamId) -> usize {
        let lost = self.lock().window.close(stream);
        self.changed.notify_one();
        lost
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
    use bytes::Bytes;
    use reprise_traffic::{Head, Source};

    use super::*;
    use crate::edge::EdgeEvent;

    fn request(port: u16) -> Captured {
        Captured {
            captured_ns: 0,
            client: ([10, 0, 0, 2], port).into(),
            server: ([10, 0, 0, 1], 80).into(),
            source: Source::Wire,
            head: Head::parse(Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n")).unwrap(),
            body: Bytes::from(vec![0; 1000]),
            trailers: Bytes::new(),
            answer: None,
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
}
