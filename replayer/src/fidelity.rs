//! How near a target's requests come to what was due: counters that are always on, for live traffic and recordings.
//!
//! What enters: each request of a web server as it is due, and as its sending begins. What leaves: metrics. What may be
//! lost: inversions of a session whose place another one took; and of two requests that leave at the same moment each
//! may be taken for the other's predecessor. Nothing here waits: a few counters for each request.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus_client::metrics::counter::{Atomic, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use reprise_traffic::TargetName;

use crate::metrics::TargetLabel;

/// Sessions whose order is watched at a time, for each target.
const PLACES: usize = 1 << 12;

/// A longer pause is the beginning of something else, nanoseconds.
const LONGEST_PAUSE_NS: u64 = 60_000_000_000;

type Seconds = Counter<f64, Nanoseconds>;

/// Counts nanoseconds, and is read as seconds.
#[derive(Debug, Default)]
pub(crate) struct Nanoseconds(AtomicU64);

impl Nanoseconds {
    fn add(&self, ns: u64) {
        self.0.fetch_add(ns, Ordering::Relaxed);
    }
}

impl Atomic<f64> for Nanoseconds {
    fn inc(&self) -> f64 {
        self.inc_by(1.0)
    }

    fn inc_by(&self, seconds: f64) -> f64 {
        let before = self.0.fetch_add((seconds * 1e9) as u64, Ordering::Relaxed);
        before as f64 / 1e9
    }

    fn get(&self) -> f64 {
        self.0.load(Ordering::Relaxed) as f64 / 1e9
    }
}

/// Of all targets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fidelities {
    due: Family<TargetLabel, Counter>,
    sent: Family<TargetLabel, Counter>,
    inversions: Family<TargetLabel, Counter>,
    gaps: Family<TargetLabel, Counter>,
    gaps_due: Family<TargetLabel, Seconds>,
    gaps_off: Family<TargetLabel, Seconds>,
}

impl Fidelities {
    pub(crate) fn register(registry: &mut Registry) -> Fidelities {
        let all = Fidelities::default();
        registry.register(
            "reprise_replay_due",
            "Requests that were due to be sent to a target's server",
            all.due.clone(),
        );
        registry.register(
            "reprise_replay_sent",
            "Of those, requests whose sending was begun",
            all.sent.clone(),
        );
        registry.register(
            "reprise_replay_inversions",
            "Of those sent, requests that left after one of their session that was due later",
            all.inversions.clone(),
        );
        registry.register(
            "reprise_replay_gaps",
            "Pauses between requests that left one after the other",
            all.gaps.clone(),
        );
        registry.register(
            "reprise_replay_gaps_due_seconds",
            "The sum of these pauses as they were due",
            all.gaps_due.clone(),
        );
        registry.register(
            "reprise_replay_gaps_off_seconds",
            "The sum of these pauses' differences from what was due",
            all.gaps_off.clone(),
        );
        all
    }

    /// Of one target.
    pub(crate) fn of(&self, target: &TargetName) -> Fidelity {
        let label = TargetLabel::of(target);
        Fidelity {
            due: self.due.get_or_create(&label).clone(),
            sent: self.sent.get_or_create(&label).clone(),
            inversions: self.inversions.get_or_create(&label).clone(),
            gaps: self.gaps.get_or_create(&label).clone(),
            gaps_due: self.gaps_due.get_or_create(&label).clone(),
            gaps_off: self.gaps_off.get_or_create(&label).clone(),
            start: Instant::now(),
            last_due: AtomicU64::default(),
            last_left: AtomicU64::default(),
            order: Order::default(),
        }
    }
}

/// Of one target.
#[derive(Debug)]
pub(crate) struct Fidelity {
    due: Counter,
    sent: Counter,
    inversions: Counter,
    gaps: Counter,
    gaps_due: Seconds,
    gaps_off: Seconds,
    /// Requests leave so many nanoseconds after this.
    start: Instant,
    /// Of the request that left last, unix nanoseconds.
    last_due: AtomicU64,
    /// 0: none did.
    last_left: AtomicU64,
    order: Order,
}

impl Fidelity {
    /// A request is due now.
    pub(crate) fn due(&self) {
        self.due.inc();
    }

