//! What the demo says at its end: whether the books balance, and whether they agree with what really happened.
//!
//! What enters: the closed books, what the customers saw, what reached the staging shops. What leaves: a few lines,
//! or JSON, and a verdict. What may be lost: nothing; a difference is said and makes the demo fail.

use std::collections::BTreeMap;

use reprise_traffic::ledger::{Account, EpochReport};
use serde::Serialize;

use super::arrivals::Arrivals;
use super::customers::Seen;
use super::line::{Line, Tone, grouped};
use super::look;

/// All that is known at the end.
#[derive(Debug, Serialize)]
pub(crate) struct Closing {
    /// What the customers saw.
    pub(crate) customers: Seen,
    /// Copies that the mirror endpoint didn't take.
    pub(crate) not_mirrored: u64,
    /// The books of each listener.
    pub(crate) books: Vec<EpochReport>,
    /// What reached each target.
    pub(crate) arrivals: BTreeMap<&'static str, Arrivals>,
    /// The replayer that was killed.
    pub(crate) killed: Option<String>,
    /// Parts that ended otherwise than they should when they were told to.
    pub(crate) ended_badly: Vec<String>,
    /// The ends of the parts' logs.
    #[serde(skip)]
    pub(crate) logs: String,
}

impl Closing {
    /// True when the books balance and agree with what the customers and the staging shops counted, and every part
    /// ended as it should.
    pub(crate) fn is_good(&self) -> bool {
        self.balances() && self.all_captured() && self.all_arrived() && self.ended_badly.is_empty()
    }

