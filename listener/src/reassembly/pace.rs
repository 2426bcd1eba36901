//! How many requests lie in a hole.
//!
//! What enters: where a connection's requests end, where bytes went missing, where a request begins again. What leaves: the
//! number of requests in between, as far as it can be told, at the capture's edge. What may be lost: nothing more.
//!
//! Nobody can know what was in bytes that never came. As many requests are counted as there is room for by the size of
//! those before them on the connection, or of the one that the hole began in; exact where requests are of one size. Where
//! neither is known, the bytes count as one.

use crate::edge::{Edge, EdgeEvent};
use crate::http::RequestParser;

/// How long this connection's requests are.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Where the parser began.
    from: u64,
    /// Behind the last whole request.
    until: u64,
    /// Bytes of a request on average; 0 when not known.
    mean: u32,
    /// One of those behind `until` is counted already.
    counted: bool,
}

impl Pace {
    /// The parser loses its way at `next`; it counts one request for that.
    pub(super) fn leave(&mut self, parser: &RequestParser, next: u64) {
        self.until = next.saturating_sub(parser.under_way()).max(self.from);
        if let Some(mean) = (self.until - self.from).checked_div(u64::from(parser.whole())) {
            self.mean = u32::try_from(mean).unwrap_or(u32::MAX);
        }
        self.counted = true;
        if let Some(left) = parser.known_left() {
            if self.mean == 0 {
                let length = parser.under_way().saturating_add(left);
                self.mean = u32::try_from(length).unwrap_or(u32::MAX);
            }
            // The one that is counted ends there.
            self.until = next.saturating_add(left);
            self.counted = false;
        }
    }

    /// A parser begins at `place`, or none does any more. Counts what lies before it and wasn't seen.
    pub(super) fn rejoin(&mut self, place: u64, edge: &Edge) {
        let mean = u64::from(self.mean);
        if self.until > 0 && mean > 0 {
            let bytes = place.saturating_sub(self.until);
            let requests = (bytes + mean / 2) / mean;
            edge.count(
                EdgeEvent::IncompleteGap,
                requests.saturating_sub(u64::from(self.counted)),
            );
        }
        self.from = place;
        self.until = place;
        self.counted = false;
    }
}
