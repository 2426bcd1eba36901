//! What a replay was like: how late requests left, how long answers took, how near it came to production.
//!
//! What enters: requests as they end, counted by a replayer. What leaves: sums and histograms that can be added to those
//! of other replayers and other times, and read off without loss. What may be lost: precision, of which three decimal
//! digits are kept. Nothing here reads a clock.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};

use crate::outcome::UnknownReason;

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The target's name has no address.
    Name,
    /// No connection: refused, unreachable.
    Connect,
    /// No connection in time.
    ConnectTimeout,
    /// No TLS with the target.
    Tls,
    /// No whole answer in time.
    Timeout,
    /// The connection broke before the whole answer was there.
    Broken,
    /// What came is no HTTP/1 answer.
    Malformed,
    /// It could not be sent as it is.
    Unsendable,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 8] = [
        Cause::Name,
        Cause::Connect,
        Cause::ConnectTimeout,
        Cause::Tls,
        Cause::Timeout,
        Cause::Broken,
        Cause::Malformed,
        Cause::Unsendable,
    ];

    /// Its name in reports, metrics and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Name => "name",
            Cause::Connect => "connect",
            Cause::ConnectTimeout => "connect_timeout",
            Cause::Tls => "tls",
            Cause::Timeout => "timeout",
            Cause::Broken => "broken",
            Cause::Malformed => "malformed",
            Cause::Unsendable => "unsendable",
        }
    }
}

impl FromStr for Cause {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<Cause, UnknownReason> {
        let mut all = Cause::ALL.into_iter();
        all.find(|cause| cause.as_str() == name)
            .ok_or_else(|| UnknownReason::new(name))
    }
}

/// Times in microseconds, from 1 µs, with three decimal digits.
#[derive(Clone, PartialEq)]
pub struct Times(Histogram<u64>);

const DIGITS: u8 = 3;

/// A longer time counts as this one, an hour.
const LONGEST_US: u64 = 3_600_000_000;

impl Default for Times {
    fn default() -> Times {
        Times(Histogram::new(DIGITS).expect("three digits are allowed"))
    }
}

impl Times {
    /// Counts a time.
    pub fn add(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // It grows as needed, up to the longest.
        let _ = self.0.record(us.min(LONGEST_US));
    }

    /// Counts all times of another one.
    pub fn merge(&mut self, other: &Times) {
        let _ = self.0.add(&other.0);
    }

    /// Times counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that this share of all do not exceed: 0.99 for p99.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(share))
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// Their mean.
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e6)
    }

    /// How many exceed `time`.
    pub fn over(&self, time: Duration) -> u64 {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.len() - self.0.count_between(0, us.min(LONGEST_US))
    }

    /// HdrHistogram's own form (V2, deflated).
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A Vec takes every byte.
        let _ = V2DeflateSerializer::new().serialize(&self.0, &mut bytes);
        bytes
    }

    /// The reverse.
    ///
    /// # Errors
    /// When it isn't that form, or of another precision.
    pub fn decode(bytes: &[u8]) -> Result<Times, NoHistogram> {
        let decoded: Result<Histogram<u64>, _> = Deserializer::new().deserialize(&mut &*bytes);
        let histogram = decoded.map_err(|_| NoHistogram)?;
        match histogram.sigfig() == DIGITS && histogram.high() <= u64::from(u32::MAX) * 2 {
            true => Ok(Times(histogram)),
            false => Err(NoHistogram),
        }
    }
}

impl fmt::Debug for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} times up to {:?}", self.count(), self.max())
    }
}

/// Bytes that are no histogram of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no histogram of microseconds with three digits")]
pub struct NoHistogram;

/// What became of requests to one target, in a stretch of time, on one replayer or on several.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// Requests whose sending was begun.
    pub sent: u64,
    /// Of those, requests that left before another one of their session that was due before them.
    pub inversions: u64,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without a whole answer, by cause.
    pub failures: BTreeMap<Cause, u64>,
    /// From the instant at which each was due to that at which its sending began.
    pub lateness: Times,
    /// From the instant at which each was due to the last byte of its answer.
    pub latency: Times,
    /// From the first byte sent to the last byte of the answer.
    pub service: Times,
    /// By how much the pauses between requests differ from those that were due.
    pub gaps: Gaps,
}

/// Pauses between requests that left one after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Pauses.
    pub count: u64,
    /// All of them, as they were due, nanoseconds.
    pub due_ns: u64,
    /// The sum of their differences from that, nanoseconds.
    pub off_ns: u64,
}

