//! Messages as people read them: without chunks, without gzip, and with the length of what is there.
//!
//! What enters: a message on its way into the window. What leaves: the same where it has neither chunks nor gzip, or where what
//! is unpacked would be larger than a message may be; else one with another head and body. What may be lost: trailers, on
//! purpose.

use std::io::Read;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use reprise_traffic::exchange::Captured;
use reprise_traffic::framing::{self, ChunkedDecoder, Framing};
use reprise_traffic::gor::Kind;
use reprise_traffic::lines::{HeaderLine, Lines};
use reprise_traffic::{Answer, AnswerHead, Body, Head};

/// Lines that say how a body was packed, or how long it was.
const PACKING: [&str; 3] = ["Content-Length", "Transfer-Encoding", "Content-Encoding"];

/// Makes a message readable, where it stays within `most` bytes.
pub(crate) fn prettify(message: &mut Captured, most: usize) {
    if let Some(answer) = message.answer.as_deref_mut() {
        // A part of an answer can't be unpacked.
        if answer.is_whole() {
            prettify_answer(answer, most);
        }
    }
    match message.kind() {
        Kind::Request => prettify_request(message, most),
        Kind::Answer | Kind::Replayed => prettify_payload(message, most),
    }
}

fn prettify_request(message: &mut Captured, most: usize) {
    let is_chunked = framing::of_request(&message.head) == Ok(Framing::Chunked);
    let coding = coding(message.head.headers());
    let Some((raw, body)) = unpacked(message.head.raw(), &message.body, is_chunked, coding, most)
    else {
        return;
    };
    let Ok(head) = Head::parse(raw) else {
        return;
    };
    (message.head, message.body, message.trailers) = (head, body, Bytes::new());
    if let Some(label) = message.label.take() {
        message.label = Some(Box::new(label.without_verbatim()));
    }
}

fn prettify_answer(answer: &mut Answer, most: usize) {
    let is_chunked = answer
        .head
        .headers()
        .any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
    let coding = coding(answer.head.headers());
    if let Some((raw, body)) = unpacked(answer.head.raw(), &answer.body, is_chunked, coding, most)
        && let Ok(head) = AnswerHead::parse(raw)
    {
        answer.head = head;
        answer.body_len = body.len() as u64;
        answer.body = body;
    }
}

/// An answer that came as a record of its own: all of it is the message's body.
fn prettify_payload(message: &mut Captured, most: usize) {
    let payload = message.body.to_bytes();
    let Some(end) = memchr::memmem::find(&payload, b"\r\n\r\n") else {
        return;
    };
    let (raw, rest) = (payload.slice(..end + 4), payload.slice(end + 4..));
    let Ok(head) = AnswerHead::parse(raw) else {
        return;
    };
    let (status, minor) = (head.status(), head.minor_version());
    let is_chunked =
        framing::of_response("GET", status, minor, head.headers()) == Ok(Framing::Chunked);
    let body = match is_chunked {
        false => Body::from(rest),
        true => match joined(&rest) {
            Some(body) => body,
            None => return,
        },
    };
    let coding = coding(head.headers());
    if let Some((raw, body)) = unpacked(head.raw(), &body, is_chunked, coding, most) {
        message.body = [raw]
            .into_iter()
            .chain(body.chunks().iter().cloned())
            .collect();
    }
}

/// The chunks of a body as one.
fn joined(chunks: &[u8]) -> Option<Body> {
    let mut decoder = ChunkedDecoder::default();
    let mut body = Vec::with_capacity(chunks.len());
    decoder
        .push(chunks, |piece| body.extend_from_slice(piece))
        .ok()?;
    decoder.is_done().then(|| Body::from(body))
}

/// What a body is packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    None,
    Gzip,
    /// Another, or several.
    Other,
}

fn coding<'h>(headers: impl Iterator<Item = (&'h str, &'h [u8])>) -> Coding {
    let mut codings = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-encoding"));
    match (codings.next(), codings.next()) {
        (None, _) => Coding::None,
        (Some((_, value)), None) if value.eq_ignore_ascii_case(b"gzip") => Coding::Gzip,
        _ => Coding::Other,
    }
}

