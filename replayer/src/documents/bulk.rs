//! A batch of documents as one request, and what its answer says of each. Pure.
//!
//! What enters: documents with their ids; the status and body of an answer. What leaves: the lines of a bulk request; which
//! documents have to be sent again, and how many were taken or refused. What may be lost: nothing.
//!
//! The id of a document is ours. What is sent again because nobody knows whether it came replaces itself, so that it is
//! there once.

use serde::Deserialize;

use super::document::Document;

/// A document and its number.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) document: Document,
}

impl Entry {
    /// What it takes while it waits, and on the wire.
    pub(super) fn size(&self) -> usize {
        self.document.0.len() + OVERHEAD
    }
}

/// The line before a document, and its bookkeeping here.
pub(super) const OVERHEAD: usize = 128;

/// The body of a bulk request: for each document a line that says what to do with it, and one that is it.
pub(super) fn lines(life: &str, entries: &[Entry]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(entries.iter().map(Entry::size).sum());
    for entry in entries {
        let action = format!("{{\"index\":{{\"_id\":\"{life}-{:x}\"}}}}\n", entry.number);
        lines.extend_from_slice(action.as_bytes());
        lines.extend_from_slice(&entry.document.0);
        lines.push(b'\n');
    }
    lines
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// To be sent again, in their order.
    pub(super) again: Vec<Entry>,
    pub(super) indexed: usize,
    pub(super) refused: usize,
    /// Why the first was refused, or has to be sent again.
    pub(super) reason: Option<String>,
    /// True where half of it might pass.
    pub(super) too_large: bool,
}

/// What the answer to a bulk request says. Documents are refused for good where the server can't make sense of them; a
/// full queue, a missing right or a missing index may be mended.
pub(super) fn outcome(status: u16, body: &[u8], entries: Vec<Entry>) -> Outcome {
    let again = |entries, reason| Outcome {
        again: entries,
        reason: Some(reason),
        ..Outcome::default()
    };
    match status {
        200..=299 => {}
        413 if entries.len() > 1 => {
            let too_large = again(entries, "too large for the server".to_owned());
            return Outcome {
                too_large: true,
                ..too_large
            };
        }
        400 | 413 => {
            return Outcome {
                refused: entries.len(),
                reason: Some(reason(status, body)),
                ..Outcome::default()
            };
        }
        _ => return again(entries, reason(status, body)),
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        return again(
            entries,
            "an answer that is none to a bulk request".to_owned(),
        );
    };
    if answer.items.len() != entries.len() {
        return again(
            entries,
            "an answer to another number of documents".to_owned(),
        );
    }
    let mut outcome = Outcome::default();
    for (entry, item) in entries.into_iter().zip(answer.items) {
        let Item { status, error } = item.index;
        if let Some(error) = error.filter(|_| outcome.reason.is_none()) {
            outcome.reason = Some(shortened(&format!("{status}: {error}")));
        }
        match status {
            200..=299 => outcome.indexed += 1,
            401 | 403 | 404 | 429 | 500.. => outcome.again.push(entry),
            _ => outcome.refused += 1,
        }
    }
    outcome
}

/// What a server says, in one line.
pub(super) fn reason(status: u16, body: &[u8]) -> String {
    let error = serde_json::from_slice::<Error>(body).map(|body| body.error.to_string());
    match error {
        Ok(error) => shortened(&format!("{status}: {error}")),
        Err(_) => format!("status {status}"),
    }
}

/// Servers quote what they don't understand, at length.
fn shortened(text: &str) -> String {
    const MOST: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

#[derive(Deserialize)]
struct Answer {
    items: Vec<Action>,
}

#[derive(Deserialize)]
struct Action {
    index: Item,
}

#[derive(Deserialize)]
struct Item {
    status: u16,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Error {
    error: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(count: u64) -> Vec<Entry> {
        let entry = |number| Entry {
            number,
            document: Document(b"{}".to_vec()),
        };
        (0..count).map(entry).collect()
    }

    fn summary(outcome: &Outcome) -> (Vec<u64>, usize, usize) {
        let again = outcome.again.iter().map(|entry| entry.number).collect();
        (again, outcome.indexed, outcome.refused)
    }

    #[test]
    fn a_batch_is_two_lines_a_document() {
        let lines = String::from_utf8(lines("ab", &entries(17))).unwrap();
        assert_eq!(lines.lines().count(), 34);
        assert!(lines.starts_with("{\"index\":{\"_id\":\"ab-0\"}}\n{}\n"));
        assert!(lines.ends_with("{\"index\":{\"_id\":\"ab-10\"}}\n{}\n"));
    }

    #[test]
    fn each_document_has_its_own_end() {
        let body = br#"{"errors":true,"items":[{"index":{"status":201}},
            {"index":{"status":429,"error":{"type":"full"}}},
            {"index":{"status":400,"error":{"type":"mapper"}}},
            {"index":{"status":200}}, {"index":{"status":503}}]}"#;
        let outcome = outcome(200, body, entries(5));
        assert_eq!(summary(&outcome), (vec![1, 4], 2, 1));
        assert_eq!(outcome.reason.as_deref(), Some(r#"429: {"type":"full"}"#));
    }

    #[test]
    fn what_may_be_mended_is_sent_again() {
        for status in [401, 403, 404, 429, 500, 502, 503, 504, 302] {
            let outcome = outcome(status, b"", entries(2));
            assert_eq!(summary(&outcome), (vec![0, 1], 0, 0), "{status}");
        }
        for body in [&b""[..], b"{}", br#"{"items":[]}"#] {
            let outcome = outcome(200, body, entries(2));
            assert_eq!(summary(&outcome), (vec![0, 1], 0, 0));
        }
        let refused = outcome(400, br#"{"error":{"reason":"no\n such"}}"#, entries(2));
        assert_eq!(summary(&refused), (vec![], 0, 2));
        assert_eq!(refused.reason.unwrap(), r#"400: {"reason":"no\n such"}"#);
        let halves = outcome(413, b"", entries(2));
        assert!(halves.too_large && halves.again.len() == 2);
        assert_eq!(summary(&outcome(413, b"", entries(1))), (vec![], 0, 1));
    }

    #[test]
    fn reasons_are_short() {
        let body = format!(r#"{{"error":"{}"}}"#, "ä".repeat(1000));
        assert!(reason(500, body.as_bytes()).chars().count() < 310);
    }
}
