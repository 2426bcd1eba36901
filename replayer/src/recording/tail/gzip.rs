//! Members of a gzip file (RFC 1952).
//!
//! What enters: a file and a place in it. What leaves: what begins there. What may be lost: nothing.

use std::fs::File;
use std::io::{self, Seek as _};

use flate2::bufread::{GzDecoder, MultiGzDecoder};

use super::super::pack::{RECORDS, VOID, VOID_FIELD, VOID_FRAME};
use super::{Format, Out, Unit, array_at, drain, first_of, reader_at};

const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

pub(super) const FORMAT: Format = Format {
    begins: |first| first.starts_with(&MAGIC) || MAGIC.starts_with(first),
    unit,
    unpack,
    begin: |file| first_of(&mut MultiGzDecoder::new(reader_at(file, 0)?)),
};

fn unit(file: &File, at: u64) -> io::Result<Unit> {
    if let Some(header) = array_at::<24>(file, at)?
        && let Some(length) = header.strip_prefix(&RECORDS).and_then(|l| l.first_chunk())
    {
        let end = at.checked_add(u64::from_le_bytes(*length));
        return Ok(end.map_or(Unit::Garbage, Unit::Records));
    }
    if let Some(header) = array_at::<14>(file, at)?
        && header.starts_with(&VOID)
        && header[12..] == VOID_FIELD
    {
        let extra = u16::from_le_bytes([header[10], header[11]]);
        return Ok(Unit::Void(at + VOID_FRAME + u64::from(extra)));
    }
    Ok(match array_at::<3>(file, at)? {
        // Of ours where not even the header is whole, which is as good as torn by others.
        Some(MAGIC) => Unit::Foreign,
        _ => Unit::Garbage,
    })
}

fn unpack(file: &File, at: u64, out: Out<'_>) -> io::Result<Option<u64>> {
    let mut member = GzDecoder::new(reader_at(file, at)?);
    match drain(&mut member, out)? {
        true => member.into_inner().stream_position().map(Some),
        false => Ok(None),
    }
}
