//! Interface names with `*` and `?`.
//!
//! What enters: a pattern as written, and names. What leaves: whether they match. What may be lost: nothing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

/// Longer patterns than names make no sense, but `*` may stand for nothing.
const LONGEST: usize = 64;

/// An interface's name, in which `*` stands for any characters and `?` for one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern(String);

/// Why a text is no [`NamePattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no network interface has a name like {0:?}; write one as in eth0, eth* or veth?")]
pub struct PatternError(String);

impl NamePattern {
    /// Whether an interface of that name is meant.
    pub fn matches(&self, name: &str) -> bool {
        WildMatch::new(&self.0).matches(name)
    }

    /// Whether it stands for more than one name.
    pub(super) fn is_wild(text: &str) -> bool {
        text.contains(['*', '?'])
    }
}

impl FromStr for NamePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<NamePattern, PatternError> {
        let odd = |c: char| c == '/' || c.is_whitespace() || c.is_control();
        match text.is_empty() || text.len() > LONGEST || text.contains(odd) {
            true => Err(PatternError(text.to_owned())),
            false => Ok(NamePattern(text.to_owned())),
        }
    }
}

impl TryFrom<String> for NamePattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<NamePattern, PatternError> {
        text.parse()
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> String {
        pattern.0
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_a_whole() {
        for (pattern, yes, no) in [
            ("eth*", "eth0", "veth0"),
            ("eth*", "eth", "et"),
            ("veth?", "veth1", "veth12"),
            ("*.100", "eth0.100", "eth0.1000"),
            ("lo", "lo", "lo0"),
        ] {
            let pattern: NamePattern = pattern.parse().unwrap();
            assert!(pattern.matches(yes), "{pattern} {yes}");
            assert!(!pattern.matches(no), "{pattern} {no}");
        }
    }

    #[test]
    fn what_no_interface_can_be_called_is_refused() {
        for text in ["", "a b", "a/b", "eth\n", &"x".repeat(65)] {
            let error = text.parse::<NamePattern>().unwrap_err().to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
