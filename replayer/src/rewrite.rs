//! The bytes to send for a captured request.
//!
//! What enters: an exchange. What leaves: its head with the few changes below, its body without a copy, and what
//! stands behind the body. What may be lost: nothing; a request whose length is a matter of opinion, or that its target's
//! rules would make malformed, is refused before a byte of it is sent.
//!
//! First come the changes that the target's document asks for ([`Changes`]). Apart from them the request line, and the
//! order, case, repetition and white space of header lines arrive as captured. The changes that nobody asked for:
//!
//! 1. The value of `Host` is the target's, in its captured place, unless the target's document says `original_host` or
//!    sets another; an HTTP/1.1 request without one gets one as its last line but one.
//! 2. `Reprise-Id: LISTENER/EPOCH/SEQUENCE` is added as the last header line.
//! 3. `close` is taken out of `Connection` of an HTTP/1.1 request, and the line with it where nothing else is in it,
//!    unless the document sets it: it speaks about the captured connection, and would cost a connection for each request.
//!    It stays where each captured connection has one of its own (`connections: per-session` and the session key
//!    `connection`).
//! 4. A chunked body stays chunked, trailers as captured, but as one chunk: a capture doesn't keep where chunks ended.

use std::io::Write;

use reprise_traffic::framing::{self, Framing, FramingError};
use reprise_traffic::lines::{HeaderLine, Lines};
use reprise_traffic::target::{Connections, Endpoint, Target};
use reprise_traffic::{Body, ChangeError, Changes, Exchange, ExchangeId, Head, MARKER, SessionKey};

use crate::credentials::{self, CredentialsError};

/// Why a request can't be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RewriteError {
    /// Its head doesn't say clearly how long its body is.
    #[error("its length is unclear: {0}")]
    Framing(#[from] FramingError),
    /// The target's rules make something of it that must not be sent.
    #[error("{0}")]
    Change(#[from] ChangeError),
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
    /// The request says that its connection ends with it (HTTP/1.0 without keep-alive, or where asked for).
    pub(crate) alone: bool,
    /// Its session, where each has a connection of its own.
    pub(crate) session: Option<u64>,
}

/// The changes of one target.
#[derive(Debug, Default)]
pub(crate) struct Rewriter {
    changes: Changes,
    /// The new value of `Host`; `None` keeps what is there.
    host: Option<String>,
    /// What stands in `Connection` was asked for.
    keeps_connection: bool,
    /// Each captured connection has one of its own, which ends with it.
    mirrors_connections: bool,
}

impl Rewriter {
    /// The changes that `target` asks for.
    ///
    /// # Errors
    /// When its `basic_auth_file` can't be used.
    pub(crate) fn new(target: &Target, endpoint: &Endpoint) -> Result<Rewriter, CredentialsError> {
        let keeps_host = target.document.original_host || target.changes.sets("host");
        let changes = target.changes.clone();
        Ok(Rewriter {
            host: (!keeps_host).then(|| endpoint.host_header()),
            keeps_connection: changes.sets("connection"),
            mirrors_connections: target.document.connections == Connections::PerSession
                && target.document.session_key == SessionKey::Connection,
            changes: match &target.document.basic_auth_file {
                Some(file) => changes.with_authorization(credentials::basic(file)?),
                None => changes,
            },
        })
    }

    /// Makes the bytes to send.
    ///
    /// # Errors
    /// When the head and the body don't fit together, or the asked-for changes make no request of it.
    pub(crate) fn rewrite<'a>(&self, exchange: &'a Exchange) -> Result<Outgoing<'a>, RewriteError> {
        let request = &exchange.request;
        let framing = framing::of_request(&request.head)?;
        let asked_for = self.changes.apply(&request.head)?;
        let mut head = self.head(&asked_for, &exchange.id);
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
            alone: is_alone(&asked_for, self.keeps_connection),
            session: None,
        })
    }

    fn head(&self, asked_for: &Head, id: &ExchangeId) -> Vec<u8> {
        let is_11 = asked_for.minor_version() == 1;
        let drops_close = is_11 && !self.keeps_connection && !self.mirrors_connections;
        let mut out = Vec::with_capacity(asked_for.raw().len() + 128);
        let mut has_host = false;
        let mut in_headers = false;
        for line in Lines::of(asked_for.raw()) {
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
                _ if drops_close && header.is("connection") => {
                    put_without_close(&mut out, &header);
                }
                _ => out.extend_from_slice(line),
            }
        }
        if let Some(host) = self.host.as_ref().filter(|_| is_11 && !has_host) {
            put(&mut out, format_args!("Host: {host}\r\n"));
        }
        put(&mut out, format_args!("{MARKER}: {id}\r\n\r\n"));
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

