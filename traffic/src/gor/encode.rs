//! Exchanges as records.
//!
//! What enters: an exchange. What leaves: a record with its request, and one with production's answer where there is one,
//! as parts that borrow from the exchange. What may be lost: an exchange that this format can't hold; it is refused.
//!
//! A payload is the message as captured. Chunked bodies were taken apart at the capture, so they are chunked anew, as one
//! chunk with the trailers. An answer of which not all was kept stays visibly cut off: its `Content-Length`, or the size of
//! its chunk, says more than follows.
//!
//! The format has no escape for its separator. A payload that contains one, as an upload of a recording does, would come
//! back as two records, the second of which is whatever the client wanted it to be. So it is refused; changing the
//! payload, or its length, would be worse.

use std::fmt;

use memchr::memmem;

use super::{Kind, SEPARATOR};
use crate::body::Body;
use crate::exchange::Exchange;
use crate::framing::{self, Framing, FramingError};
use crate::session::SessionKey;

/// Why an exchange can't be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// It would be read as two records.
    #[error("it contains the separator of records itself")]
    Separator,
    /// Its head doesn't say clearly how long its body is.
    #[error("its length is unclear: {0}")]
    Framing(#[from] FramingError),
    /// A reader would wait for the rest, or take the excess for something else.
    #[error("its head announces {announced} body bytes, and {held} were captured")]
    BodyLength {
        /// By its head.
        announced: u64,
        /// In the exchange.
        held: usize,
    },
}

/// A record to be written.
pub struct Encoded<'a> {
    /// What its payload is.
    pub kind: Kind,
    /// The same for the request and its answer.
    pub id: [u8; 24],
    header: String,
    head: &'a [u8],
    /// The size line of a chunked body's only chunk.
    size_line: String,
    body: &'a Body,
    /// What ends a chunked body.
    tail: Vec<u8>,
}

impl fmt::Debug for Encoded<'_> {
    /// Without what production's clients sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {} bytes", self.header.trim_end(), self.size())
    }
}

/// The records of an exchange: its request, and production's answer where it was captured.
///
/// # Errors
/// When the exchange, its request or its answer, is one that the format can't hold.
pub fn encode(exchange: &Exchange) -> Result<(Encoded<'_>, Option<Encoded<'_>>), Unwritable> {
    let request = &exchange.request;
    let id = id_of(exchange);
    let framing = framing::of_request(&request.head)?;
    let held = request.body.len();
    let (size_line, tail) = match framing {
        Framing::Chunked => chunked(held as u64, Some(&request.trailers)),
        Framing::Length(announced) if announced == held as u64 => (String::new(), Vec::new()),
        Framing::Length(announced) => return Err(Unwritable::BodyLength { announced, held }),
        Framing::UntilClose => return Err(Unwritable::Framing(FramingError::BadLength)),
    };
    let first = Encoded {
        kind: Kind::Request,
        id,
        header: header(Kind::Request, &id, request.captured_ns, None),
        head: request.head.raw(),
        size_line,
        body: &request.body,
        tail,
    };
    let second = request.answer.as_deref().map(|answer| {
        let head = &answer.head;
        let minor = head.minor_version();
        let method = request.head.method();
        // Where its length is unclear, nothing is added to what was captured.
        let framing = framing::of_response(method, head.status(), minor, head.headers());
        let (size_line, tail) = match framing {
            Ok(Framing::Chunked) => {
                let end = answer.is_whole().then_some(&[][..]);
                chunked(answer.body_len, end)
            }
            _ => (String::new(), Vec::new()),
        };
        let latency = answer.last_byte_ns.saturating_sub(answer.first_byte_ns);
        Encoded {
            kind: Kind::Answer,
            id,
            header: header(Kind::Answer, &id, answer.first_byte_ns, Some(latency)),
            head: head.raw(),
            size_line,
            body: &answer.body,
            tail,
        }
    });
    for record in [Some(&first), second.as_ref()].into_iter().flatten() {
        if record.contains_separator() {
            return Err(Unwritable::Separator);
        }
    }
    Ok((first, second))
}

impl Encoded<'_> {
    /// Bytes of it.
    pub fn size(&self) -> usize {
        self.parts().map(<[u8]>::len).sum()
    }

    /// Its bytes, in order, from its header to its separator.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let header = [self.header.as_bytes()];
        header.into_iter().chain(self.payload()).chain([SEPARATOR])
    }

    /// Looks at everything but the header's line and the last byte: a separator may begin in the end of the header's line,
    /// and the record's own ends it.
    fn contains_separator(&self) -> bool {
        const OVERLAP: usize = SEPARATOR.len() - 1;
        let finder = memmem::Finder::new(SEPARATOR);
        // The last bytes before the part that is looked at.
        let mut seam: Vec<u8> = b"\n".to_vec();
        for part in self.payload().chain([&SEPARATOR[..OVERLAP]]) {
            seam.extend_from_slice(&part[..part.len().min(OVERLAP)]);
            if finder.find(&seam).is_some() || finder.find(part).is_some() {
                return true;
            }
            if let Some(last) = part.last_chunk::<OVERLAP>() {
                seam.clear();
                seam.extend_from_slice(last);
            }
            seam.drain(..seam.len().saturating_sub(OVERLAP));
        }
        false
    }

    fn payload(&self) -> impl Iterator<Item = &[u8]> {
        let body = self.body.chunks().iter().map(|chunk| &chunk[..]);
        let before = [self.head, self.size_line.as_bytes()];
        before.into_iter().chain(body).chain([&self.tail[..]])
    }
}

/// What stands around a body of one chunk that is said to have `len` bytes. Without trailers its end is left out.
fn chunked(len: u64, trailers: Option<&[u8]>) -> (String, Vec<u8>) {
    let size_line = match len {
        0 => String::new(),
        len => format!("{len:x}\r\n"),
    };
    let tail = trailers.map(|trailers| {
        let end = if len > 0 { &b"\r\n0\r\n"[..] } else { b"0\r\n" };
        [end, trailers, b"\r\n"].concat()
    });
    (size_line, tail.unwrap_or_default())
}

fn header(kind: Kind, id: &[u8; 24], timestamp_ns: u64, latency_ns: Option<u64>) -> String {
    let kind = char::from(kind.digit());
    let id = std::str::from_utf8(id).unwrap_or_default();
    match latency_ns {
        Some(latency) => format!("{kind} {id} {timestamp_ns} {latency}\n"),
        None => format!("{kind} {id} {timestamp_ns} -1\n"),
    }
}

/// 24 hexadecimal digits: 48 bits of its connection, the same for all that came on it, and 48 bits that differ for all
/// exchanges of a listener's life.
pub(super) fn id_of(exchange: &Exchange) -> [u8; 24] {
    const BITS: u64 = (1 << 48) - 1;
    let connection = SessionKey::Connection.hash(&exchange.request) & BITS;
    let number = exchange.id.epoch.key().wrapping_add(exchange.id.sequence) & BITS;
    let mut id = [0; 24];
    for (place, nibble) in id.iter_mut().enumerate() {
        let (half, place) = match place {
            0..12 => (connection, place),
            _ => (number, place - 12),
        };
        let digit = (half >> (44 - 4 * place)) & 0xf;
        *nibble = b"0123456789abcdef"[digit as usize];
    }
    id
}

#[cfg(test)]
mod tests;
