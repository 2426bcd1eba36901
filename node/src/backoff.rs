//! Waiting between attempts: exponential, with jitter, for ever.
//!
//! What enters: failures. What leaves: how long to wait before the next attempt, so that a fleet which lost the
//! same peer doesn't come back in step. What may be lost: nothing.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Delays from `min`, doubling, each with up to its own length added at random.
#[derive(Debug)]
pub struct Backoff {
    builder: ExponentialBuilder,
    delays: ExponentialBackoff,
    max: Duration,
}

impl Backoff {
    /// No delay will be shorter than `min` or longer than `max`.
    pub fn new(min: Duration, max: Duration) -> Backoff {
        let builder = ExponentialBuilder::new()
            .with_min_delay(min)
            .with_max_delay((max / 2).max(min))
            .without_max_times()
            .with_jitter();
        Backoff {
            delays: builder.build(),
            builder,
            max,
        }
    }

    /// How long to wait now.
    pub fn delay(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.max).min(self.max)
    }

    /// Waits.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }

    /// An attempt succeeded: the next failure starts at the shortest delay.
    pub fn reset(&mut self) {
        self.delays = self.builder.build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound_and_starts_again() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max);
        for round in 0..2 {
            assert!(backoff.delay() <= 2 * min, "round {round}");
            for _ in 0..1000 {
                let delay = backoff.delay();
                assert!(delay >= min && delay <= max, "{delay:?}");
            }
            assert!(backoff.delay() >= max / 2);
            backoff.reset();
        }
    }
}
