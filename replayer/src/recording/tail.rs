//! Where a file ends that is to be gone on with.
//!
//! What enters: a recording, by us or by others, whose last write may have been cut off anywhere. What leaves: where to
//! write next, how many torn bytes are there, and which whole records have to be written anew because they lie within what
//! is torn. What may be lost: the part of a record that was never whole; nothing is changed here.
//!
//! Members that say how long they are, and frames, are passed without being unpacked, but for the last: a write over torn
//! bytes that was cut off itself leaves a beginning of its own with an end of another.

mod gzip;
mod plain;
mod zstd;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use memchr::memmem;
use reprise_traffic::gor::{self, SEPARATOR};
use reprise_traffic::recording::Packing;

/// More whole records than this in what is torn are not held in memory to be written anew.
const MOST_CARRIED: usize = gor::MAX_RECORD;

/// The end of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// Where to write next.
    pub(super) at: u64,
    /// Bytes from there to the end of the file, to be covered by what is written next.
    pub(super) torn: u64,
    /// What is to be written ahead of new records: whole ones out of what is torn, or a separator that is missing.
    pub(super) carried: Vec<u8>,
}

/// Why a file can't be gone on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// It holds something else.
    #[error("what is in it is no recording, or not packed as its name says; name another file")]
    NotARecording,
    /// What was torn by others holds more than we would keep in memory.
    #[error("it is torn, and what is torn holds too much to be written anew; name another file")]
    TooMuchTorn,
    /// It can't be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Finds the end of a file.
///
/// # Errors
/// When it is no recording that can be gone on with.
pub(super) fn find(file: &File, packing: Packing) -> Result<Tail, Unfit> {
    if file.metadata()?.len() == 0 {
        return Ok(Tail::default());
    }
    match packing {
        Packing::Plain => plain::find(file),
        Packing::Gzip => find_packed(file, &gzip::FORMAT),
        Packing::Zstd => find_packed(file, &zstd::FORMAT),
    }
}

/// A member or a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Holds something, and ends there if the file is long enough.
    Records(u64),
    /// Holds nothing.
    Void(u64),
    /// It must be unpacked to know where it ends.
    Foreign,
    /// None begins here.
    Garbage,
}

/// Takes unpacked bytes, piece by piece.
type Out<'a> = &'a mut dyn FnMut(&[u8]);

/// What differs between gzip and zstd.
struct Format {
    /// Whether a file may begin with these bytes, which are up to four.
    begins: fn(&[u8]) -> bool,
    /// What begins at a place.
    unit: fn(&File, u64) -> io::Result<Unit>,
    /// Unpacks what begins at a place, as far as it is good, and says where it ends if all of it is.
    unpack: fn(&File, u64, Out<'_>) -> io::Result<Option<u64>>,
    /// The first bytes of a file, unpacked, as far as they are good.
    begin: fn(&File) -> io::Result<Vec<u8>>,
}

fn find_packed(file: &File, format: &Format) -> Result<Tail, Unfit> {
    let len = file.metadata()?.len();
    let mut magic = [0; 4];
    let there = read_at(file, 0, &mut magic)?;
    let magic = &magic[..there];
    let begin = (format.begin)(file)?;
    // Of a file that was torn early nothing may have come yet.
    if !(format.begins)(magic) || !(begin.len() < 4 || gor::is_recording(&begin)) {
        return Err(Unfit::NotARecording);
    }
    let (mut at, mut last) = (0, None);
    while at < len {
        let (end, holds_records) = match (format.unit)(file, at)? {
            Unit::Void(end) => (Some(end), false),
            Unit::Records(end) => (Some(end), true),
            Unit::Foreign => ((format.unpack)(file, at, &mut |_| {})?, true),
            Unit::Garbage => (None, false),
        };
        let Some(end) = end.filter(|end| *end <= len) else {
            break;
        };
        if holds_records {
            last = Some(at);
        }
        at = end;
    }
    let mut ending = Ending::default();
    if let Some(begin) = last {
        let end = (format.unpack)(file, begin, &mut |bytes| ending.push(bytes))?;
        if end.is_none() {
            at = begin;
            ending = Ending::default();
        }
    }
    let mut carried = ending.missing().to_vec();
    if at < len {
        let saved = whole_records(file, at, format)?;
        if !saved.is_empty() {
            carried = saved;
        }
    }
    Ok(Tail {
        at,
        torn: len - at,
        carried,
    })
}

/// The whole records in what is torn.
fn whole_records(file: &File, at: u64, format: &Format) -> Result<Vec<u8>, Unfit> {
    let (mut saved, mut too_much) = (Vec::new(), false);
    (format.unpack)(file, at, &mut |bytes: &[u8]| {
        too_much |= saved.len() + bytes.len() > MOST_CARRIED;
        if !too_much {
            saved.extend_from_slice(bytes);
        }
    })?;
    if too_much {
        return Err(Unfit::TooMuchTorn);
    }
    let end = memmem::rfind(&saved, SEPARATOR).map_or(0, |at| at + SEPARATOR.len());
    match missing_behind(&saved[end..]) {
        Some(missing) => saved.extend_from_slice(missing),
        None => saved.truncate(end),
    }
    Ok(saved)
}

/// What is missing of a separator behind a record that is whole without it.
fn missing_behind(rest: &[u8]) -> Option<&'static [u8]> {
    let there = (0..SEPARATOR.len()).rev().find(|there| {
        let record = rest.strip_suffix(&SEPARATOR[..*there]);
        record.is_some_and(gor::is_whole)
    });
    there.map(|there| &SEPARATOR[there..])
}

/// The last bytes of what was unpacked.
#[derive(Default)]
struct Ending(Vec<u8>);

impl Ending {
    fn push(&mut self, bytes: &[u8]) {
        let from = bytes.len().saturating_sub(SEPARATOR.len());
        self.0.extend_from_slice(&bytes[from..]);
        self.0.drain(..self.0.len().saturating_sub(SEPARATOR.len()));
    }

    /// What is missing of a separator.
    fn missing(&self) -> &'static [u8] {
        if self.0.is_empty() {
            return &[];
        }
        // Its first byte alone may be the payload's own.
        let there = (2..=SEPARATOR.len())
            .rev()
            .find(|there| self.0.ends_with(&SEPARATOR[..*there]));
        &SEPARATOR[there.unwrap_or(0)..]
    }
}

/// Bytes from a place on; fewer at the end.
fn read_at(file: &File, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// As many bytes as are wanted; `None` where there are fewer.
fn array_at<const N: usize>(file: &File, at: u64) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    Ok((read_at(file, at, &mut bytes)? == N).then_some(bytes))
}

/// To be read from a place on.
fn reader_at(mut file: &File, at: u64) -> io::Result<BufReader<&File>> {
    file.seek(SeekFrom::Start(at))?;
    Ok(BufReader::with_capacity(64 << 10, file))
}

/// Reads all that is good of a stream: `true` where its end was reached. What decompressors say is about the file, what
/// the system says isn't.
fn drain(stream: &mut impl Read, out: Out<'_>) -> io::Result<bool> {
    let mut piece = [0; 16 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(true),
            Ok(n) => out(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error().is_some() => return Err(error),
            Err(_) => return Ok(false),
        }
    }
}

/// The first bytes of a stream, as far as they are good.
fn first_of(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut first = Vec::new();
    drain(&mut stream.take(4), &mut |bytes| {
        first.extend_from_slice(bytes)
    })?;
    Ok(first)
}

#[cfg(test)]
mod tests;
