//! The table that shows the traffic while it runs and when it is over.
//!
//! What enters: what the customers saw and what the parts say of themselves. What leaves: lines of text with the tone
//! in which they are said. What may be lost: nothing; what is cut at a terminal's edge is cut by [`super::screen`].

use reprise_traffic::ledger::Account;

use super::customers::Seen;
use super::line::{Line, Tone, grouped, milliseconds};
use super::look::{self, Part, Task};

const LABEL: usize = 16;
const COLUMN: usize = 15;

/// All that the table shows.
#[derive(Debug)]
pub(crate) struct Board<'a> {
    /// What happens now: `12 s of 20 s`.
    pub(crate) phase: String,
    /// Captured requests a second, of late.
    pub(crate) rate: f64,
    /// What the customers saw.
    pub(crate) seen: &'a Seen,
    /// The parts of the cluster.
    pub(crate) parts: &'a [Part],
    /// The targets' names, in the order of their columns.
    pub(crate) targets: &'a [&'static str],
}

impl Board<'_> {
    /// The table.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let books = look::books(self.parts);
        let captured: u64 = books.iter().map(|epoch| epoch.captured).sum();
        let in_flight: u64 = books.iter().map(|epoch| epoch.in_flight).sum();
        let accounts: Vec<Account> = self
            .targets
            .iter()
            .map(|target| look::account(&books, target))
            .collect();
        let mut lines = vec![Line::new(
            Tone::Strong,
            format!(
                "{:<LABEL$} captured {}   {:.0}/s   in flight {}",
                self.phase,
                grouped(captured),
                self.rate,
                grouped(in_flight)
            ),
        )];
        let names = self.targets.iter().map(|target| (*target).to_owned());
        lines.push(row(
            Tone::Faint,
            "",
            std::iter::once("production".to_owned()).chain(names),
        ));
        self.replayed(&accounts, &mut lines);
        let counts = |count: fn(&Account) -> u64| accounts.iter().map(count).collect::<Vec<u64>>();
        let wanted = |label, count| counted(label, None, &counts(count), false);
        let alarming = |label, count| counted(label, None, &counts(count), true);
        lines.extend([
            wanted("filtered", |account| account.filtered),
            wanted("sampled out", |account| account.sampled_out),
            alarming("failed", Account::failed_total),
            alarming("unknown", |account| account.unknown),
            alarming("dropped", Account::dropped_total),
        ]);
        lines.extend(reasons(&accounts));
        self.latencies(&mut lines);
        lines.extend(self.parts());
        lines
    }

    /// The same in one line, for those who read it later.
    pub(crate) fn summary(&self) -> String {
        let books = look::books(self.parts);
        let captured: u64 = books.iter().map(|epoch| epoch.captured).sum();
        let mut text = format!(
            "{}: captured {} ({:.0}/s)",
            self.phase,
            grouped(captured),
            self.rate
        );
        for target in self.targets {
            let account = look::account(&books, target);
            let latencies = look::latencies(self.parts, target);
            let classes = (1..6).map(|class| (class, in_class(&account, class)));
            let classes: Vec<String> = classes
                .filter(|(_, n)| *n > 0)
                .map(|(class, n)| format!("{class}xx {}", grouped(n)))
                .collect();
            text.push_str(&format!(
                " | {target}: replayed {} ({}), filtered {}, sampled out {}, failed {}, unknown {}, dropped {}, \
                 p50 {}, p99 {}",
                grouped(account.replayed_total()),
                classes.join(", "),
                grouped(account.filtered),
                grouped(account.sampled_out),
                grouped(account.failed_total()),
                grouped(account.unknown),
                grouped(account.dropped_total()),
                milliseconds(latencies.quantile(0.5)),
                milliseconds(latencies.quantile(0.99)),
            ));
        }
        text
    }

    fn replayed(&self, accounts: &[Account], lines: &mut Vec<Line>) {
        let replayed: Vec<u64> = accounts.iter().map(Account::replayed_total).collect();
        lines.push(counted(
            "replayed",
            Some(self.seen.answered),
            &replayed,
            false,
        ));
        for class in 2..6_u16 {
            let counts: Vec<u64> = accounts
                .iter()
                .map(|account| in_class(account, class))
                .collect();
            let production = self.seen.classes.get(usize::from(class)).copied();
            lines.push(counted(&format!("  {class}xx"), production, &counts, false));
        }
    }

    fn latencies(&self, lines: &mut Vec<Line>) {
        for (label, share) in [("latency p50", 0.5), ("latency p99", 0.99)] {
            let production = self.seen.latency.quantile(share);
            let targets = self.targets.iter();
            let targets = targets.map(|target| look::latencies(self.parts, target).quantile(share));
            let all = std::iter::once(production).chain(targets);
            lines.push(row(Tone::Plain, label, all.map(milliseconds)));
        }
    }

    /// What each part has done, where there are several.
    fn parts(&self) -> Vec<Line> {
        let tasks = [
            ("captured by", Task::Capture),
            ("routed by", Task::Route),
            ("sent by", Task::Send),
        ];
        let mut lines = Vec::new();
        for (label, task) in tasks {
            let parts: Vec<&Part> = self.parts.iter().filter(|part| part.task == task).collect();
            let lost = parts.iter().any(|part| part.fate.is_some());
            let said = parts.iter().map(|part| match &part.fate {
                Some(fate) => format!("{} {} ({fate})", part.name, grouped(part.done())),
                None => format!("{} {}", part.name, grouped(part.done())),
            });
            let said: Vec<String> = said.collect();
            if !said.is_empty() {
                let tone = if lost { Tone::Warning } else { Tone::Plain };
                lines.push(Line::new(
                    tone,
                    format!("{label:<LABEL$}{}", said.join("   ")),
                ));
            }
        }
        lines
    }
}