    /// A request of a session, which was due at `due_ns`, begins to leave. Of live traffic that is when it was captured.
    pub(crate) fn begun(&self, session: u64, due_ns: u64, now: Instant) {
        self.sent.inc();
        if self.order.is_inverted(session, due_ns) {
            self.inversions.inc();
        }
        let left = now.saturating_duration_since(self.start).as_nanos() as u64;
        let last_due = self.last_due.swap(due_ns, Ordering::Relaxed);
        let last_left = self.last_left.swap(left.max(1), Ordering::Relaxed);
        let meant = due_ns.saturating_sub(last_due);
        if last_left == 0 || meant > LONGEST_PAUSE_NS {
            return;
        }
        self.gaps.inc();
        self.gaps_due.inner().add(meant);
        let is = left.saturating_sub(last_left);
        self.gaps_off.inner().add(meant.abs_diff(is));
    }
}

/// When the latest request of each session was due. Each has a place by its hash; two that have the same take turns.
#[derive(Debug)]
struct Order(Vec<AtomicU64>);

/// Bits of a place for the instant, in units of 1.024 µs: it comes round after 13 days. Above it are bits of the hash.
const INSTANT: u32 = 40;

impl Default for Order {
    fn default() -> Order {
        Order((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Order {
    /// True where a request of the session that was due later has left before. Of a session, one at a time is asked about.
    fn is_inverted(&self, session: u64, due_ns: u64) -> bool {
        const MASK: u64 = (1 << INSTANT) - 1;
        let place = &self.0[session as usize % PLACES];
        let entry = (session & !MASK) | ((due_ns >> 10) & MASK);
        let known = place.load(Ordering::Relaxed);
        let ahead = known.wrapping_sub(entry) & MASK;
        let is_inverted = known & !MASK == entry & !MASK && (1..=MASK / 2).contains(&ahead);
        // Nothing has been there: an instant of 0 is no instant.
        let is_inverted = is_inverted && known != 0;
        if !is_inverted {
            place.store(entry, Ordering::Relaxed);
        }
        is_inverted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measuring::Measures;

    const MS: Duration = Duration::from_millis(1);

    fn fidelity() -> (Fidelity, Registry) {
        let mut registry = Registry::default();
        let fidelity = Fidelities::register(&mut registry).of(&TargetName::new("t/a").unwrap());
        (fidelity, registry)
    }

    #[test]
    fn metrics_say_what_is_measured_for_a_report() {
        let (fidelity, registry) = fidelity();
        let measures = Measures::default();
        measures.want();
        let unix = 1_795_297_695_728_667_748;
        let mut random = fastrand::Rng::with_seed(7);
        let mut left = Duration::ZERO;
        for number in 0..1000 {
            let session = random.u64(..4);
            let due = (number + random.u32(..3)) * MS;
            left += random.u32(..4) * MS / 3;
            fidelity.due();
            let start = fidelity.start + MS;
            measures.begun(session, start + due, start + left);
            fidelity.begun(session, unix + due.as_nanos() as u64, start + left);
        }
        let measured = measures.take();
        assert!(measured.inversions > 0 && measured.gaps.off_ns > 0);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let seconds = |ns: u64| ns as f64 / 1e9;
        for (name, value) in [
            ("due_total", 1000.0),
            ("sent_total", measured.sent as f64),
            ("inversions_total", measured.inversions as f64),
            ("gaps_total", measured.gaps.count as f64),
            ("gaps_due_seconds_total", seconds(measured.gaps.due_ns)),
            ("gaps_off_seconds_total", seconds(measured.gaps.off_ns)),
        ] {
            let line = format!("reprise_replay_{name}{{target=\"t/a\"}} ");
            let is: f64 = text
                .split_once(&line)
                .unwrap()
                .1
                .lines()
                .next()
                .unwrap()
                .parse()
                .unwrap();
            assert!((is - value).abs() < 1e-6, "{name}: {is}, and not {value}");
        }
    }

    #[test]
    fn a_pause_without_end_is_no_pause() {
        let (fidelity, _) = fidelity();
        let day = 24 * 3600 * 1_000_000_000;
        for (due, left) in [(day, 0), (2 * day, 1), (2 * day + 5_000_000, 7)] {
            fidelity.begun(1, due, fidelity.start + left * MS);
        }
        assert_eq!((fidelity.sent.get(), fidelity.gaps.get()), (3, 1));
        assert_eq!(fidelity.gaps_due.get(), 0.005);
        assert!((fidelity.gaps_off.get() - 0.001).abs() < 1e-9);
    }

    #[test]
    fn sessions_at_the_same_place_are_told_apart() {
        let order = Order::default();
        let other = 1 << 63;
        assert!(!order.is_inverted(3, 1 << 20));
        assert!(order.is_inverted(3, 1 << 19));
        assert!(!order.is_inverted(3 | other, 1 << 19));
        // What the place had is forgotten.
        assert!(!order.is_inverted(3, 1 << 19));
    }
}
