//! GoReplay's record format, as in `.gor` files: the one place that knows it.
//!
//! What enters: a stream of records. What leaves: each record's header fields and its payload, borrowed from the
//! reader. What may be lost: records whose header makes no sense or that are too large; each is handed out as a
//! [`Skipped`] with its line, and reading goes on behind it.
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

use std::io::{self, BufRead};

use memchr::memchr;

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
    max_record: usize,
    /// The current record, without its separator.
    record: Vec<u8>,
    /// Lines read so far.
    lines: u64,
}

impl<R: BufRead> Reader<R> {
    /// At the begin of a file.
    pub fn new(input: R) -> Reader<R> {
        Reader {
            input,
            max_record: MAX_RECORD,
            record: Vec::new(),
            lines: 0,
        }
    }

    /// The next record, or what is passed over instead; `None` at the end.
    ///
    /// # Errors
    /// When the input can't be read.
    pub fn next_record(&mut self) -> io::Result<Option<Result<Record<'_>, Skipped>>> {
        let line = self.lines + 1;
        let skipped = |flaw| Skipped { line, flaw };
        Ok(match self.fill()? {
            Filled::End => None,
            Filled::TooLarge => Some(Err(skipped(Flaw::TooLarge))),
            Filled::Record => Some(parse(&self.record, line).map_err(skipped)),
        })
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

fn parse(record: &[u8], line: u64) -> Result<Record<'_>, Flaw> {
    let (header, payload) = match memchr(b'\n', record) {
        Some(at) => (&record[..at], &record[at + 1..]),
        None => (record, &record[record.len()..]),
    };
    let mut fields = header
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty());
    let (Some(kind), Some(id), Some(timestamp)) = (fields.next(), fields.next(), fields.next())
    else {
        return Err(Flaw::FewFields);
    };
    Ok(Record {
        kind: Kind::from_field(kind).ok_or(Flaw::UnknownKind)?,
        id,
        timestamp_ns: number(timestamp).ok_or(Flaw::BadTimestamp)?,
        // -1 stands for an unknown one.
        latency_ns: fields.next().and_then(number),
        payload,
        line,
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use proptest::prelude::*;

    use super::*;

    /// What a reader makes of `bytes`, read in pieces of `piece` bytes: payloads, or the lines of what is skipped.
    fn read(bytes: &[u8], piece: usize, max_record: usize) -> Vec<Result<Vec<u8>, Skipped>> {
        let mut reader = Reader::new(BufReader::with_capacity(piece, Cursor::new(bytes)));
        reader.max_record = max_record;
        let mut found = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            found.push(record.map(|record| record.payload.to_vec()));
        }
        found
    }

    fn write(header: &str, payload: &[u8]) -> Vec<u8> {
        [header.as_bytes(), b"\n", payload, SEPARATOR].concat()
    }

    #[test]
    fn a_record_has_all_its_fields() {
        let mut file = write("1 c0ffee 1500000000000000001 -1", b"GET / HTTP/1.1\r\n\r\n");
        file.extend(write(
            "2 c0ffee 1500000000000000002 77\r",
            b"HTTP/1.1 200 OK\r\n\r\n",
        ));
        file.extend_from_slice(b"3 c0ffee 1500000000000000003\nno separator");
        let mut reader = Reader::new(&file[..]);
        let first = reader.next_record().unwrap().unwrap().unwrap();
        assert_eq!((first.kind, first.id), (Kind::Request, &b"c0ffee"[..]));
        assert_eq!(
            (first.timestamp_ns, first.latency_ns),
            (1_500_000_000_000_000_001, None)
        );
        assert_eq!(first.payload, b"GET / HTTP/1.1\r\n\r\n");
        let second = reader.next_record().unwrap().unwrap().unwrap();
        assert_eq!((second.kind, second.latency_ns), (Kind::Answer, Some(77)));
        assert_eq!(second.line, 6);
        let third = reader.next_record().unwrap().unwrap().unwrap();
        assert_eq!(
            (third.kind, third.payload),
            (Kind::Replayed, &b"no separator"[..])
        );
        assert_eq!(reader.next_record().unwrap(), None);
    }

    #[test]
    fn what_makes_no_sense_is_skipped_with_its_line() {
        let mut file = write("1 a 1", b"x\ny");
        for header in ["1 a", "", "4 a 1", "1 a soon"] {
            file.extend(write(header, b"z"));
        }
        file.extend(write("1 a 2", &[b'z'; 100]));
        file.extend(write("1 a 3", b"last"));
        let skipped = |line, flaw| Err(Skipped { line, flaw });
        for piece in [1, 3, 4096] {
            assert_eq!(
                read(&file, piece, 64),
                [
                    Ok(b"x\ny".to_vec()),
                    skipped(5, Flaw::FewFields),
                    skipped(8, Flaw::FewFields),
                    skipped(11, Flaw::UnknownKind),
                    skipped(14, Flaw::BadTimestamp),
                    skipped(17, Flaw::TooLarge),
                    Ok(b"last".to_vec()),
                ]
            );
        }
    }

    #[test]
    fn a_file_may_end_anywhere_in_the_last_separator() {
        let file = write("1 a 1", b"last");
        for cut in 2..=SEPARATOR.len() {
            let end = file.len() - SEPARATOR.len() + cut;
            assert_eq!(read(&file[..end], 5, 64), [Ok(b"last".to_vec())], "{cut}");
        }
        assert_eq!(read(b"", 5, 64), []);
        assert_eq!(read(b"\r\n\n", 5, 64), []);
    }

    #[test]
    fn a_recording_is_known_by_its_first_bytes() {
        assert!(is_recording(b"1 c0ffee"));
        assert!(is_recording(SEPARATOR));
        assert!(!is_recording(b"GET / HTTP/1.1"));
        assert!(!is_recording(b"1"));
    }

    #[test]
    fn a_part_of_the_separator_is_payload() {
        for payload in ["x🐵🙈🙉", "\n🐵🙈🙉 \n", "\n🐵🙈🙈\n", "a\n🐵", "\n\n"]
        {
            let mut file = write("1 a 1", payload.as_bytes());
            file.extend(write("1 a 2", b"next"));
            let expected = [Ok(payload.into()), Ok(b"next".to_vec())];
            assert_eq!(read(&file, 7, 1000), expected);
        }
    }

    /// Bytes of which many are parts of separators.
    fn monkeys() -> impl Strategy<Value = Vec<u8>> {
        let part = (0..=SEPARATOR.len(), 0..=SEPARATOR.len())
            .prop_map(|(a, b)| SEPARATOR[a.min(b)..a.max(b)].to_vec());
        let noise = prop::collection::vec(any::<u8>(), 0..8);
        let header = Just(b"1 a 1\n".to_vec());
        prop::collection::vec(prop_oneof![part, noise, header], 0..12).prop_map(|p| p.concat())
    }

    proptest! {
        #[test]
        fn payloads_come_back_as_written(
            payloads in prop::collection::vec(monkeys(), 1..6),
            piece in 1_usize..40,
        ) {
            // Not part of a payload that the format can hold: a separator, also one that begins in the header's line end.
            let free = |p: &Vec<u8>| {
                let framed = [b"\n", &p[..], &SEPARATOR[..SEPARATOR.len() - 1]].concat();
                memchr::memmem::find(&framed, SEPARATOR).is_none()
            };
            let payloads: Vec<Vec<u8>> = payloads.into_iter().filter(free).collect();
            let file: Vec<u8> = payloads.iter().flat_map(|p| write("1 ab 12 3", p)).collect();
            let expected: Vec<_> = payloads.into_iter().map(Ok).collect();
            prop_assert_eq!(read(&file, piece, 10_000), expected);
        }

        #[test]
        fn garbage_is_read_alike_in_any_pieces(
            garbage in monkeys(),
            piece in 1_usize..40,
            max_record in 1_usize..40,
        ) {
            let whole = read(&garbage, 10_000, max_record);
            prop_assert_eq!(&read(&garbage, piece, max_record), &whole);
            for record in whole.into_iter().flatten() {
                prop_assert!(record.len() <= max_record);
            }
        }
    }
}
