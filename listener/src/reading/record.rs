//! From a record of a recording to a request.
//!
//! What enters: a record ([`gor`](reprise_traffic::gor)) whose payload should be one request as captured. What leaves:
//! the request, in one allocation where it is small. What may be lost: a payload that is no whole HTTP/1 request, and
//! bytes behind one; both are said.
//!
//! Recordings don't tell clients and servers. Ours put what tells connections apart into the first half of an id, so that
//! sessions can be told; of other tools' ids that half is as good as any other.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;
use reprise_traffic::exchange::Captured;
use reprise_traffic::framing::{self, Framing};
use reprise_traffic::gor::Record;
use reprise_traffic::{Body, BodyMut, Head, MARKER, Source};
use xxhash_rust::xxh3::xxh3_64;

use crate::edge::EdgeEvent;
use crate::http::{Arrival, Event, Incomplete, Message, RequestParser, Switching};

/// A body up to this size shares its memory with its head.
const SMALL: usize = 32 << 10;

/// Ends a head.
static EMPTY_LINE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// What a record's payload amounts to.
#[derive(Debug)]
pub struct Found {
    /// The request, if there is one.
    pub request: Result<Message, Unfit>,
    /// There are bytes behind it, which are none of its own.
    pub has_more: bool,
}

/// Why there is no request in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// The record has no bytes.
    Empty,
    /// What its bytes are instead.
    For(EdgeEvent),
}

/// The request in a record, of `max_exchange` bytes at most.
pub fn request(record: &Record<'_>, max_exchange: usize) -> Found {
    plain(record, None, max_exchange).map_or_else(
        || parsed(record, max_exchange),
        |message| Found {
            request: Ok(message),
            has_more: false,
        },
    )
}

/// A request whose head announces just the bytes behind it: nearly all are. A record that lies in `owner` needs no memory of
/// its own.
pub(crate) fn plain(
    record: &Record<'_>,
    owner: Option<&Bytes>,
    max_exchange: usize,
) -> Option<Message> {
    let payload = record.payload;
    let split = EMPTY_LINE.find(payload)? + 4;
    if payload.len() > max_exchange || payload.starts_with(b"\r") || payload.starts_with(b"\n") {
        return None;
    }
    let (head, body) = match payload.len() - split {
        0..=SMALL => {
            let mut head = Bytes::copy_from_slice(payload);
            let body = head.split_off(split);
            (head, Body::from(body))
        }
        _ => (
            Bytes::copy_from_slice(&payload[..split]),
            kept(&payload[split..], owner),
        ),
    };
    let head = Head::parse(head).ok()?;
    let is_whole = framing::of_request(&head) == Ok(Framing::Length(body.len() as u64));
    let is_plain = is_whole && head.header(MARKER).is_none();
    is_plain.then(|| Message {
        captured_ns: record.timestamp_ns,
        head,
        body,
        trailers: Bytes::new(),
    })
}

/// Bytes of a record, which lie in `owner`, or are copied.
pub(crate) fn kept(bytes: &[u8], owner: Option<&Bytes>) -> Body {
    match (bytes.len(), owner) {
        (0..=SMALL, _) => Body::from(Bytes::copy_from_slice(bytes)),
        (_, Some(owner)) => Body::from(owner.slice_ref(bytes)),
        (whole, None) => {
            let mut body = BodyMut::default();
            body.push(bytes, Some(whole as u64));
            body.freeze()
        }
    }
}

/// Any other, by the parser that live captures have.
pub(crate) fn parsed(record: &Record<'_>, max_exchange: usize) -> Found {
    let mut parser = RequestParser::new(max_exchange, Switching::Guess);
    let mut found = None;
    let mut has_more = false;
    let mut sink = |event| {
        let reason = match event {
            // Bytes behind a request are none of their own, whatever they look like.
            _ if matches!(found, Some(Ok(_))) => {
                has_more = true;
                return;
            }
            Event::Request(message) => {
                found.get_or_insert(Ok(message));
                return;
            }
            Event::Head { .. } | Event::Continue => return,
            Event::Skipped { skip, .. } => EdgeEvent::from(skip),
            Event::Incomplete(cause) => cause.into(),
            Event::Refused(refusal) => refusal.into(),
        };
        found.get_or_insert(Err(Unfit::For(reason)));
    };
    parser.push(record.payload, Arrival::at(record.timestamp_ns), &mut sink);
    parser.close(Incomplete::ClosedEarly, &mut sink);
    Found {
        request: found.unwrap_or(Err(Unfit::Empty)),
        has_more,
    }
}

