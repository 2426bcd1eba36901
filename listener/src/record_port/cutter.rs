//! From a stream of records to single ones.
//!
//! What enters: bytes of a stream, in pieces of any size. What leaves: each record as soon as its separator is there, or why
//! it is passed over, with its place in the stream. What may be lost: records whose header makes no sense, that are too large
//! or that have no end, each told. No I/O: it holds the record that is under way and nothing else, looks at each byte once
//! and copies only what comes in several pieces.

use bytes::Bytes;
use memchr::memmem::Finder;
use reprise_traffic::gor::{self, Flaw, Record, SEPARATOR};

/// As much of a separator as a piece may end with.
const SEAM: usize = SEPARATOR.len() - 1;

/// A buffer with more room than this is given back once it isn't needed.
const KEPT: usize = 4 << 10;

/// A record of this size that came in pieces isn't copied any more.
const LARGE: usize = 256 << 10;

/// Why a record is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Passed {
    /// It can't be read.
    #[error("{0}")]
    Flawed(Flaw),
    /// It is larger than asked for.
    #[error("it is too large")]
    TooLarge,
    /// It was given up before its end came ([`Cutter::give_up`]).
    #[error("it was given up")]
    GivenUp,
    /// The stream ends within it.
    #[error("it is cut off")]
    CutOff,
}

/// What stands at some place, in bytes from the stream's begin.
pub type Cut<'a> = (u64, Result<Whole<'a>, Passed>);

/// A whole record.
#[derive(Debug, Clone, Copy)]
pub struct Whole<'a> {
    /// The record.
    pub record: Record<'a>,
    /// What it lies in, where it is large and may be kept there.
    pub owner: Option<&'a Bytes>,
}

/// The records of one stream.
#[derive(Debug)]
pub struct Cutter {
    separator: Finder<'static>,
    max_record: usize,
    /// Of the record under way; of one that is passed over only what may be a separator's begin.
    partial: Vec<u8>,
    passed: Option<Passed>,
    /// Where the record under way begins.
    at: u64,
    /// Where the next byte stands.
    end: u64,
}

impl Cutter {
    /// At the begin of a stream. Records of more bytes, header and payload, are passed over.
    pub fn new(max_record: usize) -> Cutter {
        Cutter {
            separator: Finder::new(SEPARATOR),
            max_record,
            partial: Vec::new(),
            passed: None,
            at: 0,
            end: 0,
        }
    }

