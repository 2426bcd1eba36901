//! How far those who can wait are ahead of what is settled.
//!
//! What enters: how many exchanges were settled, and when. What leaves: how many may be unsettled before they wait.
//! What may be lost: nothing.

use std::time::{Duration, Instant};

/// Unsettled exchanges at which those who read files wait: as many as were settled in [`WORTH`] of late, from 1,024, which
/// keep all replayers busy, to what a relay queues for a target at one of its replayers, by half. So a file that is read
/// faster than staging answers waits here and is neither dropped there for want of room nor, where a target takes 35 a
/// second, for its `max_age` (30 s).
#[derive(Debug)]
pub(super) struct ReadAhead {
    pub(super) exchanges: usize,
    settled: usize,
    since: Instant,
}

pub(super) const LEAST_AHEAD: usize = 1 << 10;
pub(super) const MOST_AHEAD: usize = 1 << 13;

/// What waits is settled in this time, if all goes on as it did: longer than an exchange and its answer take through relay
/// and replayer. More would only wait in larger queues, which processors' caches don't hold.
const WORTH: Duration = Duration::from_millis(20);

/// Between two looks at how fast exchanges are settled.
const LOOK: Duration = Duration::from_millis(50);

impl ReadAhead {
    pub(super) fn new(now: Instant) -> ReadAhead {
        ReadAhead {
            exchanges: LEAST_AHEAD,
            settled: 0,
            since: now,
        }
    }

    /// So many were settled.
    pub(super) fn settled(&mut self, exchanges: usize, now: Instant) {
        self.settled += exchanges;
        let passed = now.saturating_duration_since(self.since);
        if passed >= LOOK {
            let worth = self.settled as f64 * WORTH.as_secs_f64() / passed.as_secs_f64();
            self.exchanges = (worth as usize).clamp(LEAST_AHEAD, MOST_AHEAD);
            (self.settled, self.since) = (0, now);
        }
    }
}
