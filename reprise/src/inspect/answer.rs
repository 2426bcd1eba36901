//! The answer in a record.
//!
//! What enters: a record's payload, and the method of the request that it answers. What leaves: the final answer,
//! without its chunking. What may be lost: interim answers; what is no HTTP/1 answer whose end is clear.

use bytes::Bytes;
use memchr::memmem;
use reprise_traffic::framing::{self, ChunkedDecoder, Framing};
use reprise_traffic::gor::Record;
use reprise_traffic::{Answer, AnswerHead};

/// The answer in a record to a request with `method`.
pub(super) fn of_record(method: &str, record: &Record<'_>) -> Option<Answer> {
    let mut rest = record.payload;
    let head = loop {
        let end = memmem::find(rest, b"\r\n\r\n")? + 4;
        let head = AnswerHead::parse(Bytes::copy_from_slice(&rest[..end])).ok()?;
        rest = &rest[end..];
        // RFC 9110 §15.2: interim answers come before the final one; 101 is final.
        if head.status() >= 200 || head.status() == 101 {
            break head;
        }
    };
    let minor = head.minor_version();
    let framing = framing::of_response(method, head.status(), minor, head.headers()).ok()?;
    let (body, complete) = match framing {
        Framing::Length(length) => {
            let there = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            (rest[..there].to_vec(), there as u64 == length)
        }
        Framing::UntilClose => (rest.to_vec(), true),
        Framing::Chunked => {
            let mut decoder = ChunkedDecoder::default();
            let mut body = Vec::new();
            decoder
                .push(rest, |data| body.extend_from_slice(data))
                .ok()?;
            (body, decoder.is_done())
        }
    };
    Some(Answer {
        first_byte_ns: record.timestamp_ns,
        last_byte_ns: record
            .timestamp_ns
            .saturating_add(record.latency_ns.unwrap_or(0)),
        head,
        body_len: body.len() as u64,
        body: body.into(),
        complete,
    })
}

#[cfg(test)]
mod tests {
    use reprise_traffic::gor::Kind;

    use super::*;

    fn of(method: &str, payload: &[u8]) -> Option<(u16, Vec<u8>, bool)> {
        let record = Record {
            kind: Kind::Answer,
            id: b"a",
            timestamp_ns: 7,
            latency_ns: Some(3),
            payload,
            line: 1,
        };
        let answer = of_record(method, &record)?;
        assert_eq!((answer.first_byte_ns, answer.last_byte_ns), (7, 10));
        Some((
            answer.head.status(),
            answer.body.to_bytes().to_vec(),
            answer.complete,
        ))
    }

    #[test]
    fn bodies_end_where_the_head_says() {
        let length = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(of("GET", length), Some((200, b"abc".to_vec(), true)));
        assert_eq!(of("HEAD", &length[..38]), Some((200, vec![], true)));
        assert_eq!(of("GET", &length[..40]), Some((200, b"ab".to_vec(), false)));
        let chunked = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
        assert_eq!(of("GET", chunked), Some((404, b"x".to_vec(), true)));
        assert_eq!(
            of("GET", b"HTTP/1.0 200 OK\r\n\r\nall"),
            Some((200, b"all".to_vec(), true))
        );
        assert_eq!(of("GET", b"GET / HTTP/1.1\r\n\r\n"), None);
        assert_eq!(of("GET", b"HTTP/1.1 200 OK\r\n"), None);
    }
}