/// A row for each reason for which a target gave exchanges up, and for each fault.
fn reasons(accounts: &[Account]) -> Vec<Line> {
    let of = |account: &Account| {
        let faults = account
            .failed
            .iter()
            .map(|(fault, n)| (format!("  by {fault}"), *n));
        let drops = account
            .dropped
            .iter()
            .map(|(reason, n)| (format!("  {reason}"), *n));
        faults
            .chain(drops)
            .filter(|(_, n)| *n > 0)
            .collect::<Vec<_>>()
    };
    let of: Vec<Vec<(String, u64)>> = accounts.iter().map(of).collect();
    let mut labels: Vec<&String> = of.iter().flatten().map(|(label, _)| label).collect();
    labels.sort();
    labels.dedup();
    let counts = |label: &String| {
        let count = |reasons: &Vec<(String, u64)>| {
            reasons
                .iter()
                .find(|(name, _)| name == label)
                .map_or(0, |(_, n)| *n)
        };
        of.iter().map(count).collect::<Vec<u64>>()
    };
    labels
        .iter()
        .map(|label| counted(label, None, &counts(label), true))
        .collect()
}

fn in_class(account: &Account, class: u16) -> u64 {
    account
        .replayed
        .range(class * 100..(class + 1) * 100)
        .map(|(_, n)| n)
        .sum()
}

fn counted(label: &str, production: Option<u64>, counts: &[u64], alarming: bool) -> Line {
    let tone = match (counts.iter().any(|n| *n > 0), alarming) {
        (true, true) => Tone::Warning,
        (false, true) => Tone::Faint,
        (_, false) => Tone::Plain,
    };
    let production = production.map(grouped).unwrap_or_default();
    let cells = std::iter::once(production).chain(counts.iter().map(|n| grouped(*n)));
    row(tone, label, cells)
}

fn row(tone: Tone, label: &str, cells: impl Iterator<Item = String>) -> Line {
    let cells: String = cells.map(|cell| format!("{cell:>COLUMN$}")).collect();
    Line::new(tone, format!("{label:<LABEL$}{cells}"))
}

#[cfg(test)]
mod tests {
    use reprise_traffic::ledger::EpochReport;
    use reprise_traffic::{Disposition, DropReason};

    use super::*;
    use crate::demo::look::Said;

    fn part(name: &str, task: Task, ends: &[(Disposition, u64)]) -> Part {
        let mut account = Account::default();
        ends.iter().for_each(|(end, n)| account.add(*end, *n));
        let epoch = EpochReport {
            captured: account.total(),
            settled: account.total(),
            targets: [("shop/staging".to_owned(), account)].into(),
            ..EpochReport::default()
        };
        let said = Said {
            epochs: vec![epoch],
            ..Said::default()
        };
        Part {
            said,
            ..Part::new(name, task, "127.0.0.1:1")
        }
    }

    fn parts() -> Vec<Part> {
        let ends = [
            (Disposition::Replayed(204), 1200),
            (Disposition::Replayed(503), 7),
            (Disposition::Filtered, 90),
            (Disposition::Dropped(DropReason::Expired), 3),
        ];
        let mut killed = part("replayer-1", Task::Send, &ends[..1]);
        killed.fate = Some("killed".to_owned());
        vec![
            part("listener-1", Task::Capture, &ends),
            part("listener-2", Task::Capture, &ends),
            killed,
        ]
    }

    #[test]
    fn every_end_has_its_row_and_both_books_are_in_it() {
        let mut seen = Seen {
            answered: 2600,
            ..Seen::default()
        };
        seen.classes[2] = 2599;
        let parts = parts();
        let targets = ["shop/staging", "shop/v2"];
        let board = Board {
            phase: "5 s of 20 s".into(),
            rate: 199.6,
            seen: &seen,
            parts: &parts,
            targets: &targets,
        };
        let lines = board.lines();
        let found = |label: &str| {
            let line = lines
                .iter()
                .find(|line| line.text.trim_start().starts_with(label));
            line.unwrap_or_else(|| panic!("no {label} in {lines:#?}"))
                .clone()
        };
        let words = |label: &str| {
            let text = found(label).text;
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<String>>()
        };
        assert_eq!(
            lines[0].text,
            "5 s of 20 s      captured 2,600   200/s   in flight 0"
        );
        assert_eq!(words("replayed"), ["replayed", "2,600", "2,414", "0"]);
        assert_eq!(words("2xx"), ["2xx", "2,599", "2,400", "0"]);
        assert_eq!(words("5xx"), ["5xx", "0", "14", "0"]);
        assert_eq!(words("filtered"), ["filtered", "180", "0"]);
        assert_eq!(words("expired"), ["expired", "6", "0"]);
        assert_eq!(found("dropped").tone, Tone::Warning);
        assert_eq!(found("unknown").tone, Tone::Faint);
        assert!(found("sent by").text.contains("replayer-1 1,200 (killed)"));
        assert!(
            lines.iter().all(|line| line.text.chars().count() <= 80),
            "{lines:#?}"
        );
        assert!(lines.len() < 24);
        let summary = board.summary();
        assert!(
            summary.contains("shop/staging: replayed 2,414 (2xx 2,400, 5xx 14), filtered 180"),
            "{summary}"
        );
        assert!(!summary.contains('\n'));
    }
}
