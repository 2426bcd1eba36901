//! The ledger: what became of every exchange, for each listener epoch and target.
//!
//! What enters: captures, drops at the listener, and how each exchange ended for each target.
//! What leaves: [`EpochReport`], whose residue is zero when the books balance:
//!
//! ```text
//! captured = replayed + failed + unknown + filtered + sampled_out + Σ dropped{reason} + in flight
//! ```
//!
//! What may be lost: nothing. `captured` is counted where requests are completed and `in flight` where they
//! wait, independently of the dispositions, so that a forgotten exchange shows as a residue.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::HashMap;
use serde::{Deserialize, Serialize};

use crate::exchange::Epoch;
use crate::outcome::{Disposition, DropReason};
use crate::target::TargetName;

/// How a target's exchanges ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Sent and answered, by HTTP status; [`TAKEN`](crate::outcome::TAKEN) where nobody answers.
    pub replayed: BTreeMap<u16, u64>,
    /// Failed, by whose fault it was.
    pub failed: BTreeMap<String, u64>,
    /// May or may not have reached the target.
    pub unknown: u64,
    /// Not wanted by the target's rules.
    pub filtered: u64,
    /// Not in the target's share of sessions.
    pub sampled_out: u64,
    /// Given up, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl Account {
    /// Counts `n` exchanges that ended so.
    pub fn add(&mut self, disposition: Disposition, n: u64) {
        match disposition {
            Disposition::Replayed(status) => *self.replayed.entry(status).or_default() += n,
            Disposition::Failed(fault) => count(&mut self.failed, fault.as_str(), n),
            Disposition::Unknown => self.unknown += n,
            Disposition::Filtered => self.filtered += n,
            Disposition::SampledOut => self.sampled_out += n,
            Disposition::Dropped(reason) => count(&mut self.dropped, reason.as_str(), n),
        }
    }

    /// Adds another account's figures to this one.
    pub fn merge(&mut self, other: &Account) {
        for (status, n) in &other.replayed {
            *self.replayed.entry(*status).or_default() += n;
        }
        for (fault, n) in &other.failed {
            count(&mut self.failed, fault, *n);
        }
        for (reason, n) in &other.dropped {
            count(&mut self.dropped, reason, *n);
        }
        self.unknown += other.unknown;
        self.filtered += other.filtered;
        self.sampled_out += other.sampled_out;
    }

    /// Exchanges that were sent and answered, whatever the status.
    pub fn replayed_total(&self) -> u64 {
        self.replayed.values().sum()
    }

    /// Exchanges that failed, whoever's fault.
    pub fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Exchanges given up, for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// All exchanges that ended.
    pub fn total(&self) -> u64 {
        self.replayed_total()
            + self.failed_total()
            + self.dropped_total()
            + self.unknown
            + self.filtered
            + self.sampled_out
    }
}

// `entry` would allocate the key each time.
fn count(counts: &mut BTreeMap<String, u64>, key: &str, n: u64) {
    match counts.get_mut(key) {
        Some(count) => *count += n,
        None => {
            counts.insert(key.to_owned(), n);
        }
    }
}

/// A listener's books for its own epoch.
#[derive(Debug)]
pub struct Books {
    epoch: Arc<Epoch>,
    captured: u64,
    settled: u64,
    /// Dropped at the listener, before any target was asked.
    dropped: BTreeMap<String, u64>,
    targets: BTreeMap<TargetName, Account>,
}

impl Books {
    /// Empty books.
    pub fn new(epoch: Arc<Epoch>) -> Books {
        Books {
            epoch,
            captured: 0,
            settled: 0,
            dropped: BTreeMap::new(),
            targets: BTreeMap::new(),
        }
    }

    /// A request was completed at the capture.
    pub fn captured(&mut self) {
        self.captured += 1;
    }

    /// `n` of the captured requests were given up before they were sent to any relay.
    pub fn dropped(&mut self, reason: DropReason, n: u64) {
        count(&mut self.dropped, reason.as_str(), n);
    }

    /// One exchange ended, with its outcome for each target that existed when it was routed.
    pub fn settle(&mut self, outcomes: &[(TargetName, Disposition)]) {
        for (name, disposition) in outcomes {
            if let Some(account) = self.targets.get_mut(name) {
                account.add(*disposition, 1);
                continue;
            }
            let mut account = Account::default();
            if self.settled > 0 {
                account.add(Disposition::Dropped(DropReason::NotATarget), self.settled);
            }
            account.add(*disposition, 1);
            self.targets.insert(name.clone(), account);
        }
        self.settled += 1;
        if outcomes.len() < self.targets.len() {
            for (name, account) in &mut self.targets {
                if !outcomes.iter().any(|(n, _)| n == name) {
                    account.add(Disposition::Dropped(DropReason::NotATarget), 1);
                }
            }
        }
    }

    /// `n` exchanges ended in the same way for every target known so far.
    pub fn settle_all(&mut self, disposition: Disposition, n: u64) {
        self.settled += n;
        for account in self.targets.values_mut().filter(|_| n > 0) {
            account.add(disposition, n);
        }
    }

    /// The books as they stand, with what waits in the listener's window.
    pub fn report(&self, in_flight: u64) -> EpochReport {
        let targets = self.targets.iter().map(|(name, account)| {
            let mut account = account.clone();
            for (reason, n) in &self.dropped {
                count(&mut account.dropped, reason, *n);
            }
            (name.to_string(), account)
        });
        EpochReport {
            listener: self.epoch.listener().to_owned(),
            started_ns: self.epoch.started_ns(),
            captured: self.captured,
            in_flight,
            settled: self.settled,
            dropped: self.dropped.clone(),
            targets: targets.collect(),
            edge: BTreeMap::new(),
        }
    }
}

