//! Sequence numbers, and places in the stream: 64-bit numbers whose low half is the sequence number, so nothing wraps.

/// A segment that lies farther away belongs to another connection: windows are smaller by far in practice.
pub(super) const PLAUSIBLE: i64 = 64 << 20;

/// Whether a segment may belong to a connection whose next byte and last known byte have these places. A hole that isn't
/// given up may have more behind it than any window.
pub(super) fn is_plausible(place: i64, next: u64, seen: u64) -> bool {
    let ahead = place - next.max(seen) as i64;
    let behind = next as i64 - place;
    ahead <= PLAUSIBLE && behind <= PLAUSIBLE
}

/// Where a connection's first byte is placed: far enough from 0 that no place is negative.
pub(super) fn start_place(sequence: u32) -> u64 {
    (1 << 32) + u64::from(sequence)
}

/// The place of a sequence number near another place.
pub(super) fn place_near(near: u64, sequence: u32) -> i64 {
    let ahead = sequence.wrapping_sub(near as u32) as i32;
    near as i64 + i64::from(ahead)
}

/// Whether a sequence number lies behind another.
pub(super) fn is_more(number: u32, before: u32) -> bool {
    number.wrapping_sub(before) as i32 > 0
}

/// How far two sequence numbers lie apart.
pub(super) fn distance(a: u32, b: u32) -> u32 {
    a.wrapping_sub(b).min(b.wrapping_sub(a))
}
