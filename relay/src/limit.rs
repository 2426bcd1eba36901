//! A target's rate limit.
//!
//! What enters: the instants at which requests want through. What leaves: whether they may: so many in each second, counted
//! from the first request of that second on, as GoReplay's limits have it. What may be lost: nothing here; who may not is
//! counted by the caller.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(1);

/// Lets so many requests through in each second.
#[derive(Debug)]
pub(crate) struct Limit {
    most: NonZeroU32,
    window: Mutex<Option<(Instant, u32)>>,
}

impl Limit {
    pub(crate) fn new(most: NonZeroU32) -> Limit {
        Limit {
            most,
            window: Mutex::new(None),
        }
    }

    /// What it lets through in a second.
    pub(crate) fn most(&self) -> NonZeroU32 {
        self.most
    }

    /// Whether one more may pass.
    pub(crate) fn passes(&self, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, used) = window.unwrap_or((now, 0));
        let passed = now.saturating_duration_since(start);
        if passed >= WINDOW {
            // The next second begins where this one ended, unless nothing came for longer.
            let next = if passed < 2 * WINDOW {
                start + WINDOW
            } else {
                now
            };
            *window = Some((next, 1));
            return true;
        }
        let free = used < self.most.get();
        *window = Some((start, used + u32::from(free)));
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_of_a_hundred_in_each_second() {
        let limit = Limit::new(NonZeroU32::new(10).unwrap());
        let start = Instant::now();
        for second in 0..10 {
            let passed = (0..100).filter(|n| {
                let at = Duration::from_millis(second * 1000 + n * 10);
                limit.passes(start + at)
            });
            assert_eq!(passed.count(), 10, "{second}");
        }
        assert!(limit.passes(start + Duration::from_secs(60)));
    }
}