    /// Takes the next bytes, and hands out the records that they end.
    pub fn push(&mut self, mut bytes: &[u8], found: &mut (impl FnMut(Cut<'_>) + ?Sized)) {
        if !self.partial.is_empty() {
            match self.complete(bytes, found) {
                Some(rest) => bytes = rest,
                None => return,
            }
        }
        while let Some(length) = self.separator.find(bytes) {
            self.end += (length + SEPARATOR.len()) as u64;
            self.cut(&bytes[..length], None, found);
            bytes = &bytes[length + SEPARATOR.len()..];
        }
        self.end += bytes.len() as u64;
        self.keep(bytes);
        self.shrink();
    }

    /// Ends the record under way; returns what stands behind it, or nothing where it goes on.
    fn complete<'a>(
        &mut self,
        bytes: &'a [u8],
        found: &mut (impl FnMut(Cut<'_>) + ?Sized),
    ) -> Option<&'a [u8]> {
        let before = self.partial.len();
        // A separator that began in the last piece.
        let seam = before - before.min(SEAM);
        self.partial
            .extend_from_slice(&bytes[..bytes.len().min(SEAM)]);
        let (length, behind) = match self.separator.find(&self.partial[seam..]) {
            Some(at) => (seam + at, seam + at + SEPARATOR.len() - before),
            None => {
                self.partial.truncate(before);
                let Some(at) = self.separator.find(bytes) else {
                    self.end += bytes.len() as u64;
                    self.keep(bytes);
                    return None;
                };
                self.keep(&bytes[..at]);
                (self.partial.len(), at + SEPARATOR.len())
            }
        };
        self.end += behind as u64;
        let mut partial = std::mem::take(&mut self.partial);
        partial.truncate(length);
        if length >= LARGE {
            partial.shrink_to_fit();
            let owner = Bytes::from(partial);
            self.cut(&owner, Some(&owner), found);
        } else {
            self.cut(&partial, None, found);
            partial.clear();
            self.partial = partial;
        }
        Some(&bytes[behind..])
    }

    /// Hands out a record that ends before the separator that ends where the stream is now.
    fn cut(
        &mut self,
        record: &[u8],
        owner: Option<&Bytes>,
        found: &mut (impl FnMut(Cut<'_>) + ?Sized),
    ) {
        let at = std::mem::replace(&mut self.at, self.end);
        found((
            at,
            match self.passed.take() {
                Some(passed) => Err(passed),
                None if record.len() > self.max_record => Err(Passed::TooLarge),
                None => match Record::parse(record, 1) {
                    Ok(record) => Ok(Whole { record, owner }),
                    Err(flaw) => Err(Passed::Flawed(flaw)),
                },
            },
        ));
    }

    fn keep(&mut self, bytes: &[u8]) {
        let length = self.partial.len() + bytes.len();
        // Of the last bytes some may be the separator's.
        let most = self.max_record + SEAM;
        if self.passed.is_some() || length > most {
            self.passed.get_or_insert(Passed::TooLarge);
            let of_bytes = bytes.len().min(SEAM);
            let before = self.partial.len().min(SEAM - of_bytes);
            self.partial.drain(..self.partial.len() - before);
            self.partial
                .extend_from_slice(&bytes[bytes.len() - of_bytes..]);
            self.shrink();
            return;
        }
        if length > self.partial.capacity() {
            // What comes in several pieces will come in more.
            let room = match self.partial.len() {
                0 => length,
                _ => (2 * length).min(most),
            };
            self.partial.reserve_exact(room - self.partial.len());
        }
        self.partial.extend_from_slice(bytes);
    }

    fn shrink(&mut self) {
        if self.partial.capacity() > KEPT && self.partial.len() <= self.partial.capacity() / 4 {
            self.partial.shrink_to(self.partial.len());
        }
    }

    /// Bytes that the record under way holds.
    pub fn held(&self) -> usize {
        self.partial.capacity()
    }

    /// Of the record under way so many bytes are here.
    pub fn under_way(&self) -> usize {
        self.partial.len()
    }

    /// Passes over the record under way, so that it holds nothing; that is told where it ends.
    pub fn give_up(&mut self) {
        self.passed.get_or_insert(Passed::GivenUp);
        self.keep(&[]);
    }

    /// The stream is over. A record without its separator counts where it is whole.
    pub fn finish(&mut self, found: &mut (impl FnMut(Cut<'_>) + ?Sized)) {
        let (at, rest) = (self.at, std::mem::take(&mut self.partial));
        self.at = self.end;
        if let Some(passed) = self.passed.take() {
            return found((at, Err(passed)));
        }
        // It takes the begin of a separator off.
        let mut last = gor::Reader::new(&rest[..]);
        match last.next_record() {
            Ok(Some(Ok(record))) => {
                let length = record.header.len() + 1 + record.payload.len();
                let is_whole = rest.get(..length).is_some_and(gor::is_whole);
                let owner = None;
                let whole = is_whole.then_some(Whole { record, owner });
                found((at, whole.ok_or(Passed::CutOff)));
            }
            Ok(Some(Err(skipped))) => found((at, Err(Passed::Flawed(skipped.flaw)))),
            Ok(None) => {}
            Err(_) => found((at, Err(Passed::CutOff))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Found = Vec<(u64, Result<Vec<u8>, Passed>)>;

    fn read(stream: &[u8], pieces: &[usize], most: usize) -> Found {
        let mut found = Vec::new();
        let mut take = |(at, cut): Cut<'_>| {
            let bytes = |r: Whole<'_>| [r.record.header, b"\n", r.record.payload].concat();
            found.push((at, cut.map(bytes)));
        };
        let mut cutter = Cutter::new(most);
        let (mut rest, mut pieces) = (stream, pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((*pieces.next().unwrap()).min(rest.len()));
            cutter.push(piece, &mut take);
            assert!(cutter.held() <= 2 * (most + SEAM) + KEPT);
            rest = behind;
        }
        cutter.finish(&mut take);
        assert_eq!(cutter.held(), 0);
        found
    }

    #[test]
    fn records_are_told_with_their_places() {
        let stream = [
            &b"1 a 1\nGET / HTTP/1.1\r\n\r\n"[..],
            SEPARATOR,
            b"nonsense",
            SEPARATOR,
            &[b"2 b 2\n".as_slice(), &[b'x'; 100]].concat(),
            SEPARATOR,
            SEPARATOR,
            b"2 c 3\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            &SEPARATOR[..5],
        ]
        .concat();
        let whole = read(&stream, &[1000], 60);
        assert_eq!(whole.len(), 5);
        assert_eq!(whole[0], (0, Ok(b"1 a 1\nGET / HTTP/1.1\r\n\r\n".to_vec())));
        assert_eq!(whole[1], (38, Err(Passed::Flawed(Flaw::FewFields))));
        assert_eq!(whole[2], (60, Err(Passed::TooLarge)));
        assert_eq!(whole[3], (180, Err(Passed::Flawed(Flaw::FewFields))));
        assert!(whole[4].0 == 194 && whole[4].1.is_ok());
        for piece in 1..80 {
            assert_eq!(read(&stream, &[piece], 60), whole, "{piece}");
        }
        let cut_off = read(b"1 a 1\nGET / HTTP/1.1\r\n", &[3], 60);
        assert_eq!(cut_off, [(0, Err(Passed::CutOff))]);
    }

    #[test]
    fn what_is_given_up_holds_nothing_and_the_next_comes() {
        let mut cutter = Cutter::new(1 << 20);
        let mut found = Vec::new();
        let mut take = |(at, cut): Cut<'_>| found.push((at, cut.map(|r| r.record.timestamp_ns)));
        cutter.push(b"1 a 1\n", &mut take);
        cutter.push(&[b'x'; 100_000], &mut take);
        assert!(cutter.held() >= 100_000 && cutter.under_way() == 100_006);
        cutter.give_up();
        assert!(cutter.held() <= KEPT);
        cutter.push(&[b'x'; 100_000], &mut take);
        assert!(cutter.held() <= KEPT);
        let next = [SEPARATOR, b"1 b 7\nGET / HTTP/1.1\r\n\r\n", SEPARATOR].concat();
        cutter.push(&next, &mut take);
        cutter.finish(&mut take);
        assert_eq!(found, [(0, Err(Passed::GivenUp)), (200_020, Ok(7))]);
    }

    proptest! {
        /// The same records in any pieces, and the same as of a file.
        #[test]
        fn pieces_change_nothing(
            parts in prop::collection::vec(prop_oneof![
                Just(SEPARATOR.to_vec()),
                Just(SEPARATOR.to_vec()),
                Just(SEPARATOR[1..].to_vec()),
                Just(SEPARATOR[..9].to_vec()),
                Just(b"1 a 1\n".to_vec()),
                Just(b"\n".to_vec()),
                prop::collection::vec(any::<u8>(), 0..50),
            ], 0..20),
            pieces in prop::collection::vec(1..40_usize, 1..5),
            most in prop_oneof![Just(40_usize), Just(10_000)],
        ) {
            let stream = parts.concat();
            let whole = read(&stream, &[usize::MAX], most);
            prop_assert_eq!(&read(&stream, &pieces, most), &whole);
            if most > stream.len() {
                let mut file = gor::Reader::new(&stream[..]);
                let mut places = whole.iter();
                while let Some(record) = file.next_record().unwrap() {
                    match (&places.next().unwrap().1, record) {
                        (Ok(found), Ok(record)) => {
                            prop_assert_eq!(found, &[record.header, b"\n", record.payload].concat());
                        }
                        (Err(Passed::Flawed(flaw)), Err(skipped)) => {
                            prop_assert_eq!(*flaw, skipped.flaw);
                        }
                        (Err(Passed::CutOff), _) => prop_assert!(places.next().is_none()),
                        (found, record) => prop_assert!(false, "{found:?} {record:?}"),
                    }
                }
                prop_assert!(places.next().is_none());
            }
        }
    }
}
