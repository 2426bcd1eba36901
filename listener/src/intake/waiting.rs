//! For those who can wait: they read no further while the window has no room.
//!
//! What enters: requests of files and records of streams, when there is room. What leaves: the same into the window.
//! What may be lost: what is due and finds no room by then, counted as dropped (`listener_full`); nothing else.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reprise_traffic::DropReason;
use reprise_traffic::exchange::Captured;

use super::{Inner, Intake};
use crate::kafka::Debt;
use crate::middleware::Middleware;

/// Unsettled exchanges at which those wait who have a schedule and can wait: half of what a replayer takes for a target.
const PLENTY: usize = 1 << 14;

/// Between two looks at a middleware's queue.
const LOOK: Duration = Duration::from_millis(2);

/// When a request is to leave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    pub(crate) instant: Instant,
    /// The same for other hosts.
    pub(crate) unix_ns: u64,
}

impl Intake {
    /// Blocks while the window has no room for what can wait, or until `stop` is set and [`Intake::wake_readers`] called.
    /// The caller holds `own` bytes itself, which waiting doesn't free.
    ///
    /// There is room while half of what the caller leaves of the budget is free: the other half is for live sources, which
    /// can't wait. An empty window is always room enough, since nothing that could be waited for would make more.
    pub(crate) fn wait_for_room(&self, own: usize, stop: &AtomicBool) {
        let is_short =
            |inner: &mut Inner| self.is_short(inner, own) && !stop.load(Ordering::Relaxed);
        let mut inner = self.lock();
        if !is_short(&mut inner) {
            return;
        }
        drop(inner);
        self.announce();
        if self.middleware.get().is_some() {
            // It tells nobody when it has room.
            while is_short(&mut self.lock()) {
                std::thread::sleep(LOOK);
            }
            return;
        }
        let waited = self.room.wait_while(self.lock(), is_short);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// The same for those who have a schedule and wait all the same: they leave the replayers more, so that these always have
    /// what is due. True where it had to wait.
    pub(crate) fn wait_for_plenty(&self, own: usize, stop: &AtomicBool) -> bool {
        let is_short =
            |inner: &mut Inner| self.has_plenty(inner, own) && !stop.load(Ordering::Relaxed);
        let mut inner = self.lock();
        if !is_short(&mut inner) {
            return false;
        }
        drop(inner);
        self.announce();
        let waited = self.room.wait_while(self.lock(), is_short);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        true
    }

    /// The same for what a program writes back: it doesn't wait for itself.
    pub(super) fn wait_for_window(&self, stop: &AtomicBool) {
        let is_short =
            |inner: &mut Inner| self.is_window_short(inner, 0) && !stop.load(Ordering::Relaxed);
        let waited = self.room.wait_while(self.lock(), is_short);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn has_plenty(&self, inner: &Inner, own: usize) -> bool {
        let window = &inner.window;
        let unsettled = window.unsettled();
        let full = unsettled >= PLENTY || window.is_full() || self.is_half_used(own);
        full && unsettled > 0
    }

    /// The same for a task, as without a schedule: what waits at its source can wait there.
    pub(crate) async fn room(&self, own: usize) {
        loop {
            let freed = self.freed.notified();
            if !self.is_short(&self.lock(), own) {
                return;
            }
            self.announce();
            match self.middleware.get() {
                Some(_) => tokio::time::sleep(LOOK).await,
                None => freed.await,
            }
        }
    }

    fn is_short(&self, inner: &Inner, own: usize) -> bool {
        if self.middleware.get().is_some_and(Middleware::is_busy) {
            return true;
        }
        self.is_window_short(inner, own)
    }

    fn is_window_short(&self, inner: &Inner, own: usize) -> bool {
        let window = &inner.window;
        let unsettled = window.unsettled();
        let full = unsettled >= inner.ahead.exchanges || window.is_full() || self.is_half_used(own);
        full && unsettled > 0
    }

    /// Has those who wait for room look again.
    pub(crate) fn wake_readers(&self) {
        // Under the lock: whoever has just looked waits by now.
        let _inner = self.lock();
        self.room.notify_all();
    }

    /// Counts a captured request and takes it in, after [`Intake::wait_for_room`].
    pub(crate) fn admit_waited(&self, request: Captured) {
        match self.middleware.get() {
            Some(middleware) => middleware.offer(request),
            None => self.take_in_waited(request),
        }
    }

    pub(super) fn take_in_waited(&self, request: Captured) {
        let request = self.as_wanted(request);
        let size = request.size();
        let mut inner = self.lock();
        inner.books.captured();
        inner.window.admit_waited(request, None);
        self.taken_in(inner, size);
    }

    /// The same, and says when it has ended; with a middleware that is when its queue has it. It may leave when it is due.
    pub(crate) fn admit_owed(&self, request: Captured, due_ns: Option<u64>, debt: Debt) {
        if let Some(middleware) = self.middleware.get() {
            middleware.offer(request);
            return debt.end();
        }
        let size = request.size();
        let mut inner = self.lock();
        inner.books.captured();
        let sequence = inner.window.next_sequence();
        inner.owed.push(sequence, debt);
        inner.window.admit_waited(request, due_ns);
        self.taken_in(inner, size);
    }

    /// The same for all that came at once, of which whoever ships is told.
    pub(crate) fn admit_all(&self, requests: &mut Vec<Captured>) {
        if let Some(middleware) = self.middleware.get() {
            return requests
                .drain(..)
                .for_each(|request| middleware.offer(request));
        }
        if requests.is_empty() {
            return;
        }
        if self.makes_readable() {
            return requests
                .drain(..)
                .for_each(|request| self.take_in_waited(request));
        }
        let mut inner = self.lock();
        for request in requests.drain(..) {
            inner.books.captured();
            inner.window.admit_waited(request, None);
        }
        inner.unannounced = 0;
        drop(inner);
        self.changed.notify_one();
    }

    /// Counts a captured request and takes it in, to be sent when it is due. It waits for room until then, but no longer:
    /// a schedule waits for nobody. Without room it is counted as dropped.
    pub(crate) fn admit_due(&self, request: Captured, due: Due, own: usize, stop: &AtomicBool) {
        if let Some(middleware) = self.middleware.get() {
            // A program's lines have no instant: they leave when they come back.
            let left = || due.instant.saturating_duration_since(Instant::now());
            let waits = || !left().is_zero() || middleware.is_busy();
            while waits() && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(left().clamp(LOOK / 8, LOOK));
            }
            return middleware.offer(request);
        }
        let request = self.as_wanted(request);
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

    /// The other half is for live sources, which can't wait. What the caller holds itself doesn't count.
    fn is_half_used(&self, own: usize) -> bool {
        let (used, limit) = (self.budget.used(), self.budget.limit());
        used.saturating_sub(own) > limit.saturating_sub(own) / 2
    }
}
