//! Reading a response: where it ends, and whether the connection may be used again.
//!
//! What enters: the bytes that a target sends, in pieces of any size. What leaves: a status, where a redirect leads, and
//! when all of the response is in; and as much of it as somebody wants to see ([`Keeper`]). What may be lost: other header
//! fields and the body, on purpose: they are read and let go, so that memory stays bounded by [`MAX_HEAD`] whatever a server
//! sends.

use std::mem::MaybeUninit;
use std::time::Duration;

use reprise_traffic::framing::{self, ChunkedDecoder, Framing, FramingError};

use crate::replayed::Keeper;
use crate::rewrite::elements;

/// A longer response head is refused.
const MAX_HEAD: usize = 64 * 1024;

/// More header lines are refused.
const MAX_HEADERS: usize = 256;

/// Why bytes are no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResponseError {
    /// No HTTP/1 status line and header lines.
    #[error("the answer is no HTTP/1 response ({0})")]
    Malformed(httparse::Error),
    /// Over [`MAX_HEAD`].
    #[error("the response's head is over {MAX_HEAD} bytes")]
    HeadTooLarge,
    /// Where its body ends is a matter of opinion.
    #[error("the response's body can't be read: {0}")]
    Framing(#[from] FramingError),
    /// The connection ended before the response did.
    #[error("the connection was closed before the response was complete")]
    Truncated,
}

/// An answer that says where to ask instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Redirect {
    /// 300 to 399.
    pub(crate) status: u16,
    /// The value of its `Location`, as it came.
    pub(crate) location: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Head,
    Length { left: u64 },
    Chunked(ChunkedDecoder),
    UntilClose,
    Done,
}

/// Reads one final response, and the interim ones before it.
#[derive(Debug)]
pub(crate) struct Response<'a> {
    /// Of the request; some responses have no body because of it.
    method: &'a str,
    state: State,
    /// A head that came in pieces.
    head: Vec<u8>,
    begun: bool,
    status: Option<u16>,
    redirect: Option<Redirect>,
    persistent: bool,
    keep_alive: Option<Duration>,
    excess: bool,
    keeper: Option<Keeper>,
}

impl<'a> Response<'a> {
    /// The response to a request of that method.
    pub(crate) fn to(method: &'a str) -> Response<'a> {
        Response {
            method,
            state: State::Head,
            head: Vec::new(),
            begun: false,
            status: None,
            redirect: None,
            persistent: false,
            keep_alive: None,
            excess: false,
            keeper: None,
        }
    }

    /// The same, of which this keeps what is to be seen.
    pub(crate) fn kept_by(self, keeper: Option<Keeper>) -> Response<'a> {
        Response { keeper, ..self }
    }

