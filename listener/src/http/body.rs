//! A body that grows as its bytes arrive.
//!
//! What enters: its bytes, in order. What leaves: the same in one piece. What may be lost: nothing; the owner bounds it.
//!
//! Announced lengths are mere words: memory is reserved for what came, and for a whole body only once so much of it came
//! that the rest is likely. Each byte is moved once in small bodies and hardly ever more than twice in large ones.

use bytes::Bytes;

/// Reserved when the first byte arrives.
const FIRST: usize = 16 * 1024;

/// Once so many bytes came, all that was announced is reserved. It costs address space, and memory only as it fills up.
const TRUSTED: usize = 512 * 1024;

/// The bytes so far.
#[derive(Debug, Default)]
pub(super) struct Body {
    bytes: Vec<u8>,
}

impl Body {
    /// Adds bytes to a body that is said to have `whole` bytes.
    pub(super) fn push(&mut self, bytes: &[u8], whole: Option<u64>) {
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            let whole = whole.and_then(|whole| usize::try_from(whole).ok());
            let room = match whole {
                Some(whole) if needed >= TRUSTED => whole,
                _ => (4 * self.bytes.capacity()).max(FIRST),
            };
            let room = whole.map_or(room, |whole| room.min(whole)).max(needed);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of memory. What is reserved for a trusted body and not filled isn't there yet.
    pub(super) fn held(&self) -> usize {
        let capacity = self.bytes.capacity();
        if capacity <= 4 * TRUSTED {
            capacity
        } else {
            self.bytes.len()
        }
    }

    /// All of it. Room that was reserved and not used would be held as long as the request, so it is given back where
    /// it is worth moving the bytes.
    pub(super) fn into_bytes(mut self) -> Bytes {
        let unused = self.bytes.capacity() - self.bytes.len();
        if unused > self.bytes.len() / 8 {
            self.bytes.shrink_to_fit();
        }
        Bytes::from(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_byte_comes_back_and_memory_follows_what_came(
            pieces in prop::collection::vec(1_usize..40_000, 1..30),
            announced in prop::option::of(0_u64..64 << 20),
        ) {
            let mut body = Body::default();
            let mut expected = Vec::new();
            for (n, len) in pieces.into_iter().enumerate() {
                let piece = vec![n as u8; len];
                expected.extend_from_slice(&piece);
                body.push(&piece, announced.map(|a| a.max(expected.len() as u64)));
                prop_assert!(body.held() <= 5 * expected.len() + FIRST);
            }
            prop_assert_eq!(body.into_bytes(), expected);
        }
    }
}
