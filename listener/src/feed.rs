//! By which the process itself brings in records: of what replays were answered.
//!
//! What enters: a record's header and payload. What leaves: a message of its own in the window, at once. What may be lost:
//! records for which there is no room, since nobody here waits; counted at the edge (`replayed_dropped`).
//!
//! They find room up to three quarters of the budget, and 65,536 places of the window: the rest is for what is captured.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use reprise_traffic::exchange::{Captured, Source};
use reprise_traffic::gor::{Header, Kind};
use reprise_traffic::{Body, Head, Label};

use crate::edge::{Edge, EdgeEvent};
use crate::intake::Intake;
use crate::reading::record;

/// A way into the window.
#[derive(Clone)]
pub struct Feed {
    intake: Arc<Intake>,
    discards: bool,
    edge: Arc<Edge>,
    max_exchange: usize,
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Feed")
    }
}

impl Feed {
    pub(crate) fn new(
        intake: Arc<Intake>,
        discards: bool,
        edge: Arc<Edge>,
        max_exchange: usize,
    ) -> Feed {
        Feed {
            intake,
            discards,
            edge,
            max_exchange,
        }
    }

    /// Puts an answer's record into the window. `header` is its first line without the line end. To be called before the
    /// replay that it is about is settled, so that the listener doesn't end in between. False, and counted, where there is no
    /// room, it is too large or no answer's record, or the listener has ended.
    pub fn offer(&self, header: &[u8], payload: Body) -> bool {
        let is_taken = self
            .message(header, payload)
            .is_some_and(|message| match self.discards {
                true => {
                    self.intake.discard(message);
                    true
                }
                false => self.intake.feed(message),
            });
        match is_taken {
            true => self.intake.announce(),
            false => self.edge.count(EdgeEvent::ReplayedDropped, 1),
        }
        is_taken
    }

    fn message(&self, header: &[u8], payload: Body) -> Option<Captured> {
        if header.len() + payload.len() > self.max_exchange {
            return None;
        }
        let label = Label::new(header, 0).ok()?;
        if label.kind() == Kind::Request {
            return None;
        }
        Some(Captured {
            captured_ns: Header::parse(header).ok()?.timestamp_ns,
            client: record::client(label.id()),
            server: (record::NOBODY, 80).into(),
            source: Source::Wire,
            head: Head::opaque(),
            body: payload,
            trailers: Bytes::new(),
            answer: None,
            label: Some(Box::new(label)),
        })
    }
}

#[cfg(test)]
mod tests {
    use reprise_traffic::Epoch;

    use super::*;
    use crate::budget::Budget;
    use crate::shed::Shed;

    fn feed(limit: usize) -> (Arc<Edge>, Arc<Budget>, Feed) {
        let (edge, budget) = (Arc::new(Edge::default()), Arc::new(Budget::new(limit)));
        let shed = Arc::new(Shed::new(budget.clone()));
        let epoch = Epoch::new("l", 1);
        let intake = Intake::new(epoch, 1 << 18, budget.clone(), shed, edge.clone());
        let feed = Feed::new(Arc::new(intake), false, edge.clone(), 1 << 20);
        (edge, budget, feed)
    }

    #[test]
    fn what_is_fed_waits_in_the_window_up_to_three_quarters_of_the_budget() {
        let (edge, budget, feed) = feed(1 << 20);
        let body = || Body::from(vec![b'x'; 10_000]);
        let taken = (0..1000)
            .filter(|_| feed.offer(b"3 a 17 5", body()))
            .count();
        assert!((65..80).contains(&taken), "{taken}");
        assert!(budget.used() < (3 << 18) + 20_000);
        assert_eq!(feed.intake.used().exchanges, taken);
        let refused = edge.get(EdgeEvent::ReplayedDropped);
        assert_eq!(refused, 1000 - taken as u64);
        let report = feed.intake.report();
        assert_eq!((report.captured, report.residue()), (taken as u64, 0));
    }

    #[test]
    fn what_is_no_answer_or_too_large_or_late_is_refused() {
        let (edge, _, feed) = feed(64 << 20);
        assert!(feed.offer(b"2 a 17 5", Body::default()));
        for header in [&b"1 a 17 5"[..], b"3 a", b"", b"3 a x"] {
            assert!(!feed.offer(header, Body::default()));
        }
        assert!(!feed.offer(b"3 a 17", vec![0; 1 << 20].into()));
        feed.intake.end_feed();
        assert!(!feed.offer(b"3 a 17", Body::default()));
        assert_eq!(edge.get(EdgeEvent::ReplayedDropped), 6);
    }

    #[test]
    fn small_ones_are_bounded_by_number() {
        let (_, _, feed) = feed(usize::MAX / 2);
        let taken = (0..70_000).filter(|_| feed.offer(b"3 a 17 5", Body::default()));
        assert_eq!(taken.count(), 1 << 16);
    }
}
