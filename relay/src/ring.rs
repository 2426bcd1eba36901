//! The consistent-hash table from session key to replayer: Maglev hashing (Eisenbud et al., NSDI 2016, §3.4).
//!
//! What enters: the members' names and weights. What leaves: for any hash the index of a member, in one look-up;
//! the same on every relay that knows the same members. When a member leaves, its own keys move and hardly any
//! others. What may be lost: nothing.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Entries of a table: a prime, over a hundred times the members that a pool is expected to have.
pub const TABLE: usize = 65_537;

/// No more members than this fit into a table's entries.
pub const MAX_MEMBERS: usize = u16::MAX as usize - 1;

/// A filled table.
#[derive(Debug, Clone)]
pub struct Ring {
    entries: Vec<u16>,
}

impl Ring {
    /// Fills the table for members of these names and weights; members of weight 0 get nothing.
    ///
    /// With no member, or none of any weight, the ring is empty.
    pub fn new<'a>(members: impl IntoIterator<Item = (&'a str, u32)>) -> Ring {
        let mut walks: Vec<Walk> = members
            .into_iter()
            .take(MAX_MEMBERS)
            .enumerate()
            .filter(|(_, (_, weight))| *weight > 0)
            .map(|(index, (name, weight))| Walk::new(index as u16, name, weight))
            .collect();
        let Some(heaviest) = walks.iter().map(|walk| walk.weight).max() else {
            return Ring {
                entries: Vec::new(),
            };
        };
        const FREE: u16 = u16::MAX;
        let mut entries = vec![FREE; TABLE];
        let mut filled = 0;
        // In each round every member takes the next free entry of its own permutation; a lighter one sits out
        // rounds in proportion to its weight.
        while filled < TABLE {
            for walk in &mut walks {
                walk.turns += walk.weight;
                if walk.turns < heaviest {
                    continue;
                }
                walk.turns -= heaviest;
                while entries[walk.at] != FREE {
                    walk.step();
                }
                entries[walk.at] = walk.index;
                filled += 1;
                if filled == TABLE {
                    break;
                }
            }
        }
        Ring { entries }
    }

    /// The member that a hash belongs to, by its index in the order given to [`Ring::new`].
    pub fn member(&self, hash: u64) -> Option<usize> {
        if self.entries.is_empty() {
            return None;
        }
        Some(usize::from(self.entries[(hash % TABLE as u64) as usize]))
    }
}

/// A member's permutation of the table's entries.
struct Walk {
    index: u16,
    at: usize,
    skip: usize,
    weight: u64,
    turns: u64,
}

impl Walk {
    fn new(index: u16, name: &str, weight: u32) -> Walk {
        let offset = xxh3_64_with_seed(name.as_bytes(), 1) % TABLE as u64;
        let skip = xxh3_64_with_seed(name.as_bytes(), 2) % (TABLE as u64 - 1) + 1;
        Walk {
            index,
            at: offset as usize,
            skip: skip as usize,
            weight: u64::from(weight),
            turns: 0,
        }
    }

    fn step(&mut self) {
        self.at += self.skip;
        if self.at >= TABLE {
            self.at -= TABLE;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(members: &[(String, u32)]) -> Ring {
        Ring::new(
            members
                .iter()
                .map(|(name, weight)| (name.as_str(), *weight)),
        )
    }

    fn members(n: usize) -> Vec<(String, u32)> {
        (0..n).map(|i| (format!("replayer-{i}"), 1)).collect()
    }

    fn shares(ring: &Ring, n: usize) -> Vec<usize> {
        let mut shares = vec![0; n];
        for entry in 0..TABLE {
            shares[ring.member(entry as u64).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn an_empty_ring_has_no_member() {
        assert_eq!(ring(&[]).member(7), None);
        assert_eq!(ring(&[("a".to_owned(), 0)]).member(7), None);
    }

    #[test]
    fn members_share_evenly() {
        for n in [1, 2, 3, 10, 100] {
            let shares = shares(&ring(&members(n)), n);
            let (max, mean) = (*shares.iter().max().unwrap(), TABLE as f64 / n as f64);
            assert!(max as f64 / mean <= 1.02, "{n} members: {max} of {mean}");
        }
    }

    #[test]
    fn weights_are_honoured() {
        let members = [("a", 1), ("b", 3), ("c", 0)];
        let ring = Ring::new(members);
        let shares = shares(&ring, 3);
        assert_eq!(shares[2], 0);
        let ratio = shares[1] as f64 / shares[0] as f64;
        assert!((2.9..3.1).contains(&ratio), "{shares:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        /// One leaves: its own keys move, and less than 1 % of the others'.
        #[test]
        fn a_leaving_member_moves_little_else(n in 2_usize..60, gone in any::<prop::sample::Index>()) {
            let all = members(n);
            let gone = gone.index(n);
            let mut rest = all.clone();
            rest.remove(gone);
            let (before, after) = (ring(&all), ring(&rest));
            let (mut kept, mut moved) = (0, 0);
            for hash in 0..TABLE as u64 {
                let (was, is) = (before.member(hash).unwrap(), after.member(hash).unwrap());
                if was == gone {
                    continue;
                }
                kept += 1;
                moved += usize::from(all[was].0 != rest[is].0);
            }
            prop_assert!((moved as f64) < 0.01 * kept as f64 || n < 4, "{moved} of {kept}");
        }
    }
}
