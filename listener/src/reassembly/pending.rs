//! Segments that arrived ahead of their turn.
//!
//! What enters: bytes with their place in the stream. What leaves: the same bytes in order, each place once; of
//! differing copies the one that came first. What may be lost: nothing; the owner bounds the bytes.

use std::collections::BTreeMap;

use super::begin::Evidence;

/// What an entry costs besides its bytes: its node in the tree, its allocation's header.
const OVERHEAD: usize = 96;

/// When a segment arrived, and what its sender had received by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Unix nanoseconds.
    pub(super) ns: u64,
    pub(super) acknowledged: Option<u32>,
}

/// A run of bytes.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) bytes: Box<[u8]>,
    pub(super) at: Moment,
    /// That a request begins at its first byte.
    pub(super) evidence: Evidence,
}

/// Runs by their place in the stream; no two overlap. Most connections never have any, so that none costs a word.
#[derive(Debug, Default)]
pub(super) struct Pending {
    some: Option<Box<Runs>>,
}

#[derive(Debug, Default)]
struct Runs {
    runs: BTreeMap<u64, Run>,
    held: usize,
}

impl Pending {
    /// Adds the parts of `bytes` whose place isn't taken.
    pub(super) fn insert(&mut self, start: u64, bytes: &[u8], at: Moment, evidence: Evidence) {
        let some = self.some.get_or_insert_default();
        let end = start + bytes.len() as u64;
        let mut place = match some.runs.range(..=start).next_back() {
            Some((place, run)) => start.max(place + run.bytes.len() as u64),
            None => start,
        };
        while place < end {
            let (free_until, next) = match some.runs.range(place..end).next() {
                Some((place, run)) => (*place, place + run.bytes.len() as u64),
                None => (end, end),
            };
            if place < free_until {
                let part = &bytes[(place - start) as usize..(free_until - start) as usize];
                some.held += part.len() + OVERHEAD;
                let run = Run {
                    bytes: part.into(),
                    at,
                    evidence: match place == start {
                        true => evidence,
                        false => Evidence::None,
                    },
                };
                some.runs.insert(place, run);
            }
            place = next;
        }
    }

    /// The runs in order, with their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Run)> {
        let runs = self.some.iter().flat_map(|some| &some.runs);
        runs.map(|(place, run)| (*place, run))
    }

    /// Where the first run begins.
    pub(super) fn first_place(&self) -> Option<u64> {
        let some = self.some.as_ref()?;
        some.runs.first_key_value().map(|(place, _)| *place)
    }

    /// Behind the last run, or 0.
    pub(super) fn end(&self) -> u64 {
        let last = self
            .some
            .as_ref()
            .and_then(|some| some.runs.last_key_value());
        last.map_or(0, |(place, run)| place + run.bytes.len() as u64)
    }

    /// Takes the first run out if it begins at `limit` or before.
    pub(super) fn pop_until(&mut self, limit: u64) -> Option<(u64, Run)> {
        let some = self.some.as_mut()?;
        let first = some.runs.first_entry()?;
        if *first.key() > limit {
            return None;
        }
        let (place, run) = first.remove_entry();
        some.held -= run.bytes.len() + OVERHEAD;
        if some.runs.is_empty() {
            self.some = None;
        }
        Some((place, run))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.some.is_none()
    }

    pub(super) fn clear(&mut self) {
        self.some = None;
    }

    /// Bytes on the heap.
    pub(super) fn held(&self) -> usize {
        self.some.as_ref().map_or(0, |some| some.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Moment = Moment {
        ns: 0,
        acknowledged: None,
    };

    proptest! {
        #[test]
        fn the_first_copy_of_each_byte_stays(
            pieces in prop::collection::vec((0_u64..60, 1_usize..20), 1..30),
        ) {
            let mut pending = Pending::default();
            let mut expected: BTreeMap<u64, u8> = BTreeMap::new();
            for (n, (start, len)) in pieces.iter().enumerate() {
                pending.insert(*start, &vec![n as u8; *len], NOW, Evidence::None);
                for place in *start..*start + *len as u64 {
                    expected.entry(place).or_insert(n as u8);
                }
            }
            let mut found = BTreeMap::new();
            while let Some((place, run)) = pending.pop_until(u64::MAX) {
                for (n, byte) in run.bytes.iter().enumerate() {
                    prop_assert!(found.insert(place + n as u64, *byte).is_none());
                }
            }
            prop_assert_eq!(found, expected);
            prop_assert_eq!(pending.held(), 0);
        }
    }
}
