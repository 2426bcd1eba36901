//! IP fragments, put together.
//!
//! What enters: fragments, in any order, and the time when each was captured. What leaves: what the packet carried
//! before it was cut, once its last part is there. What may be lost: fragments of packets that never become whole
//! within 30 s, that contradict each other, or that had to make room; they are counted.
//!
//! Parts that overlap have to agree. Two readings of one packet are how things are slipped past a firewall, and a
//! sender that cuts a packet never makes them (RFC 5722; RFC 1858 for IPv4).

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::net::IpAddr;

use etherparse::IpNumber;
use etherparse::defrag::IpDefragBuf;

use super::Unusable;
use super::ip::{Packet, Part};

/// A packet's parts come one right after the other; hosts wait 15 to 60 s (RFC 8200 §4.5, RFC 791 §3.2).
const MAX_AGE_NS: u64 = 30_000_000_000;
/// Of all packets together.
const MAX_BYTES: usize = 4 << 20;
/// Packets that wait for a part.
const MAX_PACKETS: usize = 1024;
/// Ranges of a packet that are there, with gaps between them. 64 KiB in parts of 576 bytes, the smallest that IPv4
/// hosts send (RFC 791 §3.1), make 120.
const MAX_RANGES: usize = 128;

/// What all fragments of a packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    /// IPv4 only (RFC 791 §3.2): in IPv6 the first fragment's counts (RFC 8200 §4.5).
    protocol: Option<IpNumber>,
}

/// A packet of which parts are missing.
#[derive(Debug)]
struct Partial {
    bytes: IpDefragBuf,
    protocol: IpNumber,
    since_ns: u64,
    /// Its place in the order of arrival.
    number: u64,
    /// Parts so far.
    parts: u64,
}

/// What a fragmented packet carried.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: IpNumber,
    pub(super) bytes: Vec<u8>,
}

/// Fragments that wait for others.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    partial: HashMap<Key, Partial>,
    by_age: BTreeMap<u64, Key>,
    next_number: u64,
    /// Allocated for all of them.
    bytes: usize,
    /// Parts given up since somebody asked.
    lost: u64,
}

impl Fragments {
    /// Adds a fragment, and gives the packet if that was the last that it lacked.
    ///
    /// # Errors
    /// [`Unusable::Held`] as long as parts are missing, [`Unusable::Fragment`] if this one is of no use.
    pub(super) fn add(
        &mut self,
        packet: &Packet<'_>,
        part: Part,
        at_ns: u64,
    ) -> Result<Whole, Unusable> {
        self.expire(at_ns);
        if packet.body.cut > 0 || packet.body.data.is_empty() {
            return Err(Unusable::Fragment);
        }
        let key = Key {
            source: packet.source,
            destination: packet.destination,
            id: part.id,
            protocol: packet.source.is_ipv4().then_some(packet.protocol),
        };
        let partial = match self.partial.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let number = self.next_number;
                self.next_number += 1;
                self.by_age.insert(number, key);
                entry.insert(Partial {
                    bytes: IpDefragBuf::new(packet.protocol, Vec::new(), Vec::new()),
                    protocol: packet.protocol,
                    since_ns: at_ns,
                    number,
                    parts: 0,
                })
            }
        };
        let before = partial.bytes.data().capacity();
        let added = partial.add(packet, part);
        self.bytes += partial.bytes.data().capacity() - before;
        if !added {
            self.give_up(&key);
            return Err(Unusable::Fragment);
        }
        if partial.bytes.is_complete() {
            return self.take(&key).ok_or(Unusable::Fragment);
        }
        partial.parts += 1;
        self.make_room();
        Err(Unusable::Held)
    }

    /// Parts given up after they had been taken, since the last call.
    pub(super) fn lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Gives up whatever still waits.
    pub(super) fn give_up_all(&mut self) {
        while let Some((_, key)) = self.by_age.first_key_value() {
            let key = *key;
            self.give_up(&key);
        }
    }

    /// What holds between any two calls.
    #[cfg(test)]
    pub(super) fn is_bounded(&self) -> bool {
        let allocated = self.partial.values().map(|p| p.bytes.data().capacity());
        self.bytes <= MAX_BYTES
            && allocated.sum::<usize>() == self.bytes
            && self.partial.len() <= MAX_PACKETS
            && self.partial.len() == self.by_age.len()
    }

    fn expire(&mut self, now_ns: u64) {
        while let Some((_, key)) = self.by_age.first_key_value() {
            let key = *key;
            let since = self.partial.get(&key).map_or(0, |p| p.since_ns);
            if now_ns.saturating_sub(since) <= MAX_AGE_NS {
                break;
            }
            self.give_up(&key);
        }
    }

    fn make_room(&mut self) {
        while (self.bytes > MAX_BYTES || self.partial.len() > MAX_PACKETS)
            && let Some((_, key)) = self.by_age.first_key_value()
        {
            let key = *key;
            self.give_up(&key);
        }
    }

    fn give_up(&mut self, key: &Key) {
        if let Some(partial) = self.remove(key) {
            self.lost += partial.parts;
        }
    }

    fn take(&mut self, key: &Key) -> Option<Whole> {
        let partial = self.remove(key)?;
        Some(Whole {
            source: key.source,
            destination: key.destination,
            protocol: partial.protocol,
            bytes: partial.bytes.take_bufs().0,
        })
    }

    fn remove(&mut self, key: &Key) -> Option<Partial> {
        let partial = self.partial.remove(key)?;
        self.by_age.remove(&partial.number);
        self.bytes -= partial.bytes.data().capacity();
        Some(partial)
    }
}

impl Partial {
    /// Adds a part, unless that and the others can't be of one packet.
    fn add(&mut self, packet: &Packet<'_>, part: Part) -> bool {
        let data = packet.body.data;
        let start = usize::from(part.offset.byte_offset());
        let end = start + data.len();
        let ranges = self.bytes.sections().iter();
        let agrees = ranges
            .map(|range| (usize::from(range.start), usize::from(range.end)))
            .all(|(from, to)| {
                let (low, high) = (from.max(start), to.min(end));
                let same =
                    low >= high || data[low - start..high - start] == self.bytes.data()[low..high];
                // Nothing lies behind the last part.
                same && (part.more || to <= end)
            });
        if start == 0 {
            self.protocol = packet.protocol;
        }
        agrees
            && self.bytes.add(part.offset, part.more, data).is_ok()
            && self.bytes.sections().len() <= MAX_RANGES
    }
}
