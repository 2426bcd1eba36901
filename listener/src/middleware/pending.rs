//! What a program has and has not written back.
//!
//! What enters: messages that were written to it, and ids that came back. What leaves: where a message came from. What may be
//! lost: where it has more than 65,536 messages, the oldest one's origin; it counts as left out.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use reprise_traffic::gor::Kind;

use super::Origin;

const MOST: usize = 1 << 16;

type Key = (u8, Box<[u8]>);

/// Messages within a program.
#[derive(Debug)]
pub(super) struct Pending {
    /// A message may be there twice; then both are one entry.
    messages: HashMap<Key, Entry, RandomState>,
    order: VecDeque<(Key, u64)>,
    numbers: u64,
    moved: Instant,
}

#[derive(Debug)]
struct Entry {
    origin: Origin,
    number: u64,
}

impl Default for Pending {
    fn default() -> Pending {
        Pending {
            messages: HashMap::default(),
            order: VecDeque::new(),
            numbers: 0,
            moved: Instant::now(),
        }
    }
}

impl Pending {
    /// A number that no other entry has.
    fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A message was written to the program. Returns how many others are given up for it.
    pub(super) fn sent(&mut self, kind: Kind, id: &[u8], origin: Origin, now: Instant) -> u64 {
        self.moved = now;
        let number = self.next_number();
        let key: Key = (kind.digit(), id.into());
        self.order.push_back((key.clone(), number));
        self.messages.insert(key, Entry { origin, number });
        let mut given_up = 0;
        while self.messages.len() > MOST || self.order.len() > 2 * MOST {
            let Some((oldest, number)) = self.order.pop_front() else {
                break;
            };
            // One that came back and was sent again has a newer number.
            if self
                .messages
                .get(&oldest)
                .is_some_and(|e| e.number == number)
            {
                self.messages.remove(&oldest);
                given_up += 1;
            }
        }
        given_up
    }

    /// Where a message came from, if it is one of those that were sent.
    pub(super) fn origin(&self, kind: Kind, id: &[u8]) -> Option<Origin> {
        let key: Key = (kind.digit(), id.into());
        self.messages.get(&key).map(|entry| entry.origin)
    }

    /// A message came back.
    pub(super) fn came_back(&mut self, kind: Kind, id: &[u8], now: Instant) {
        self.moved = now;
        let key: Key = (kind.digit(), id.into());
        self.messages.remove(&key);
        while let Some((oldest, number)) = self.order.front()
            && self
                .messages
                .get(oldest)
                .is_none_or(|e| e.number != *number)
        {
            self.order.pop_front();
        }
    }

    /// True where all came back.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Since when nothing went either way.
    pub(super) fn quiet_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.moved)
    }

    /// Forgets all, and says how many these were.
    pub(super) fn clear(&mut self) -> usize {
        let left = self.messages.len();
        self.messages.clear();
        self.order.clear();
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(turn: u64) -> Origin {
        Origin {
            client: ([10, 0, 0, 1], 1).into(),
            server: ([10, 0, 0, 2], 80).into(),
            turn,
        }
    }

    #[test]
    fn messages_come_back_in_any_order_and_the_oldest_is_given_up() {
        let now = Instant::now();
        let mut pending = Pending::default();
        for n in 0..MOST as u64 {
            assert_eq!(
                pending.sent(Kind::Request, &n.to_be_bytes(), origin(n), now),
                0
            );
        }
        let mut back = |kind, id: &[u8]| {
            let origin = pending.origin(kind, id);
            pending.came_back(kind, id, now);
            origin
        };
        let id = |n: u64| n.to_be_bytes();
        assert_eq!(back(Kind::Request, &id(7)), Some(origin(7)));
        assert_eq!(back(Kind::Request, &id(7)), None);
        assert_eq!(back(Kind::Answer, &id(8)), None);
        assert_eq!(pending.sent(Kind::Answer, b"a", origin(1), now), 0);
        assert_eq!(pending.sent(Kind::Answer, b"b", origin(2), now), 1);
        assert_eq!(pending.origin(Kind::Request, &id(0)), None);
        assert_eq!(pending.origin(Kind::Request, &id(1)), Some(origin(1)));
        pending.came_back(Kind::Request, &id(1), now);
        assert_eq!(pending.clear(), MOST - 1);
        assert!(pending.is_empty() && pending.order.is_empty());
    }
}
