//! A limit for log lines that anybody can cause.
//!
//! What enters: the wish to log. What leaves: leave to log now, with the number of lines that had to be left out
//! since the last one. What may be lost: the lines in between.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Says whether a line may be logged now.
///
/// ```
/// # use std::time::Duration;
/// # use reprise_node::LogLimit;
/// static FULL: LogLimit = LogLimit::every(Duration::from_secs(10));
/// if let Some(suppressed) = FULL.allow() {
///     tracing::warn!(suppressed, "queue full, dropping");
/// }
/// ```
#[derive(Debug)]
pub struct LogLimit {
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// At most one line in each period; the first at once.
    pub const fn every(period: Duration) -> LogLimit {
        LogLimit {
            period,
            state: Mutex::new(State {
                last: None,
                suppressed: 0,
            }),
        }
    }

    /// Leave to log now, with the number of lines left out since the last; `None` to stay silent.
    pub fn allow(&self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<u64> {
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match state.last {
            Some(last) if now.saturating_duration_since(last) < self.period => {
                state.suppressed += 1;
                None
            }
            _ => {
                state.last = Some(now);
                Some(std::mem::take(&mut state.suppressed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_period_and_the_rest_counted() {
        let limit = LogLimit::every(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| limit.allow_at(start + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(0));
        assert_eq!(at(1), None);
        assert_eq!(at(9), None);
        assert_eq!(at(10), Some(2));
        assert_eq!(at(30), Some(0));
    }
}
