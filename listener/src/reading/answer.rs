//! The answers in a recording, and the requests that they belong to.
//!
//! What enters: an answer's record, and the requests before it that are still at hand. What leaves: the final answer,
//! without its chunking, with its request. What may be lost: interim answers; what is no HTTP/1 answer whose end is
//! clear, and an answer whose request isn't at hand, both of which the caller hears of. Nothing here reads or waits.

use bytes::Bytes;
use memchr::memmem;
use reprise_traffic::framing::{self, ChunkedDecoder, Framing};
use reprise_traffic::gor::Record;
use reprise_traffic::{Answer, AnswerHead};
use xxhash_rust::xxh3::xxh3_64;

/// A request of a recording that is at hand.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Its record's id ([`id`]).
    pub id: u64,
    /// What it asked with, as the end of an answer depends on it.
    pub method: &'a str,
    /// What it was answered.
    pub answer: &'a mut Option<Box<Answer>>,
}

/// Why an answer went to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stray {
    /// No request with its id is at hand and has no answer yet.
    Lone,
    /// It is no answer, or its end isn't clear.
    Malformed,
}

/// What stands for a record's id, which is the same for a request and its answer.
pub fn id(record: &Record<'_>) -> u64 {
    xxh3_64(record.id)
}

/// Gives the answer in a record, with so many bytes of its body at most, to the latest request with its id that has none.
/// Returns the bytes that it takes.
///
/// # Errors
/// [`Stray`], when nobody gets it.
pub fn join<'a>(
    record: &Record<'_>,
    max_body: usize,
    at_hand: impl DoubleEndedIterator<Item = Asked<'a>>,
) -> Result<usize, Stray> {
    let id = id(record);
    let mut latest_first = at_hand.rev();
    let asked = latest_first.find(|asked| asked.id == id && asked.answer.is_none());
    let asked = asked.ok_or(Stray::Lone)?;
    let answer = of_record(asked.method, record, max_body).ok_or(Stray::Malformed)?;
    let size = answer.size();
    *asked.answer = Some(Box::new(answer));
    Ok(size)
}

/// The answer in a record to a request with `method`.
fn of_record(method: &str, record: &Record<'_>, max_body: usize) -> Option<Answer> {
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
    let mut body = Vec::new();
    let mut body_len = 0;
    let mut keep = |data: &[u8]| {
        body_len += data.len() as u64;
        body.extend_from_slice(&data[..data.len().min(max_body - body.len())]);
    };
    let complete = match framing {
        Framing::Length(length) => {
            let there = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            keep(&rest[..there]);
            there as u64 == length
        }
        Framing::UntilClose => {
            keep(rest);
            true
        }
        Framing::Chunked => {
            let mut decoder = ChunkedDecoder::default();
            decoder.push(rest, keep).ok()?;
            decoder.is_done()
        }
    };
    Some(Answer {
        first_byte_ns: record.timestamp_ns,
        last_byte_ns: record
            .timestamp_ns
            .saturating_add(record.latency_ns.unwrap_or(0)),
        head,
        body_len,
        body: body.into(),
        complete,
    })
}

#[cfg(test)]
mod tests {
    use reprise_traffic::gor::Kind;

    use super::*;

    fn record<'a>(id: &'a [u8], payload: &'a [u8]) -> Record<'a> {
        Record {
            kind: Kind::Answer,
            id,
            timestamp_ns: 7,
            latency_ns: Some(3),
            header: b"",
            payload,
            line: 1,
        }
    }

    fn of(method: &str, payload: &[u8]) -> Option<(u16, Vec<u8>, bool)> {
        let answer = of_record(method, &record(b"a", payload), 100)?;
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

    #[test]
    fn no_more_of_a_body_is_kept_than_asked_for() {
        for payload in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nabcde",
        ] {
            for (most, kept) in [(0, &b""[..]), (3, b"abc"), (5, b"abcde")] {
                let answer = of_record("GET", &record(b"a", payload), most).unwrap();
                assert_eq!(answer.body.to_bytes(), kept);
                assert_eq!((answer.body_len, answer.complete), (5, true));
            }
        }
    }

    #[test]
    fn an_answer_goes_to_the_latest_request_with_its_id_that_has_none() {
        let mut requests: Vec<_> = [b"a", b"b", b"a"]
            .map(|of| (id(&record(of, b"")), None))
            .into();
        let mut come = |of: &[u8], payload: &[u8]| {
            let at_hand = requests.iter_mut().map(|(id, answer)| Asked {
                id: *id,
                method: "GET",
                answer,
            });
            let joined = join(&record(of, payload), 100, at_hand);
            let has: Vec<bool> = requests.iter().map(|(_, a)| a.is_some()).collect();
            (joined.map(drop), has)
        };
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(come(b"a", b"?").0, Err(Stray::Malformed));
        assert_eq!(come(b"a", ok), (Ok(()), vec![false, false, true]));
        assert_eq!(come(b"a", ok), (Ok(()), vec![true, false, true]));
        assert_eq!(come(b"a", ok).0, Err(Stray::Lone));
        assert_eq!(come(b"c", ok).0, Err(Stray::Lone));
    }
}