    /// What to say.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        if self.books.len() > 1 {
            for epoch in &self.books {
                let ends = self.ends(std::slice::from_ref(epoch));
                let text = format!(
                    "{}: {} captured{ends}",
                    epoch.listener,
                    grouped(epoch.captured)
                );
                lines.push(Line::new(Tone::Plain, text));
            }
        }
        lines.push(self.balance());
        lines.push(self.capture());
        lines.extend(self.arrivals.keys().map(|target| self.arrival(target)));
        lines.extend(self.unknown());
        if !self.ended_badly.is_empty() {
            let text = format!("Not ended as it should: {}", self.ended_badly.join(", "));
            lines.push(Line::new(Tone::Bad, text));
        }
        lines
    }

    /// The same, as JSON.
    ///
    /// # Errors
    /// Never, as all of it has a place in JSON.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        let mut value = serde_json::to_value(self)?;
        value["balances"] = self.balances().into();
        value["agrees"] = (self.all_captured() && self.all_arrived()).into();
        serde_json::to_string_pretty(&value)
    }

    fn captured(&self) -> u64 {
        self.books.iter().map(|epoch| epoch.captured).sum()
    }

    fn in_flight(&self) -> u64 {
        self.books.iter().map(|epoch| epoch.in_flight).sum()
    }

    /// By how much the books are off where they are off most. Each listener's own residue says it; a target of which
    /// a listener never heard shows in the sums.
    fn residue(&self) -> i64 {
        let own = self.books.iter().map(EpochReport::residue);
        let due = self.captured() as i64 - self.in_flight() as i64;
        let targets = self
            .arrivals
            .keys()
            .map(|target| due - self.account(target).total() as i64);
        own.chain(targets)
            .max_by_key(|residue| residue.abs())
            .unwrap_or(0)
    }

    fn balances(&self) -> bool {
        self.residue() == 0 && self.in_flight() == 0
    }

    fn account(&self, target: &str) -> Account {
        look::account(&self.books, target)
    }

    fn balance(&self) -> Line {
        let captured = grouped(self.captured());
        if self.balances() {
            let text = format!(
                "The ledger balances: {captured} captured{}",
                self.ends(&self.books)
            );
            return Line::new(Tone::Good, text);
        }
        let (residue, in_flight) = (self.residue(), grouped(self.in_flight()));
        let text = format!(
            "The ledger does NOT balance: residue {residue}, in flight {in_flight}, of {captured} captured{}",
            self.ends(&self.books)
        );
        Line::new(Tone::Bad, text)
    }

    /// ` = 868 replayed + 141 filtered (shop/staging) = …`.
    fn ends(&self, books: &[EpochReport]) -> String {
        let of = |target: &&str| format!(" = {} ({target})", sum(&look::account(books, target)));
        self.arrivals.keys().map(of).collect()
    }

    fn all_captured(&self) -> bool {
        let Seen {
            answered,
            unanswered,
            ..
        } = self.customers;
        // Without an answer nobody knows whether the shop got the request, and the capture saw it.
        (answered..=answered + unanswered).contains(&self.captured())
    }

    fn capture(&self) -> Line {
        let (sent, captured) = (
            self.customers.answered + self.customers.unanswered,
            self.captured(),
        );
        let mut text = format!(
            "Customers sent {} requests, {} were captured",
            grouped(sent),
            grouped(captured)
        );
        if self.all_captured() && sent == captured {
            return Line::new(Tone::Good, text + ": every one.");
        }
        if self.customers.unanswered > 0 {
            text += &format!("; {} got no answer", grouped(self.customers.unanswered));
        }
        if self.not_mirrored > 0 {
            text += &format!(
                "; the mirror endpoint did not take {}",
                grouped(self.not_mirrored)
            );
        }
        let quiet = ["packets", "bytes", "connections", "mirror_connections"];
        for (event, n) in self.books.iter().flat_map(|epoch| &epoch.edge) {
            if *n > 0 && !quiet.contains(&event.as_str()) {
                text += &format!("; {event} {}", grouped(*n));
            }
        }
        Line::new(
            if self.all_captured() {
                Tone::Warning
            } else {
                Tone::Bad
            },
            text + ".",
        )
    }

    fn all_arrived(&self) -> bool {
        self.arrivals
            .iter()
            .all(|(target, arrivals)| arrived(&self.account(target), arrivals))
    }

    fn arrival(&self, target: &str) -> Line {
        let (account, arrivals) = (self.account(target), self.arrivals[target]);
        let replayed = account.replayed_total();
        let mut text = format!("{target} received {} requests", grouped(arrivals.different));
        if arrivals.safe_again > 0 {
            let again = grouped(arrivals.safe_again);
            text += &format!(", {again} of them again (safe ones are sent again when in doubt)");
        }
        if arrivals.unsafe_again > 0 {
            let again = grouped(arrivals.unsafe_again);
            text += &format!(", {again} unsafe ones of them TWICE");
        }
        if arrivals.unmarked > 0 {
            text += &format!(", and {} without a mark", grouped(arrivals.unmarked));
        }
        text += &format!("; the ledger says {} replayed", grouped(replayed));
        let doubtful = account.unknown + account.failed_total();
        if doubtful > 0 {
            text += &format!(" and {} that may have arrived", grouped(doubtful));
        }
        match arrived(&account, &arrivals) {
            true if arrivals.different == replayed => Line::new(Tone::Good, text + ": the same."),
            true => Line::new(Tone::Good, text + "."),
            false => Line::new(Tone::Bad, text + ": that does NOT agree."),
        }
    }

    fn unknown(&self) -> Option<Line> {
        let unknown: u64 = self
            .arrivals
            .keys()
            .map(|target| self.account(target).unknown)
            .sum();
        let killed = self.killed.as_ref().filter(|_| unknown > 0)?;
        let text = format!(
            "{unknown} unknown: POSTs and PUTs that {killed} held when it was killed. They may have reached their \
             target, so nobody sends them again."
        );
        Some(Line::new(Tone::Warning, text))
    }
}

/// Staging got what the ledger says it got; what ended in doubt may or may not be among it.
fn arrived(account: &Account, arrivals: &Arrivals) -> bool {
    let sure = account.replayed_total();
    let doubtful = account.unknown + account.failed_total() + account.dropped_total();
    (sure..=sure + doubtful).contains(&arrivals.different)
        && arrivals.unsafe_again == 0
        && arrivals.unmarked == 0
}

/// `868 replayed + 141 filtered`, without what is zero.
fn sum(account: &Account) -> String {
    let mut terms = vec![(account.replayed_total(), "replayed".to_owned())];
    terms.extend(
        account
            .failed
            .iter()
            .map(|(fault, n)| (*n, format!("failed by {fault}"))),
    );
    terms.push((account.unknown, "unknown".to_owned()));
    terms.push((account.filtered, "filtered".to_owned()));
    terms.push((account.sampled_out, "sampled out".to_owned()));
    terms.extend(
        account
            .dropped
            .iter()
            .map(|(reason, n)| (*n, format!("dropped as {reason}"))),
    );
    let terms = terms.iter().filter(|(n, _)| *n > 0);
    let terms: Vec<String> = terms
        .map(|(n, what)| format!("{} {what}", grouped(*n)))
        .collect();
    match terms.is_empty() {
        true => "0".to_owned(),
        false => terms.join(" + "),
    }
}

