//! Which requests a target took, for their answers that come as records of their own.
//!
//! What enters: ids of requests that were taken, and of answers. What leaves: whether an answer's request was taken. What may
//! be lost: an answer that comes when 65,536 further requests were taken; it counts as filtered.

use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::{Mutex, PoisonError};

use foldhash::fast::RandomState;

const MOST: usize = 1 << 16;

/// The last requests that a target took.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    keys: RandomState,
    inner: Mutex<Inner>,
}

/// By hashes of ids: two of the same hash among so many would cost one answer too many.
#[derive(Debug, Default)]
struct Inner {
    order: VecDeque<u64>,
    taken: HashSet<u64>,
}

impl Followed {
    /// A request was taken.
    pub(crate) fn taken(&self, id: &[u8]) {
        let key = self.keys.hash_one(id);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !inner.taken.insert(key) {
            return;
        }
        inner.order.push_back(key);
        if inner.order.len() > MOST
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.taken.remove(&oldest);
        }
    }

    /// Whether the request of that id was taken.
    pub(crate) fn is_taken(&self, id: &[u8]) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.taken.contains(&self.keys.hash_one(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_known() {
        let followed = Followed::default();
        for id in 0..=MOST as u64 {
            followed.taken(&id.to_be_bytes());
            followed.taken(&id.to_be_bytes());
        }
        assert!(!followed.is_taken(&0_u64.to_be_bytes()));
        assert!(followed.is_taken(&1_u64.to_be_bytes()));
        assert!(followed.is_taken(&(MOST as u64).to_be_bytes()));
        assert!(!followed.is_taken(b"x"));
    }
}
