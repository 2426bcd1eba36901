//! The older format: one header, then packets (draft-ietf-opsawg-pcap).
//!
//! What enters: the bytes behind the magic number. What leaves: a packet's link type, time and lengths.
//! What may be lost: nothing.

use std::io::Read;

use super::input::{Input, Order};
use super::{Flaw, Prelude};

/// What the magic number tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variant {
    order: Order,
    /// Nanoseconds in a unit of the second part of a time.
    unit_ns: u64,
    /// Bytes between a packet's lengths and its data. Linux 2.2's patched libpcap wrote some.
    extra: u64,
}

impl Variant {
    pub(super) fn of(magic: [u8; 4]) -> Option<Variant> {
        [Order::Little, Order::Big].into_iter().find_map(|order| {
            let (unit_ns, extra) = match order.u32(magic) {
                0xa1b2_c3d4 => (1000, 0),
                0xa1b2_3c4d => (1, 0),
                0xa1b2_cd34 => (1000, 8),
                _ => return None,
            };
            Some(Variant {
                order,
                unit_ns,
                extra,
            })
        })
    }
}

/// How packets are to be read.
#[derive(Debug)]
pub(super) struct Header {
    variant: Variant,
    link: u16,
    /// Files older than version 2.3 have the lengths the other way round, those of 2.3 may have.
    minor: u16,
}

impl Header {
    /// Reads what follows the magic number.
    pub(super) fn read<R: Read>(variant: Variant, input: &mut Input<R>) -> Result<Header, Flaw> {
        let order = variant.order;
        let major = order.u16(input.rest()?);
        let minor = order.u16(input.rest()?);
        if major != 2 {
            return Err(Flaw::Garbage("a pcap header with a version other than 2"));
        }
        // Time zone and precision, which nobody fills in, and the snapshot length, which packets may exceed.
        input.rest::<12>()?;
        // The upper half tells of a checksum behind each packet, which the IP header's length excludes.
        let link = order.u32(input.rest()?) as u16;
        Ok(Header {
            variant,
            link,
            minor,
        })
    }

    /// What precedes the next packet's bytes.
    pub(super) fn prelude<R: Read>(&self, input: &mut Input<R>) -> Result<Prelude, Flaw> {
        let Variant {
            order,
            unit_ns,
            extra,
        } = self.variant;
        let seconds = order.u32(input.array()?);
        let fraction = order.u32(input.rest()?);
        let mut captured = order.u32(input.rest()?);
        let mut wire = order.u32(input.rest()?);
        if self.minor < 3 || (self.minor == 3 && captured > wire) {
            std::mem::swap(&mut captured, &mut wire);
        }
        input.skip(extra)?;
        Ok(Prelude {
            link: self.link,
            at_ns: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit_ns,
            captured,
            wire,
            behind: 0,
        })
    }
}
