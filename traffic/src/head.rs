//! The head of an HTTP/1 request: the bytes as captured and where its parts lie in them.
//!
//! What enters: a request line, header lines and the empty line behind them.
//! What leaves: the same bytes, never copied or changed, with borrowed access to each part.
//! What may be lost: nothing; a head whose meaning is a matter of opinion is refused (RFC 9112 §2.2, §5).

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::Bytes;

/// More header lines than this are refused; servers refuse at 100 (Apache, Node.js) to 1,000.
pub const MAX_HEADERS: usize = 4096;

/// Nearly all heads have fewer header lines, and are read without room for more on the stack.
pub(crate) const USUAL_HEADERS: usize = 64;

/// Why a head was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// No HTTP/1 request line and header lines.
    #[error("not an HTTP/1 request head")]
    Malformed,
    /// A line that ends in a bare LF, which parsers take differently.
    #[error("a line of the head ends in a bare LF")]
    BareLineFeed,
    /// Over [`MAX_HEADERS`].
    #[error("more than {MAX_HEADERS} header lines")]
    TooManyHeaders,
    /// The empty line is missing.
    #[error("the head is not complete")]
    Incomplete,
}

/// A head's bytes, and where its header lines lie in them.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Fields {
    raw: Bytes,
    spans: Box<[(Span, Span)]>,
}

/// Where header lines lie in a head: names and values.
pub(crate) type Spans = Box<[(Span, Span)]>;

/// Where headers lie that were found in `raw`.
pub(crate) fn spans(raw: &[u8], headers: &[httparse::Header<'_>]) -> Spans {
    let span = |h: &httparse::Header<'_>| {
        let name = Span::of(h.name.as_bytes(), raw);
        (name, Span::of(h.value, raw))
    };
    headers.iter().map(span).collect()
}

impl Fields {
    /// Of header lines that lie in `raw` at `spans`.
    pub(crate) fn new(raw: Bytes, spans: Spans) -> Fields {
        Fields { raw, spans }
    }

    pub(crate) fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Bytes on the heap.
    pub(crate) fn size(&self) -> usize {
        self.raw.len() + size_of_val(&*self.spans)
    }

    /// Name and value of every header line.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.bytes().map(|(name, value)| {
            // httparse checked that it is a token, which is ASCII.
            (std::str::from_utf8(name).unwrap_or_default(), value)
        })
    }

    /// The same, names as bytes: cheaper where they are only compared.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let part = |span: &Span| &self.raw[span.range()];
        self.spans
            .iter()
            .map(move |(name, value)| (part(name), part(value)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn of(part: &[u8], whole: &[u8]) -> Span {
        let start = part.as_ptr() as usize - whole.as_ptr() as usize;
        Span {
            start: start as u32,
            end: (start + part.len()) as u32,
        }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A request's head as captured.
#[derive(Clone)]
pub struct Head {
    fields: Fields,
    method: Span,
    target: Span,
    minor: u8,
}

impl Head {
    /// Finds the parts of a whole head, from the request line to the empty line.
    ///
    /// # Errors
    /// When the head isn't one that every parser reads in the same way.
    pub fn parse(raw: Bytes) -> Result<Head, HeadError> {
        let parts = match Parts::of(&raw) {
            Err(HeadError::Malformed) => {
                let text = masked(&raw).ok_or(HeadError::Malformed)?;
                Parts::of(&text)?
            }
            parts => parts?,
        };
        Ok(Head {
            method: parts.method,
            target: parts.target,
            minor: parts.minor,
            fields: Fields::new(raw, parts.spans),
        })
    }

    /// Stands for a message that is no HTTP request, or can't be told to be one: it has no method, no target and no headers,
    /// so that it passes no filter, and all its bytes are body.
    pub fn opaque() -> Head {
        let nothing = Span { start: 0, end: 0 };
        Head {
            fields: Fields::new(Bytes::new(), Spans::default()),
            method: nothing,
            target: nothing,
            minor: 1,
        }
    }

    /// True for [`Head::opaque`], and for no other.
    pub fn is_opaque(&self) -> bool {
        self.raw().is_empty()
    }

    /// The head's bytes as captured, the empty line included.
    pub fn raw(&self) -> &Bytes {
        self.fields.raw()
    }

    /// The method token, for example `GET`.
    pub fn method(&self) -> &str {
        // httparse checked that it is a token, which is ASCII.
        std::str::from_utf8(&self.raw()[self.method.range()]).unwrap_or_default()
    }

    /// The request target as captured: `/path?query`, an absolute URI, `*` or an authority.
    pub fn target(&self) -> &[u8] {
        &self.raw()[self.target.range()]
    }

    /// Where the request target lies in [`Head::raw`].
    pub fn target_range(&self) -> Range<usize> {
        self.target.range()
    }

    /// The target's path and query, without scheme and authority where it is absolute.
    pub fn path_and_query(&self) -> &[u8] {
        let target = self.target();
        let Some(at) = memchr::memmem::find(target, b"://") else {
            return target;
        };
        if target.first() == Some(&b'/') {
            return target;
        }
        match memchr::memchr2(b'/', b'?', &target[at + 3..]) {
            Some(path) => &target[at + 3 + path..],
            None => b"/",
        }
    }

    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub fn minor_version(&self) -> u8 {
        self.minor
    }

    /// Name and value of every header line, in order; white space around values taken off.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter()
    }

    /// The same with names as bytes, which is cheaper where they are only compared.
    pub fn header_bytes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.bytes()
    }

    /// Bytes that it holds on the heap.
    pub fn size(&self) -> usize {
        self.fields.size()
    }

    /// The value of the first header line of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .bytes()
            .find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// True for methods that may be repeated without effect: GET, HEAD, OPTIONS and TRACE (RFC 9110 §9.2.1).
    pub fn is_safe(&self) -> bool {
        matches!(self.method(), "GET" | "HEAD" | "OPTIONS" | "TRACE")
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method(), self.target().escape_ascii())
    }
}

