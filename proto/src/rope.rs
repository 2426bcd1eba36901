//! Bytes as they came from the connection, in the chunks in which they came.
//!
//! What enters: chunks. What leaves: messages, read across the chunks' borders; a payload that lies within one chunk
//! is a slice of it and is not copied here. What may be lost: nothing.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// Chunks that are read as one.
#[derive(Debug, Default)]
pub(crate) struct Rope {
    /// None of them is empty.
    chunks: VecDeque<Bytes>,
    length: usize,
}

impl Rope {
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.length += chunk.len();
            self.chunks.push_back(chunk);
        }
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| chunk)
    }

    /// Like all of `Buf`'s, it panics past the end; prost compares with `remaining` before.
    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.length, "advance past the end of a rope");
        self.length -= count;
        while let Some(chunk) = self.chunks.front_mut() {
            if count < chunk.len() {
                return chunk.advance(count);
            }
            count -= chunk.len();
            self.chunks.pop_front();
        }
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        assert!(count <= self.length, "copy past the end of a rope");
        if let Some(chunk) = self.chunks.front_mut()
            && count < chunk.len()
        {
            self.length -= count;
            return chunk.split_to(count);
        }
        if self.chunk().len() == count {
            self.length -= count;
            return self.chunks.pop_front().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(count);
        while whole.len() < count {
            let chunk = self.chunk();
            let taken = chunk.len().min(count - whole.len());
            whole.extend_from_slice(&chunk[..taken]);
            self.advance(taken);
        }
        whole.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_the_same_however_it_is_cut(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(0_usize..200, 0..8),
            reads in proptest::collection::vec((any::<bool>(), 0_usize..60), 0..20),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut rope = Rope::default();
            for pair in cuts.windows(2) {
                rope.push(Bytes::copy_from_slice(&bytes[pair[0]..pair[1]]));
            }
            let mut plain = Bytes::from(bytes);
            for (skip, count) in reads {
                let count = count.min(plain.len());
                match skip {
                    true => { rope.advance(count); plain.advance(count); }
                    false => prop_assert_eq!(rope.copy_to_bytes(count), plain.copy_to_bytes(count)),
                }
                prop_assert_eq!(rope.remaining(), plain.remaining());
                prop_assert_eq!(rope.has_remaining(), !rope.chunk().is_empty());
            }
        }
    }
}
