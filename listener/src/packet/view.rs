//! What is left of a packet behind the headers that are read.
//!
//! What enters: a packet's captured bytes, and how many the capture cut off behind them. What leaves: the same with
//! fewer bytes at the front or at the end. What may be lost: nothing; reading past the end is [`Unusable::Broken`].

use super::Unusable;

/// A layer's bytes, headers and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View<'a> {
    /// As far as they were captured.
    pub(super) data: &'a [u8],
    /// How many belong behind them and were not captured.
    pub(super) cut: usize,
}

impl<'a> View<'a> {
    /// All of something that was captured whole.
    pub(super) fn whole(data: &'a [u8]) -> View<'a> {
        View { data, cut: 0 }
    }

    /// What is behind the next `n` bytes, all of which have to be there.
    #[inline]
    pub(super) fn skip(self, n: usize) -> Result<View<'a>, Unusable> {
        let data = self.data.get(n..).ok_or(Unusable::Broken)?;
        Ok(View { data, ..self })
    }

    /// The next `n` bytes, captured or not: a length field tells padding from payload.
    #[inline]
    pub(super) fn limit(self, n: usize) -> View<'a> {
        match self.data.get(..n) {
            Some(data) => View::whole(data),
            None => View {
                data: self.data,
                cut: n - self.data.len(),
            },
        }
    }

    /// Whether there were `n` bytes on the wire.
    pub(super) fn holds(self, n: usize) -> bool {
        n <= self.data.len().saturating_add(self.cut)
    }

    #[inline]
    pub(super) fn u8_at(self, at: usize) -> Result<u8, Unusable> {
        self.data.get(at).copied().ok_or(Unusable::Broken)
    }

    #[inline]
    pub(super) fn u16_at(self, at: usize) -> Result<u16, Unusable> {
        self.array_at(at).map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32_at(self, at: usize) -> Result<u32, Unusable> {
        self.array_at(at).map(u32::from_be_bytes)
    }

    #[inline]
    pub(super) fn array_at<const N: usize>(self, at: usize) -> Result<[u8; N], Unusable> {
        let bytes = self.data.get(at..).and_then(<[u8]>::first_chunk);
        bytes.copied().ok_or(Unusable::Broken)
    }
}
