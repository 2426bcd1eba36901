//! Puts together what the replayers measure.
//!
//! What enters: what each replayer measured in a second. What leaves: the whole, the last seconds, and a row for each
//! second. What may be lost: what a replayer has measured since its last word, when it dies. A second of a replayer
//! counts as that in which word of it came.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reprise_traffic::{Measured, TargetName};

/// Seconds that a rule looks back.
const RECENT: Duration = Duration::from_secs(5);

/// Quantiles of a second, and its sums.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Second {
    pub(super) sent: u64,
    pub(super) failed: u64,
    pub(super) classes: BTreeMap<u16, u64>,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) late_p99: Duration,
}

impl Second {
    fn of(measured: &Measured) -> Second {
        let mut classes = BTreeMap::new();
        for (status, n) in &measured.statuses {
            *classes.entry(status / 100).or_default() += n;
        }
        Second {
            sent: measured.sent,
            failed: measured.failed(),
            classes,
            p50: measured.latency.quantile(0.5),
            p99: measured.latency.quantile(0.99),
            late_p99: measured.lateness.quantile(0.99),
        }
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) total: Measured,
    /// Requests sent by each replayer.
    pub(super) replayers: BTreeMap<String, u64>,
    /// By seconds since the first word.
    pub(super) seconds: BTreeMap<u64, Second>,
    began: Option<Instant>,
    /// The second that goes on.
    current: (u64, Measured),
    recent: VecDeque<(Instant, Measured)>,
}

impl Collected {
    fn add(&mut self, replayer: &str, measured: Measured, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let second = now.saturating_duration_since(began).as_secs();
        *self.replayers.entry(replayer.to_owned()).or_default() += measured.sent;
        self.total.merge(&measured);
        if self.current.0 != second {
            self.current = (second, Measured::default());
        }
        self.current.1.merge(&measured);
        self.seconds.insert(second, Second::of(&self.current.1));
        self.recent.push_back((now, measured));
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, _)) = self.recent.front()
            && now.saturating_duration_since(*at) > RECENT
        {
            self.recent.pop_front();
        }
    }

    /// What was measured in the last seconds.
    pub(super) fn recent(&mut self, now: Instant) -> Measured {
        self.forget(now);
        let mut sum = Measured::default();
        for (_, measured) in &self.recent {
            sum.merge(measured);
        }
        sum
    }
}

/// Shared between those who measure and those who look.
#[derive(Debug, Clone, Default)]
pub(super) struct Collector(Arc<Mutex<Collected>>);

impl Collector {
    pub(super) fn lock(&self) -> MutexGuard<'_, Collected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a replayer's word.
    pub(super) fn take(&self, replayer: &str, measured: Vec<(TargetName, Measured)>) {
        let now = Instant::now();
        let mut collected = self.lock();
        for (_, measured) in measured {
            collected.add(replayer, measured, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_replayers_and_the_last_while() {
        let mut collected = Collected::default();
        let start = Instant::now();
        let one = |status| Measured {
            sent: 1,
            statuses: [(status, 1)].into(),
            ..Measured::default()
        };
        for (replayer, at, status) in [
            ("a", 0, 200),
            ("b", 300, 503),
            ("a", 1500, 201),
            ("a", 9000, 404),
        ] {
            collected.add(replayer, one(status), start + Duration::from_millis(at));
        }
        assert_eq!(
            collected.replayers,
            [("a".to_owned(), 3), ("b".to_owned(), 1)].into()
        );
        let sent: Vec<(u64, u64)> = collected
            .seconds
            .iter()
            .map(|(s, second)| (*s, second.sent))
            .collect();
        assert_eq!(sent, [(0, 2), (1, 1), (9, 1)]);
        assert_eq!(collected.seconds[&0].classes, [(2, 1), (5, 1)].into());
        let recent = collected.recent(start + Duration::from_secs(10));
        assert_eq!((recent.sent, collected.total.answered()), (1, 4));
    }
}
