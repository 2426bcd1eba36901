//! The answer that production gave to a request.
//!
//! What enters: a status line, header lines and the empty line behind them; what is known of the body.
//! What leaves: the same bytes, with borrowed access to each part.
//! What may be lost: the end of a body that is longer than what is kept; its length is known all the same.

use std::fmt;
use std::mem::MaybeUninit;

use bytes::Bytes;

use crate::body::Body;
use crate::head::{Fields, HeadError, MAX_HEADERS, Spans, USUAL_HEADERS, spans};

/// A response's head as captured.
#[derive(Clone, PartialEq, Eq)]
pub struct AnswerHead {
    fields: Fields,
    status: u16,
    minor: u8,
}

impl AnswerHead {
    /// Finds the parts of a whole head, from the status line to the empty line.
    ///
    /// # Errors
    /// When the head isn't one of HTTP/1. Folded lines and white space before a colon are let pass, as clients do.
    pub fn parse(raw: Bytes) -> Result<AnswerHead, HeadError> {
        let mut usual = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
        let parts = match parts(&mut usual, &raw) {
            Err(HeadError::TooManyHeaders) => {
                let mut slots = Vec::with_capacity(MAX_HEADERS);
                parts(&mut slots.spare_capacity_mut()[..MAX_HEADERS], &raw)
            }
            parts => parts,
        };
        let (status, minor, spans) = parts?;
        Ok(AnswerHead {
            status,
            minor,
            fields: Fields::new(raw, spans),
        })
    }

    /// The head's bytes as captured, the empty line included.
    pub fn raw(&self) -> &Bytes {
        self.fields.raw()
    }

    /// The status code, 100 to 999.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// 0 for HTTP/1.0, 1 for HTTP/1.1.
    pub fn minor_version(&self) -> u8 {
        self.minor
    }

    /// Name and value of every header line, in order; white space around values taken off.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter()
    }

    /// Bytes that it holds on the heap.
    pub fn size(&self) -> usize {
        self.fields.size()
    }
}

/// Status, minor version and header lines of a head, where it has no more of them than there are slots.
fn parts<'a>(
    slots: &mut [MaybeUninit<httparse::Header<'a>>],
    raw: &'a [u8],
) -> Result<(u16, u8, Spans), HeadError> {
    let mut response = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    // RFC 9112 §5.1 and §5.2 have clients let these pass.
    config.allow_obsolete_multiline_headers_in_responses(true);
    config.allow_spaces_after_header_name_in_responses(true);
    match config.parse_response_with_uninit_headers(&mut response, raw, slots) {
        Ok(httparse::Status::Complete(length)) if length == raw.len() => {}
        Ok(httparse::Status::Complete(_)) => return Err(HeadError::Malformed),
        Ok(httparse::Status::Partial) => return Err(HeadError::Incomplete),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
        Err(_) => return Err(HeadError::Malformed),
    }
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(HeadError::Malformed);
    };
    let spans = spans(raw, response.headers);
    Ok((status, minor, spans))
}

impl fmt::Debug for AnswerHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP/1.{} {}", self.minor, self.status)
    }
}

/// A final answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its first byte on the wire, unix nanoseconds; of the interim answers before it, where there were some.
    pub first_byte_ns: u64,
    /// Its last byte on the wire, unix nanoseconds.
    pub last_byte_ns: u64,
    /// Status line and headers.
    pub head: AnswerHead,
    /// The beginning of the body, without its chunking, any content coding left as it is.
    pub body: Body,
    /// Bytes of the whole body, as far as it was captured.
    pub body_len: u64,
    /// False where bytes are missing, or the connection ended within.
    pub complete: bool,
}

impl Answer {
    /// Bytes that it holds in memory, its own bookkeeping included.
    pub fn size(&self) -> usize {
        size_of::<Answer>() + self.head.size() + self.body.len()
    }

    /// True where the whole body is kept.
    pub fn is_whole(&self) -> bool {
        self.complete && self.body.len() as u64 == self.body_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_and_kept_as_captured() {
        let raw = Bytes::from_static(b"HTTP/1.0 404 Not Found\r\nServer:  x \r\n\r\n");
        let head = AnswerHead::parse(raw.clone()).unwrap();
        assert_eq!((head.status(), head.minor_version()), (404, 0));
        let headers: Vec<_> = head.headers().collect();
        assert_eq!(headers, [("Server", &b"x"[..])]);
        assert_eq!(head.raw(), &raw);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let of = |text: &'static str| AnswerHead::parse(Bytes::from_static(text.as_bytes()));
        assert_eq!(of("HTTP/1.1 200 OK\r\n"), Err(HeadError::Incomplete));
        assert_eq!(of("GET / HTTP/1.1\r\n\r\n"), Err(HeadError::Malformed));
        assert_eq!(of("HTTP/1.1 200 OK\r\n\r\nmore"), Err(HeadError::Malformed));
    }
}
