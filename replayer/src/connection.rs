//! A connection to a target, and one request's way over it.
//!
//! What enters: an open stream and a request's bytes. What leaves: the response's end, and the facts by which the
//! caller tells what may have been delivered. What may be lost: nothing silently; a trip that fails says whether a
//! byte of the request may have left, and whether a byte came back.
//!
//! Writing and reading go on together: a server that answers early and stops reading must not stop us too.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Buf;
use reprise_traffic::body;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::replayed::Keeper;
use crate::response::{Response, ResponseError};
use crate::rewrite::Outgoing;

/// Read at once, on the stack, so that an idle connection holds no buffer.
const READ_SIZE: usize = 16 * 1024;

/// Slices that are handed to the system at once: more than a socket buffers by far.
const PARTS: usize = 16;

/// An idle connection is used again within this time: less than the 5 s after which Node closes, the shortest
/// among common servers.
const IDLE_DEFAULT: Duration = Duration::from_secs(4);

/// Not longer, whatever the server promises.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The bytes below HTTP.
#[derive(Debug)]
pub(crate) enum Stream {
    /// http.
    Plain(TcpStream),
    /// https.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// An open connection between two requests.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    is_used: bool,
    idle_since: Instant,
    idle_limit: Duration,
}

impl Connection {
    /// A connection that no request used yet.
    pub(crate) fn new(stream: Stream) -> Connection {
        Connection {
            stream,
            is_used: false,
            idle_since: Instant::now(),
            idle_limit: IDLE_DEFAULT,
        }
    }

    /// True once it has carried a request.
    pub(crate) fn is_used(&self) -> bool {
        self.is_used
    }

    /// For how long no request has used it.
    pub(crate) fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.idle_since)
    }

    /// True where the server may be about to close it.
    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        self.idle(now) >= self.idle_limit
    }

    /// True where the server has neither closed it nor sent anything since the last response.
    pub(crate) fn is_quiet(&mut self) -> bool {
        if let Stream::Tls(_) = &self.stream {
            // TLS has messages of its own between requests; they are read here, so that they don't count.
            let mut byte = [0];
            let mut buf = ReadBuf::new(&mut byte);
            let mut cx = Context::from_waker(Waker::noop());
            if self.stream.poll_read(&mut cx, &mut buf).is_ready() {
                return false;
            }
        }
        // Asked of the kernel, as tokio would answer from what its last poll saw.
        let asked = SockRef::from(self.stream.socket()).peek(&mut [MaybeUninit::uninit()]);
        matches!(asked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Closes it between two requests: the server sees an end, not a reset.
    pub(crate) fn close(mut self) {
        // What TLS sent meanwhile would make the kernel reset the connection.
        let _ = self.is_quiet();
        let mut cx = Context::from_waker(Waker::noop());
        // One try: between requests nothing of ours is in the way, and whatever keeps it from saying goodbye, it is closed.
        let _ = self.stream.poll_shutdown(&mut cx);
    }

    /// Sends a request and reads its response to the end.
    ///
    /// # Errors
    /// [`TripError`]; the connection is of no use after. Dropping the future half-way is fine; `trip` knows how far it came.
    pub(crate) async fn make(&mut self, trip: &mut Trip<'_>) -> Result<(), TripError> {
        poll_fn(|cx| trip.poll(&mut self.stream, cx)).await
    }

    /// Marks the connection as idle from now on, for as long as `response` allows.
    pub(crate) fn rest(&mut self, response: &Response<'_>) {
        self.is_used = true;
        self.idle_since = Instant::now();
        if let Some(promised) = response.keep_alive() {
            // A fifth less than promised, as the promise was made at the other end of the wire.
            self.idle_limit = (promised * 4 / 5).min(IDLE_MAX);
        }
    }
}

/// Why a trip failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TripError {
    /// The request couldn't be written, and no answer came either.
    #[error("send the request: {0}")]
    Write(io::Error),
    /// The connection broke.
    #[error("read the response: {0}")]
    Read(io::Error),
    /// What came is no response, or a part of one.
    #[error(transparent)]
    Response(#[from] ResponseError),
}

/// One request on its way, and the response to it.
#[derive(Debug)]
pub(crate) struct Trip<'a> {
    unsent: Unsent<'a>,
    response: Response<'a>,
    started: Instant,
    answered: Option<Instant>,
    write_error: Option<io::Error>,
    may_have_arrived: bool,
    flushed: bool,
}

