//! The newer format: sections of blocks (draft-ietf-opsawg-pcapng).
//!
//! What enters: the blocks of a file. What leaves: a packet's link type, time and lengths.
//! What may be lost: nothing; blocks that hold no packet are skipped.

use std::io::Read;

use super::input::{Input, Order};
use super::{Flaw, Prelude};

/// A section's first bytes, the same in either byte order.
pub(super) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const OPTION_END: u16 = 0;
const OPTION_TIME_RESOLUTION: u16 = 9;
const OPTION_TIME_OFFSET: u16 = 14;

/// Bytes of an interface's options that are looked at; tools write well under 1 KiB.
const MAX_OPTIONS: u32 = 64 * 1024;

/// The obsolete packet block can't name more.
const MAX_INTERFACES: usize = 1 << 16;

/// Type, length, and the length again at the end.
const BLOCK_FRAME: u32 = 12;

/// What the blocks of a section are read with.
#[derive(Debug)]
pub(super) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
    /// The current block's length, which its end repeats.
    length: u32,
}

#[derive(Debug, Clone, Copy)]
struct Interface {
    link: u16,
    snap: u32,
    clock: Clock,
}

/// How an interface counts time.
#[derive(Debug, Clone, Copy)]
struct Clock {
    /// `if_tsresol`: the exponent of a unit, of 10, or of 2 with the highest bit set.
    resolution: u8,
    /// Seconds to add.
    offset: i64,
}

impl Section {
    /// Reads the header that begins a file, behind its magic number.
    pub(super) fn begin<R: Read>(input: &mut Input<R>) -> Result<Section, Flaw> {
        let mut section = Section {
            order: Order::Little,
            interfaces: Vec::new(),
            length: 0,
        };
        section.begin_section(input)?;
        Ok(section)
    }

    /// What precedes the next packet's bytes.
    pub(super) fn prelude<R: Read>(&mut self, input: &mut Input<R>) -> Result<Prelude, Flaw> {
        loop {
            let kind: [u8; 4] = input.array()?;
            if kind == MAGIC {
                self.begin_section(input)?;
                continue;
            }
            self.length = self.order.u32(input.rest()?);
            let Some(body) = self.length.checked_sub(BLOCK_FRAME) else {
                return Err(Flaw::Garbage("a block shorter than its frame"));
            };
            if body % 4 != 0 {
                return Err(Flaw::Garbage("a block whose length is no multiple of 4"));
            }
            match self.order.u32(kind) {
                INTERFACE => self.add_interface(body, input)?,
                ENHANCED_PACKET => return self.packet(body, false, input),
                OBSOLETE_PACKET => return self.packet(body, true, input),
                SIMPLE_PACKET => return self.simple_packet(body, input),
                _ => self.end(input, body)?,
            }
        }
    }

    /// Skips the rest of a block and checks its end.
    pub(super) fn end<R: Read>(&self, input: &mut Input<R>, rest: u32) -> Result<(), Flaw> {
        input.skip(u64::from(rest))?;
        match self.order.u32(input.rest()?) == self.length {
            true => Ok(()),
            false => Err(Flaw::Garbage("a block with two different lengths")),
        }
    }