/// Where the parts of a head lie.
struct Parts {
    method: Span,
    target: Span,
    minor: u8,
    spans: Spans,
}

impl Parts {
    /// Finds them in a head, or in what [`masked`] made of it.
    fn of(raw: &[u8]) -> Result<Parts, HeadError> {
        let mut usual = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
        match Parts::within(&mut usual, raw) {
            Err(HeadError::TooManyHeaders) => {
                let mut slots = Vec::with_capacity(MAX_HEADERS);
                Parts::within(&mut slots.spare_capacity_mut()[..MAX_HEADERS], raw)
            }
            parts => parts,
        }
    }

    /// The same with room for so many header lines.
    fn within<'a>(
        slots: &mut [MaybeUninit<httparse::Header<'a>>],
        raw: &'a [u8],
    ) -> Result<Parts, HeadError> {
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(raw, slots) {
            Ok(httparse::Status::Complete(length)) if length == raw.len() => {}
            Ok(httparse::Status::Complete(_)) => return Err(HeadError::Malformed),
            Ok(httparse::Status::Partial) => return Err(HeadError::Incomplete),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
            Err(_) => return Err(HeadError::Malformed),
        }
        if has_bare_line_feed(raw) {
            return Err(HeadError::BareLineFeed);
        }
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(HeadError::Malformed);
        };
        let (method, target) = (
            Span::of(method.as_bytes(), raw),
            Span::of(target.as_bytes(), raw),
        );
        let spans = spans(raw, request.headers);
        Ok(Parts {
            method,
            target,
            minor,
            spans,
        })
    }
}

/// The same with the control characters in values made harmless, where there are any. RFC 9110 §5.5 lets them pass in
/// all but CR, LF and NUL; the parser doesn't. In a header that decides about framing they stay.
fn masked(raw: &[u8]) -> Option<Vec<u8>> {
    let is_control = |byte: &u8| matches!(byte, 0x01..=0x08 | 0x0b | 0x0c | 0x0e..=0x1f | 0x7f);
    let mut text = raw.to_vec();
    let mut changed = false;
    for line in text.split_mut(|b| *b == b'\n').skip(1) {
        let Some(colon) = memchr::memchr(b':', line) else {
            continue;
        };
        let (name, value) = line.split_at_mut(colon);
        let frames = [&b"content-length"[..], b"transfer-encoding"];
        if frames.iter().any(|n| name.eq_ignore_ascii_case(n)) {
            continue;
        }
        for byte in value.iter_mut().filter(|b| is_control(b)) {
            *byte = b'_';
            changed = true;
        }
    }
    changed.then_some(text)
}

