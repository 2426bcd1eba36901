//! The bytes to send for a captured request.
//!
//! What enters: an exchange. What leaves: its head with the few changes below, its body without a copy, and what
//! stands behind the body. What may be lost: nothing; a request whose length is a matter of opinion is refused
//! before a byte of it is sent.
//!
//! The request line, and the order, case, repetition and white space of header lines arrive as captured. The changes:
//!
//! 1. The value of `Host` is the target's, in its captured place, unless the target's document says `original_host`;
//!    an HTTP/1.1 request without one gets one as its last line but one.
//! 2. `Reprise-Id: LISTENER/EPOCH/SEQUENCE` is added as the last header line.
//! 3. `close` is taken out of `Connection` of an HTTP/1.1 request, and the line with it where nothing else is in it:
//!    it speaks about the captured connection, and would cost a connection for each request.
//! 4. A chunked body stays chunked, trailers as captured, but as one chunk: a capture doesn't keep where chunks ended.

use std::io::Write;

use reprise_traffic::framing::{self, Framing, FramingError};
use reprise_traffic::target::{Endpoint, Target};
use reprise_traffic::{Body, Exchange, Head, MARKER};

/// Why a request can't be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RewriteError {
    /// Its head doesn't say clearly how long its body is.
    #[error("its length is unclear: {0}")]
    Framing(#[from] FramingError),
    /// The server would wait for the rest, or take the excess for the next request.
    #[error("its head announces {announced} body bytes, and {held} were captured")]
    BodyLength {
        /// By its head.
        announced: u64,
        /// In the exchange.
        held: usize,
    },
}

/// A request as it goes out: three parts, so that the body is never copied.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    /// Request line and headers; of a chunked body the chunk's size line too.
    pub(crate) head: Vec<u8>,
    /// The body as captured.
    pub(crate) body: &'a Body,
    /// What ends a chunked body.
    pub(crate) tail: Vec<u8>,
    /// The request says that its connection ends with it (HTTP/1.0 without keep-alive).
    pub(crate) alone: bool,
}

/// The changes of one target.
#[derive(Debug)]
pub(crate) struct Rewriter {
    /// The new value of `Host`; `None` keeps the captured one.
    host: Option<String>,
}

impl Rewriter {
    /// The changes that `target` asks for.
    pub(crate) fn new(target: &Target, endpoint: &Endpoint) -> Rewriter {
        let host = (!target.document.original_host).then(|| endpoint.host_header());
        Rewriter { host }
    }

    /// Makes the bytes to send.
    ///
    /// # Errors
    /// When the head and the body don't fit together.
    pub(crate) fn rewrite<'a>(&self, exchange: &'a Exchange) -> Result<Outgoing<'a>, RewriteError> {
        let request = &exchange.request;
        let framing = framing::of_request(&request.head)?;
        let mut head = self.head(exchange);
        let mut tail = Vec::new();
        match framing {
            Framing::Chunked if request.body.is_empty() => end_chunks(&mut tail, &request.trailers),
            Framing::Chunked => {
                put(&mut head, format_args!("{:x}\r\n", request.body.len()));
                tail.extend_from_slice(b"\r\n");
                end_chunks(&mut tail, &request.trailers);
            }
            Framing::Length(announced) if announced == request.body.len() as u64 => {}
            Framing::Length(announced) => {
                let held = request.body.len();
                return Err(RewriteError::BodyLength { announced, held });
            }
            // A request has an end of its own; only responses last until the connection closes.
            Framing::UntilClose => return Err(RewriteError::Framing(FramingError::BadLength)),
        }
        Ok(Outgoing {
            head,
            body: &request.body,
            tail,
            alone: is_alone(&request.head),
        })
    }

    fn head(&self, exchange: &Exchange) -> Vec<u8> {
        let captured = &exchange.request.head;
        let is_11 = captured.minor_version() == 1;
        let mut out = Vec::with_capacity(captured.raw().len() + 128);
        let mut has_host = false;
        let mut in_headers = false;
        for line in Lines(captured.raw()) {
            let is_empty = matches!(line, b"\r\n");
            if !in_headers {
                // Empty lines may precede the request line (RFC 9112 §2.2).
                in_headers = !is_empty;
                out.extend_from_slice(line);
                continue;
            }
            if is_empty {
                break;
            }
            let header = HeaderLine::of(line);
            match &self.host {
                Some(host) if header.is("host") => {
                    has_host = true;
                    header.put_with(&mut out, host.as_bytes());
                }
                _ if is_11 && header.is("connection") => put_without_close(&mut out, &header),
                _ => out.extend_from_slice(line),
            }
        }
        if let Some(host) = self.host.as_ref().filter(|_| is_11 && !has_host) {
            put(&mut out, format_args!("Host: {host}\r\n"));
        }
        put(&mut out, format_args!("{MARKER}: {}\r\n\r\n", exchange.id));
        out
    }
}

