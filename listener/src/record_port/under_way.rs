//! What records that are under way may hold, of all connections together.
//!
//! What enters: how much each connection's record holds. What leaves: whether it may hold more, and whether it has to be given
//! up. What may be lost: records whose sender stops within one, or is slow, while others wait for its place, and small ones
//! where their senders are many and all stop within one; both are counted (`incomplete_budget`).
//!
//! Small records hold a quarter of the budget. A larger one, and a small one once those do, needs a place, of which there are
//! as many as half of the budget has room for: whoever has one can read its record to the end, so nobody waits for ever. Only
//! those wait for a place for whom something has come, so that who is silent is in nobody's way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::budget::Budget;

/// A record under way that holds more is large.
const SMALL: usize = 16 << 10;

/// While others wait for its place, a record is given up where nothing came for so long …
const IDLE: Duration = Duration::from_secs(1);
/// … or less than this came in each second since.
const SLOW: usize = 256 << 10;

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

    /// True where small records hold more than this part of the budget.
    fn small_is_over(&self, part: usize) -> bool {
        self.small.load(Ordering::Relaxed) > self.budget.limit() / part
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
    /// Bytes that came since.
    came: usize,
}

impl Place {
    /// Until when the next bytes have to come, and until when more, where others wait.
    fn until(&self) -> (Instant, Instant) {
        let worth = Duration::from_secs_f64(self.came as f64 / SLOW as f64);
        (self.heard + IDLE, self.since + IDLE + worth)
    }
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

    /// True where a record of so many bytes goes on only with a place, and has none.
    pub(super) fn needs_place(&self, pool: &Pool, under_way: usize) -> bool {
        let is_large = under_way > SMALL || under_way > 0 && pool.small_is_over(4);
        is_large && self.place.is_none()
    }

    /// Waits for a place.
    pub(super) async fn place(&mut self, pool: &Pool) {
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
            came: 0,
        });
        self.enter(pool, bytes);
    }

    /// So many bytes came, and the record holds so much now. False where that is too much, and it has to be given up.
    pub(super) fn holds(
        &mut self,
        pool: &Pool,
        came: usize,
        under_way: usize,
        bytes: usize,
    ) -> bool {
        self.leave(pool);
        match &mut self.place {
            Some(place) if under_way > SMALL => {
                place.heard = Instant::now();
                place.came += came;
            }
            _ => self.place = None,
        }
        self.enter(pool, bytes);
        bytes == 0 || self.place.is_some() || !pool.small_is_over(2)
    }

    /// When it may be in the way, unless something comes before.
    pub(super) fn until(&self) -> Option<Instant> {
        let (idle, slow) = self.place.as_ref()?.until();
        Some(idle.min(slow))
    }

    /// True where somebody else waits for the place, and this one is too slow; `is_idle` where there is nothing to read now.
    pub(super) fn is_in_the_way(&self, pool: &Pool, is_idle: bool) -> bool {
        let Some(place) = &self.place else {
            return false;
        };
        let (now, (idle, slow)) = (Instant::now(), place.until());
        let is_over = slow <= now || is_idle && idle <= now;
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
