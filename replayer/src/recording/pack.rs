//! Records, packed for one write.
//!
//! What enters: whole records, and how many torn bytes of an earlier write lie in their place. What leaves: bytes that stand
//! for themselves: a gzip member, a zstd frame, or the records as they are. What may be lost: nothing.
//!
//! Readers take a file of many members or frames for one (RFC 1952 §2.2, RFC 8878 §3.1). So what was written is whole
//! whatever comes later, and the file is good up to its last member at any time.
//!
//! A gzip member doesn't say where it ends. Ours do, in an extra field (RFC 1952 §2.3.1.1) `RP` with the member's length,
//! eight bytes, so that whoever appends later can go from one to the next without unpacking them. Torn bytes that a new
//! member doesn't cover are covered by members (`RV`) and frames (skippable ones, RFC 8878 §3.1.2) that hold nothing. In a
//! plain file the first header gets blanks at its end, which no reader minds.

use std::io::{self, Write as _};

use flate2::{Compression, GzBuilder};
use reprise_traffic::recording::Packing;

/// What begins one of our gzip members: a header with one extra field. The length stands behind it.
pub(super) const RECORDS: [u8; 16] = gzip_header(12, *b"RP", 8);
/// What begins one that holds nothing, but for the length of its extra field.
pub(super) const VOID: [u8; 4] = [0x1f, 0x8b, 8, 4];
/// The name of that field.
pub(super) const VOID_FIELD: [u8; 2] = *b"RV";
/// Bytes of a member that holds nothing, without those in its extra field: header, empty deflate block, trailer.
pub(super) const VOID_FRAME: u64 = 12 + 2 + 8;
/// The first of the magic numbers of frames that hold nothing.
pub(super) const SKIPPABLE: u32 = 0x184d_2a50;

/// Fast beats small: a recording is written on the machine that replays.
const GZIP_LEVEL: Compression = Compression::new(3);
/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// More than this is not kept for the next time.
const KEEP: usize = 4 << 20;

const fn gzip_header(extra: u16, field: [u8; 2], length: u16) -> [u8; 16] {
    let ([x0, x1], [l0, l1]) = (extra.to_le_bytes(), length.to_le_bytes());
    // Deflate, an extra field, no time, no system.
    [
        0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, x0, x1, field[0], field[1], l0, l1,
    ]
}

/// Packs what is to be written.
pub(super) struct Packer {
    packing: Packing,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    out: Vec<u8>,
}

impl Packer {
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn new(packing: Packing) -> io::Result<Packer> {
        let zstd = match packing {
            Packing::Zstd => {
                let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
                compressor.include_checksum(true)?;
                Some(compressor)
            }
            Packing::Plain | Packing::Gzip => None,
        };
        Ok(Packer {
            packing,
            zstd,
            out: Vec::new(),
        })
    }

    /// Packs records so that they take at least `torn` bytes.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn pack<'a>(&'a mut self, records: &'a [u8], torn: u64) -> io::Result<&'a [u8]> {
        if self.out.capacity() > KEEP {
            self.out = Vec::new();
        }
        self.out.clear();
        match (&mut self.zstd, self.packing) {
            (Some(zstd), _) => {
                self.out
                    .resize(zstd::zstd_safe::compress_bound(records.len()), 0);
                let len = zstd.compress_to_buffer(records, &mut self.out[..])?;
                self.out.truncate(len);
            }
            (None, Packing::Gzip) => gzip(records, &mut self.out)?,
            (None, _) if torn == 0 => return Ok(records),
            (None, _) => widen(records, torn, &mut self.out),
        }
        while let left @ 1.. = torn.saturating_sub(self.out.len() as u64) {
            match self.packing {
                Packing::Gzip => gzip_void(left, &mut self.out),
                Packing::Zstd => zstd_void(left, &mut self.out),
                Packing::Plain => break,
            }
        }
        Ok(&self.out)
    }
}