/// The elements of a comma-separated header value.
pub(crate) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

fn is_alone(head: &Head) -> bool {
    head.minor_version() == 0
        && !head.headers().any(|(name, value)| {
            name.eq_ignore_ascii_case("connection")
                && elements(value).any(|option| option.eq_ignore_ascii_case(b"keep-alive"))
        })
}

fn put_without_close(out: &mut Vec<u8>, header: &HeaderLine<'_>) {
    let is_close = |option: &[u8]| option.eq_ignore_ascii_case(b"close");
    if !elements(header.value).any(is_close) {
        return out.extend_from_slice(header.line);
    }
    let kept: Vec<&[u8]> = elements(header.value).filter(|o| !is_close(o)).collect();
    if !kept.is_empty() {
        header.put_with(out, &kept.join(&b", "[..]));
    }
}

fn end_chunks(tail: &mut Vec<u8>, trailers: &[u8]) {
    tail.extend_from_slice(b"0\r\n");
    tail.extend_from_slice(trailers);
    tail.extend_from_slice(b"\r\n");
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes every byte");
}

/// The lines of a parsed head, each with its CRLF; a [`Head`] has neither bare LFs nor folded lines.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.0)? + 1;
        let (line, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(line)
    }
}

struct HeaderLine<'a> {
    line: &'a [u8],
    name: &'a [u8],
    /// Without the white space around it.
    value: &'a [u8],
    /// Where the value begins in the line.
    value_at: usize,
}

