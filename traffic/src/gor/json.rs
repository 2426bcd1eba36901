//! Requests as JSON objects, as GoReplay has them in Kafka's messages.
//!
//! What enters: a request, or the text of such an object. What leaves: the object, or a record without its separator,
//! whose payload is an HTTP/1.1 request. What may be lost: the HTTP version, and which lines a header had; they come back
//! as one. The format has room for text alone: a header or body that is no UTF-8 is refused, as are trailers, since what
//! would come back is another request.
//!
//! ```text
//! {"Req_URL": "/a?b", "Req_Type": "1", "Req_ID": "c0ffee", "Req_Ts": "1500000000000000000", "Req_Method": "POST",
//!  "Req_Body": "text", "Req_Headers": {"Host": "h", "Accept": "text/html, text/plain"}}
//! ```
//!
//! Bodies are without their chunks, and the head comes back with the length of what is there. Objects of others may have
//! chunks, and say so in a header; they are taken apart.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_with::serde_as;

use super::{Flaw, Kind, id, number};
use crate::body::Body;
use crate::exchange::Exchange;
use crate::framing::{self, ChunkedDecoder, Framing, FramingError};
use crate::head::{Head, HeadError};

/// Why a request can't be written so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Inexpressible {
    /// JSON is text.
    #[error("its head is no UTF-8 text")]
    BinaryHead,
    /// JSON is text.
    #[error("its body is no UTF-8 text")]
    BinaryBody,
    /// There is no place for them.
    #[error("it has trailers")]
    Trailers,
    /// Its head doesn't say clearly how long its body is.
    #[error("its length is unclear: {0}")]
    Framing(#[from] FramingError),
    /// A part of it is missing.
    #[error("its head announces {announced} body bytes, and {held} were captured")]
    BodyLength {
        /// By its head.
        announced: u64,
        /// In the exchange.
        held: usize,
    },
}

/// Why there is no request in an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonFlaw {
    /// No object, or one that lacks a key.
    #[error("no JSON of a request: {0}")]
    Syntax(String),
    /// `Req_Type` is 2 or 3.
    #[error("it is an answer, which has no form in JSON")]
    Answer,
    /// `Req_Type`, `Req_ID` or `Req_Ts` would make no record.
    #[error("no record: {0}")]
    Record(#[from] Flaw),
    /// A control character in a part that is a line of the head.
    #[error("{0} has a control character")]
    Control(&'static str),
    /// Method, URL and headers make no head.
    #[error("{0}")]
    Head(#[from] HeadError),
}

#[serde_as]
#[derive(Serialize, Deserialize)]
struct Object {
    #[serde(rename = "Req_URL")]
    url: String,
    #[serde(rename = "Req_Type")]
    kind: String,
    #[serde(rename = "Req_ID")]
    id: String,
    #[serde(rename = "Req_Ts")]
    timestamp: String,
    #[serde(rename = "Req_Method")]
    method: String,
    #[serde(rename = "Req_Body", default, skip_serializing_if = "String::is_empty")]
    body: String,
    #[serde(rename = "Req_Headers", default, skip_serializing_if = "Vec::is_empty")]
    #[serde_as(as = "serde_with::Map<_, _>")]
    headers: Vec<(String, String)>,
}

/// The object of an exchange's request, whose head is to be this.
///
/// # Errors
/// When the format has no room for it.
pub fn encode_json(exchange: &Exchange, head: &Head) -> Result<Vec<u8>, Inexpressible> {
    let request = &exchange.request;
    if head.is_opaque() {
        return Err(Inexpressible::BinaryHead);
    }
    if !request.trailers.is_empty() {
        return Err(Inexpressible::Trailers);
    }
    let id = id(exchange);
    let id = std::str::from_utf8(&id).map_err(|_| Inexpressible::BinaryHead)?;
    write_json(id, request.captured_ns, head, &request.body)
}

/// The object of a request with a body without chunks, and an id that is one word.
///
/// # Errors
/// When the format has no room for it.
pub fn write_json(
    id: &str,
    timestamp_ns: u64,
    head: &Head,
    body: &Body,
) -> Result<Vec<u8>, Inexpressible> {
    let held = body.len();
    let was_chunked = match framing::of_request(head)? {
        Framing::Chunked => true,
        Framing::Length(announced) if announced == held as u64 => false,
        Framing::Length(announced) => return Err(Inexpressible::BodyLength { announced, held }),
        Framing::UntilClose => return Err(FramingError::BadLength.into()),
    };
    let text = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).map_err(|_| Inexpressible::BinaryHead)?;
        Ok::<_, Inexpressible>(text.to_owned())
    };
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, value) in head.headers() {
        if was_chunked && frames(name) {
            continue;
        }
        let value = text(value)?;
        match headers
            .iter_mut()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
        {
            Some((_, first)) => {
                // RFC 6265 §5.4 has another separator than RFC 9110 §5.3.
                let separator = [", ", "; "][usize::from(name.eq_ignore_ascii_case("cookie"))];
                first.push_str(separator);
                first.push_str(&value);
            }
            None => headers.push((name.to_owned(), value)),
        }
    }
    if was_chunked {
        headers.push(("Content-Length".to_owned(), held.to_string()));
    }
    let body = Vec::from(body.to_bytes());
    let object = Object {
        url: text(head.target())?,
        kind: char::from(Kind::Request.digit()).to_string(),
        id: id.to_owned(),
        timestamp: timestamp_ns.to_string(),
        method: head.method().to_owned(),
        body: String::from_utf8(body).map_err(|_| Inexpressible::BinaryBody)?,
        headers,
    };
    // Nothing in it can fail: it is all text.
    Ok(serde_json::to_vec(&object).unwrap_or_default())
}

