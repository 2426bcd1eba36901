//! Files as they were before they were packed.
//!
//! What enters: bytes, packed by gzip or zstd or not at all, which their first bytes tell. What leaves: the bytes
//! unpacked, as a stream. What may be lost: nothing; errors of the packing come out as errors of reading.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use super::MAGIC_LEN;

/// RFC 1952 §2.3.1.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// RFC 8878 §3.1.1.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Large enough that the system is rarely asked, and that most of what is in a file lies in it whole.
const BUFFER: usize = 256 << 10;

/// A stream whose first bytes were looked at.
pub type Peeked<R> = Chain<Cursor<Vec<u8>>, R>;

/// Looks at the first bytes; zeros stand for what lies behind the end.
///
/// # Errors
/// When they can't be read.
pub fn peek<R: Read>(mut input: R) -> io::Result<([u8; MAGIC_LEN], Peeked<R>)> {
    let mut first = Vec::with_capacity(MAGIC_LEN);
    (&mut input)
        .take(MAGIC_LEN as u64)
        .read_to_end(&mut first)?;
    let mut magic = [0; MAGIC_LEN];
    magic[..first.len()].copy_from_slice(&first);
    Ok((magic, Cursor::new(first).chain(input)))
}

/// The bytes of `input`, unpacked where it is packed. A pipe is never waited for beyond what is asked of it.
///
/// # Errors
/// When the first bytes can't be read.
pub fn unpack(input: impl Read + 'static) -> io::Result<Box<dyn BufRead>> {
    let (magic, input) = peek(input)?;
    let input = BufReader::with_capacity(BUFFER, input);
    Ok(if magic[..2] == GZIP {
        Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(input)))
    } else if magic == ZSTD {
        // Its own bound on memory, a window of 128 MiB, is that of the zstd tool.
        Box::new(BufReader::with_capacity(
            BUFFER,
            zstd::Decoder::with_buffer(input)?,
        ))
    } else {
        Box::new(input)
    })
}