/// The books of one listener epoch, as `/ledger` and `reprise ledger` show them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochReport {
    /// The listener's member name.
    pub listener: String,
    /// Start of its life, unix nanoseconds.
    pub started_ns: u64,
    /// Requests completed at the capture.
    pub captured: u64,
    /// Captured, and their end not known yet.
    pub in_flight: u64,
    /// Ended for all targets.
    pub settled: u64,
    /// Dropped at the listener before any target was asked; contained in every target's `dropped`.
    pub dropped: BTreeMap<String, u64>,
    /// By `TEAM/NAME`.
    pub targets: BTreeMap<String, Account>,
    /// What the capture's edge saw besides: kernel drops, incomplete messages, marked requests.
    pub edge: BTreeMap<String, u64>,
}

impl EpochReport {
    /// By how much the books are off, for the target where they are off most; 0 when they balance.
    pub fn residue(&self) -> i64 {
        let off = |accounted: u64| self.captured as i64 - self.in_flight as i64 - accounted as i64;
        let own = off(self.settled + self.dropped.values().sum::<u64>());
        self.targets
            .values()
            .map(|account| off(account.total()))
            .chain([own])
            .max_by_key(|residue| residue.abs())
            .unwrap_or(own)
    }

    /// True when nothing is in flight and nothing is unaccounted for.
    pub fn balances_at_rest(&self) -> bool {
        self.in_flight == 0 && self.residue() == 0
    }
}

/// What passed through a relay or a replayer, by listener epoch and target.
#[derive(Debug, Default)]
pub struct Tally {
    accounts: HashMap<Arc<Epoch>, HashMap<TargetName, Account>>,
}

impl Tally {
    /// Counts one exchange that ended here.
    pub fn add(&mut self, epoch: &Arc<Epoch>, target: &TargetName, disposition: Disposition) {
        if !self.accounts.contains_key(epoch) {
            self.accounts.insert(epoch.clone(), HashMap::default());
        }
        let Some(targets) = self.accounts.get_mut(epoch) else {
            return;
        };
        match targets.get_mut(target) {
            Some(account) => account.add(disposition, 1),
            None => targets
                .entry(target.clone())
                .or_default()
                .add(disposition, 1),
        }
    }

    /// All that passed, one report an epoch. `captured` is what a listener knows alone, and 0 here.
    pub fn reports(&self) -> Vec<EpochReport> {
        let mut reports: Vec<EpochReport> = self
            .accounts
            .iter()
            .map(|(epoch, targets)| EpochReport {
                listener: epoch.listener().to_owned(),
                started_ns: epoch.started_ns(),
                targets: targets
                    .iter()
                    .map(|(name, a)| (name.to_string(), a.clone()))
                    .collect(),
                ..EpochReport::default()
            })
            .collect();
        reports.sort_by(|a, b| (&a.listener, a.started_ns).cmp(&(&b.listener, b.started_ns)));
        reports
    }
}

/// What a node answers at `/ledger`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerReport {
    /// Member name.
    pub node: String,
    /// `listener`, `relay` or `replayer`.
    pub role: String,
    /// A listener reports its own epoch in full; relays and replayers report what passed through them.
    pub epochs: Vec<EpochReport>,
}

impl LedgerReport {
    /// Deliveries that ended, of all epochs and targets.
    pub fn ended(&self) -> u64 {
        let accounts = self.epochs.iter().flat_map(|epoch| epoch.targets.values());
        accounts.map(Account::total).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outcome::Fault;

    fn name(text: &str) -> TargetName {
        TargetName::new(text).unwrap()
    }

    fn books() -> Books {
        Books::new(Arc::new(Epoch::new("l", 1)))
    }

    #[test]
    fn a_forgotten_exchange_shows() {
        let mut books = books();
        for _ in 0..3 {
            books.captured();
        }
        books.settle(&[(name("a/b"), Disposition::Replayed(200))]);
        books.dropped(DropReason::ListenerFull, 1);
        assert_eq!(books.report(1).residue(), 0);
        assert!(!books.report(1).balances_at_rest());
        assert_eq!(books.report(0).residue(), 1);
    }

    #[test]
    fn a_target_that_comes_and_goes_balances() {
        let mut books = books();
        let (a, b) = (name("t/a"), name("t/b"));
        let ok = Disposition::Replayed(200);
        for outcomes in [
            vec![],
            vec![(a.clone(), ok)],
            vec![(a.clone(), Disposition::Unknown), (b.clone(), ok)],
            vec![(b, Disposition::Failed(Fault::Target))],
        ] {
            books.captured();
            books.settle(&outcomes);
        }
        let report = books.report(0);
        assert_eq!(report.residue(), 0);
        assert_eq!(report.targets["t/a"].dropped["not_a_target"], 2);
        assert_eq!(report.targets["t/b"].dropped["not_a_target"], 2);
    }

    proptest! {
        #[test]
        fn merging_adds_up(ends in prop::collection::vec((0_u8..6, 1_u64..9), 0..20)) {
            let (mut whole, mut parts) = (Account::default(), Account::default());
            for (kind, n) in ends {
                let disposition = match kind {
                    0 => Disposition::Replayed(200),
                    1 => Disposition::Failed(Fault::Ours),
                    2 => Disposition::Unknown,
                    3 => Disposition::Filtered,
                    4 => Disposition::SampledOut,
                    _ => Disposition::Dropped(DropReason::Expired),
                };
                whole.add(disposition, n);
                let mut part = Account::default();
                part.add(disposition, n);
                parts.merge(&part);
            }
            prop_assert_eq!(whole.total(), parts.total());
            prop_assert_eq!(whole, parts);
        }
    }
}
