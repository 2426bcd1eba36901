//! What was sent to production against what arrived at staging.

use std::collections::HashMap;
use std::time::Duration;

use reprise_integration_tests::Staging;
use reprise_integration_tests::load::Sent;
use reprise_integration_tests::staging::Received;
use reprise_traffic::MARKER;
use reprise_traffic::ledger::Account;

/// Header fields that replay sets itself: the target's host, its own mark, and how the body is framed.
const SET_BY_REPLAY: [&str; 4] = ["host", MARKER, "content-length", "transfer-encoding"];

/// All that was sent arrived, once each, with the bytes that it had.
pub(crate) fn assert_faithful(sent: &[Sent], staging: &Staging) {
    let received = staging.received();
    assert_eq!(received.len(), sent.len(), "requests at staging");
    let by_id = by_id(&received);
    for sent in sent {
        let copies = by_id.get(&sent.id).map_or(&[][..], Vec::as_slice);
        assert_eq!(copies.len(), 1, "copies of {}", sent.id);
        let copy = copies[0];
        assert_eq!(lines_kept(&copy.head), lines_kept(&sent.head));
        assert_eq!(copy.body_sha256, sent.body_sha256, "body of {}", sent.id);
        assert_eq!(copy.header(MARKER).len(), 1, "marks of {}", sent.id);
        let host = staging.address().to_string();
        assert_eq!(copy.header("host"), [host], "host of {}", sent.id);
    }
}

/// What replay leaves alone: request line and header lines, byte for byte and in their order.
fn lines_kept(head: &[u8]) -> Vec<String> {
    let head = String::from_utf8(head.to_vec()).unwrap();
    let lines = head.split("\r\n").map(str::to_owned);
    let kept = |line: &String| {
        let name = line.split(':').next().unwrap();
        !SET_BY_REPLAY
            .iter()
            .any(|set| set.eq_ignore_ascii_case(name))
    };
    lines.filter(kept).collect()
}

/// No request arrived twice.
pub(crate) fn assert_none_twice(staging: &Staging) {
    let twice: Vec<u64> = staging
        .ids()
        .into_iter()
        .filter_map(|(id, times)| (times > 1).then_some(id))
        .collect();
    assert!(twice.is_empty(), "arrived more than once: {twice:?}");
}

/// The ledger says no more and no less than what staging saw: each exchange that it calls replayed arrived, and of
/// the others no more than those that may have.
pub(crate) fn assert_agrees(account: &Account, sent: &[Sent], staging: &Staging) {
    assert_eq!(account.total(), sent.len() as u64, "{account:?}");
    let arrived = staging.ids().len() as u64;
    let replayed = account.replayed_total();
    let perhaps = account.unknown + account.failed_total();
    assert!(
        (replayed..=replayed + perhaps).contains(&arrived),
        "{arrived} arrived, the ledger says {account:?}"
    );
}

/// The longest that a request took from its client to staging, of those that arrived; of repeats, the first.
pub(crate) fn lateness(sent: &[Sent], staging: &Staging) -> Duration {
    let received = staging.received();
    let by_id = by_id(&received);
    let late = sent.iter().filter_map(|sent| {
        let first = by_id.get(&sent.id)?.iter().map(|copy| copy.at).min()?;
        Some(first.saturating_duration_since(sent.at))
    });
    late.max().expect("something arrived")
}

fn by_id(received: &[Received]) -> HashMap<u64, Vec<&Received>> {
    let mut by_id: HashMap<u64, Vec<&Received>> = HashMap::new();
    for copy in received {
        by_id
            .entry(copy.id().expect("an id"))
            .or_default()
            .push(copy);
    }
    by_id
}
