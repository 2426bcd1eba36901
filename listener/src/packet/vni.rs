//! Which virtual networks are captured.
//!
//! What enters: rules as written by people, and the network identifier of a VXLAN or GENEVE packet. What leaves: yes
//! or no. What may be lost: packets of other networks, which the caller counts.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The largest network identifier; it has 24 bits (RFC 7348 §5, RFC 8926 §3.4).
const LARGEST: u32 = (1 << 24) - 1;

/// A rule for one network: `10` takes it, `!20` leaves it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum VniRule {
    /// This one, and no other that isn't named too.
    Take(u32),
    /// All but this one.
    Leave(u32),
}

/// A rule that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no network identifier: write a number up to {LARGEST}, with `!` before it to leave that network out"
)]
pub struct VniError(String);

impl FromStr for VniRule {
    type Err = VniError;

    fn from_str(text: &str) -> Result<VniRule, VniError> {
        let (rule, number): (fn(u32) -> VniRule, &str) = match text.strip_prefix('!') {
            Some(number) => (VniRule::Leave, number),
            None => (VniRule::Take, text),
        };
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        match number.parse() {
            Ok(vni) if digits && vni <= LARGEST => Ok(rule(vni)),
            _ => Err(VniError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for VniRule {
    type Error = VniError;

    fn try_from(text: String) -> Result<VniRule, VniError> {
        text.parse()
    }
}

impl From<VniRule> for String {
    fn from(rule: VniRule) -> String {
        rule.to_string()
    }
}

impl fmt::Display for VniRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VniRule::Take(vni) => write!(f, "{vni}"),
            VniRule::Leave(vni) => write!(f, "!{vni}"),
        }
    }
}

/// Which VXLAN and GENEVE networks are captured; without rules all of them. What is in no such tunnel always is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VniFilter {
    taken: BTreeSet<u32>,
    left_out: BTreeSet<u32>,
}

impl VniFilter {
    /// Whether packets of a network are captured. To leave out beats to take.
    pub fn takes(&self, vni: u32) -> bool {
        let wanted = self.taken.is_empty() || self.taken.contains(&vni);
        wanted && !self.left_out.contains(&vni)
    }
}

impl FromIterator<VniRule> for VniFilter {
    fn from_iter<I: IntoIterator<Item = VniRule>>(rules: I) -> VniFilter {
        let mut filter = VniFilter::default();
        for rule in rules {
            match rule {
                VniRule::Take(vni) => filter.taken.insert(vni),
                VniRule::Leave(vni) => filter.left_out.insert(vni),
            };
        }
        filter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(rules: &[&str]) -> VniFilter {
        rules
            .iter()
            .map(|r| r.parse::<VniRule>().unwrap())
            .collect()
    }

    #[test]
    fn rules_take_and_leave_out() {
        for (rules, taken, left_out) in [
            (&[][..], &[0, 7, LARGEST][..], &[][..]),
            (&["10", "11"], &[10, 11], &[0, 12]),
            (&["!20"], &[0, 19, 21], &[20]),
            (&["10", "20", "!20"], &[10], &[20, 30]),
        ] {
            let filter = filter(rules);
            assert!(taken.iter().all(|vni| filter.takes(*vni)), "{rules:?}");
            assert!(!left_out.iter().any(|vni| filter.takes(*vni)), "{rules:?}");
        }
    }

    #[test]
    fn a_rule_reads_as_it_is_written_and_says_what_is_wrong() {
        for text in ["0", "10", "!16777215"] {
            assert_eq!(text.parse::<VniRule>().unwrap().to_string(), text);
        }
        for text in ["", "!", "!!1", "16777216", "-1", "+1", "0x10", "ten", " 1"] {
            let error = text.parse::<VniRule>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is no network")));
            assert!(!error.contains('\n'));
        }
    }
}
