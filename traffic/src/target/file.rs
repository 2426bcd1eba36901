//! Targets in a file, and the words for what is wrong with a document.
//!
//! What enters: YAML, of which JSON is a part. What leaves: checked targets. What may be lost: nothing; a mistake is
//! told in one line, with the key and the place.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Target, TargetDocument, TargetError, TargetName};

/// The targets of a file: `targets:` with a document for each `TEAM/NAME`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetsFile {
    /// By `TEAM/NAME`.
    pub targets: BTreeMap<String, TargetDocument>,
}

impl TargetsFile {
    /// Reads and checks a whole file; one bad document refuses it all, so that a typing error changes nothing.
    ///
    /// # Errors
    /// One line with the place in the text, or the name of the target that is wrong.
    pub fn parse(file: &str, text: &str, revision: u64) -> Result<Vec<Target>, TargetError> {
        let parsed: TargetsFile = parse_yaml(text).map_err(|reason| TargetError {
            place: format!("file {file}"),
            reason,
        })?;
        let checked = parsed
            .targets
            .into_iter()
            .map(|(name, document)| Target::new(TargetName::new(&name)?, revision, document));
        let checked: Result<Vec<Target>, TargetError> = checked.collect();
        checked.map_err(|error| TargetError {
            place: format!("file {file}, {}", error.place),
            ..error
        })
    }
}

pub(super) fn parse_yaml<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| {
        let at = error.location().map(|at| (at.line(), at.column()));
        let message = error.without_snippet().to_string();
        let mut what = message
            .lines()
            .next()
            .unwrap_or("not a document")
            .trim()
            .to_owned();
        if let Some((line, column)) = at {
            let place = format!("line {line}, column {column}");
            // Some of its messages say where, others don't; none says which key.
            if !what.contains(&place) {
                what = format!("{place}: {what}");
            }
            let entry = entry_at(text, line as usize, column as usize);
            if let Some(entry) = entry.filter(|entry| !what.contains(entry)) {
                what = format!("{what}: {entry}");
            }
        }
        what
    })
}

/// The `key: value` that stands there, as far as one line shows it.
fn entry_at(text: &str, line: usize, column: usize) -> Option<&str> {
    let line = text.lines().nth(line.checked_sub(1)?)?;
    let (at, _) = line.char_indices().nth(column.checked_sub(1)?)?;
    let start = line[..at].rfind(['{', ',', '[']).map_or(0, |at| at + 1);
    let end = line[at..]
        .find([',', '}', ']'])
        .map_or(line.len(), |end| at + end);
    let entry = line[start..end].trim();
    (entry.len() <= 100 && entry.contains(':')).then_some(entry)
}