    /// Gives back who kept it.
    pub(crate) fn take_keeper(&mut self) -> Option<Keeper> {
        self.keeper.take()
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they can't be part of a response; it must not be given more.
    pub(crate) fn push(&mut self, mut input: &[u8]) -> Result<(), ResponseError> {
        self.begun |= !input.is_empty();
        while !input.is_empty() {
            let in_body = !matches!(self.state, State::Head | State::Done);
            let taken = match &mut self.state {
                State::Head => self.push_head(input)?,
                State::Length { left } => {
                    let taken = input
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    taken
                }
                State::Chunked(decoder) => {
                    let taken = decoder.push(input, |_| {})?;
                    if decoder.is_done() {
                        self.state = State::Done;
                    }
                    taken
                }
                State::UntilClose => input.len(),
                State::Done => {
                    self.excess = true;
                    input.len()
                }
            };
            if let Some(keeper) = self.keeper.as_mut().filter(|_| in_body) {
                keeper.body(&input[..taken]);
            }
            input = &input[taken..];
        }
        Ok(())
    }

    /// The connection ended.
    ///
    /// # Errors
    /// When that wasn't the response's end.
    pub(crate) fn end(&mut self) -> Result<(), ResponseError> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                self.persistent = false;
                Ok(())
            }
            _ => Err(ResponseError::Truncated),
        }
    }

    /// True as soon as a byte came, of an interim response too.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The final status, as soon as its head is in.
    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }

    /// Where it leads, if it is a redirect and says so once.
    pub(crate) fn redirect(&self) -> Option<&Redirect> {
        self.redirect.as_ref()
    }

    /// True once the final response is complete.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// True where another request may follow on the connection (RFC 9112 §9.3): the response is complete, the server
    /// keeps the connection, and sent nothing that nobody asked for.
    pub(crate) fn is_reusable(&self) -> bool {
        self.is_done() && self.persistent && !self.excess
    }

    /// For how long the server said that it keeps an idle connection.
    pub(crate) fn keep_alive(&self) -> Option<Duration> {
        self.keep_alive
    }

    /// Returns how many bytes it took.
    fn push_head(&mut self, input: &[u8]) -> Result<usize, ResponseError> {
        if self.head.is_empty() {
            let blank = input.iter().take_while(|b| matches!(b, b'\r' | b'\n'));
            let blank = blank.count();
            if blank > 0 {
                return Ok(blank);
            }
            if let Some(end) = head_end(input, 0) {
                self.read_head(&input[..end])?;
                return Ok(end);
            }
        }
        // The mark of the end is at most three bytes long, and may be cut anywhere.
        let held = self.head.len();
        let look_from = held.saturating_sub(2);
        self.head.extend_from_slice(input);
        let Some(end) = head_end(&self.head, look_from) else {
            return if self.head.len() > MAX_HEAD {
                Err(ResponseError::HeadTooLarge)
            } else {
                Ok(input.len())
            };
        };
        let head = std::mem::take(&mut self.head);
        self.read_head(&head[..end])?;
        Ok(end - held)
    }

    fn read_head(&mut self, head: &[u8]) -> Result<(), ResponseError> {
        if head.len() > MAX_HEAD {
            return Err(ResponseError::HeadTooLarge);
        }
        let mut slots = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut []);
        let whole = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut parsed, head, &mut slots)
            .map_err(ResponseError::Malformed)?;
        let (httparse::Status::Complete(_), Some(status), Some(minor)) =
            (whole, parsed.code, parsed.version)
        else {
            return Err(ResponseError::Malformed(httparse::Error::Status));
        };
        match status {
            0..100 => return Err(ResponseError::Malformed(httparse::Error::Status)),
            // Interim; the final response is still to come.
            100 | 102..200 => return Ok(()),
            _ => self.status = Some(status),
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.head(head);
        }
        let headers = || parsed.headers.iter().map(|h| (h.name, h.value));
        let framing = framing::of_response(self.method, status, minor, headers())?;
        let switched = status == 101 || (self.method == "CONNECT" && status < 300);
        self.persistent = !switched && persists(minor, headers());
        if (300..400).contains(&status) {
            let mut locations = headers().filter(|(name, _)| name.eq_ignore_ascii_case("location"));
            if let (Some((_, location)), None) = (locations.next(), locations.next()) {
                let location = location.to_vec();
                self.redirect = Some(Redirect { status, location });
            }
        }
        self.keep_alive = headers()
            .filter(|(name, _)| name.eq_ignore_ascii_case("keep-alive"))
            .find_map(|(_, value)| keep_alive_timeout(value));
        self.state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(left) => State::Length { left },
            Framing::Chunked => State::Chunked(ChunkedDecoder::default()),
            Framing::UntilClose => State::UntilClose,
        };
        Ok(())
    }
}

/// Where the empty line behind a head ends, looked for from `from` on. Bare LFs count, as httparse takes them.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    memchr::memchr_iter(b'\n', &bytes[from..])
        .map(|at| from + at + 1)
        .find_map(|next| match bytes[next..] {
            [b'\n', ..] => Some(next + 1),
            [b'\r', b'\n', ..] => Some(next + 2),
            _ => None,
        })
}