type Unsent<'a> = bytes::buf::Chain<bytes::buf::Chain<&'a [u8], body::Reader<'a>>, &'a [u8]>;

impl<'a> Trip<'a> {
    /// A request that is about to be sent.
    pub(crate) fn new(
        request: &'a Outgoing<'a>,
        method: &'a str,
        keeper: Option<Keeper>,
    ) -> Trip<'a> {
        Trip {
            unsent: request
                .head
                .chain(request.body.reader())
                .chain(&request.tail[..]),
            response: Response::to(method).kept_by(keeper),
            started: Instant::now(),
            answered: None,
            write_error: None,
            may_have_arrived: false,
            flushed: false,
        }
    }

    /// False only where certainly no byte of the request left this machine.
    pub(crate) fn may_have_arrived(&self) -> bool {
        self.may_have_arrived
    }

    /// What came back so far.
    pub(crate) fn response(&self) -> &Response<'a> {
        &self.response
    }

    /// What was kept of the answer.
    pub(crate) fn take_keeper(&mut self) -> Option<Keeper> {
        self.response.take_keeper()
    }

    /// From the first byte sent to the last received, or to now where the response isn't complete.
    pub(crate) fn latency(&self) -> Duration {
        self.answered.unwrap_or_else(Instant::now) - self.started
    }

    /// True where request and response came to their end and another request may follow.
    pub(crate) fn leaves_connection_usable(&self) -> bool {
        self.flushed && self.write_error.is_none() && self.response.is_reusable()
    }

    fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), TripError>> {
        let wrote = self.poll_write(stream, cx);
        while self.answered.is_none() {
            let mut storage = [MaybeUninit::uninit(); READ_SIZE];
            let mut buf = ReadBuf::uninit(&mut storage);
            let read = match stream.poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                // TLS without its goodbye; as HTTP has lengths of its own, it ends like TCP.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
                Poll::Ready(read) => read,
            };
            let taken = match read {
                Err(error) => Err(TripError::Read(error)),
                Ok(()) if buf.filled().is_empty() => self.response.end().map_err(TripError::from),
                Ok(()) => self.response.push(buf.filled()).map_err(TripError::from),
            };
            if let Err(error) = taken {
                // A write that failed came first, and says more than the end that followed it.
                let first = self
                    .write_error
                    .take()
                    .filter(|_| !self.response.has_begun());
                return Poll::Ready(Err(first.map_or(error, TripError::Write)));
            }
            if self.response.is_done() {
                self.answered = Some(Instant::now());
            }
        }
        // A server that closes doesn't want the rest of the request; one that keeps the connection reads it.
        if !self.response.is_reusable() {
            return Poll::Ready(Ok(()));
        }
        wrote.map(Ok)
    }

    /// Ready once the request is out, or can't be.
    fn poll_write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<()> {
        while self.write_error.is_none() && !self.flushed {
            let is_tls = matches!(stream, Stream::Tls(_));
            // A TLS stream that fails doesn't tell what it had sent before.
            self.may_have_arrived |= is_tls;
            let step = if self.unsent.has_remaining() {
                let mut parts = [IoSlice::new(&[]); PARTS];
                let count = self.unsent.chunks_vectored(&mut parts);
                stream.poll_write(cx, &parts[..count]).map_ok(Some)
            } else {
                stream.poll_flush(cx).map_ok(|()| None)
            };
            match step {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(0))) => {
                    self.write_error = Some(io::ErrorKind::WriteZero.into());
                }
                Poll::Ready(Ok(Some(count))) => {
                    self.may_have_arrived = true;
                    self.unsent.advance(count);
                }
                Poll::Ready(Ok(None)) => self.flushed = true,
                // The answer may be on its way nevertheless: a server that refuses a body answers and closes.
                Poll::Ready(Err(error)) => self.write_error = Some(error),
            }
        }
        Poll::Ready(())
    }
}
