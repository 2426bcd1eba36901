//! A message as a line: the hexadecimal digits of a record's header, a line end and the payload.
//!
//! What enters: parts of a message, or a line. What leaves: a line, or the message's bytes. What may be lost: nothing; what is
//! no such line is refused.

use std::io::{self, BufRead, Write};

use memchr::memchr;

/// Bytes that are turned into digits at once.
const STEP: usize = 16 << 10;

/// Writes a line.
///
/// # Errors
/// The system's words.
pub(super) fn write<'a>(
    parts: impl Iterator<Item = &'a [u8]>,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut digits = [0; 2 * STEP];
    for part in parts {
        for step in part.chunks(STEP) {
            let digits = &mut digits[..2 * step.len()];
            const_hex::encode_to_slice(step, digits).map_err(io::Error::other)?;
            out.write_all(digits)?;
        }
    }
    out.write_all(b"\n")
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// A line, without its end.
    Line,
    /// One that is too long; it was passed over.
    TooLong,
    /// There is no more.
    End,
}

/// Reads a line of at most `most` bytes into `line`.
///
/// # Errors
/// The system's words.
pub(super) fn read(input: &mut impl BufRead, most: usize, line: &mut Vec<u8>) -> io::Result<Read> {
    line.clear();
    let mut is_long = false;
    loop {
        let piece = match input.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if piece.is_empty() {
            // A last line without its end is cut off.
            return Ok(Read::End);
        }
        let (taken, ends) = match memchr(b'\n', piece) {
            Some(at) => (at, true),
            None => (piece.len(), false),
        };
        is_long |= line.len() + taken > most;
        match is_long {
            true => *line = Vec::new(),
            false => line.extend_from_slice(&piece[..taken]),
        }
        input.consume(taken + usize::from(ends));
        if ends {
            return Ok(if is_long { Read::TooLong } else { Read::Line });
        }
    }
}

/// The bytes that a line stands for; `None` where it is no line of digits.
pub(super) fn message(line: &[u8]) -> Option<Vec<u8>> {
    let line = line.trim_ascii();
    match line.is_empty() {
        true => None,
        false => const_hex::decode(line).ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_that_are_none() {
        for line in [&b""[..], b"abc", b"xy", b"1 "] {
            assert_eq!(message(line), None);
        }
        assert_eq!(message(b"4142\r"), Some(b"AB".to_vec()));
        let mut input = &b"0102030405\n01\ncut"[..];
        let mut line = Vec::new();
        assert_eq!(read(&mut input, 8, &mut line).unwrap(), Read::TooLong);
        assert_eq!(read(&mut input, 8, &mut line).unwrap(), Read::Line);
        assert_eq!(line, b"01");
        assert_eq!(read(&mut input, 8, &mut line).unwrap(), Read::End);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50_000), 1..4)) {
            let whole = parts.concat();
            prop_assume!(!whole.is_empty());
            let mut lines = Vec::new();
            write(parts.iter().map(Vec::as_slice), &mut lines).unwrap();
            let mut line = Vec::new();
            prop_assert_eq!(read(&mut &lines[..], lines.len(), &mut line).unwrap(), Read::Line);
            prop_assert_eq!(message(&line), Some(whole));
        }
    }
}