fn is_alone(head: &Head, keeps_connection: bool) -> bool {
    let says = |what: &[u8]| {
        head.headers().any(|(name, value)| {
            name.eq_ignore_ascii_case("connection")
                && elements(value).any(|option| option.eq_ignore_ascii_case(what))
        })
    };
    match head.minor_version() {
        0 => !says(b"keep-alive"),
        _ => keeps_connection && says(b"close"),
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use proptest::prelude::*;
    use reprise_traffic::exchange::Captured;
    use reprise_traffic::{Epoch, Source, TargetDocument, TargetName};

    use super::*;

    fn exchange(head: &'static str, body: &'static str, trailers: &'static str) -> Exchange {
        Exchange {
            id: ExchangeId {
                epoch: Arc::new(Epoch::new("web-1", 0xab)),
                sequence: 7,
            },
            due_ns: None,
            request: Captured {
                captured_ns: 0,
                client: ([127, 0, 0, 1], 1).into(),
                server: ([127, 0, 0, 1], 2).into(),
                source: Source::Wire,
                head: Head::parse(Bytes::from_static(head.as_bytes())).unwrap(),
                body: body.as_bytes().into(),
                trailers: Bytes::from_static(trailers.as_bytes()),
                answer: None,
                label: None,
            },
        }
    }

    fn sent(host: Option<&str>, exchange: &Exchange) -> String {
        let rewriter = Rewriter {
            host: host.map(str::to_owned),
            ..Rewriter::default()
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
        let rewriter = Rewriter::default();
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
        let alone = |text: &'static str| is_alone(&Head::parse(Bytes::from(text)).unwrap(), false);
        assert!(alone("GET / HTTP/1.0\r\n\r\n"));
        assert!(alone("GET / HTTP/1.0\r\nConnection: close\r\n\r\n"));
        assert!(!alone(
            "GET / HTTP/1.0\r\nConnection: x, Keep-Alive\r\n\r\n"
        ));
        assert!(!alone("GET / HTTP/1.1\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn a_connection_that_is_asked_for_stays() {
        let mut document = TargetDocument::new("http://h/base");
        document.original_host = true;
        let set = |name: &str| (name.to_owned(), "Close".to_owned());
        document.set_headers = [set("connection")].into();
        let target = Target::new(TargetName::new("a/b").unwrap(), 1, document).unwrap();
        let rewriter = Rewriter::new(&target, target.endpoint().unwrap()).unwrap();
        let exchange = exchange("GET /a HTTP/1.1\r\nConnection: x\r\n\r\n", "", "");
        let outgoing = rewriter.rewrite(&exchange).unwrap();
        assert!(outgoing.alone);
        let head = String::from_utf8(outgoing.head).unwrap();
        assert_eq!(
            head,
            "GET /base/a HTTP/1.1\r\nConnection: Close\r\nReprise-Id: web-1/ab/7\r\n\r\n"
        );
    }

    /// As captured, and as it arrives.
    const CONNECTIONS: [(&str, &str); 4] = [
        ("Connection: close", ""),
        ("connection:Close,", ""),
        ("CONNECTION:  keep-alive ", "CONNECTION:  keep-alive "),
        ("Connection: x, close", "Connection: x"),
    ];

    proptest! {
        /// Line by line: the request line as it was, each header too but for the value of Host and for `close`, the
        /// mark at the end.
        #[test]
        fn without_rules_only_what_is_documented_changes(
            line in "[A-Z!]{1,5} [!-~é]{1,20} HTTP/1\\.1",
            headers in prop::collection::vec(prop_oneof![
                "[A-Za-z-]{1,8}:[ \t]{0,2}[!-~é]{0,12}[ \t]{0,2}",
                "(?i)host:[ \t]{0,2}[a-z.:0-9]{0,9} ?",
                prop::sample::select(CONNECTIONS.to_vec()).prop_map(|(captured, _)| captured.to_owned()),
            ], 0..9),
        ) {
            let lines: String = headers.iter().map(|h| format!("{h}\r\n")).collect();
            let text = format!("{line}\r\n{lines}\r\n");
            prop_assume!(Head::parse(Bytes::from(text.clone())).is_ok());
            let sent = sent(Some("target:1"), &exchange(text.leak(), "", ""));
            let mut sent = sent.strip_suffix("\r\n\r\n").unwrap().split("\r\n");
            prop_assert_eq!(sent.next(), Some(&line[..]));
            let is = |header: &str, name: &str| header.split(':').next().unwrap().eq_ignore_ascii_case(name);
            for header in &headers {
                if is(header, "host") {
                    let arrived = sent.next().unwrap();
                    let (name, value) = arrived.split_at(arrived.len() - "target:1".len());
                    prop_assert!(header.starts_with(name) && value == "target:1");
                } else if let Some((_, kept)) = CONNECTIONS.iter().find(|(captured, _)| header == captured) {
                    if !kept.is_empty() {
                        prop_assert_eq!(sent.next(), Some(*kept));
                    }
                } else {
                    prop_assert_eq!(sent.next(), Some(&header[..]));
                }
            }
            if !headers.iter().any(|h| is(h, "host")) {
                prop_assert_eq!(sent.next(), Some("Host: target:1"));
            }
            prop_assert_eq!(sent.next(), Some("Reprise-Id: web-1/ab/7"));
            prop_assert_eq!(sent.next(), None);
        }
    }
}
