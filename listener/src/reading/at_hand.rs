//! Requests of one file before they leave: put in order of time, and joined with their answers.
//!
//! What enters: requests and ends of connections as they lie in the file, and the records of answers to requests.
//! What leaves: requests and ends, the earliest first. What may be lost: answers that come behind their request by
//! more than is at hand, or that are none; the request leaves without.

use std::collections::VecDeque;
use std::sync::Arc;

use reprise_traffic::gor::Record;

use super::answer::{self, Asked};
use super::found::Found;
use crate::budget::Budget;
use crate::reassembly::Answers;

/// Requests are put in order as far as they lie apart in time, nanoseconds …
const FAR: u64 = 1_000_000_000;
/// … and in number …
const MANY: usize = 1024;
/// … and bytes, of one file.
const LARGE: usize = 8 << 20;

pub(super) struct AtHand {
    /// In order; the next at the front. Each with what its answer is known by.
    found: VecDeque<(u64, Found)>,
    /// Of those, taken out of the budget.
    bytes: usize,
    budget: Arc<Budget>,
    /// Bytes of an answer's body that are kept; `None` where answers are passed over.
    max_body: Option<usize>,
}

impl AtHand {
    pub(super) fn new(answers: Answers, budget: Arc<Budget>) -> AtHand {
        AtHand {
            found: VecDeque::new(),
            bytes: 0,
            budget,
            max_body: match answers {
                Answers::Kept { max_body } => Some(max_body),
                Answers::Unseen | Answers::Switches | Answers::Watched => None,
            },
        }
    }

    /// When the earliest was captured.
    pub(super) fn first_at(&self) -> Option<u64> {
        self.found.front().map(|(_, found)| found.at_ns())
    }

    /// Bytes of those that are here.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// True once no request can come any more that was captured before the first, or too much is here to wait for it.
    pub(super) fn is_ripe(&self) -> bool {
        let (Some((_, first)), Some((_, last))) = (self.found.front(), self.found.back()) else {
            return false;
        };
        // The answer to the latest stands behind it.
        let may_be_answered = self.max_body.is_some() && self.found.len() == 1;
        last.at_ns() - first.at_ns() >= FAR
            || self.found.len() >= MANY
            || self.bytes >= LARGE && !may_be_answered
    }

    pub(super) fn put(&mut self, id: u64, found: Found) {
        self.take(found.size());
        let at = found.at_ns();
        match self.found.back() {
            // Behind those of the same time, so that the order of the file decides.
            Some((_, last)) if last.at_ns() > at => {
                let place = self.found.partition_point(|(_, other)| other.at_ns() <= at);
                self.found.insert(place, (id, found));
            }
            _ => self.found.push_back((id, found)),
        }
    }

    pub(super) fn pop(&mut self) -> Option<Found> {
        let (_, found) = self.found.pop_front()?;
        let size = found.size();
        self.bytes -= size;
        self.budget.give(size);
        Some(found)
    }

    /// Gives an answer to its request, if that is here and answers are wanted. Replayers count requests that came without.
    pub(super) fn join(&mut self, record: &Record<'_>) {
        let Some(max_body) = self.max_body else {
            return;
        };
        let at_hand = self.found.iter_mut().filter_map(|(id, found)| match found {
            Found::Request(request) => Some(Asked {
                id: *id,
                method: request.head.method(),
                answer: &mut request.answer,
            }),
            Found::Closed(_) => None,
        });
        if let Ok(bytes) = answer::join(record, max_body, at_hand) {
            self.take(bytes);
        }
    }

    fn take(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.budget.take(bytes);
    }
}

#[cfg(test)]
mod tests {
    use reprise_traffic::gor::Kind;

    use super::*;
    use crate::reading::record;

    const MS: u64 = 1_000_000;

    fn record<'a>(kind: Kind, id: &'a str, at_ns: u64, payload: &'a str) -> Record<'a> {
        Record {
            kind,
            id: id.as_bytes(),
            timestamp_ns: at_ns,
            latency_ns: None,
            header: b"",
            payload: payload.as_bytes(),
            line: 1,
        }
    }

    fn put(at_hand: &mut AtHand, id: &str, at_ns: u64, request: &str) {
        let record = record(Kind::Request, id, at_ns, request);
        let found = record::request(&record, 64 << 20).request.unwrap();
        let request = record::captured(&record, found);
        at_hand.put(answer::id(&record), Found::Request(request));
    }

    fn join(at_hand: &mut AtHand, id: &str, status: u16) {
        let answer = format!("HTTP/1.1 {status} OK\r\nContent-Length: 3\r\n\r\nabc");
        at_hand.join(&record(Kind::Answer, id, 1, &answer));
    }

    /// When each was captured, milliseconds, and what it was answered, in the order in which they leave.
    fn rest(at_hand: &mut AtHand) -> Vec<(u64, Option<u16>)> {
        let mut all = Vec::new();
        while let Some(Found::Request(request)) = at_hand.pop() {
            let status = request.answer.map(|answer| answer.head.status());
            all.push((request.captured_ns / MS, status));
        }
        all
    }

    const GET: &str = "GET / HTTP/1.1\r\n\r\n";

    #[test]
    fn answers_go_to_their_requests_and_change_nothing_about_the_order() {
        let budget = Arc::new(Budget::new(1 << 20));
        let mut at_hand = AtHand::new(Answers::Kept { max_body: 2 }, budget.clone());
        for (id, at) in [("a", 3), ("b", 1), ("c", 2), ("d", 4)] {
            put(&mut at_hand, id, at * MS, GET);
        }
        let before = budget.used();
        for (id, status) in [("d", 203), ("a", 200), ("b", 201), ("e", 404), ("a", 500)] {
            join(&mut at_hand, id, status);
        }
        assert!(budget.used() > before && at_hand.bytes() == budget.used());
        let Some(Found::Request(first)) = at_hand.pop() else {
            panic!("no request");
        };
        let answer = first.answer.unwrap();
        assert_eq!((answer.body.len(), answer.body_len), (2, 3));
        // It has left.
        join(&mut at_hand, "b", 500);
        let left = [(2, None), (3, Some(200)), (4, Some(203))];
        assert_eq!(rest(&mut at_hand), left);
        assert_eq!((at_hand.bytes(), budget.used()), (0, 0));
    }

    #[test]
    fn without_being_asked_for_answers_are_passed_over() {
        let mut at_hand = AtHand::new(Answers::Watched, Arc::new(Budget::new(1 << 20)));
        put(&mut at_hand, "a", 0, GET);
        join(&mut at_hand, "a", 200);
        assert_eq!(rest(&mut at_hand), [(0, None)]);
    }

    #[test]
    fn a_large_request_waits_for_its_answer_until_the_next_one_and_no_longer() {
        let body = "x".repeat(LARGE);
        let large = format!("POST / HTTP/1.1\r\nContent-Length: {LARGE}\r\n\r\n{body}");
        for (answers, waits) in [
            (Answers::Kept { max_body: 9 }, true),
            (Answers::Watched, false),
        ] {
            let mut at_hand = AtHand::new(answers, Arc::new(Budget::new(64 << 20)));
            put(&mut at_hand, "a", 0, &large);
            assert_eq!(at_hand.is_ripe(), !waits);
            put(&mut at_hand, "b", 1, GET);
            assert!(at_hand.is_ripe());
        }
    }
}
