//! Bytes of a file, with their place in it.
//!
//! What enters: reads of any size. What leaves: numbers in the file's byte order and runs of bytes, whole or not at
//! all. What may be lost: nothing.

use std::io::{self, BufReader, Read};

use super::Flaw;

/// Large enough that the system is rarely asked.
const BUFFER: usize = 256 * 1024;

/// A file's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    pub(super) fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Order::Little => u16::from_le_bytes(bytes),
            Order::Big => u16::from_be_bytes(bytes),
        }
    }

    pub(super) fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Order::Little => u32::from_le_bytes(bytes),
            Order::Big => u32::from_be_bytes(bytes),
        }
    }

    pub(super) fn i64(self, bytes: [u8; 8]) -> i64 {
        match self {
            Order::Little => i64::from_le_bytes(bytes),
            Order::Big => i64::from_be_bytes(bytes),
        }
    }
}

/// Reads a file from front to back.
#[derive(Debug)]
pub(super) struct Input<R> {
    reader: BufReader<R>,
    at: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R) -> Input<R> {
        Input {
            reader: BufReader::with_capacity(BUFFER, reader),
            at: 0,
        }
    }

    /// The next `N` bytes; [`Flaw::End`] where there is none.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            match self.reader.read(&mut bytes[filled..]) {
                Ok(0) if filled == 0 => return Err(Flaw::End),
                Ok(0) => return Err(Flaw::CutOff),
                Ok(n) => {
                    filled += n;
                    self.at += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(flaw(error)),
            }
        }
        Ok(bytes)
    }

    /// Bytes that belong to what has begun.
    pub(super) fn rest<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        self.array().map_err(|flaw| match flaw {
            Flaw::End => Flaw::CutOff,
            other => other,
        })
    }

    /// Appends the next `length` bytes to `data`, which grows with what is really there.
    pub(super) fn append(&mut self, length: usize, data: &mut Vec<u8>) -> Result<(), Flaw> {
        let taken = (&mut self.reader).take(length as u64).read_to_end(data);
        self.passed(taken.map(|n| n as u64), length as u64)
    }

    pub(super) fn skip(&mut self, length: u64) -> Result<(), Flaw> {
        let taken = io::copy(&mut (&mut self.reader).take(length), &mut io::sink());
        self.passed(taken, length)
    }

    fn passed(&mut self, taken: io::Result<u64>, length: u64) -> Result<(), Flaw> {
        let taken = taken.map_err(flaw)?;
        self.at += taken;
        match taken == length {
            true => Ok(()),
            false => Err(Flaw::CutOff),
        }
    }
}

impl<R> Input<R> {
    /// Bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }
}

/// What decompressors say of their input is about the file.
fn flaw(error: io::Error) -> Flaw {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Flaw::CutOff,
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            Flaw::Garbage("it can't be unpacked")
        }
        _ => Flaw::Io(error),
    }
}