fn gzip(records: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let begin = out.len();
    let extra = [&RECORDS[12..], &[0; 8]].concat();
    let builder = GzBuilder::new().operating_system(255).extra(extra);
    let mut member = builder.write(&mut *out, GZIP_LEVEL);
    member.write_all(records)?;
    member.finish()?;
    let length = (out.len() - begin) as u64;
    let place = begin + RECORDS.len();
    out[place..place + 8].copy_from_slice(&length.to_le_bytes());
    // Says how well it was packed, which nobody needs; ours all begin alike.
    out[begin..place].copy_from_slice(&RECORDS);
    Ok(())
}

/// A member that holds nothing and takes up to 64 KiB of `bytes`.
fn gzip_void(bytes: u64, out: &mut Vec<u8>) {
    let extra = bytes
        .saturating_sub(VOID_FRAME)
        .clamp(4, u64::from(u16::MAX)) as u16;
    out.extend_from_slice(&gzip_header(extra, VOID_FIELD, extra - 4));
    out.resize(out.len() + usize::from(extra - 4), 0);
    // An empty last block (RFC 1951 §3.2.3), and checksum and length of nothing.
    out.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

/// A frame that holds nothing and takes all of `bytes`.
fn zstd_void(bytes: u64, out: &mut Vec<u8>) {
    let length = bytes.saturating_sub(8).min(u64::from(u32::MAX)) as u32;
    out.extend_from_slice(&SKIPPABLE.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.resize(out.len() + length as usize, 0);
}

/// Blanks behind the first header, so that its line alone covers what is torn: as long as not all of it is written, no
/// bytes of another request can stand behind a whole header.
fn widen(records: &[u8], torn: u64, out: &mut Vec<u8>) {
    let header = memchr::memchr(b'\n', records).unwrap_or(records.len());
    let torn = usize::try_from(torn).unwrap_or(usize::MAX);
    out.extend_from_slice(&records[..header]);
    out.resize(out.len().max(torn), b' ');
    out.extend_from_slice(&records[header..]);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;

    use super::*;

    fn unpacked(packing: Packing, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let read = match packing {
            Packing::Plain => (&mut &bytes[..]).read_to_end(&mut out),
            Packing::Gzip => MultiGzDecoder::new(bytes).read_to_end(&mut out),
            Packing::Zstd => zstd::Decoder::new(bytes).unwrap().read_to_end(&mut out),
        };
        read.unwrap();
        out
    }

    #[test]
    fn whatever_is_torn_is_covered_and_nothing_of_it_is_read() {
        let records = b"1 a 1 -1\nGET / HTTP/1.1\r\n\r\n\n\xf0\x9f\x90\xb5\n";
        for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
            let mut packer = Packer::new(packing).unwrap();
            let alone = packer.pack(records, 0).unwrap().to_vec();
            for more in [0, 1, 7, 8, 9, 25, 26, 27, 65_556, 65_557, 65_558, 300_000] {
                let torn = alone.len() as u64 + more;
                let bytes = packer.pack(records, torn).unwrap().to_vec();
                assert!(bytes.len() as u64 >= torn, "{packing:?} {more}");
                assert!(bytes.len() as u64 <= torn + records.len() as u64 + 26);
                let mut read = unpacked(packing, &[&bytes[..], &alone].concat());
                if packing == Packing::Plain {
                    read = String::from_utf8(read)
                        .unwrap()
                        .replace("-1  ", "-1")
                        .into_bytes();
                    let blank = |b: &[u8]| b == b" ";
                    let text = read.split_inclusive(|b| *b == b'\n');
                    let text = text.map(|line| match line.starts_with(b"1 a 1 -1") {
                        true => &b"1 a 1 -1\n"[..],
                        false => line,
                    });
                    read = text
                        .filter(|line| !blank(line))
                        .collect::<Vec<_>>()
                        .concat();
                }
                assert_eq!(read, [&records[..], records].concat(), "{packing:?} {more}");
            }
        }
    }
}