impl Measured {
    /// Adds what another replayer, or the same one later, has measured.
    pub fn merge(&mut self, other: &Measured) {
        self.sent += other.sent;
        self.inversions += other.inversions;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (cause, count) in &other.failures {
            *self.failures.entry(*cause).or_default() += count;
        }
        self.lateness.merge(&other.lateness);
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.gaps.count += other.gaps.count;
        self.gaps.due_ns = self.gaps.due_ns.saturating_add(other.gaps.due_ns);
        self.gaps.off_ns = self.gaps.off_ns.saturating_add(other.gaps.off_ns);
    }

    /// True where nothing was sent and nothing ended.
    pub fn is_empty(&self) -> bool {
        self.sent == 0 && self.statuses.is_empty() && self.failures.is_empty()
    }

    /// Requests that ended with a whole answer.
    pub fn answered(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Requests that ended without one.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// The share of ended requests that failed, or were answered with a status of 500 or above.
    pub fn error_rate(&self) -> f64 {
        let errors = self.failed() + self.statuses.range(500..).map(|(_, n)| n).sum::<u64>();
        match self.answered() + self.failed() {
            0 => 0.0,
            ended => errors as f64 / ended as f64,
        }
    }

    /// How near the replay came to what was due, from 0 to 1: the share of `intended` requests that were sent, times the
    /// share of those in order, times one less the mean difference of pauses as a part of the mean pause.
    pub fn fidelity(&self, intended: u64) -> f64 {
        let part = |a: u64, of: u64| {
            if of == 0 {
                1.0
            } else {
                (a as f64 / of as f64).min(1.0)
            }
        };
        let sent = part(self.sent, intended);
        let in_order = 1.0 - part(self.inversions, self.sent.max(1));
        let off = match self.gaps.due_ns {
            0 => 0.0,
            _ => part(self.gaps.off_ns, self.gaps.due_ns),
        };
        sent * in_order * (1.0 - off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn what_two_measured_is_what_one_would_have() {
        let (mut a, mut b, mut both) = (Times::default(), Times::default(), Times::default());
        for n in 1..=1000 {
            if n % 2 == 0 { &mut a } else { &mut b }.add(us(n * 10));
            both.add(us(n * 10));
        }
        a.merge(&b);
        assert_eq!(a, both);
        assert_eq!((a.count(), a.over(us(9_990))), (1000, 1));
        let p99 = a.quantile(0.99);
        assert!((us(9_890)..=us(9_910)).contains(&p99), "{p99:?}");
        assert!(a.max() >= us(10_000) && a.max() < us(10_010));
    }

    #[test]
    fn histograms_travel_and_garbage_is_refused() {
        let mut times = Times::default();
        for time in [us(0), us(7), Duration::from_secs(5), Duration::MAX] {
            times.add(time);
        }
        let read = Times::decode(&times.encode()).unwrap();
        assert_eq!((read.count(), read.max()), (4, times.max()));
        assert_eq!(read, times);
        assert!(Times::decode(b"garbage").is_err() && Times::decode(b"").is_err());
        let other = Histogram::<u64>::new(1).unwrap();
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(&other, &mut bytes)
            .unwrap();
        assert!(Times::decode(&bytes).is_err());
    }

    #[test]
    fn errors_are_failures_and_5xx() {
        let mut measured = Measured {
            statuses: [(200, 6), (404, 1), (503, 2)].into(),
            failures: [(Cause::Timeout, 1)].into(),
            ..Measured::default()
        };
        assert_eq!(measured.error_rate(), 0.3);
        measured.merge(&measured.clone());
        assert_eq!((measured.answered(), measured.failed()), (18, 2));
        assert_eq!(Measured::default().error_rate(), 0.0);
    }

    #[test]
    fn a_replay_as_it_was_due_has_a_fidelity_of_one() {
        let mut measured = Measured {
            sent: 10,
            gaps: Gaps {
                count: 9,
                due_ns: 900,
                off_ns: 0,
            },
            ..Measured::default()
        };
        assert_eq!(measured.fidelity(10), 1.0);
        assert_eq!(measured.fidelity(20), 0.5);
        measured.gaps.off_ns = 90;
        assert!((measured.fidelity(10) - 0.9).abs() < 1e-9);
        measured.inversions = 5;
        assert!((measured.fidelity(10) - 0.45).abs() < 1e-9);
    }
}
