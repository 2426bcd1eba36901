//! What a load test was, at its end.
//!
//! What enters: the books, and what the replayers measured. What leaves: a report, as text for people or as JSON. What may
//! be lost: nothing; what was intended and not sent is counted by its reason.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use reprise_traffic::ledger::{Account, EpochReport};
use reprise_traffic::measure::Times;
use serde::Serialize;

use super::collect::Collected;

/// A request that left so long after it was due was late.
pub(super) const LATE: Duration = Duration::from_millis(10);

/// A load test, from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    /// What was replayed, and to where.
    pub(super) recording: Vec<String>,
    pub(super) target: String,
    /// As `--speed 5 --users 10x`.
    pub(super) how: String,
    /// From the start to the last answer, seconds.
    pub(super) seconds: f64,
    /// The rule that ended it, or the signal.
    pub(super) stopped_by: Option<String>,
    /// Requests of the recording, clones included.
    pub(super) recorded: u64,
    /// Of those, what the target's rules did not want.
    pub(super) filtered: u64,
    /// The rest: what was to be sent.
    pub(super) intended: u64,
    pub(super) sent: u64,
    /// Sent more than 10 ms after they were due.
    pub(super) late: u64,
    /// Ended with a whole answer.
    pub(super) answered: u64,
    /// Sent, and it is not known whether they arrived.
    pub(super) unknown: u64,
    /// Not sent, by reason.
    pub(super) dropped: BTreeMap<String, u64>,
    /// Answers by class of status: 2xx.
    pub(super) classes: BTreeMap<String, u64>,
    /// Answers by status.
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Requests without a whole answer, by cause.
    pub(super) errors: BTreeMap<String, u64>,
    /// From the instant at which each was due to the last byte of its answer.
    pub(super) latency: Quantiles,
    /// From the first byte sent to the last byte of the answer.
    pub(super) service: Quantiles,
    /// From the instant at which each was due to that at which its sending began.
    pub(super) lateness: Quantiles,
    pub(super) fidelity: Fidelity,
    /// Requests sent by each replayer.
    pub(super) replayers: BTreeMap<String, u64>,
    pub(super) series: Vec<Point>,
    /// False where the books don't add up.
    pub(super) balances: bool,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) p99_99: f64,
    pub(super) max: f64,
    pub(super) mean: f64,
}

/// How near the replay came to the recording.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Fidelity {
    /// All in one, from 0 to 1.
    pub(super) score: f64,
    /// The share of intended requests that were sent.
    pub(super) sent: f64,
    /// Requests that left before one of their session that was due before them.
    pub(super) inversions: u64,
    /// The mean pause between requests of a replayer, and the mean difference from it, milliseconds.
    pub(super) gap_ms: f64,
    pub(super) gap_off_ms: f64,
}

/// A second of the test.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Point {
    /// Seconds since the first.
    pub(super) second: u64,
    pub(super) sent: u64,
    pub(super) failed: u64,
    /// Answers by class of status.
    pub(super) classes: BTreeMap<String, u64>,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) late_p99_ms: f64,
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl Quantiles {
    fn of(times: &Times) -> Quantiles {
        let quantile = |share| ms(times.quantile(share).min(times.max()));
        Quantiles {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            p99_99: quantile(0.9999),
            max: ms(times.max()),
            mean: ms(times.mean()),
        }
    }
}

/// What the one who started the test knows of it.
#[derive(Debug, Clone)]
pub(super) struct Test {
    pub(super) recording: Vec<String>,
    pub(super) target: String,
    pub(super) how: String,
    pub(super) lasted: Duration,
    pub(super) stopped_by: Option<String>,
}

impl Report {
    /// Of a test that has ended.
    pub(super) fn new(test: Test, books: &EpochReport, collected: &Collected) -> Report {
        let none = Account::default();
        let account = books.targets.values().next().unwrap_or(&none);
        let filtered = account.filtered + account.sampled_out;
        let intended = books.captured - filtered.min(books.captured);
        let total = &collected.total;
        let mut classes = BTreeMap::new();
        for (status, n) in &account.replayed {
            *classes.entry(class(status / 100)).or_default() += n;
        }
        let gaps = total.gaps;
        let mean = |ns: u64| match gaps.count {
            0 => 0.0,
            count => ms(Duration::from_nanos(ns / count)),
        };
        Report {
            recording: test.recording,
            target: test.target,
            how: test.how,
            seconds: (test.lasted.as_secs_f64() * 1e3).round() / 1e3,
            stopped_by: test.stopped_by,
            recorded: books.captured,
            filtered,
            intended,
            sent: total.sent,
            late: total.lateness.over(LATE),
            answered: account.replayed_total(),
            unknown: account.unknown,
            dropped: account.dropped.clone(),
            classes,
            statuses: account.replayed.clone(),
            errors: total
                .failures
                .iter()
                .map(|(cause, n)| (cause.as_str().to_owned(), *n))
                .collect(),
            latency: Quantiles::of(&total.latency),
            service: Quantiles::of(&total.service),
            lateness: Quantiles::of(&total.lateness),
            fidelity: Fidelity {
                score: (total.fidelity(intended) * 1e4).round() / 1e4,
                sent: share(total.sent, intended),
                inversions: total.inversions,
                gap_ms: mean(gaps.due_ns),
                gap_off_ms: mean(gaps.off_ns),
            },
            replayers: collected.replayers.clone(),
            series: points(collected),
            balances: books.balances_at_rest(),
        }
    }