    /// Takes a section's header, behind its magic number. Byte order and interfaces are its own.
    fn begin_section<R: Read>(&mut self, input: &mut Input<R>) -> Result<(), Flaw> {
        let length = input.rest()?;
        self.order = match input.rest()? {
            [0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
            [0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
            _ => return Err(Flaw::Garbage("a section without a byte order")),
        };
        self.interfaces.clear();
        self.length = self.order.u32(length);
        let major = self.order.u16(input.rest()?);
        if major != 1 {
            return Err(Flaw::Garbage("a section with a version other than 1"));
        }
        // Byte order and major version are behind us.
        match self.length.checked_sub(BLOCK_FRAME + 6) {
            Some(rest) => self.end(input, rest),
            None => Err(Flaw::Garbage("a section header that is too short")),
        }
    }

    fn add_interface<R: Read>(&mut self, body: u32, input: &mut Input<R>) -> Result<(), Flaw> {
        let Some(options) = body.checked_sub(8) else {
            return Err(Flaw::Garbage("an interface block that is too short"));
        };
        if self.interfaces.len() == MAX_INTERFACES {
            return Err(Flaw::Garbage("more than 65536 interfaces"));
        }
        let link = self.order.u16(input.rest()?);
        input.rest::<2>()?;
        let snap = self.order.u32(input.rest()?);
        let looked_at = options.min(MAX_OPTIONS);
        let mut bytes = Vec::new();
        input.append(looked_at as usize, &mut bytes)?;
        self.interfaces.push(Interface {
            link,
            snap,
            clock: Clock::from_options(&bytes, self.order),
        });
        self.end(input, options - looked_at)
    }

    /// An enhanced packet, or the obsolete kind, whose header differs in one field.
    fn packet<R: Read>(
        &self,
        body: u32,
        obsolete: bool,
        input: &mut Input<R>,
    ) -> Result<Prelude, Flaw> {
        let header: [u8; 20] = match body < 20 {
            true => return Err(Flaw::Garbage("a packet block that is too short")),
            false => input.rest()?,
        };
        let mut words = header.as_chunks().0.iter().copied();
        let mut word = || words.next().unwrap_or_default();
        let id = word();
        let id = match obsolete {
            // Behind it the number of drops.
            true => u32::from(self.order.u16([id[0], id[1]])),
            false => self.order.u32(id),
        };
        let (high, low) = (self.order.u32(word()), self.order.u32(word()));
        let (captured, wire) = (self.order.u32(word()), self.order.u32(word()));
        let Some(behind) = (body - 20).checked_sub(captured) else {
            return Err(Flaw::Garbage("a packet longer than its block"));
        };
        let interface = self.interface(id)?;
        Ok(Prelude {
            link: interface.link,
            at_ns: interface.clock.ns(u64::from(high) << 32 | u64::from(low)),
            captured,
            wire,
            behind,
        })
    }

    /// A packet without time, of the first interface, as long as that cuts them.
    fn simple_packet<R: Read>(&self, body: u32, input: &mut Input<R>) -> Result<Prelude, Flaw> {
        let Some(room) = body.checked_sub(4) else {
            return Err(Flaw::Garbage("a packet block that is too short"));
        };
        let interface = self.interface(0)?;
        let wire = self.order.u32(input.rest()?);
        let snap = match interface.snap {
            0 => u32::MAX,
            snap => snap,
        };
        let captured = wire.min(snap).min(room);
        Ok(Prelude {
            link: interface.link,
            at_ns: 0,
            captured,
            wire,
            behind: room - captured,
        })
    }

    fn interface(&self, id: u32) -> Result<Interface, Flaw> {
        let found = self.interfaces.get(id as usize).copied();
        found.ok_or(Flaw::Garbage(
            "a packet of an interface that was not described",
        ))
    }
}

impl Clock {
    fn from_options(mut options: &[u8], order: Order) -> Clock {
        // Microseconds, where nothing is said.
        let mut clock = Clock {
            resolution: 6,
            offset: 0,
        };
        while let Some((&[a, b, c, d], rest)) = options.split_first_chunk() {
            let (code, length) = (order.u16([a, b]), usize::from(order.u16([c, d])));
            let Some(value) = rest.get(..length) else {
                break;
            };
            match (code, value) {
                (OPTION_END, _) => break,
                (OPTION_TIME_RESOLUTION, [resolution, ..]) => clock.resolution = *resolution,
                (OPTION_TIME_OFFSET, value) => {
                    if let Ok(value) = value.try_into() {
                        clock.offset = order.i64(value);
                    }
                }
                _ => {}
            }
            options = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        clock
    }

    /// Unix nanoseconds of a count of units; the nearest that there is where it lies too far off.
    fn ns(self, units: u64) -> u64 {
        let units = u128::from(units);
        let exponent = u32::from(self.resolution & 0x7f);
        let since = if self.resolution & 0x80 != 0 {
            (units * 1_000_000_000) >> exponent
        } else if exponent <= 9 {
            units * 10_u128.pow(9 - exponent)
        } else {
            units / 10_u128.checked_pow(exponent - 9).unwrap_or(u128::MAX)
        };
        let at = since as i128 + i128::from(self.offset) * 1_000_000_000;
        at.clamp(0, i128::from(u64::MAX)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_of_every_resolution_give_nanoseconds() {
        let second = |resolution, units, offset| Clock { resolution, offset }.ns(units);
        assert_eq!(second(6, 1_500_000, 0), 1_500_000_000);
        assert_eq!(second(0, 7, 3), 10_000_000_000);
        assert_eq!(second(9, 7, 0), 7);
        assert_eq!(second(12, 7_999, 0), 7);
        assert_eq!(second(0x80 | 10, 1536, 0), 1_500_000_000);
        assert_eq!(second(0x80, 2, -1), 1_000_000_000);
        // Nothing overflows.
        assert_eq!(second(0, u64::MAX, i64::MAX), u64::MAX);
        assert_eq!(second(0xff, u64::MAX, i64::MIN), 0);
        assert_eq!(second(0x7f, u64::MAX, 0), 0);
    }
}
