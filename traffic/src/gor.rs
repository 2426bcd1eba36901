//! GoReplay's record format, as in `.gor` files: the one place that knows it.
//!
//! What enters: a stream of records. What leaves: each record's header fields and its payload, borrowed from the
//! reader. What may be lost: records whose header makes no sense or that are too large; each is handed out as a
//! [`Skipped`] with its line, and reading goes on behind it. [`encode`] is the other way round, and [`is_whole`] tells a
//! record whose separator is missing from one that was cut off. [`encode_json`] and [`read_json`] have another form of
//! requests.
//!
//! A record is a header line, the bytes of an HTTP message as captured, and [`SEPARATOR`]:
//!
//! ```text
//! KIND ID TIMESTAMP_NS [LATENCY_NS]\n
//! GET / HTTP/1.1\r\n…
//! \n🐵🙈🙉\n
//! ```
//!
//! Only the whole separator ends a record. Behind the last one it may be missing, or be cut off.

mod encode;
mod json;
mod whole;

use std::io::{self, BufRead};

use memchr::memchr;

pub use encode::{Encoded, Unwritable, encode, header, id, messages};
pub use json::{Inexpressible, JsonFlaw, encode_json, read_json, write_json};
pub use whole::is_whole;

/// Ends a record: a line of three monkeys, with the LF of the line before it.
pub const SEPARATOR: &[u8] = "\n🐵🙈🙉\n".as_bytes();

/// A larger record is passed over. GoReplay itself stops at 5 MB (`--copy-buffer-size`) unless told otherwise.
pub const MAX_RECORD: usize = (64 << 20) + (1 << 20);

/// What a record's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request.
    Request,
    /// What production answered.
    Answer,
    /// What a replay was answered.
    Replayed,
}

impl Kind {
    fn from_field(field: &[u8]) -> Option<Kind> {
        match field {
            b"1" => Some(Kind::Request),
            b"2" => Some(Kind::Answer),
            b"3" => Some(Kind::Replayed),
            _ => None,
        }
    }

    /// What stands for it in a header.
    pub fn digit(self) -> u8 {
        match self {
            Kind::Request => b'1',
            Kind::Answer => b'2',
            Kind::Replayed => b'3',
        }
    }
}

/// A record, as long as the reader isn't asked for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What the payload is.
    pub kind: Kind,
    /// The same for a request and its answers; 24 hexadecimal digits as a rule, 40 in older files.
    pub id: &'a [u8],
    /// The payload's first byte on the wire, unix nanoseconds; of a replay, when it began.
    pub timestamp_ns: u64,
    /// From the first byte to the last; of a replay, its round trip. Where it is known.
    pub latency_ns: Option<u64>,
    /// Its header as it stands there, without the line end.
    pub header: &'a [u8],
    /// An HTTP message as captured.
    pub payload: &'a [u8],
    /// Line of its header in the file, from 1.
    pub line: u64,
}

/// Why a record is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The header has two fields or less.
    #[error("its header has fewer than 3 fields")]
    FewFields,
    /// The first field is neither 1, 2 nor 3.
    #[error("its kind is neither 1, 2 nor 3")]
    UnknownKind,
    /// The third field is no number of nanoseconds.
    #[error("its timestamp is no number")]
    BadTimestamp,
    /// Over [`MAX_RECORD`].
    #[error("it is over {} MiB", MAX_RECORD >> 20)]
    TooLarge,
}

/// A record that is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    /// The line that its header should be, from 1.
    pub line: u64,
    /// Bytes of the file, unpacked, before it.
    pub at: u64,
    /// Why.
    pub flaw: Flaw,
}

/// True where `first`, a file's first four bytes or more, begin a recording: a header's kind, or a separator.
pub fn is_recording(first: &[u8]) -> bool {
    matches!(first, [b'1'..=b'3', b' ' | b'\t', ..]) || first.starts_with(&SEPARATOR[..4])
}

/// Reads records one by one.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    separator: memchr::memmem::Finder<'static>,
    max_record: usize,
    /// The current record, without its separator.
    record: Vec<u8>,
    /// Lines and bytes read so far.
    lines: u64,
    bytes: u64,
    /// Bytes of the input's own buffer that the current record takes.
    lent: usize,
}

impl<R: BufRead> Reader<R> {
    /// At the begin of a file.
    pub fn new(input: R) -> Reader<R> {
        Reader {
            input,
            separator: memchr::memmem::Finder::new(SEPARATOR),
            max_record: MAX_RECORD,
            record: Vec::new(),
            lines: 0,
            bytes: 0,
            lent: 0,
        }
    }

    /// The line that comes next, from 1, and the bytes before it; of a packed file, as it was before it was packed.
    pub fn position(&self) -> (u64, u64) {
        (self.lines + 1, self.bytes)
    }

