//! Connections that used the same ports before.
//!
//! What enters: the numbers that one had, when the next begins. What leaves: whether a segment is one of theirs that comes
//! late. What may be lost: all but the last few.

use super::place::{PLAUSIBLE, distance};

/// How many are remembered: a late packet is late by milliseconds.
const REMEMBERED: usize = 4;

/// The numbers of a connection's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Past {
    /// Of its SYN, or right before the first byte that was seen.
    pub(super) first: u32,
    /// Behind the last byte or the FIN.
    pub(super) last: u32,
    /// What it had received.
    pub(super) acknowledged: Option<u32>,
}

/// The last connections. Most ports are used once, so that none costs a word.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    some: Option<Box<[Option<Past>; REMEMBERED]>>,
}

impl Earlier {
    /// Adds the one that was last.
    pub(super) fn remember(&mut self, past: Past) {
        let some = self.some.get_or_insert_default();
        some.rotate_right(1);
        some[0] = Some(past);
    }

    /// Whether one of them was opened by a SYN with this number.
    pub(super) fn began_with(&self, syn: u32) -> bool {
        self.iter().any(|past| past.first == syn)
    }

    /// Whether a sequence number was one of theirs.
    pub(super) fn had(&self, sequence: u32) -> bool {
        self.iter().any(|past| past.had(sequence))
    }

    /// Whether a segment with these numbers is one of theirs rather than of the connection that has received all up to
    /// `received`, where that is known.
    pub(super) fn claim(&self, sequence: u32, acknowledgment: u32, received: Option<u32>) -> bool {
        let away = |number: u32| distance(acknowledgment, number);
        let limit = received.map_or(PLAUSIBLE as u32, away);
        self.iter()
            .filter(|past| past.had(sequence))
            .filter_map(|past| past.acknowledged)
            .any(|number| away(number) < limit)
    }

    /// Bytes on the heap.
    pub(super) fn held(&self) -> usize {
        self.some.as_ref().map_or(0, |some| size_of_val(&**some))
    }

    fn iter(&self) -> impl Iterator<Item = &Past> {
        self.some.iter().flat_map(|some| some.iter().flatten())
    }
}

impl Past {
    fn had(&self, sequence: u32) -> bool {
        let length = self.last.wrapping_sub(self.first);
        // Of a long connection only the end can come late.
        let length = length.min(PLAUSIBLE as u32);
        self.last.wrapping_sub(sequence) <= length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_apart_also_where_they_wrap() {
        let mut earlier = Earlier::default();
        assert!(!earlier.had(0) && earlier.held() == 0);
        let old = Past {
            first: u32::MAX - 9,
            last: 20,
            acknowledged: Some(5000),
        };
        earlier.remember(old);
        for (sequence, had) in [
            (u32::MAX - 10, false),
            (u32::MAX - 9, true),
            (20, true),
            (21, false),
        ] {
            assert_eq!(earlier.had(sequence), had, "{sequence}");
        }
        assert!(earlier.began_with(u32::MAX - 9) && !earlier.began_with(20));
        assert!(earlier.claim(7, 4900, Some(900_000)));
        assert!(earlier.claim(7, 4900, None));
        assert!(!earlier.claim(7, 899_000, Some(900_000)));
        assert!(!earlier.claim(21, 4900, Some(900_000)));
        for n in 1..=REMEMBERED as u32 {
            earlier.remember(Past {
                first: 1000 * n,
                last: 1000 * n + 10,
                acknowledged: None,
            });
        }
        assert!(!earlier.had(7) && earlier.had(1000));
    }
}
