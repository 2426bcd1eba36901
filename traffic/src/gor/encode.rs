//! Exchanges as records.
//!
//! What enters: an exchange. What leaves: a record with its request, and one with production's answer where there is one,
//! as parts that borrow from the exchange. What may be lost: an exchange that this format can't hold; it is refused.
//!
//! What came as a record leaves as the same record, but for changes of its head. Of all else the payload is the message as
//! captured. Chunked bodies were taken apart at the capture, so they are chunked anew, as one
//! chunk with the trailers. An answer of which not all was kept stays visibly cut off: its `Content-Length`, or the size of
//! its chunk, says more than follows.
//!
//! The format has no escape for its separator. A payload that contains one, as an upload of a recording does, would come
//! back as two records, the second of which is whatever the client wanted it to be. So it is refused; changing the
//! payload, or its length, would be worse.

use std::borrow::Cow;
use std::fmt;

use memchr::memmem;

use super::{Kind, SEPARATOR};
use crate::body::Body;
use crate::exchange::Exchange;
use crate::framing::{self, Framing, FramingError};
use crate::head::Head;
use crate::label::Label;
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
    pub id: Cow<'a, [u8]>,
    header: Cow<'a, [u8]>,
    head: &'a [u8],
    /// What stands between head and body: the size line of a chunked body's only chunk.
    size_line: String,
    body: Cow<'a, Body>,
    /// What ends a chunked body.
    tail: Vec<u8>,
}

impl fmt::Debug for Encoded<'_> {
    /// Without what production's clients sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.header.escape_ascii();
        write!(f, "{header} and {} bytes", self.size())
    }
}

/// The records of an exchange whose head is to be this, which is its own, or what a target's document makes of it: its
/// request, and production's answer where it was captured.
///
/// # Errors
/// When the exchange, its request or its answer, is one that the format can't hold.
pub fn encode<'a>(
    exchange: &'a Exchange,
    head: &'a Head,
) -> Result<(Encoded<'a>, Option<Encoded<'a>>), Unwritable> {
    let (first, second) = messages(exchange, head)?;
    for record in [Some(&first), second.as_ref()].into_iter().flatten() {
        if record.contains_separator() {
            return Err(Unwritable::Separator);
        }
    }
    Ok((first, second))
}

/// The same for those who don't write them one behind the other, with separators between.
///
/// # Errors
/// When what was captured is no whole message.
pub fn messages<'a>(
    exchange: &'a Exchange,
    head: &'a Head,
) -> Result<(Encoded<'a>, Option<Encoded<'a>>), Unwritable> {
    let first = match exchange.request.label.as_deref() {
        Some(label) => labelled(exchange, label, head)?,
        None => request(exchange, head)?,
    };
    let second = answer(exchange, &first.id);
    Ok((first, second))
}

/// What came as a record.
fn labelled<'a>(
    exchange: &'a Exchange,
    label: &'a Label,
    head: &'a Head,
) -> Result<Encoded<'a>, Unwritable> {
    let captured = &exchange.request;
    let (head, body) = match label.verbatim() {
        Some(verbatim) if head.raw() == captured.head.raw() => {
            (&[][..], Cow::Borrowed(&verbatim.payload))
        }
        Some(verbatim) => {
            let behind = verbatim.payload.behind(verbatim.head_end);
            (&head.raw()[..], Cow::Owned(behind))
        }
        None if captured.head.is_opaque() => (&[][..], Cow::Borrowed(&captured.body)),
        None => {
            let plain = request(exchange, head)?;
            return Ok(Encoded {
                kind: label.kind(),
                id: Cow::Borrowed(label.id()),
                header: Cow::Borrowed(label.line()),
                ..plain
            });
        }
    };
    Ok(Encoded {
        kind: label.kind(),
        id: Cow::Borrowed(label.id()),
        header: Cow::Borrowed(label.line()),
        head,
        size_line: String::new(),
        body,
        tail: Vec::new(),
    })
}

fn request<'a>(exchange: &'a Exchange, head: &'a Head) -> Result<Encoded<'a>, Unwritable> {
    let request = &exchange.request;
    let id = id_of(exchange);
    let held = request.body.len();
    let framing = match head.is_opaque() {
        true => Framing::Length(held as u64),
        false => framing::of_request(head)?,
    };
    let (size_line, tail) = match framing {
        Framing::Chunked => chunked(held as u64, Some(&request.trailers)),
        Framing::Length(announced) if announced == held as u64 => (String::new(), Vec::new()),
        Framing::Length(announced) => return Err(Unwritable::BodyLength { announced, held }),
        Framing::UntilClose => return Err(Unwritable::Framing(FramingError::BadLength)),
    };
    Ok(Encoded {
        kind: Kind::Request,
        header: header(Kind::Request, &id, request.captured_ns, None).into(),
        id: id.to_vec().into(),
        head: head.raw(),
        size_line,
        body: Cow::Borrowed(&request.body),
        tail,
    })
}

fn answer<'a>(exchange: &'a Exchange, id: &Cow<'a, [u8]>) -> Option<Encoded<'a>> {
    let request = &exchange.request;
    let answer = request.answer.as_deref()?;
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
    Some(Encoded {
        kind: Kind::Answer,
        header: header(Kind::Answer, id, answer.first_byte_ns, Some(latency)).into(),
        id: id.clone(),
        head: head.raw(),
        size_line,
        body: Cow::Borrowed(&answer.body),
        tail,
    })
}

impl Encoded<'_> {
    /// Bytes of it.
    pub fn size(&self) -> usize {
        self.parts().map(<[u8]>::len).sum()
    }

    /// Its bytes, in order, from its header to its separator.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        [self.header(), b"\n"]
            .into_iter()
            .chain(self.payload())
            .chain([SEPARATOR])
    }

    /// Its first line, without the line end.
    pub fn header(&self) -> &[u8] {
        &self.header
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

    /// The bytes of the message.
    pub fn payload(&self) -> impl Iterator<Item = &[u8]> {
        let body = self.body.chunks().iter().map(|chunk| &chunk[..]);
        self.before_body().chain(body).chain([self.behind_body()])
    }

    /// Those of them that stand before its body.
    pub fn before_body(&self) -> impl Iterator<Item = &[u8]> {
        [self.head, self.size_line.as_bytes()].into_iter()
    }

    /// Its body, for those who share chunks of it.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// Those that stand behind its body.
    pub fn behind_body(&self) -> &[u8] {
        &self.tail
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

/// A record's first line, without the line end.
pub fn header(kind: Kind, id: &[u8], timestamp_ns: u64, latency_ns: Option<u64>) -> Vec<u8> {
    let latency = latency_ns.map_or_else(|| "-1".to_owned(), |latency| latency.to_string());
    let rest = format!(" {timestamp_ns} {latency}");
    [&[kind.digit(), b' '], id, rest.as_bytes()].concat()
}

/// What an exchange is called in records: as it came, or 24 hexadecimal digits of our own.
pub fn id(exchange: &Exchange) -> Cow<'_, [u8]> {
    match &exchange.request.label {
        Some(label) => Cow::Borrowed(label.id()),
        None => Cow::Owned(id_of(exchange).to_vec()),
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
