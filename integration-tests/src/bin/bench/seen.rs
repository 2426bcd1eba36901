//! What a watcher saw of the requests that were sent.
//!
//! What enters: a listener's books at rest. What leaves: captured, kept, lost by reason, and whether that is all that
//! was sent. What may be lost: nothing; what nobody accounts for is the difference.

use std::collections::BTreeMap;

use reprise_traffic::ledger::EpochReport;

use crate::meter::Memory;
use crate::report::thousands;

/// What it saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) cpu_ns: u64,
    pub(crate) memory: Memory,
    /// Packets that the kernel dropped before it.
    pub(crate) kernel_dropped: u64,
    /// tcpdump's packets, a listener's requests.
    pub(crate) captured: u64,
    /// Captured, and then given up: by reason.
    pub(crate) dropped: BTreeMap<String, u64>,
    /// Requests that were seen and not captured: by reason.
    pub(crate) lost: BTreeMap<String, u64>,
    pub(crate) balances: bool,
}

impl Seen {
    /// Adds another round.
    pub(crate) fn add(&mut self, round: Seen) {
        self.cpu_ns += round.cpu_ns;
        self.memory = self.memory.max(round.memory);
        self.kernel_dropped += round.kernel_dropped;
        self.captured += round.captured;
        self.balances &= round.balances;
        for (sum, part) in [
            (&mut self.dropped, round.dropped),
            (&mut self.lost, round.lost),
        ] {
            for (reason, n) in part {
                *sum.entry(reason).or_default() += n;
            }
        }
    }

    /// A listener's books.
    pub(crate) fn of(report: EpochReport) -> Seen {
        Seen {
            kernel_dropped: report.edge.get("kernel_dropped").copied().unwrap_or(0),
            captured: report.captured,
            lost: lost(&report.edge),
            balances: report.balances_at_rest(),
            dropped: report.dropped,
            ..Seen::default()
        }
    }

    /// Microseconds of CPU for each of `requests`.
    pub(crate) fn micros_per(&self, requests: u64) -> f64 {
        self.cpu_ns as f64 / 1e3 / requests.max(1) as f64
    }

    /// Captured and kept.
    pub(crate) fn kept(&self) -> u64 {
        let dropped: u64 = self.dropped.values().sum();
        self.captured.saturating_sub(dropped)
    }

    /// Captured, or lost for a reason.
    pub(crate) fn accounted(&self) -> u64 {
        self.captured + self.lost.values().sum::<u64>()
    }

    /// Whether captured + Σ reasons = sent, in words.
    pub(crate) fn verdict(&self, sent: u64) -> String {
        let books = if self.balances {
            ""
        } else {
            ", books do NOT balance"
        };
        match self.accounted() as i64 - sent as i64 {
            0 => format!("yes{books}"),
            off => format!("NO, {off:+}{books}"),
        }
    }

    /// What was lost, at the edge and behind it.
    pub(crate) fn losses(&self) -> String {
        let all = self.lost.iter().chain(&self.dropped);
        let all: Vec<String> = all
            .map(|(reason, n)| format!("{reason} {}", thousands(*n)))
            .collect();
        match all.is_empty() {
            true => "none".to_owned(),
            false => all.join(", "),
        }
    }
}

/// True when nothing waits, and nothing that was sent is missing.
pub(crate) fn is_whole(report: &EpochReport, sent: u64) -> bool {
    let lost: u64 = lost(&report.edge).values().sum();
    report.in_flight == 0 && report.captured + lost >= sent
}

/// The events of the capture's edge that stand for a request each; the others count packets and connections.
fn lost(edge: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let is_request = |name: &str| {
        ["refused_", "incomplete_", "shed_", "marked", "too_large"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    let requests = edge.iter().filter(|(name, _)| is_request(name));
    requests.map(|(name, n)| (name.clone(), *n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_and_all_reasons_are_compared_with_what_was_sent() {
        let edge = [
            ("packets", 90),
            ("incomplete_gap", 2),
            ("marked", 1),
            ("out_of_window", 7),
        ];
        let edge = edge.map(|(name, n)| (name.to_owned(), n)).into();
        let dropped = BTreeMap::from([("listener_full".to_owned(), 4)]);
        let report = EpochReport {
            captured: 10,
            settled: 6,
            dropped,
            edge,
            ..EpochReport::default()
        };
        assert!(is_whole(&report, 13) && !is_whole(&report, 14));
        let mut seen = Seen::of(report);
        assert_eq!(seen.verdict(13), "yes");
        assert_eq!(seen.verdict(14), "NO, -1");
        assert_eq!(seen.losses(), "incomplete_gap 2, marked 1, listener_full 4");
        seen.cpu_ns = 26_000;
        assert_eq!(seen.micros_per(13), 2.0);
    }
}