#[cfg(test)]
mod tests {
    use reprise_traffic::Disposition;

    use super::*;

    fn closing(unknown: u64) -> Closing {
        let mut account = Account::default();
        account.add(Disposition::Replayed(200), 900 - unknown);
        account.add(Disposition::Filtered, 134);
        account.add(Disposition::Unknown, unknown);
        let epoch = EpochReport {
            listener: "l".to_owned(),
            captured: 1034,
            settled: 1034,
            targets: [("shop/staging".to_owned(), account)].into(),
            edge: [
                ("kernel_dropped".to_owned(), 1),
                ("packets".to_owned(), 5000),
            ]
            .into(),
            ..EpochReport::default()
        };
        let arrivals = Arrivals {
            requests: 900,
            different: 900,
            ..Arrivals::default()
        };
        Closing {
            customers: Seen {
                answered: 1034,
                ..Seen::default()
            },
            not_mirrored: 0,
            books: vec![epoch],
            arrivals: [("shop/staging", arrivals)].into(),
            killed: None,
            ended_badly: Vec::new(),
            logs: String::new(),
        }
    }

    fn texts(closing: &Closing) -> Vec<String> {
        closing.lines().into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn books_that_balance_and_agree() {
        let closing = closing(0);
        assert!(closing.is_good());
        let expected = [
            "The ledger balances: 1,034 captured = 900 replayed + 134 filtered (shop/staging)",
            "Customers sent 1,034 requests, 1,034 were captured: every one.",
            "shop/staging received 900 requests; the ledger says 900 replayed: the same.",
        ];
        assert_eq!(texts(&closing), expected);
        let json: serde_json::Value = serde_json::from_str(&closing.json().unwrap()).unwrap();
        assert_eq!(
            (&json["balances"], &json["agrees"]),
            (&true.into(), &true.into())
        );
        assert_eq!(json["arrivals"]["shop/staging"]["different"], 900);
    }

    #[test]
    fn a_residue_is_said_and_fails() {
        let mut closing = closing(0);
        closing.books[0].captured = 1036;
        closing.customers.answered = 1036;
        assert!(!closing.is_good());
        assert!(
            texts(&closing)[0].starts_with("The ledger does NOT balance: residue 2, in flight 0")
        );
        closing.books[0].in_flight = 2;
        closing.books[0].captured = 1036;
        assert!(!closing.is_good(), "not at rest");
    }

    #[test]
    fn a_target_that_a_listener_never_heard_of_is_a_residue() {
        let mut closing = closing(0);
        closing.arrivals.insert("shop/v2", Arrivals::default());
        assert!(!closing.is_good());
        assert_eq!(closing.residue(), 1034);
    }

    #[test]
    fn what_the_capture_missed_is_explained() {
        let mut closing = closing(0);
        closing.customers.answered = 1035;
        assert!(!closing.is_good());
        assert_eq!(
            texts(&closing)[1],
            "Customers sent 1,035 requests, 1,034 were captured; kernel_dropped 1."
        );
    }

    #[test]
    fn what_is_unknown_may_have_arrived() {
        let mut closing = closing(2);
        closing.killed = Some("replayer-2".to_owned());
        assert!(closing.is_good());
        let texts = texts(&closing);
        assert!(
            texts[2].ends_with("898 replayed and 2 that may have arrived."),
            "{texts:#?}"
        );
        assert!(texts[3].starts_with("2 unknown: POSTs and PUTs that replayer-2 held"));
    }

    #[test]
    fn a_post_that_came_twice_fails() {
        let mut closing = closing(0);
        let arrivals = closing.arrivals.get_mut("shop/staging").unwrap();
        arrivals.unsafe_again = 1;
        assert!(!closing.is_good());
        assert!(texts(&closing)[2].contains("1 unsafe ones of them TWICE"));
    }
}
