//! Sizes in settings and documents.
//!
//! What enters: text such as `64MiB`. What leaves: a number of bytes, and the same text again. What may be lost: nothing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes, written `"64MiB"`, `"1.5GB"`, `"4096"`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "bytesize::ByteSize", into = "String")]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// So many KiB.
    pub const fn kib(n: u64) -> ByteSize {
        ByteSize(n << 10)
    }

    /// So many MiB.
    pub const fn mib(n: u64) -> ByteSize {
        ByteSize(n << 20)
    }

    /// So many GiB.
    pub const fn gib(n: u64) -> ByteSize {
        ByteSize(n << 30)
    }

    /// As a length in memory; the largest there is where it doesn't fit.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

// Exact, unlike bytesize's own rendering, which rounds: settings go through text and back.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let exact = |shift: &u32| self.0 != 0 && self.0.trailing_zeros() >= *shift;
        match units.iter().find(|(_, shift)| exact(shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        text.parse()
            .map(|size: bytesize::ByteSize| ByteSize(size.as_u64()))
            .map_err(|_| {
                format!("size {text:?}: write a number and B, KiB, MiB or GiB, as in 64MiB")
            })
    }
}

impl From<bytesize::ByteSize> for ByteSize {
    fn from(size: bytesize::ByteSize) -> ByteSize {
        ByteSize(size.as_u64())
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> String {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_both_ways() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1000B", 1000),
            ("3GiB", 3 << 30),
            ("0B", 0),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, text));
        }
        assert_eq!("1.5MB".parse(), Ok(ByteSize(1_500_000)));
        assert!("much".parse::<ByteSize>().is_err());
        assert_eq!(ByteSize::kib(2), ByteSize(2048));
        assert!(ByteSize::gib(1) > ByteSize::mib(1023));
    }
}
