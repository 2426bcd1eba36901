//! Blocks of memory for large bodies, which all of a process share.
//!
//! What enters: blocks that nobody reads any more, on any thread. What leaves: the same, to be filled anew. What may be
//! lost: nothing. It is an allocator and as global as one: a body is freed far from where it was made.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Bytes of a block: 32 pages, less what an allocator keeps for itself. Large enough that its own cost does not count,
/// small enough that a body wastes little by its last one.
pub const BLOCK: usize = (128 << 10) - 32;

/// Free blocks, 32 MiB of them: as much as a listener may hold by default. What is beyond goes back to the system.
const MOST: usize = 256;

static FREE: Mutex<Free> = Mutex::new(Free {
    blocks: Vec::new(),
    least: 0,
});

#[derive(Debug)]
struct Free {
    /// Empty, and of the capacity of a block. The last one is the warmest.
    blocks: Vec<Vec<u8>>,
    /// The fewest that were free at any time since the last [`trim`].
    least: usize,
}

fn free() -> MutexGuard<'static, Free> {
    // Every change under the lock leaves it whole.
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives back to the system what nobody needed since the last call. To be called about once a second.
pub fn trim() {
    let mut free = free();
    let idle = free.least.min(free.blocks.len());
    let idle: Vec<Vec<u8>> = free.blocks.drain(..idle).collect();
    free.least = free.blocks.len();
    // Nobody waits for the system under the lock.
    drop(free);
    drop(idle);
}

/// A block that is being filled.
#[derive(Debug)]
pub(super) struct Block(Vec<u8>);

impl Block {
    /// A free one, or a new one.
    pub(super) fn empty() -> Block {
        let mut free = free();
        let block = free.blocks.pop();
        free.least = free.least.min(free.blocks.len());
        drop(free);
        Block(block.unwrap_or_else(|| Vec::with_capacity(BLOCK)))
    }

    /// Takes what there is room for, and returns the rest.
    pub(super) fn push<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(self.unused()));
        self.0.extend_from_slice(taken);
        rest
    }

    /// Bytes of room.
    pub(super) fn unused(&self) -> usize {
        BLOCK - self.0.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.unused() == 0
    }

    /// Its bytes. The block is free again once nobody has any of them.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut block = std::mem::take(&mut self.0);
        block.clear();
        let mut free = free();
        if free.blocks.len() < MOST {
            free.blocks.push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// The only test that counts free blocks: the others of this crate hold some at the same time.
    #[test]
    fn a_block_is_used_again_and_idle_ones_go() {
        let mut block = Block::empty();
        assert!(block.push(&[1; BLOCK]).is_empty() && block.is_full());
        let bytes = block.freeze();
        let part = bytes.slice(1..3);
        drop(bytes);
        assert_eq!(part[..], [1, 1]);
        drop(part);
        assert!(
            free()
                .blocks
                .iter()
                .all(|block| block.is_empty() && block.capacity() == BLOCK)
        );
        // Others take and give in between; once they are done, two looks are enough.
        let until = Instant::now() + Duration::from_secs(60);
        while !free().blocks.is_empty() {
            trim();
            assert!(Instant::now() < until, "idle blocks stay");
            std::thread::yield_now();
        }
    }
}
