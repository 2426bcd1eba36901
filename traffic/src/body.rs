//! A body in the chunks in which it is held.
//!
//! What enters: its bytes, in order and in pieces of any size. What leaves: the same bytes, as chunks that are shared and
//! never copied. What may be lost: nothing; whoever lets a body grow bounds it.
//!
//! Small bodies are one chunk of their own size. Large ones are made of blocks of one size: a body costs memory for what
//! came of it and no more, and an allocator that keeps a few blocks serves bodies of all sizes. In one piece each would
//! be asked of the system anew, which zeroes its pages; that was three quarters of the CPU time of capturing uploads.

use std::io::IoSlice;
use std::sync::Arc;
use std::{fmt, slice};

use bytes::{Buf, Bytes};

/// Reserved when the first byte arrives.
const FIRST: usize = 16 << 10;

/// A body grows in memory of its own up to this size, and by blocks beyond.
const SMALL: usize = 64 << 10;

/// Bytes of a block: large enough that its own cost does not count, small enough that a body wastes little by its last.
pub const BLOCK: usize = 128 << 10;

/// A whole body, or the beginning of one. A clone shares its bytes.
#[derive(Clone)]
pub struct Body(Chunks);

#[derive(Clone)]
enum Chunks {
    One(Bytes),
    /// None of them is empty.
    Many {
        chunks: Arc<[Bytes]>,
        len: usize,
    },
}

impl Body {
    /// Bytes of it.
    pub fn len(&self) -> usize {
        match &self.0 {
            Chunks::One(bytes) => bytes.len(),
            Chunks::Many { len, .. } => *len,
        }
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes in order; none of the chunks is empty, or longer than [`BLOCK`] where the body is.
    pub fn chunks(&self) -> &[Bytes] {
        match &self.0 {
            Chunks::One(bytes) if bytes.is_empty() => &[],
            Chunks::One(bytes) => slice::from_ref(bytes),
            Chunks::Many { chunks, .. } => chunks,
        }
    }

    /// Its bytes in one piece, which copies a large body.
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Chunks::One(bytes) => bytes.clone(),
            Chunks::Many { chunks, .. } => chunks.concat().into(),
        }
    }

    /// Its first `len` bytes, or all where there are fewer.
    #[must_use]
    pub fn beginning(&self, len: usize) -> Body {
        if len >= self.len() {
            return self.clone();
        }
        let mut left = len;
        let chunks = self.chunks().iter().map_while(|chunk| {
            let taken = chunk.len().min(left);
            left -= taken;
            (taken > 0).then(|| chunk.slice(..taken))
        });
        chunks.collect()
    }

    /// What stands behind its first `at` bytes.
    #[must_use]
    pub fn behind(&self, at: usize) -> Body {
        let mut before = at;
        let chunks = self.chunks().iter().filter_map(|chunk| {
            let skipped = chunk.len().min(before);
            before -= skipped;
            (skipped < chunk.len()).then(|| chunk.slice(skipped..))
        });
        chunks.collect()
    }

    /// To read it from its first byte.
    pub fn reader(&self) -> Reader<'_> {
        Reader {
            chunks: self.chunks(),
            read: 0,
            left: self.len(),
        }
    }
}

impl Default for Body {
    fn default() -> Body {
        Body(Chunks::One(Bytes::new()))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        Body(Chunks::One(bytes))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::from(Bytes::from(bytes))
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Body {
        Body::from(Bytes::from_static(bytes))
    }
}

impl FromIterator<Bytes> for Body {
    fn from_iter<I: IntoIterator<Item = Bytes>>(chunks: I) -> Body {
        let chunks = chunks.into_iter().filter(|chunk| !chunk.is_empty());
        let mut chunks: Vec<Bytes> = chunks.collect();
        if chunks.len() < 2 {
            return Body::from(chunks.pop().unwrap_or_default());
        }
        let len = chunks.iter().map(Bytes::len).sum();
        let chunks = chunks.into();
        Body(Chunks::Many { chunks, len })
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Body) -> bool {
        let (mut own, mut others) = (self.reader(), other.reader());
        if own.left != others.left {
            return false;
        }
        while own.left > 0 {
            let len = own.chunk().len().min(others.chunk().len());
            if own.chunk()[..len] != others.chunk()[..len] {
                return false;
            }
            own.advance(len);
            others.advance(len);
        }
        true
    }
}

impl Eq for Body {}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Body {
    fn eq(&self, other: &T) -> bool {
        let mut rest = Some(other.as_ref());
        for chunk in self.chunks() {
            rest = rest.and_then(|rest| rest.strip_prefix(&chunk[..]));
        }
        rest.is_some_and(<[u8]>::is_empty)
    }
}

/// What production's clients sent does not belong into a log, so this says how much it is.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// Reads a body; all chunks that are left can be written at once.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    chunks: &'a [Bytes],
    /// Bytes of the first chunk that are read.
    read: usize,
    left: usize,
}

impl Buf for Reader<'_> {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.first().map_or(&[], |chunk| &chunk[self.read..])
    }

    fn chunks_vectored<'a>(&'a self, parts: &mut [IoSlice<'a>]) -> usize {
        let mut read = self.read;
        let filled = parts.iter_mut().zip(self.chunks).map(|(part, chunk)| {
            *part = IoSlice::new(&chunk[std::mem::take(&mut read)..]);
        });
        filled.count()
    }

    /// Like all of `Buf`'s, it panics past the end.
    fn advance(&mut self, count: usize) {
        assert!(count <= self.left, "advance past the end of a body");
        self.left -= count;
        self.read += count;
        while let Some(chunk) = self.chunks.first()
            && chunk.len() <= self.read
        {
            self.read -= chunk.len();
            self.chunks = &self.chunks[1..];
        }
    }
}