fn has_bare_line_feed(raw: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', raw).any(|at| at == 0 || raw[at - 1] != b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &'static str) -> Result<Head, HeadError> {
        Head::parse(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn parts_are_found_and_kept_as_captured() {
        let head = head("PURGE /a?b=c HTTP/1.1\r\nHOST:  x \r\nA: 1\r\na: 2\r\n\r\n").unwrap();
        assert_eq!(head.method(), "PURGE");
        assert_eq!(head.target(), b"/a?b=c");
        assert_eq!(head.minor_version(), 1);
        assert_eq!(head.header("host"), Some(&b"x"[..]));
        assert_eq!(
            head.headers()
                .filter(|(n, _)| n.eq_ignore_ascii_case("a"))
                .count(),
            2
        );
        assert!(!head.is_safe());
    }

    #[test]
    fn an_absolute_target_has_a_path() {
        for (target, path) in [
            ("http://h/p?q", "/p?q"),
            ("http://h", "/"),
            ("http://h?q", "?q"),
            ("/redirect?to=http://h/x", "/redirect?to=http://h/x"),
            ("*", "*"),
        ] {
            let raw = format!("GET {target} HTTP/1.1\r\n\r\n");
            let head = Head::parse(Bytes::from(raw)).unwrap();
            assert_eq!(head.path_and_query(), path.as_bytes(), "{target}");
        }
    }

    #[test]
    fn control_characters_in_values_are_kept_as_captured() {
        let head = head("GET / HTTP/1.1\r\nHost: x\r\nA: \x01b\x7f\x0b \r\nC: d\r\n\r\n").unwrap();
        assert_eq!(head.header("a"), Some(&b"\x01b\x7f\x0b"[..]));
        assert_eq!(head.header("c"), Some(&b"d"[..]));
        assert_eq!(head.headers().count(), 3);
    }

    #[test]
    fn control_characters_elsewhere_are_refused() {
        for lines in [
            "A: b\0\r\n",
            "A: b\rc\r\n",
            "A\x01: b\r\n",
            "\x01A: b\r\n",
            "Content-Length: 5\x0b\r\n",
            "Transfer-Encoding: \x0bchunked\r\n",
            "A: \x01\r\n \x01\r\n",
        ] {
            let raw = format!("GET / HTTP/1.1\r\n{lines}\r\n");
            let refused = Head::parse(Bytes::from(raw)).unwrap_err();
            assert_eq!(refused, HeadError::Malformed, "{}", lines.escape_debug());
        }
    }

    #[test]
    fn header_lines_are_bounded() {
        for lines in [
            0,
            USUAL_HEADERS,
            USUAL_HEADERS + 1,
            MAX_HEADERS,
            MAX_HEADERS + 1,
        ] {
            let raw = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(lines));
            match Head::parse(Bytes::from(raw)) {
                Ok(head) => assert_eq!(head.headers().count(), lines),
                Err(error) => {
                    assert_eq!((error, lines), (HeadError::TooManyHeaders, MAX_HEADERS + 1));
                }
            }
        }
    }

    #[test]
    fn what_parsers_disagree_on_is_refused() {
        assert_eq!(
            head("GET / HTTP/1.1\nA: b\n\n").unwrap_err(),
            HeadError::BareLineFeed
        );
        assert_eq!(
            head("GET / HTTP/1.1\r\nA : b\r\n\r\n").unwrap_err(),
            HeadError::Malformed
        );
        assert_eq!(
            head("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n").unwrap_err(),
            HeadError::Malformed
        );
        assert_eq!(
            head("GET / HTTP/1.1\r\nA: b\r\n").unwrap_err(),
            HeadError::Incomplete
        );
        assert_eq!(
            head("GET / HTTP/2.0\r\n\r\n").unwrap_err(),
            HeadError::Malformed
        );
    }
}