/// The record of an object, without its separator; [`Record::parse`](super::Record::parse) reads it. Headers come in their
/// order, `Host` first.
///
/// # Errors
/// When it is none of a request.
pub fn read_json(json: &[u8]) -> Result<Vec<u8>, JsonFlaw> {
    let object: Object = serde_json::from_slice(json).map_err(|e| {
        // Its place says more than its words, which may quote what clients sent.
        JsonFlaw::Syntax(format!("{:?} error at column {}", e.classify(), e.column()))
    })?;
    match Kind::from_field(object.kind.as_bytes()) {
        Some(Kind::Request) => {}
        Some(Kind::Answer | Kind::Replayed) => return Err(JsonFlaw::Answer),
        None => return Err(Flaw::UnknownKind.into()),
    }
    number(object.timestamp.as_bytes()).ok_or(Flaw::BadTimestamp)?;
    if object.id.is_empty() || object.id.contains(|c: char| c.is_whitespace()) {
        return Err(Flaw::FewFields.into());
    }
    let mut head = format!("{} {} HTTP/1.1\r\n", object.method, object.url);
    check("Req_Method", &object.method)?;
    check("Req_URL", &object.url)?;
    let body = match framed_by(&object.headers, object.body.as_bytes()) {
        Some(whole) => whole,
        None => object.body.into_bytes(),
    };
    let is_host = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("host");
    let hosts = object.headers.iter().filter(is_host);
    let others = object.headers.iter().filter(|header| !is_host(header));
    let mut had_length = false;
    for (name, value) in hosts.chain(others) {
        check("Req_Headers", name)?;
        check("Req_Headers", value)?;
        // Its name would be what stands before it: another header, maybe one that frames.
        if name.contains(':') {
            return Err(HeadError::Malformed.into());
        }
        match frames(name) {
            true => had_length = true,
            false => head.extend([name, ": ", value, "\r\n"]),
        }
    }
    if had_length || !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let head = Head::parse(Bytes::from(head))?;
    let header = format!("{} {} {} -1\n", object.kind, object.id, object.timestamp);
    Ok([header.as_bytes(), head.raw(), &body].concat())
}

/// True for the headers that say where a body ends.
fn frames(name: &str) -> bool {
    ["content-length", "transfer-encoding"]
        .iter()
        .any(|n| name.eq_ignore_ascii_case(n))
}

/// A line of the head must not become two.
fn check(part: &'static str, text: &str) -> Result<(), JsonFlaw> {
    match text.contains(|c: char| c.is_ascii_control() && c != '\t') {
        true => Err(JsonFlaw::Control(part)),
        false => Ok(()),
    }
}

/// The body without chunks, where there are some and a header says so.
fn framed_by(headers: &[(String, String)], body: &[u8]) -> Option<Vec<u8>> {
    let chunked = headers.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case("transfer-encoding")
            && value.trim().eq_ignore_ascii_case("chunked")
    });
    if !chunked {
        return None;
    }
    let mut whole = Vec::new();
    let mut decoder = ChunkedDecoder::default();
    let taken = decoder.push(body, |piece| whole.extend_from_slice(piece));
    (decoder.is_done() && taken == Ok(body.len())).then_some(whole)
}

#[cfg(test)]
mod tests;
