//! Packets from capture files: pcap and pcapng.
//!
//! What enters: the bytes of a file or a pipe, unpacked ([`unpack`]). What leaves: [`Frame`]s, one by one; packets of a
//! link type that nobody here understands, as such. What may be lost: what lies behind the first byte that makes no
//! sense, or behind the end of a file that was cut off; a [`FileError`] says where that is.
//!
//! Memory is that of the largest packet: a length that is merely claimed makes nobody allocate, and what is no
//! packet is skipped without being held. The formats are those of draft-ietf-opsawg-pcap and
//! draft-ietf-opsawg-pcapng. libpcap reads them too, but neither packed, nor with interfaces of several link types.

mod input;
mod pcap;
mod pcapng;
mod unpack;

use std::io::{self, Read};
use std::time::Duration;

use crate::packet::{Frame, LinkType};
use crate::reassembly::Limits;
use input::Input;

pub use unpack::{Peeked, peek, unpack};

/// A longer packet is taken for garbage. The largest on a network are BIG TCP's with some 512 KiB; libpcap's own bound
/// is 256 KiB, for a few buses 128 MiB.
const MAX_PACKET: usize = 16 << 20;

/// In a file, a request may pause for minutes and nobody waits for it; and next to packets of today lie some with time 0.
pub const NEVER: Duration = Duration::MAX;

/// Bounds for a capture that lies in a file: a request, a lost byte or an answer may be minutes in coming, and nobody waits
/// for it. What has ended is forgotten all the same, because it would fill the memory that unfinished requests need.
pub fn without_hurry(limits: Limits) -> Limits {
    Limits {
        hole: NEVER,
        incomplete: NEVER,
        answer: NEVER,
        ..limits
    }
}

/// Bytes that tell the format.
pub const MAGIC_LEN: usize = 4;

/// Why reading ends before the end.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The first bytes are of another format.
    #[error("neither pcap nor pcapng")]
    NotACapture,
    /// The end comes within a packet or a header.
    #[error(
        "cut off at byte {end}, within what begins at byte {at}, after {packets} whole packets"
    )]
    CutOff {
        /// Where the record begins that isn't whole.
        at: u64,
        /// Bytes of the file, unpacked.
        end: u64,
        /// Packets before.
        packets: u64,
    },
    /// The file goes on with what can't be a packet.
    #[error("garbage at byte {at}, after {packets} packets: {what}")]
    Garbage {
        /// Where the record begins that makes no sense.
        at: u64,
        /// Packets before.
        packets: u64,
        /// What makes no sense.
        what: &'static str,
    },
    /// The system can't read on.
    #[error("read at byte {at}, after {packets} packets: {error}")]
    Io {
        /// Where the record begins.
        at: u64,
        /// Packets before.
        packets: u64,
        /// What the system says.
        error: io::Error,
    },
}

/// What a file holds for one packet.
#[derive(Debug, Clone, Copy)]
pub enum Packet<'a> {
    /// To be decoded.
    Frame(Frame<'a>),
    /// Of a link type that can't be.
    UnknownLink {
        /// Its number in <https://www.tcpdump.org/linktypes.html>.
        number: u16,
        /// Its bytes on the wire.
        wire_len: usize,
    },
}

/// A capture that is being read.
#[derive(Debug)]
pub struct CaptureFile<R> {
    input: Input<R>,
    format: Format,
    /// The current packet's bytes.
    data: Vec<u8>,
    packets: u64,
}

#[derive(Debug)]
enum Format {
    Pcap(pcap::Header),
    Pcapng(pcapng::Section),
}

/// What precedes a packet's bytes.
#[derive(Debug, Clone, Copy)]
struct Prelude {
    /// Number of its link type.
    link: u16,
    at_ns: u64,
    captured: u32,
    wire: u32,
    /// Bytes behind it that aren't its own.
    behind: u32,
}

/// Why a record can't be read; [`FileError`] adds where.
#[derive(Debug)]
enum Flaw {
    End,
    CutOff,
    Garbage(&'static str),
    Io(io::Error),
}

/// True where `magic` begins a capture file.
pub fn is_capture(magic: [u8; MAGIC_LEN]) -> bool {
    magic == pcapng::MAGIC || pcap::Variant::of(magic).is_some()
}

impl<R: Read> CaptureFile<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When there is none, or not all of it.
    pub fn open(input: R) -> Result<CaptureFile<R>, FileError> {
        let mut input = Input::new(input);
        let format = read_header(&mut input);
        let format = format.map_err(|flaw| located(flaw, &input, 0, 0))?;
        Ok(CaptureFile {
            input,
            format: format.ok_or(FileError::NotACapture)?,
            data: Vec::new(),
            packets: 0,
        })
    }

    /// The next packet; `None` at the end.
    ///
    /// # Errors
    /// When the rest can't be read. Asked again it makes no more sense.
    pub fn next_packet(&mut self) -> Result<Option<Packet<'_>>, FileError> {
        let at = self.input.at();
        match self.read() {
            Ok(prelude) => {
                self.packets += 1;
                Ok(Some(self.packet(prelude)))
            }
            Err(Flaw::End) => Ok(None),
            Err(flaw) => Err(located(flaw, &self.input, at, self.packets)),
        }
    }

    /// Reads up to the next packet's end.
    fn read(&mut self) -> Result<Prelude, Flaw> {
        let input = &mut self.input;
        let prelude = match &mut self.format {
            Format::Pcap(header) => header.prelude(input)?,
            Format::Pcapng(section) => section.prelude(input)?,
        };
        if prelude.captured as usize > MAX_PACKET {
            return Err(Flaw::Garbage("a packet of more than 16 MiB"));
        }
        self.data.clear();
        input.append(prelude.captured as usize, &mut self.data)?;
        match &self.format {
            Format::Pcap(_) => {}
            Format::Pcapng(section) => section.end(input, prelude.behind)?,
        }
        Ok(prelude)
    }

    fn packet(&self, prelude: Prelude) -> Packet<'_> {
        // Some tools write 0 for the length on the wire.
        let wire_len = prelude.wire.max(prelude.captured) as usize;
        match LinkType::from_number(i32::from(prelude.link)) {
            Some(link) => Packet::Frame(Frame {
                link,
                at_ns: prelude.at_ns,
                wire_len,
                data: &self.data,
            }),
            None => Packet::UnknownLink {
                number: prelude.link,
                wire_len,
            },
        }
    }
}

fn read_header<R: Read>(input: &mut Input<R>) -> Result<Option<Format>, Flaw> {
    let magic = match input.array::<MAGIC_LEN>() {
        // Too short to be anything.
        Err(Flaw::End | Flaw::CutOff) => return Ok(None),
        magic => magic?,
    };
    let format = if magic == pcapng::MAGIC {
        Format::Pcapng(pcapng::Section::begin(input)?)
    } else if let Some(variant) = pcap::Variant::of(magic) {
        Format::Pcap(pcap::Header::read(variant, input)?)
    } else {
        return Ok(None);
    };
    Ok(Some(format))
}

fn located<R>(flaw: Flaw, input: &Input<R>, at: u64, packets: u64) -> FileError {
    match flaw {
        Flaw::End | Flaw::CutOff => FileError::CutOff {
            at,
            end: input.at(),
            packets,
        },
        Flaw::Garbage(what) => FileError::Garbage { at, packets, what },
        Flaw::Io(error) => FileError::Io { at, packets, error },
    }
}

#[cfg(test)]
mod tests;
