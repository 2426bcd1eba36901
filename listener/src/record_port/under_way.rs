//! What records that are under way may hold, of all connections together.
//!
//! What enters: how much each connection's record holds. What leaves: whether it may hold more, and whether it has to be given
//! up. What may be lost: records whose sender stops within one while others wait for its place, and small ones where their
//! senders are many and all stop within one; both are counted (`incomplete_budget`).
//!
//! Small records hold a quarter of the budget at most. A larger one needs a place, of which there are as many as half of
//! the budget has room for: whoever has one can always read its record to the end, so nobody waits for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::budget::Budget;

/// A record under way that holds more is large.
const SMALL: usize = 16 << 10;

/// While others wait, a large record is given up where nothing came for so long …
const IDLE: Duration = Duration::from_secs(1);
/// … or where it took so long in all: 64 MiB come faster by any network within a site.
const LONG: Duration = Duration::from_secs(10);

/// What a connection costs that holds no record: its task, its socket's place in the runtime.
const IDLE_COST: usize = 4 << 10;

/// Of all connections of a listener.
#[derive(Debug)]
pub(super) struct Pool {
    budget: Arc<Budget>,
    /// Bytes of small records, and bytes of all.
    small: AtomicUsize,
    held: AtomicUsize,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Pool {
    pub(super) fn new(budget: Arc<Budget>, max_exchange: usize) -> Pool {
        let places = budget.limit() / 2 / max_exchange.max(1);
        Pool {
            budget,
            small: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            places: Arc::new(Semaphore::new(places.clamp(1, 64))),
            waiting: AtomicUsize::new(0),
        }
    }

    /// What waiting for room doesn't free.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// One connection's part.
pub(super) struct Part {
    bytes: usize,
    place: Option<Place>,
}

struct Place {
    _permit: OwnedSemaphorePermit,
    since: Instant,
    heard: Instant,
}

/// Counts one that waits for as long as it lives.
struct Waiting<'a>(&'a Pool);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Part {
    pub(super) fn new(pool: &Pool) -> Part {
        pool.budget.take(IDLE_COST);
        pool.held.fetch_add(IDLE_COST, Ordering::Relaxed);
        Part {
            bytes: 0,
            place: None,
        }
    }

    /// Waits for a place, where the record of so many bytes needs one to go on.
    pub(super) async fn place(&mut self, pool: &Pool, under_way: usize) {
        if under_way <= SMALL || self.place.is_some() {
            return;
        }
        let permit = match pool.places.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                pool.waiting.fetch_add(1, Ordering::Relaxed);
                let _waiting = Waiting(pool);
                match pool.places.clone().acquire_owned().await {
                    Ok(permit) => permit,
                    // Nobody closes it.
                    Err(_) => return,
                }
            }
        };
        let bytes = self.leave(pool);
        let now = Instant::now();
        self.place = Some(Place {
            _permit: permit,
            since: now,
            heard: now,
        });
        self.enter(pool, bytes);
    }

    /// The record holds so much now. False where that is too much, and it has to be given up.
    pub(super) fn holds(&mut self, pool: &Pool, under_way: usize, bytes: usize) -> bool {
        self.leave(pool);
        match &mut self.place {
            Some(place) if under_way > SMALL => place.heard = Instant::now(),
            _ => self.place = None,
        }
        self.enter(pool, bytes);
        bytes == 0
            || self.place.is_some()
            || pool.small.load(Ordering::Relaxed) <= pool.budget.limit() / 4
    }

    /// When somebody who waits for the place may have it, unless something comes before.
    pub(super) fn until(&self) -> Option<Instant> {
        let place = self.place.as_ref()?;
        Some((place.heard + IDLE).min(place.since + LONG))
    }

    /// True where the time is over and somebody else waits for the place; `is_idle` where there is nothing to read now.
    pub(super) fn is_in_the_way(&self, pool: &Pool, is_idle: bool) -> bool {
        let Some(place) = &self.place else {
            return false;
        };
        let now = Instant::now();
        let is_over = place.since + LONG <= now || is_idle && place.heard + IDLE <= now;
        is_over && pool.waiting.load(Ordering::Relaxed) > 0
    }

    /// So long it was no fault of the sender's that nothing was read.
    pub(super) fn waited(&mut self, asked: Instant) {
        if let Some(place) = &mut self.place {
            let waited = asked.elapsed();
            place.since += waited;
            place.heard += waited;
        }
    }

    fn leave(&mut self, pool: &Pool) -> usize {
        let bytes = std::mem::take(&mut self.bytes);
        pool.budget.give(bytes);
        pool.held.fetch_sub(bytes, Ordering::Relaxed);
        if self.place.is_none() {
            pool.small.fetch_sub(bytes, Ordering::Relaxed);
        }
        bytes
    }

    fn enter(&mut self, pool: &Pool, bytes: usize) {
        self.bytes = bytes;
        pool.budget.take(bytes);
        pool.held.fetch_add(bytes, Ordering::Relaxed);
        if self.place.is_none() {
            pool.small.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// The connection is over.
    pub(super) fn end(&mut self, pool: &Pool) {
        self.leave(pool);
        self.place = None;
        pool.budget.give(IDLE_COST);
        pool.held.fetch_sub(IDLE_COST, Ordering::Relaxed);
    }
}