/// The new head's bytes and the new body; `None` where nothing is to be done, or it can't be.
fn unpacked(
    raw: &[u8],
    body: &Body,
    is_chunked: bool,
    coding: Coding,
    most: usize,
) -> Option<(Bytes, Body)> {
    let body = match coding {
        Coding::Gzip if !body.is_empty() => {
            let mut plain = Vec::new();
            let mut packed =
                MultiGzDecoder::new(bytes::Buf::reader(body.reader())).take(most as u64 + 1);
            packed.read_to_end(&mut plain).ok()?;
            (plain.len() <= most).then(|| Body::from(plain))?
        }
        _ if !is_chunked => return None,
        _ => body.clone(),
    };
    let goes = |line: &HeaderLine<'_>| {
        let is_coding = coding != Coding::Gzip && line.is("Content-Encoding");
        !is_coding && PACKING.iter().any(|name| line.is(name))
    };
    let mut head = Vec::with_capacity(raw.len() + 32);
    let mut lines = Lines::of(raw);
    head.extend_from_slice(lines.next()?);
    for line in lines.take_while(|line| *line != b"\r\n") {
        if !goes(&HeaderLine::of(line)) {
            head.extend_from_slice(line);
        }
    }
    head.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    Some((head.into(), body))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use reprise_traffic::gor::{self, Record};
    use reprise_traffic::{Epoch, Exchange, ExchangeId};

    use super::*;
    use crate::records;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        packer.write_all(plain).unwrap();
        packer.finish().unwrap()
    }

    fn chunked(body: &[u8]) -> Vec<u8> {
        let (a, b) = body.split_at(body.len() / 2);
        let size = |part: &[u8]| format!("{:x}\r\n", part.len()).into_bytes();
        [&size(a), a, b"\r\n", &size(b), b, b"\r\n0\r\nT: 1\r\n\r\n"].concat()
    }

    /// The payload of a record behind it.
    fn pretty(kind: u8, payload: &[u8]) -> Vec<u8> {
        let record = [format!("{kind} a 1 1\n").as_bytes(), payload].concat();
        let mut message = records::message(&Record::parse(&record, 1).unwrap(), 1 << 20).unwrap();
        prettify(&mut message, 1000);
        let exchange = Exchange {
            id: ExchangeId {
                epoch: Epoch::new("l", 1).into(),
                sequence: 0,
            },
            due_ns: None,
            request: message,
        };
        let (record, _) = gor::encode(&exchange, &exchange.request.head).unwrap();
        record.payload().collect::<Vec<_>>().concat()
    }

    #[test]
    fn chunks_and_gzip_go_and_lengths_are_right() {
        let hello = b"hello, world";
        for (kind, line) in [
            (1, "POST / HTTP/1.1"),
            (2, "HTTP/1.1 200 OK"),
            (3, "HTTP/1.1 200 OK"),
        ] {
            let made = |headers: &str, body: &[u8]| {
                [format!("{line}\r\nA: b\r\n{headers}\r\n").as_bytes(), body].concat()
            };
            let packed = gzip(hello);
            let length = format!("Content-Length: {}\r\n", packed.len());
            let expected = made("Content-Length: 12\r\n", hello);
            for message in [
                made("Transfer-Encoding: chunked\r\n", &chunked(hello)),
                made(&format!("{length}Content-Encoding: gzip\r\n"), &packed),
                made(
                    "Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
                    &chunked(&packed),
                ),
            ] {
                let text = String::from_utf8_lossy(&message);
                assert_eq!(pretty(kind, &message), expected, "{text}");
            }
            let bomb = gzip(&[0; 100_000]);
            let length = format!(
                "Content-Length: {}\r\nContent-Encoding: gzip\r\n",
                bomb.len()
            );
            for message in [
                expected.clone(),
                made(&length, &bomb),
                made("Content-Length: 2\r\nContent-Encoding: gzip\r\n", b"no"),
                made("Content-Length: 2\r\nContent-Encoding: br\r\n", b"no"),
            ] {
                assert_eq!(pretty(kind, &message), message);
            }
        }
    }
}