fn persists<'h>(minor_version: u8, headers: impl Iterator<Item = (&'h str, &'h [u8])>) -> bool {
    let mut keep = minor_version == 1;
    for (_, value) in headers.filter(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        for option in elements(value) {
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keep |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    keep
}

/// The `timeout` of a `Keep-Alive` header (RFC 2068 §19.7.1.1), seconds.
fn keep_alive_timeout(value: &[u8]) -> Option<Duration> {
    const NAME: &[u8] = b"timeout=";
    elements(value)
        .filter_map(|element| element.split_at_checked(NAME.len()))
        .filter(|(name, _)| name.eq_ignore_ascii_case(NAME))
        .find_map(|(_, seconds)| std::str::from_utf8(seconds).ok()?.parse::<u32>().ok())
        .map(|seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(
        method: &'static str,
        input: &[u8],
        cut: usize,
    ) -> Result<Response<'static>, ResponseError> {
        let mut response = Response::to(method);
        for piece in input.chunks(cut) {
            response.push(piece)?;
        }
        Ok(response)
    }

    #[test]
    fn whole_responses_in_any_cutting() {
        for (method, input, status, reusable) in [
            ("GET", &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"[..], 200, true),
            ("GET", b"\r\nHTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, true),
            ("GET", b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx", 200, true),
            ("POST", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 201 C\r\nContent-Length: 0\r\n\r\n", 201, true),
            ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", 200, true),
            ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", 304, true),
            ("GET", b"HTTP/1.1 204 No\r\n\r\n", 204, true),
            ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: 1\r\n\r\n", 200, true),
            ("GET", b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n", 200, false),
            ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, false),
            ("GET", b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", 200, true),
            ("GET", b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\n\r\n", 101, false),
            ("CONNECT", b"HTTP/1.1 200 OK\r\n\r\n", 200, false),
            ("GET", b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 204, false),
        ] {
            for cut in 1..=input.len() {
                let response = read(method, input, cut).unwrap();
                let text = input.escape_ascii();
                assert!(response.is_done(), "{text} by {cut}");
                assert_eq!(response.status(), Some(status), "{text} by {cut}");
                assert_eq!(response.is_reusable(), reusable, "{text} by {cut}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_what_came() {
        for (input, most, kept, whole) in [
            (
                &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP"[..],
                9,
                41,
                true,
            ),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
                2,
                40,
                false,
            ),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                99,
                60,
                true,
            ),
        ] {
            for cut in 1..=input.len() {
                let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
                let mut response = Response::to("GET").kept_by(Some(Keeper::of(most)));
                response.push(interim).unwrap();
                input
                    .chunks(cut)
                    .for_each(|piece| response.push(piece).unwrap());
                let all = response.take_keeper().unwrap().into_kept();
                assert_eq!(
                    (&all.bytes[..], all.is_whole),
                    (&input[..kept], whole),
                    "{cut}"
                );
            }
        }
    }

    #[test]
    fn a_response_without_length_ends_with_its_connection() {
        let mut response = read("GET", b"HTTP/1.1 200 OK\r\n\r\nabc", 100).unwrap();
        assert!(!response.is_done());
        response.end().unwrap();
        assert!(response.is_done() && !response.is_reusable());
    }

    #[test]
    fn a_cut_response_is_not_done() {
        for input in [
            &b""[..],
            b"HTTP/1.1 200",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            let mut response = read("GET", input, 100).unwrap();
            assert_eq!(response.end(), Err(ResponseError::Truncated));
            assert_eq!(response.has_begun(), !input.is_empty());
        }
    }

    #[test]
    fn what_is_no_response_is_refused() {
        for input in [
            &b"hello\r\n\r\n"[..],
            b"HTTP/2.0 200 OK\r\n\r\n",
            b"HTTP/1.1 099 OK\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ] {
            assert!(read("GET", input, 100).is_err(), "{}", input.escape_ascii());
        }
        let many = "A: 1\r\n".repeat(MAX_HEADERS + 1);
        let many = format!("HTTP/1.1 200 OK\r\n{many}\r\n");
        assert!(read("GET", many.as_bytes(), 9).is_err());
    }

    #[test]
    fn a_head_without_end_is_refused_in_bounded_memory() {
        let mut response = Response::to("GET");
        response.push(b"HTTP/1.1 200 OK\r\nA: ").unwrap();
        let refused = (0..100).find_map(|_| response.push(&[b'a'; 1024]).err());
        assert_eq!(refused, Some(ResponseError::HeadTooLarge));
        assert!(response.head.capacity() <= 2 * MAX_HEAD);
    }

    #[test]
    fn the_status_is_known_though_the_body_is_not() {
        let mut response = Response::to("POST");
        let input = b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n";
        assert!(response.push(input).is_err());
        assert_eq!(response.status(), Some(200));
    }

    #[test]
    fn a_redirect_says_where_to() {
        for (lines, location) in [
            ("302 Found\r\nlocation:  /x \r\n", Some("/x")),
            ("308 Moved\r\nLocation: \r\n", Some("")),
            ("302 Found\r\n", None),
            ("302 Found\r\nLocation: /x\r\nLocation: /y\r\n", None),
            ("201 Created\r\nLocation: /x\r\n", None),
        ] {
            let head = format!("HTTP/1.1 {lines}Content-Length: 0\r\n\r\n");
            let response = read("GET", head.as_bytes(), 7).unwrap();
            let found = response.redirect().map(|r| r.location.clone());
            assert_eq!(found.as_deref(), location.map(str::as_bytes), "{lines}");
        }
    }

    #[test]
    fn keep_alive_says_for_how_long() {
        let head = b"HTTP/1.1 204 No\r\nKeep-Alive: max=5, Timeout=72\r\n\r\n";
        let response = read("GET", head, 100).unwrap();
        assert_eq!(response.keep_alive(), Some(Duration::from_secs(72)));
        for value in [
            &b"timeout=-1"[..],
            b"timeout=",
            b"timeou",
            b"",
            b"timeout=99999999999",
        ] {
            assert_eq!(keep_alive_timeout(value), None);
        }
    }

    fn likely_garbage() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::sample::select(vec![
                &b"HTTP/1.1 200 OK\r\n"[..],
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.0 999 \n",
                b"\r\n",
                b"\n\n",
                b"Content-Length: 18446744073709551615\r\n",
                b"Content-Length: 5\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Connection: close,,\r\n",
                b"Keep-Alive: timeout=\xff\r\n",
                b"7fffffffffffffff\r\n",
                b"5\r\nabcde\r\n0\r\n",
            ])
            .prop_map(<[u8]>::to_vec),
            prop::collection::vec(any::<u8>(), 0..20),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_cutting_changes_nothing(input in likely_garbage(), cut in 1_usize..40) {
            let end = |cut| {
                let mut response = Response::to("GET");
                let taken = input.chunks(cut).try_for_each(|piece| response.push(piece));
                (taken, response.is_done(), response.status(), response.is_reusable())
            };
            // A head in one piece is held to its limit too, so whole and cut end alike.
            prop_assert_eq!(end(cut), end(input.len().max(1)));
        }
    }
}
