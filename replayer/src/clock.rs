//! Instants of other hosts, by this host's clock.
//!
//! What enters: times of day at which exchanges are due. What leaves: instants, in the same order and as far apart. What may
//! be lost: lateness beyond what a right clock would show.
//!
//! Reading both clocks anew for each exchange would put those that are due together microseconds apart, and in any order:
//! a session's order would be lost. So both are compared once, and again only where one of them was set.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nobody plans further ahead, and nothing is so late; clocks that are further apart are wrong.
const MOST_APART: Duration = Duration::from_secs(10);

/// Clocks drift, and are corrected, by less than this in a while.
const DRIFT: Duration = Duration::from_millis(1);

/// The same moment by two clocks.
#[derive(Debug, Clone, Copy)]
struct Moment {
    instant: Instant,
    /// Since the unix epoch.
    unix: Duration,
}

impl Moment {
    fn now() -> Moment {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Moment {
            instant: Instant::now(),
            unix: unix.unwrap_or_default(),
        }
    }

    /// False where one of the clocks was set since.
    fn agrees_with(&self, later: &Moment) -> bool {
        let passed = later.instant.saturating_duration_since(self.instant);
        (self.unix + passed).abs_diff(later.unix) < DRIFT
    }

    fn instant_of(&self, unix: Duration) -> Option<Instant> {
        match unix.checked_sub(self.unix) {
            Some(later) => self.instant.checked_add(later),
            None => self.instant.checked_sub(self.unix - unix),
        }
    }
}

/// Both clocks of this host.
#[derive(Debug)]
pub(crate) struct Clock(Mutex<Moment>);

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock(Mutex::new(Moment::now()))
    }

    /// Looks at both clocks. Returns what they show, for a batch of exchanges.
    pub(crate) fn look(&self) -> Look {
        let now = Moment::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.agrees_with(&now) {
            *known = now;
        }
        Look {
            now: now.instant,
            known: *known,
        }
    }
}

/// What the clocks show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) now: Instant,
    known: Moment,
}

impl Look {
    /// The instant at which the clock of the host that said so shows `due_ns`, unix nanoseconds; in the past, if it is
    /// over.
    pub(crate) fn instant_of(&self, due_ns: u64) -> Instant {
        let due = self.known.instant_of(Duration::from_nanos(due_ns));
        let latest = self.now + MOST_APART;
        let earliest = self.now.checked_sub(MOST_APART).unwrap_or(self.now);
        due.unwrap_or(latest).clamp(earliest, latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(time: Duration) -> u64 {
        time.as_nanos() as u64
    }

    #[test]
    fn what_is_due_together_or_apart_is_so_at_every_look() {
        let clock = Clock::new();
        let first = clock.look();
        let due = ns(first.known.unix) + 5_000_000;
        let instant = first.instant_of(due);
        for later in 0..1000 {
            let look = clock.look();
            assert_eq!(look.instant_of(due), instant, "look {later}");
            assert_eq!(look.instant_of(due + 1), instant + Duration::from_nanos(1));
        }
    }

    #[test]
    fn what_is_over_is_late_and_wrong_clocks_count_for_little() {
        let look = Clock::new().look();
        let unix = look.known.unix;
        let at = |unix| look.instant_of(ns(unix));
        let second = Duration::from_secs(1);
        assert_eq!(at(unix - second), look.known.instant - second);
        assert_eq!(at(unix + 3600 * second), look.now + MOST_APART);
        assert_eq!(at(unix - 3600 * second), look.now - MOST_APART);
    }

    #[test]
    fn a_clock_that_was_set_is_read_anew() {
        let before = Moment::now();
        let after = |ms, set_ns: u64| Moment {
            instant: before.instant + Duration::from_millis(ms),
            unix: before.unix + Duration::from_millis(ms) + Duration::from_nanos(set_ns),
        };
        assert!(before.agrees_with(&after(3_600_000, 900_000)));
        assert!(!before.agrees_with(&after(1, 1_100_000)));
    }
}
