//! Connections that have ended, each to be told behind its last exchange.
//!
//! What enters: the ends, each with the sequence number that the next exchange will have. What leaves: an end once all
//! exchanges before that number were sent and none of them waits to be sent again. What may be lost: an end for which there
//! is no room, which the caller counts; one on a stream that breaks. A replayer then keeps its connection until it was idle
//! for long, as it does without a word.

use std::collections::VecDeque;

use reprise_proto::Notice;
use reprise_traffic::Closed;

/// More than these are of no use: they wait only where the exchanges before them do.
const MOST: usize = 1 << 14;

/// Bytes of one: a queue has up to twice the room that it needs.
pub(super) const SIZE: usize = 2 * size_of::<(u64, Closed)>();

/// Ends in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Closings(VecDeque<(u64, Closed)>);

impl Closings {
    /// True where no more fit.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MOST
    }

    /// An end behind all exchanges below a sequence number.
    pub(super) fn push(&mut self, below: u64, closed: Closed) {
        self.0.push_back((below, closed));
    }

    /// Takes out those whose exchanges are all below `unsent`, the first that is yet to be sent, up to `most` in all; of
    /// their batch so many parcels are ahead of them. Returns how many these are.
    pub(super) fn take(
        &mut self,
        unsent: u64,
        behind: usize,
        most: usize,
        out: &mut Vec<Notice>,
    ) -> usize {
        let before = out.len();
        while out.len() < most
            && let Some((below, closed)) = self.0.front().copied()
            && below <= unsent
        {
            self.0.pop_front();
            out.push(Notice {
                behind,
                target: None,
                closed,
            });
        }
        out.len() - before
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0 = VecDeque::new();
    }
}
