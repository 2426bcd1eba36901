//! Shares: of sessions, of requests, and of those who have a header or parameter.
//!
//! What enters: hashes and values. What leaves: whether they are in the share, the same everywhere and each time. What may
//! be lost: nothing.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// A share of sessions or requests: `10%`, `0.5%`, `1/32`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Share(f64);

impl Default for Share {
    fn default() -> Share {
        Share(1.0)
    }
}

impl TryFrom<String> for Share {
    type Error = String;

    fn try_from(text: String) -> Result<Share, String> {
        let fraction = if let Some(percent) = text.strip_suffix('%') {
            percent.trim().parse::<f64>().ok().map(|p| p / 100.0)
        } else {
            text.split_once('/').and_then(|(a, b)| {
                let (a, b) = (a.trim().parse::<u32>().ok()?, b.trim().parse::<u32>().ok()?);
                (b > 0).then(|| f64::from(a) / f64::from(b))
            })
        };
        fraction
            .filter(|f| (0.0..=1.0).contains(f))
            .map(Share)
            .ok_or_else(|| format!("share {text:?} is not between 0% and 100%; write 10% or 1/32"))
    }
}

impl From<Share> for String {
    fn from(share: Share) -> String {
        format!("{}%", share.0 * 100.0)
    }
}

impl Share {
    /// Whether a session or request of that hash is in the share. Independent of where the ring puts a session.
    pub fn takes(self, hash: u64) -> bool {
        // The ring uses the hash itself; mixing keeps a 10 % share spread over all replayers.
        let mixed = xxh3_64(&hash.to_le_bytes());
        self.is_all() || (mixed as f64) < self.0 * (u64::MAX as f64)
    }

    /// True for 100 %.
    pub fn is_all(self) -> bool {
        self.0 >= 1.0
    }
}

/// What `share` and `part` are shares of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareBy {
    /// A session is taken as a whole, or not at all.
    #[default]
    Sessions,
    /// Each request by itself.
    Requests,
}

/// One of several equal parts, written `2/3`: the second of three. Targets that have the other parts take the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Part {
    /// From 0.
    index: u32,
    of: NonZeroU32,
}

impl Part {
    /// The part with that number, from 1. `None` where there is none.
    pub fn new(number: u32, of: u32) -> Option<Part> {
        let of = NonZeroU32::new(of)?;
        let index = number.checked_sub(1).filter(|index| *index < of.get())?;
        Some(Part { index, of })
    }

    /// Whether it is this part's turn.
    pub(super) fn takes(self, turn: u64) -> bool {
        turn % u64::from(self.of.get()) == u64::from(self.index)
    }

    /// Whether a session of that hash is in this part: neither by the ring's hash nor by that of a share.
    pub(super) fn takes_session(self, hash: u64) -> bool {
        self.takes(xxh3_64(&hash.to_be_bytes()) >> 8)
    }
}

impl TryFrom<String> for Part {
    type Error = String;

    fn try_from(text: String) -> Result<Part, String> {
        let part = text.split_once('/').and_then(|(number, of)| {
            Part::new(number.trim().parse().ok()?, of.trim().parse().ok()?)
        });
        part.ok_or_else(|| {
            format!("part {text:?} is not written like 2/3, the second of three parts")
        })
    }
}

impl From<Part> for String {
    fn from(part: Part) -> String {
        format!("{}/{}", part.index + 1, part.of)
    }
}

/// A share of the values of a header or parameter, by their hash: `10%`, `0.5%`, `1/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ValueShare {
    taken: u32,
    of: NonZeroU32,
    in_percent: bool,
}

impl ValueShare {
    /// Whether a value is in the share: those are whose FNV-1a hash of 32 bits leaves a remainder below it, as GoReplay's
    /// limiters have it. The same in all programs that count so.
    pub fn takes(self, value: &[u8]) -> bool {
        fnv1a(value) % self.of.get() < self.taken
    }
}

/// FNV-1a of 32 bits (draft-eastlake-fnv-21 §2).
fn fnv1a(value: &[u8]) -> u32 {
    const BASIS: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    value.iter().fold(BASIS, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(PRIME)
    })
}

impl TryFrom<String> for ValueShare {
    type Error = String;

    fn try_from(text: String) -> Result<ValueShare, String> {
        let share = match text.trim().strip_suffix('%') {
            Some(percent) => of_percent(percent.trim()),
            None => text
                .split_once('/')
                .and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?))),
        };
        let in_percent = text.contains('%');
        share
            .and_then(|(taken, of)| {
                let of = NonZeroU32::new(of).filter(|of| taken <= of.get())?;
                Some(ValueShare {
                    taken,
                    of,
                    in_percent,
                })
            })
            .ok_or_else(|| format!("share {text:?} is not between 0% and 100%; write 10% or 1/32"))
    }
}

/// `12.5` as 125 of 1,000: the remainder is taken by a power of ten, so that whole percents are what they are in GoReplay.
fn of_percent(percent: &str) -> Option<(u32, u32)> {
    let (whole, decimals) = percent.split_once('.').unwrap_or((percent, ""));
    if decimals.len() > 5 {
        return None;
    }
    let taken = format!("{whole}{decimals}").parse().ok()?;
    Some((taken, 10_u32.pow(2 + decimals.len() as u32)))
}

impl From<ValueShare> for String {
    fn from(share: ValueShare) -> String {
        let (taken, of) = (share.taken, share.of);
        match share.in_percent {
            true => format!("{}%", f64::from(taken) * 100.0 / f64::from(of.get())),
            false => format!("{taken}/{of}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buckets that GoReplay puts these values into.
    #[test]
    fn values_are_counted_as_goreplay_counts_them() {
        for (value, bucket) in [
            ("1", 44),
            ("2", 1),
            ("3", 82),
            ("42", 11),
            ("user-1", 0),
            ("user-2", 57),
            ("abc", 31),
        ] {
            assert_eq!(fnv1a(value.as_bytes()) % 100, bucket, "{value}");
            let share = |percent: u32| ValueShare::try_from(format!("{percent}%")).unwrap();
            assert!(!share(bucket).takes(value.as_bytes()), "{value}");
            assert!(share(bucket + 1).takes(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn shares_of_values_are_not_rounded() {
        let of = |text: &str| ValueShare::try_from(text.to_owned());
        for text in ["3%", "12.5%", "1/32", "0%", "100%"] {
            assert_eq!(String::from(of(text).unwrap()), text);
        }
        let share = of("1/32").unwrap();
        let taken = (0..32_000).filter(|n| share.takes(format!("user-{n}").as_bytes()));
        let taken = taken.count();
        assert!((900..1100).contains(&taken), "{taken}");
        for wrong in ["101%", "-1%", "2/1", "1/0", "x", "1.2.3%", ""] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_are_disjoint_and_all() {
        let part = |n| Part::new(n, 3).unwrap();
        for turn in 0..100_u64 {
            let by_turn = (1..=3).filter(|n| part(*n).takes(turn)).count();
            let by_session = (1..=3).filter(|n| part(*n).takes_session(turn)).count();
            assert_eq!((by_turn, by_session), (1, 1));
        }
        assert_eq!(Part::try_from("2/3".to_owned()), Ok(part(2)));
        assert_eq!(String::from(part(2)), "2/3");
        for wrong in ["0/3", "4/3", "1/0", "1", "a/b"] {
            assert!(Part::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
