//! Where a head ends, and whether bytes can be a request line at all.
//!
//! What enters: the bytes of a head in pieces. What leaves: the place behind its empty line.
//! What may be lost: nothing; no byte is looked at twice, however small the pieces.

/// The longest method token; registered ones have up to 17 bytes.
pub(crate) const MAX_METHOD: usize = 256;

/// Looks for the empty line behind a head.
#[derive(Debug)]
pub(crate) struct HeadScan {
    /// Whether a line may end in a bare LF.
    lenient: bool,
    /// Bytes of the line that the last piece ended in.
    line: usize,
    /// Whether they end in a CR.
    after_cr: bool,
    first_line_done: bool,
}

/// What a piece of a head brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// The head goes on.
    More,
    /// It ends behind so many bytes of the piece.
    End(usize),
    /// A line ends in a bare LF, which is the last of so many bytes of the piece.
    BareLineFeed(usize),
}

impl HeadScan {
    /// For heads whose lines have to end in CR LF.
    pub(crate) fn strict() -> HeadScan {
        HeadScan {
            lenient: false,
            line: 0,
            after_cr: false,
            first_line_done: false,
        }
    }

    /// For heads whose lines may end in a bare LF (RFC 9112 §2.2).
    pub(crate) fn lenient() -> HeadScan {
        HeadScan {
            lenient: true,
            ..HeadScan::strict()
        }
    }

    pub(crate) fn push(&mut self, piece: &[u8]) -> Scan {
        let mut line_start = 0;
        for lf in memchr::memchr_iter(b'\n', piece) {
            let after_cr = match lf.checked_sub(1) {
                Some(before) => piece[before] == b'\r',
                None => self.after_cr,
            };
            let line = self.line + (lf - line_start);
            if !self.lenient && (!after_cr || line == 0) {
                return Scan::BareLineFeed(lf + 1);
            }
            let is_empty = line == 0 || (line == 1 && after_cr);
            if is_empty && self.first_line_done {
                return Scan::End(lf + 1);
            }
            self.first_line_done = true;
            self.line = 0;
            line_start = lf + 1;
        }
        self.line += piece.len() - line_start;
        if let Some(last) = piece.last() {
            self.after_cr = *last == b'\r';
        }
        Scan::More
    }

    /// True once the request line is complete.
    pub(crate) fn has_first_line(&self) -> bool {
        self.first_line_done
    }
}

/// Whether bytes are the beginning of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// A whole request line.
    Yes,
    /// A method and the beginning of a target as most are.
    Likely,
    /// A method and the beginning of some target.
    Odd,
    /// Too little to tell.
    Unsure,
    /// Something else.
    No,
}

/// Whether `bytes` begin as HTTP/1 requests do: `token SP target SP HTTP/1.x`.
pub(crate) fn request_begin(bytes: &[u8]) -> Begin {
    let method = bytes.iter().take(MAX_METHOD + 1);
    let method = method.take_while(|b| is_token_byte(**b)).count();
    if method == bytes.len() && method <= MAX_METHOD {
        return Begin::Unsure;
    }
    if method == 0 || method > MAX_METHOD || bytes[method] != b' ' {
        return Begin::No;
    }
    let target = &bytes[method + 1..];
    let Some(first) = target.first() else {
        return Begin::Unsure;
    };
    if *first <= b' ' || *first == 0x7f {
        return Begin::No;
    }
    let Some(lf) = memchr::memchr(b'\n', bytes) else {
        return match *first == b'/' || target.starts_with(b"http") {
            true => Begin::Likely,
            false => Begin::Odd,
        };
    };
    let line = bytes[..lf].strip_suffix(b"\r").unwrap_or(&bytes[..lf]);
    match line.split_last_chunk::<9>() {
        Some((before, b" HTTP/1.0" | b" HTTP/1.1")) => match before.get(method + 1..) {
            None | Some(b"") => Begin::No,
            Some(target) if target.contains(&b' ') => Begin::No,
            Some(_) => Begin::Yes,
        },
        _ => Begin::No,
    }
}

/// RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_beginning_of_a_request_is_told_from_others() {
        for (bytes, begin) in [
            (&b""[..], Begin::Unsure),
            (b"GE", Begin::Unsure),
            (b"GET ", Begin::Unsure),
            (b"GET /", Begin::Likely),
            (b"the end of", Begin::Odd),
            (b"the end GET / HTTP/1.1\r\n", Begin::No),
            (b"GET / HTTP/1.1\r\nHost", Begin::Yes),
            (b"X-Odd.Method * HTTP/1.0\r\n", Begin::Yes),
            (b"GET  / HTTP/1.1\r\n", Begin::No),
            (b"GET HTTP/1.1\r\n", Begin::No),
            (b"GET /\r\n", Begin::No),
            (b"PRI * HTTP/2.0\r\n", Begin::No),
            (b"OPTIONS rtsp://x RTSP/1.0\r\n", Begin::No),
            (b"*1\r\n$4\r\n", Begin::No),
            (b"\x16\x03\x01", Begin::No),
            (b"HTTP/1.1 200 OK\r\n", Begin::No),
        ] {
            assert_eq!(request_begin(bytes), begin, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_bare_line_feed_is_seen_at_once() {
        for head in ["GET / HTTP/1.1\n", "GET / HTTP/1.1\r\na: b\n", "G\r\n\n"] {
            let scan = HeadScan::strict().push(format!("{head}more").as_bytes());
            assert_eq!(scan, Scan::BareLineFeed(head.len()));
        }
    }

    #[test]
    fn a_bare_line_feed_may_be_let_pass() {
        for head in ["HTTP/1.1 200 OK\na: b\n\n", "HTTP/1.1 200 OK\na: b\r\n\n"] {
            for cut in 1..head.len() {
                let mut scan = HeadScan::lenient();
                let input = format!("{head}more");
                let (first, rest) = input.split_at(cut);
                assert_eq!(scan.push(first.as_bytes()), Scan::More);
                let end = Scan::End(head.len() - cut);
                assert_eq!(scan.push(rest.as_bytes()), end);
            }
        }
    }

    proptest! {
        #[test]
        fn the_end_is_found_whatever_the_cutting(
            lines in prop::collection::vec("[a\r]{0,5}[a-c]", 1..8),
            cut in 1_usize..12,
        ) {
            let head = format!("{}\r\n\r\n", lines.join("\r\n"));
            let all = format!("{head}rest\r\n\r\n");
            let mut scan = HeadScan::strict();
            let mut at = 0;
            for piece in all.as_bytes().chunks(cut) {
                match scan.push(piece) {
                    Scan::More => at += piece.len(),
                    end => {
                        prop_assert_eq!(end, Scan::End(head.len() - at));
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "no end");
        }
    }
}