/// The request as one that was captured from a client that stands for the record's connection.
pub(crate) fn captured(record: &Record<'_>, message: Message) -> Captured {
    Captured {
        captured_ns: message.captured_ns,
        client: client(record.id),
        server: SocketAddr::from((NOBODY, 80)),
        source: Source::Wire,
        head: message.head,
        body: message.body,
        trailers: message.trailers,
        answer: None,
        label: None,
    }
}

/// The first of the addresses that lead nowhere (RFC 6666).
pub(crate) const NOBODY: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);

/// An address of those that lead nowhere, the same for all requests of a connection.
pub(crate) fn client(id: &[u8]) -> SocketAddr {
    let connection = match id.len() {
        24 => &id[..12],
        _ => id,
    };
    let number = xxh3_64(connection);
    let address = Ipv6Addr::from(u128::from(NOBODY) | u128::from(number));
    SocketAddr::from((address, 1))
}

#[cfg(test)]
mod tests {
    use reprise_traffic::gor::Kind;

    use super::*;

    fn find(payload: &[u8]) -> Found {
        let record = Record {
            kind: Kind::Request,
            id: b"a",
            timestamp_ns: 7,
            latency_ns: None,
            header: b"",
            payload,
            line: 1,
        };
        request(&record, 1 << 20)
    }

    fn body(payload: &[u8]) -> Vec<u8> {
        let found = find(payload);
        assert!(!found.has_more);
        found.request.unwrap().body.to_bytes().to_vec()
    }

    #[test]
    fn plain_requests_chunked_ones_and_those_behind_an_empty_line() {
        assert_eq!(body(b"GET / HTTP/1.1\r\nA: b\r\n\r\n"), b"");
        let large = [
            &b"POST / HTTP/1.1\r\nContent-Length: 70000\r\n\r\n"[..],
            &[7; 70_000],
        ];
        assert_eq!(body(&large.concat()), [7; 70_000]);
        let chunked =
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nT: 1\r\n\r\n";
        let message = find(chunked).request.unwrap();
        assert_eq!(
            (&message.body.to_bytes()[..], &message.trailers[..]),
            (&b"ab"[..], &b"T: 1\r\n"[..])
        );
        assert_eq!(
            body(b"\r\nPOST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab"),
            b"ab"
        );
    }

    #[test]
    fn what_is_no_whole_request_is_said() {
        let short = find(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab").request;
        let cut_off = Unfit::For(EdgeEvent::IncompleteClosedEarly);
        assert_eq!(short.unwrap_err(), cut_off);
        assert_eq!(find(b"GET / HTTP/1.1\r\nA:").request.unwrap_err(), cut_off);
        assert_eq!(find(b"").request.unwrap_err(), Unfit::Empty);
        let marked = find(b"GET / HTTP/1.1\r\nreprise-id: x\r\n\r\n").request;
        assert_eq!(marked.unwrap_err(), Unfit::For(EdgeEvent::Marked));
        let two = find(b"GET / HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n");
        assert!(two.has_more && two.request.unwrap().head.target() == b"/");
        let large = [
            b"GET / HTTP/1.1\r\nA: ".to_vec(),
            vec![b'x'; 2 << 20],
            b"\r\n\r\n".to_vec(),
        ];
        assert!(find(&large.concat()).request.is_err());
    }

    #[test]
    fn an_id_of_ours_tells_its_connection() {
        let of = |id: &str| client(id.as_bytes());
        let (a, b) = ("0123456789abcdef01234567", "0123456789ab000000000000");
        assert_eq!(of(a), of(b));
        assert_ne!(of(a), of("1123456789abcdef01234567"));
        assert_ne!(of("a1"), of("a2"));
    }
}