/// A body that grows as its bytes arrive.
///
/// Announced lengths are mere words: memory is reserved for what came. Each byte is copied once, and those of the first
/// chunk, which grows, once more.
#[derive(Debug, Default)]
pub struct BodyMut {
    /// The first chunk, while it grows.
    begin: Vec<u8>,
    full: Vec<Bytes>,
    /// The last block, which isn't full.
    open: Vec<u8>,
    len: usize,
}

impl BodyMut {
    /// Adds bytes to a body that is said to have `whole` bytes.
    pub fn push(&mut self, bytes: &[u8], whole: Option<u64>) {
        let mut rest = self.push_begin(bytes, whole);
        self.len += bytes.len();
        while !rest.is_empty() {
            if self.open.capacity() == 0 {
                self.open.reserve_exact(BLOCK);
            }
            let fits = rest.len().min(BLOCK - self.open.len());
            self.open.extend_from_slice(&rest[..fits]);
            rest = &rest[fits..];
            if self.open.len() == BLOCK {
                self.full.push(std::mem::take(&mut self.open).into());
            }
        }
    }

    /// Takes what belongs into the first chunk, and returns the rest.
    fn push_begin<'a>(&mut self, bytes: &'a [u8], whole: Option<u64>) -> &'a [u8] {
        if self.len >= SMALL {
            return bytes;
        }
        let (begin, rest) = bytes.split_at(bytes.len().min(SMALL - self.len));
        let needed = self.len + begin.len();
        if needed > self.begin.capacity() {
            let room = (4 * self.begin.capacity()).clamp(FIRST, SMALL);
            let whole = whole.and_then(|whole| usize::try_from(whole).ok());
            let room = whole.map_or(room, |whole| room.min(whole)).max(needed);
            self.begin.reserve_exact(room - self.begin.len());
        }
        self.begin.extend_from_slice(begin);
        if needed == SMALL {
            self.full.push(std::mem::take(&mut self.begin).into());
        }
        rest
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True where none came yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory.
    pub fn held(&self) -> usize {
        let full = self.len - self.begin.len() - self.open.len();
        let list = self.full.capacity() * size_of::<Bytes>();
        self.begin.capacity() + full + list + self.open.capacity()
    }

    /// All of it. Room that was reserved and not used would be held as long as the body, so it is given back where it is
    /// worth moving the bytes.
    pub fn freeze(mut self) -> Body {
        let mut last = match self.full.is_empty() {
            true => self.begin,
            false => self.open,
        };
        let unused = last.capacity() - last.len();
        if unused > self.len / 8 {
            last.shrink_to_fit();
        }
        if self.full.is_empty() {
            return Body::from(last);
        }
        self.full.push(last.into());
        self.full.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_byte_comes_back_and_memory_follows_what_came(
            pieces in prop::collection::vec(1_usize..100_000, 1..30),
            announced in prop::option::of(0_u64..64 << 20),
        ) {
            let mut body = BodyMut::default();
            let mut expected = Vec::new();
            for (n, len) in pieces.into_iter().enumerate() {
                let piece = vec![n as u8; len];
                expected.extend_from_slice(&piece);
                body.push(&piece, announced.map(|a| a.max(expected.len() as u64)));
                prop_assert_eq!(body.len(), expected.len());
                prop_assert!(body.held() <= 5 * expected.len() + FIRST);
            }
            let body = body.freeze();
            prop_assert!(body.chunks().iter().all(|chunk| !chunk.is_empty() && chunk.len() <= BLOCK));
            let whole = Body::from(expected.clone());
            prop_assert!(body == expected[..] && body == whole);
            prop_assert_eq!(body.to_bytes(), expected);
        }

        #[test]
        fn a_body_reads_the_same_however_it_is_cut(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cut in 1_usize..40,
            steps in prop::collection::vec(0_usize..50, 0..30),
            len in 0_usize..400,
        ) {
            let body: Body = bytes.chunks(cut).map(Bytes::copy_from_slice).collect();
            let mut reader = body.reader();
            let mut plain = &bytes[..];
            for step in steps {
                let mut parts = [IoSlice::new(&[]); 4];
                let count = reader.chunks_vectored(&mut parts);
                let seen: Vec<u8> = parts[..count].iter().flat_map(|part| part.to_vec()).collect();
                prop_assert!(plain.starts_with(&seen) && (plain.is_empty() || !seen.is_empty()));
                let step = step.min(plain.len());
                reader.advance(step);
                plain.advance(step);
                prop_assert_eq!(reader.remaining(), plain.len());
                prop_assert!(plain.starts_with(reader.chunk()));
                prop_assert_eq!(reader.has_remaining(), !reader.chunk().is_empty());
            }
            let len = len.min(bytes.len());
            prop_assert!(body.beginning(len) == bytes[..len]);
            prop_assert_eq!(body == bytes[..len], len == bytes.len());
        }
    }

    #[test]
    fn a_body_that_ends_soon_holds_no_room() {
        for len in [
            1,
            SMALL - 1,
            SMALL,
            SMALL + 1,
            SMALL + BLOCK,
            SMALL + BLOCK + 1,
        ] {
            let mut body = BodyMut::default();
            body.push(&vec![7; len], None);
            let body = body.freeze();
            assert_eq!(body.len(), len);
            assert_eq!(
                body.chunks().len(),
                1 + len.saturating_sub(SMALL).div_ceil(BLOCK)
            );
            let Chunks::One(bytes) = body.0 else { continue };
            let room = bytes.try_into_mut().unwrap().capacity();
            assert!(room <= len + len / 8, "{room} for {len}");
        }
        assert!(Body::default().chunks().is_empty());
    }
}
