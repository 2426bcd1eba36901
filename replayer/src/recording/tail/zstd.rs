//! Frames of a zstd file (RFC 8878 §3.1).
//!
//! What enters: a file and a place in it. What leaves: what begins there. What may be lost: nothing.

use std::fs::File;
use std::io::{self, Seek as _};

use super::super::pack::SKIPPABLE;
use super::{Format, Out, Unit, array_at, drain, first_of, reader_at};

const MAGIC: u32 = 0xfd2f_b528;

pub(super) const FORMAT: Format = Format {
    begins: |first| match first.first_chunk() {
        Some(magic) => {
            let magic = u32::from_le_bytes(*magic);
            magic == MAGIC || magic & !0xf == SKIPPABLE
        }
        None => MAGIC.to_le_bytes().starts_with(first),
    },
    unit,
    unpack,
    begin: |file| first_of(&mut zstd::Decoder::with_buffer(reader_at(file, 0)?)?),
};

fn unit(file: &File, at: u64) -> io::Result<Unit> {
    let Some(magic) = array_at(file, at)?.map(u32::from_le_bytes) else {
        return Ok(Unit::Garbage);
    };
    if magic & !0xf == SKIPPABLE {
        let length = array_at(file, at + 4)?.map(u32::from_le_bytes);
        return Ok(length.map_or(Unit::Garbage, |length| {
            Unit::Void(at + 8 + u64::from(length))
        }));
    }
    if magic != MAGIC {
        return Ok(Unit::Garbage);
    }
    Ok(frame_end(file, at)?.map_or(Unit::Garbage, Unit::Records))
}

/// Blocks say how long they are, so a frame need not be unpacked.
fn frame_end(file: &File, at: u64) -> io::Result<Option<u64>> {
    let Some([descriptor]) = array_at(file, at + 4)? else {
        return Ok(None);
    };
    let is_single = descriptor >> 5 & 1;
    let has_checksum = descriptor >> 2 & 1;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = [u64::from(is_single), 2, 4, 8][usize::from(descriptor >> 6)];
    let mut at = at + 5 + u64::from(1 - is_single) + dictionary + content;
    loop {
        let Some([a, b, c]) = array_at(file, at)? else {
            return Ok(None);
        };
        let header = u32::from_le_bytes([a, b, c, 0]);
        let length = match header >> 1 & 3 {
            // One byte that is repeated.
            1 => 1,
            3 => return Ok(None),
            _ => u64::from(header >> 3),
        };
        at += 3 + length;
        if header & 1 == 1 {
            return Ok(Some(at + 4 * u64::from(has_checksum)));
        }
    }
}

fn unpack(file: &File, at: u64, out: Out<'_>) -> io::Result<Option<u64>> {
    let mut frame = zstd::Decoder::with_buffer(reader_at(file, at)?)?.single_frame();
    match drain(&mut frame, out)? {
        true => frame.finish().stream_position().map(Some),
        false => Ok(None),
    }
}
