//! The lines of a request's head, for those who copy them and change a few.
//!
//! What enters: a parsed head's bytes, which have neither bare LFs nor folded lines. What leaves: each line with its
//! CRLF, and where a header line's name and value lie in it. What may be lost: nothing.

/// The lines of a head, the request line and the empty line included.
#[derive(Debug)]
pub struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    /// Of the bytes of a [`Head`](crate::Head).
    pub fn of(head: &'a [u8]) -> Lines<'a> {
        Lines(head)
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.0)? + 1;
        let (line, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(line)
    }
}

/// One header line.
#[derive(Debug)]
pub struct HeaderLine<'a> {
    /// All of it, with its CRLF.
    pub line: &'a [u8],
    /// As captured.
    pub name: &'a [u8],
    /// Without the white space around it.
    pub value: &'a [u8],
    /// Where the value begins in the line.
    value_at: usize,
}

impl<'a> HeaderLine<'a> {
    /// Finds its parts.
    pub fn of(line: &'a [u8]) -> HeaderLine<'a> {
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let rest = line.get(colon + 1..).unwrap_or_default();
        let blank = |b: &&u8| matches!(b, b' ' | b'\t');
        HeaderLine {
            line,
            name: &line[..colon],
            value: rest.trim_ascii(),
            value_at: colon + 1 + rest.iter().take_while(blank).count(),
        }
    }

    /// True where it has that name, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// Appends the same line with another value.
    pub fn put_with(&self, out: &mut Vec<u8>, value: &[u8]) {
        out.extend_from_slice(&self.line[..self.value_at.min(self.line.len())]);
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_changed_and_nothing_around_it() {
        for (line, value, changed) in [
            (&b"A: b\r\n"[..], &b"b"[..], &b"A: x\r\n"[..]),
            (b"a:\t b \t\r\n", b"b", b"a:\t x\r\n"),
            (b"A:\r\n", b"", b"A:x\r\n"),
            (b"A: b:c\r\n", b"b:c", b"A: x\r\n"),
        ] {
            let header = HeaderLine::of(line);
            assert!(header.is("a") && !header.is("ab"));
            assert_eq!(header.value, value);
            let mut out = Vec::new();
            header.put_with(&mut out, b"x");
            assert_eq!(out, changed);
        }
    }

    #[test]
    fn all_lines_are_the_whole() {
        let head = b"\r\nGET / HTTP/1.1\r\nA: b\r\n\r\n";
        assert_eq!(Lines::of(head).collect::<Vec<_>>().concat(), head);
        assert_eq!(Lines::of(head).count(), 4);
    }
}