    /// A line about a test in which something was intended and nothing answered: it says nothing about the target.
    pub(super) fn silence(&self) -> Option<String> {
        (self.intended > 0 && self.answered == 0).then(|| {
            format!(
                "{} answered none of {} requests; errors: {}; not sent: {}",
                self.target,
                self.intended,
                counts(&self.errors),
                counts(&self.dropped)
            )
        })
    }
}

fn class(hundreds: u16) -> String {
    format!("{hundreds}xx")
}

fn share(part: u64, of: u64) -> f64 {
    match of {
        0 => 1.0,
        of => ((part as f64 / of as f64).min(1.0) * 1e4).round() / 1e4,
    }
}

fn points(collected: &Collected) -> Vec<Point> {
    let last = collected.seconds.keys().next_back().copied();
    let seconds = 0..last.map_or(0, |last| last + 1);
    seconds
        .map(|at| {
            let second = collected.seconds.get(&at).cloned().unwrap_or_default();
            Point {
                second: at,
                sent: second.sent,
                failed: second.failed,
                classes: second
                    .classes
                    .iter()
                    .map(|(h, n)| (class(*h), *n))
                    .collect(),
                p50_ms: ms(second.p50),
                p99_ms: ms(second.p99),
                late_p99_ms: ms(second.late_p99),
            }
        })
        .collect()
}

/// Counts as `2xx 1000, 5xx 3`.
fn counts<K: fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    let each: Vec<String> = counts
        .iter()
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    match each.is_empty() {
        true => "none".to_owned(),
        false => each.join(", "),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.recording.join(", "), &self.target);
        writeln!(f, "{}", format!("{from} to {to} {}", self.how).trim_end())?;
        if let Some(why) = &self.stopped_by {
            writeln!(f, "Stopped early: {why}")?;
        }
        let rate = self.sent as f64 / self.seconds.max(0.001);
        writeln!(
            f,
            "{} intended, {} sent in {:.1} s ({rate:.0}/s), {} of them over {} ms late, {} answered, {} unknown",
            self.intended,
            self.sent,
            self.seconds,
            self.late,
            LATE.as_millis(),
            self.answered,
            self.unknown
        )?;
        if self.filtered > 0 {
            writeln!(
                f,
                "{} of {} recorded are not wanted by the target's rules",
                self.filtered, self.recorded
            )?;
        }
        if self.intended == 0 {
            writeln!(
                f,
                "Nothing was to be sent: the recording, --users, or the target's methods and rules leave nothing over."
            )?;
        }
        writeln!(f, "statuses: {}", counts(&self.statuses))?;
        writeln!(
            f,
            "errors: {}; not sent: {}",
            counts(&self.errors),
            counts(&self.dropped)
        )?;
        writeln!(f, "{}", self.table())?;
        let Fidelity {
            score,
            sent,
            inversions,
            gap_ms,
            gap_off_ms,
        } = self.fidelity;
        writeln!(
            f,
            "fidelity {score:.4}: {:.2} % sent, {inversions} out of order, pauses of {gap_ms:.3} ms off by {gap_off_ms:.3} ms on average",
            sent * 100.0
        )?;
        if self.replayers.len() > 1 {
            writeln!(f, "sent by: {}", counts(&self.replayers))?;
        }
        if !self.balances {
            writeln!(
                f,
                "The books do NOT balance: some requests are unaccounted for."
            )?;
        }
        Ok(())
    }
}

impl Report {
    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header([
            "milliseconds",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "p99.99",
            "max",
        ]);
        for (name, q) in [
            ("latency, from when it was due", self.latency),
            ("of which the target's answer", self.service),
            ("of which late", self.lateness),
        ] {
            let cells =
                [q.p50, q.p90, q.p99, q.p99_9, q.p99_99, q.max].map(|ms| format!("{ms:.3}"));
            table.add_row(std::iter::once(name.to_owned()).chain(cells));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}
