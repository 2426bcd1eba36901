//! Records behind which the separator is missing.
//!
//! What enters: what stands behind the last separator of a file. What leaves: whether it is a whole record. What may be
//! lost: nothing; where nobody can say, it is not whole.

use bytes::Bytes;
use memchr::memmem;

use super::{Kind, Record};
use crate::answer::AnswerHead;
use crate::framing::{self, ChunkedDecoder, Framing};
use crate::head::Head;

/// True for a record with all of its HTTP message and nothing behind it.
pub fn is_whole(record: &[u8]) -> bool {
    let Ok(record) = Record::parse(record, 1) else {
        return false;
    };
    let Some(end) = memmem::find(record.payload, b"\r\n\r\n") else {
        return false;
    };
    let (head, body) = record.payload.split_at(end + 4);
    let head = Bytes::copy_from_slice(head);
    let framing = match record.kind {
        Kind::Request => Head::parse(head)
            .ok()
            .and_then(|head| framing::of_request(&head).ok()),
        // The method of its request isn't known here. One that is answered without its body, HEAD, makes this say no.
        Kind::Answer | Kind::Replayed => AnswerHead::parse(head).ok().and_then(|head| {
            let minor = head.minor_version();
            framing::of_response("GET", head.status(), minor, head.headers()).ok()
        }),
    };
    match framing {
        Some(Framing::Length(length)) => length == body.len() as u64,
        Some(Framing::Chunked) => {
            let mut decoder = ChunkedDecoder::default();
            let taken = decoder.push(body, |_| {});
            decoder.is_done() && taken == Ok(body.len())
        }
        Some(Framing::UntilClose) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_is_what_has_all_that_its_head_announces() {
        for (record, whole) in [
            ("1 a 1\nGET / HTTP/1.1\r\n\r\n", true),
            ("1 a 1 -1\nGET / HTTP/1.1\r\nA: b\r\n\r", false),
            ("1 a 1\nGET / HTTP/1.1\r\n\r\nx", false),
            (
                "1 a 1\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
                true,
            ),
            (
                "1 a 1\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab",
                false,
            ),
            (
                "1 a 1\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
                true,
            ),
            (
                "1 a 1\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n",
                false,
            ),
            (
                "2 a 1 5\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                true,
            ),
            ("2 a 1 5\nHTTP/1.1 200 OK\r\n\r\nwho knows", false),
            ("1 a\nGET / HTTP/1.1\r\n\r\n", false),
            ("", false),
        ] {
            assert_eq!(is_whole(record.as_bytes()), whole, "{record:?}");
        }
    }
}