    /// The next record, or what is passed over instead; `None` at the end.
    ///
    /// # Errors
    /// When the input can't be read.
    pub fn next_record(&mut self) -> io::Result<Option<Result<Record<'_>, Skipped>>> {
        self.input.consume(std::mem::take(&mut self.lent));
        let (line, at) = self.position();
        let skipped = |flaw| Skipped { line, at, flaw };
        if let Some(length) = self.buffered()? {
            self.lent = length + SEPARATOR.len();
            let record = &self.input.fill_buf()?[..length];
            return Ok(Some(Record::parse(record, line).map_err(skipped)));
        }
        Ok(match self.fill()? {
            Filled::End => None,
            Filled::TooLarge => Some(Err(skipped(Flaw::TooLarge))),
            Filled::Record => Some(Record::parse(&self.record, line).map_err(skipped)),
        })
    }

    /// The length of the next record, where the input's buffer has all of it: then nothing needs to be copied.
    fn buffered(&mut self) -> io::Result<Option<usize>> {
        let buffer = match self.input.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
            Err(error) => return Err(error),
        };
        // A separator at the very beginning is no record's end.
        let Some(length) = self.separator.find(buffer).filter(|at| *at > 0) else {
            return Ok(None);
        };
        let taken = length + SEPARATOR.len();
        if taken > self.max_record {
            return Ok(None);
        }
        self.lines += memchr::memchr_iter(b'\n', &buffer[..taken]).count() as u64;
        self.bytes += taken as u64;
        Ok(Some(length))
    }

    /// Reads up to the separator, piece by piece, so that a line may be as long as it likes.
    fn fill(&mut self) -> io::Result<Filled> {
        self.record.clear();
        let mut line = Line::default();
        let mut too_large = false;
        let before = self.lines;
        loop {
            let piece = match self.input.fill_buf() {
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if piece.is_empty() {
                break;
            }
            let (piece, ends) = match memchr(b'\n', piece) {
                Some(at) => (&piece[..=at], true),
                None => (piece, false),
            };
            line.add(piece);
            too_large |= self.record.len() + piece.len() > self.max_record;
            if !too_large {
                self.record.extend_from_slice(piece);
            }
            let taken = piece.len();
            self.input.consume(taken);
            self.bytes += taken as u64;
            if !ends {
                continue;
            }
            self.lines += 1;
            // A separator begins with the end of the line before it.
            if std::mem::take(&mut line).is_separator() && self.lines - before > 1 {
                if too_large {
                    return Ok(Filled::TooLarge);
                }
                self.record.truncate(self.record.len() - SEPARATOR.len());
                return Ok(Filled::Record);
            }
        }
        if too_large {
            return Ok(Filled::TooLarge);
        }
        strip_begun_separator(&mut self.record);
        match self.record.trim_ascii().is_empty() {
            true => Ok(Filled::End),
            false => Ok(Filled::Record),
        }
    }
}

/// What the bytes up to a separator, or to the end, are.
enum Filled {
    Record,
    TooLarge,
    End,
}

/// How far a line is like the separator's.
struct Line {
    length: usize,
    same: bool,
}

impl Default for Line {
    fn default() -> Line {
        Line {
            length: 0,
            same: true,
        }
    }
}

impl Line {
    fn add(&mut self, piece: &[u8]) {
        let end = self.length + piece.len();
        self.same &= SEPARATOR[1..].get(self.length..end) == Some(piece);
        self.length = end;
    }

    fn is_separator(&self) -> bool {
        self.same && self.length == SEPARATOR.len() - 1
    }
}

/// Takes off the part of a separator with which a file ends that was cut off. Its first byte alone may be payload.
fn strip_begun_separator(record: &mut Vec<u8>) {
    for length in (2..SEPARATOR.len()).rev() {
        if record.ends_with(&SEPARATOR[..length]) {
            record.truncate(record.len() - length);
            return;
        }
    }
}

/// A record's header line, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// What the payload is.
    pub kind: Kind,
    /// The same for a request and its answers.
    pub id: &'a [u8],
    /// As in [`Record`].
    pub timestamp_ns: u64,
    /// As in [`Record`].
    pub latency_ns: Option<u64>,
}

impl Header<'_> {
    /// Reads a header, without its line end.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Header<'_>, Flaw> {
        let mut fields = line
            .split(u8::is_ascii_whitespace)
            .filter(|field| !field.is_empty());
        let (Some(kind), Some(id), Some(timestamp)) = (fields.next(), fields.next(), fields.next())
        else {
            return Err(Flaw::FewFields);
        };
        Ok(Header {
            kind: Kind::from_field(kind).ok_or(Flaw::UnknownKind)?,
            id,
            timestamp_ns: number(timestamp).ok_or(Flaw::BadTimestamp)?,
            // -1 stands for an unknown one.
            latency_ns: fields.next().and_then(number),
        })
    }
}

impl Record<'_> {
    /// Takes a record apart whose separator is taken off already; `line` is where it stands.
    ///
    /// # Errors
    /// What is wrong with its header.
    pub fn parse(record: &[u8], line: u64) -> Result<Record<'_>, Flaw> {
        let (header, payload) = match memchr(b'\n', record) {
            Some(at) => (&record[..at], &record[at + 1..]),
            None => (record, &record[record.len()..]),
        };
        let Header {
            kind,
            id,
            timestamp_ns,
            latency_ns,
        } = Header::parse(header)?;
        Ok(Record {
            kind,
            id,
            timestamp_ns,
            latency_ns,
            header,
            payload,
            line,
        })
    }
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