impl<'a> HeaderLine<'a> {
    fn of(line: &'a [u8]) -> HeaderLine<'a> {
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let rest = line.get(colon + 1..).unwrap_or_default();
        let blank = |b: &&u8| matches!(b, b' ' | b'\t');
        HeaderLine {
            line,
            name: &line[..colon],
            value: rest.trim_ascii(),
            value_at: colon + 1 + rest.iter().take_while(blank).count(),
        }
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The same line with another value.
    fn put_with(&self, out: &mut Vec<u8>, value: &[u8]) {
        out.extend_from_slice(&self.line[..self.value_at.min(self.line.len())]);
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use reprise_traffic::exchange::Captured;
    use reprise_traffic::{Epoch, ExchangeId, Source};

    use super::*;

    fn exchange(head: &'static str, body: &'static str, trailers: &'static str) -> Exchange {
        Exchange {
            id: ExchangeId {
                epoch: Arc::new(Epoch::new("web-1", 0xab)),
                sequence: 7,
            },
            request: Captured {
                captured_ns: 0,
                client: ([127, 0, 0, 1], 1).into(),
                server: ([127, 0, 0, 1], 2).into(),
                source: Source::Wire,
                head: Head::parse(Bytes::from_static(head.as_bytes())).unwrap(),
                body: body.as_bytes().into(),
                trailers: Bytes::from_static(trailers.as_bytes()),
                answer: None,
            },
        }
    }

    fn sent(host: Option<&str>, exchange: &Exchange) -> String {
        let rewriter = Rewriter {
            host: host.map(str::to_owned),
        };
        let outgoing = rewriter.rewrite(exchange).unwrap();
        let all = [
            &outgoing.head[..],
            &outgoing.body.to_bytes(),
            &outgoing.tail,
        ]
        .concat();
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn everything_else_stays_as_captured() {
        let head = "GET http://shop/a%2f?q=1&&r HTTP/1.1\r\nhOST:   shop\t \r\nX-a: 1\r\nx-A:2 \r\nEmpty:\r\n\
                    Keep-Alive: timeout=3\r\nProxy-Connection: close\r\nx: \r\n\r\n";
        assert_eq!(
            sent(Some("staging:81"), &exchange(head, "", "")),
            "GET http://shop/a%2f?q=1&&r HTTP/1.1\r\nhOST:   staging:81\r\nX-a: 1\r\nx-A:2 \r\nEmpty:\r\n\
             Keep-Alive: timeout=3\r\nProxy-Connection: close\r\nx: \r\nReprise-Id: web-1/ab/7\r\n\r\n"
        );
        let kept = sent(None, &exchange(head, "", ""));
        assert_eq!(
            kept.replace("Reprise-Id: web-1/ab/7\r\n", ""),
            head,
            "original_host"
        );
    }

    #[test]
    fn a_host_is_added_to_http_11_only() {
        let new = exchange("GET / HTTP/1.1\r\nA: b\r\n\r\n", "", "");
        assert_eq!(
            sent(Some("h"), &new),
            "GET / HTTP/1.1\r\nA: b\r\nHost: h\r\nReprise-Id: web-1/ab/7\r\n\r\n"
        );
        let old = exchange("GET / HTTP/1.0\r\nConnection: close\r\n\r\n", "", "");
        assert_eq!(
            sent(Some("h"), &old),
            "GET / HTTP/1.0\r\nConnection: close\r\nReprise-Id: web-1/ab/7\r\n\r\n"
        );
        let empty = exchange("GET / HTTP/1.1\r\nHost:\r\n\r\n", "", "");
        assert!(sent(Some("h"), &empty).contains("\r\nHost:h\r\n"));
    }

    #[test]
    fn close_leaves_connection_and_nothing_else_does() {
        for (line, kept) in [
            ("Connection: close\r\n", ""),
            ("connection: Close , TE\r\n", "connection: TE\r\n"),
            (
                "Connection:Upgrade,close,x\r\n",
                "Connection:Upgrade, x\r\n",
            ),
            (
                "Connection:  keep-alive, Upgrade\r\n",
                "Connection:  keep-alive, Upgrade\r\n",
            ),
            ("Connection: enclose\r\n", "Connection: enclose\r\n"),
        ] {
            let head: &'static str = format!("GET / HTTP/1.1\r\n{line}A: 1\r\n\r\n").leak();
            assert_eq!(
                sent(None, &exchange(head, "", "")),
                format!("GET / HTTP/1.1\r\n{kept}A: 1\r\nReprise-Id: web-1/ab/7\r\n\r\n")
            );
        }
    }

    #[test]
    fn bodies_keep_their_framing() {
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let text = sent(None, &exchange(chunked, "hello world!!!!!", "X: 1\r\n"));
        assert!(
            text.ends_with("\r\n\r\n10\r\nhello world!!!!!\r\n0\r\nX: 1\r\n\r\n"),
            "{text}"
        );
        let text = sent(None, &exchange(chunked, "", ""));
        assert!(text.ends_with("7\r\n\r\n0\r\n\r\n"), "{text}");
        let text = sent(
            None,
            &exchange("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n", "ab", ""),
        );
        assert!(text.ends_with("7\r\n\r\nab"), "{text}");
    }

    #[test]
    fn a_body_that_does_not_fit_its_head_is_refused() {
        let rewriter = Rewriter { host: None };
        for (head, body) in [
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n", "ab"),
            ("GET / HTTP/1.1\r\n\r\n", "ab"),
        ] {
            let refused = rewriter.rewrite(&exchange(head, body, "")).unwrap_err();
            assert!(
                matches!(refused, RewriteError::BodyLength { .. }),
                "{refused}"
            );
        }
        let both = "POST / HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(rewriter.rewrite(&exchange(both, "ab", "")).is_err());
    }

    #[test]
    fn only_http_10_without_keep_alive_is_alone() {
        let alone = |text: &'static str| is_alone(&Head::parse(Bytes::from(text)).unwrap());
        assert!(alone("GET / HTTP/1.0\r\n\r\n"));
        assert!(alone("GET / HTTP/1.0\r\nConnection: close\r\n\r\n"));
        assert!(!alone(
            "GET / HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n"
        ));
        assert!(!alone("GET / HTTP/1.1\r\nConnection: close\r\n\r\n"));
    }
}
