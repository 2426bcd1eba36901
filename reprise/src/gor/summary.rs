//! What a run says at its end.
//!
//! What enters: the closed books. What leaves: a table, or a line of JSON, on standard error: standard output may be an output.
//! What may be lost: nothing.

use std::io::Write as _;

use reprise_listener::Ended;

use crate::table;

/// Prints it.
pub(super) fn print(ended: &Ended, as_json: bool) {
    let text = match as_json {
        true => {
            let mut line = serde_json::to_string(&ended.books).unwrap_or_default();
            line.push('\n');
            line
        }
        false => table::closing(&ended.books),
    };
    // Whoever reads may be gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
