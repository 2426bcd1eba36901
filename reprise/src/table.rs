//! Ledgers as a person reads them.
//!
//! What enters: reports. What leaves: text. What may be lost: nothing; what has no column of its own stands in the
//! lines below the table.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use reprise_traffic::ledger::{Account, EpochReport, LedgerReport};
use reprise_traffic::outcome::{TAKEN, status_name};

const HEADER: [&str; 9] = [
    "target",
    "captured",
    "replayed",
    "failed",
    "unknown",
    "filtered",
    "sampled out",
    "dropped",
    "in flight",
];

/// The ledgers of several nodes.
pub(crate) fn ledgers(reports: &[LedgerReport]) -> String {
    let mut text = String::new();
    for report in reports {
        for epoch in &report.epochs {
            line(
                &mut text,
                &format!(
                    "{} {} (listener {})",
                    report.role, report.node, epoch.listener
                ),
            );
            text.push_str(&match report.role.as_str() {
                "relay" | "replayer" => accounts(epoch),
                _ => epoch_table(epoch),
            });
        }
        if report.epochs.is_empty() {
            line(
                &mut text,
                &format!("{} {}: nothing yet", report.role, report.node),
            );
        }
    }
    text
}

/// What a stopping listener says.
pub(crate) fn closing(epoch: &EpochReport) -> String {
    let mut text = format!(
        "flushed: {} of {} captured exchanges are settled\n",
        epoch.settled, epoch.captured
    );
    text.push_str(&epoch_table(epoch));
    text
}

/// One listener's books, with the line that says whether they balance.
pub(crate) fn epoch_table(epoch: &EpochReport) -> String {
    let mut text = accounts(epoch);
    let edge: Vec<String> = epoch
        .edge
        .iter()
        .map(|(event, n)| format!("{event} {n}"))
        .collect();
    if !edge.is_empty() {
        line(
            &mut text,
            &format!("at the capture's edge: {}", edge.join(", ")),
        );
    }
    line(&mut text, &verdict(epoch));
    text
}

/// The line that says whether the books balance.
pub(crate) fn verdict(epoch: &EpochReport) -> String {
    match (epoch.residue(), epoch.in_flight) {
        (0, 0) => format!(
            "The ledger balances: {} captured, each accounted for, nothing in flight.",
            epoch.captured
        ),
        (0, in_flight) => format!(
            "The ledger balances so far: {} captured, {in_flight} in flight.",
            epoch.captured
        ),
        (residue, _) => format!(
            "The ledger does NOT balance: {residue} of {} captured are unaccounted for.",
            epoch.captured
        ),
    }
}

fn accounts(epoch: &EpochReport) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(HEADER);
    for (target, account) in &epoch.targets {
        table.add_row([
            target.clone(),
            epoch.captured.to_string(),
            account.replayed_total().to_string(),
            account.failed_total().to_string(),
            account.unknown.to_string(),
            account.filtered.to_string(),
            account.sampled_out.to_string(),
            account.dropped_total().to_string(),
            epoch.in_flight.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = String::new();
    line(&mut text, &table.to_string());
    for (target, account) in &epoch.targets {
        let details = details(account);
        if !details.is_empty() {
            line(&mut text, &format!("{target}: {}", details.join(", ")));
        }
    }
    text
}

fn details(account: &Account) -> Vec<String> {
    let statuses = account.replayed.iter().map(|(status, n)| match *status {
        TAKEN => format!("{}: {n}", status_name(TAKEN)),
        status => format!("status {status}: {n}"),
    });
    let faults = account
        .failed
        .iter()
        .map(|(fault, n)| format!("failed by {fault}: {n}"));
    let reasons = account
        .dropped
        .iter()
        .map(|(reason, n)| format!("dropped as {reason}: {n}"));
    statuses.chain(faults).chain(reasons).collect()
}

fn line(text: &mut String, content: &str) {
    // Writing to a string can't fail.
    let _ = writeln!(text, "{content}");
}

#[cfg(test)]
mod tests {
    use reprise_traffic::{Disposition, DropReason};

    use super::*;

    #[test]
    fn a_residue_is_said_in_plain_words() {
        let mut account = Account::default();
        account.add(Disposition::Replayed(200), 3);
        account.add(Disposition::Dropped(DropReason::Expired), 1);
        let mut recorded = Account::default();
        recorded.add(Disposition::Replayed(TAKEN), 4);
        let mut epoch = EpochReport {
            captured: 4,
            settled: 4,
            targets: [("t/a".to_owned(), account), ("t/b".to_owned(), recorded)].into(),
            ..EpochReport::default()
        };
        let text = closing(&epoch);
        assert!(text.contains("The ledger balances: 4 captured"), "{text}");
        assert!(
            text.contains("t/a: status 200: 3, dropped as expired: 1"),
            "{text}"
        );
        assert!(text.contains("\nt/b: taken: 4\n"), "{text}");
        epoch.captured = 5;
        assert!(closing(&epoch).contains("NOT balance: 1 of 5"));
    }
}
