//! One connection of a proxy to the mirror endpoint.
//!
//! What enters: the proxy's bytes. What leaves: requests into the sink, answers in order to the proxy.
//! What may be lost: what the parser loses; a request that is unfinished when time or the budget runs out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reprise_traffic::exchange::{Captured, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Shared;
use crate::edge::EdgeEvent;
use crate::http::{Arrival, Event, Incomplete, RequestParser, Skip, Switching, is_persistent};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n";
const NO_CONTENT_CLOSE: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
const TOO_LARGE: &[u8] =
    b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

const READ: usize = 16 * 1024;
/// A peer that doesn't take its answers for so long is gone.
const WRITE: Duration = Duration::from_secs(10);
/// What is under way at a stop may become complete within this time.
const GRACE: Duration = Duration::from_secs(1);
/// For so long, and so many bytes, the rest of what was refused is read, so that the answer isn't lost with a reset.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: u64 = 1 << 20;

pub(super) struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    shared: Arc<Shared>,
    parser: RequestParser,
    /// This connection's part of [`Shared::held`].
    held: usize,
    /// When the head that is under way has to be there.
    head_until: Option<Instant>,
    answers: Vec<u8>,
    /// Nothing is read after these answers.
    last: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) -> Connection {
        let local = stream.local_addr().unwrap_or(peer);
        let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        Connection {
            stream,
            peer: canonical(peer),
            local: canonical(local),
            parser: RequestParser::new(shared.settings.max_exchange, Switching::Guess),
            shared,
            held: 0,
            head_until: None,
            answers: Vec::new(),
            last: false,
        }
    }

    /// Takes requests until the connection or the service ends.
    pub(super) async fn serve(mut self, mut sink: impl FnMut(Captured)) {
        // Small answers are to leave at once; without the option they leave a little later.
        let _ = self.stream.set_nodelay(true);
        let mut buffer = vec![0; READ];
        let end = loop {
            match self.read(&mut buffer).await {
                Ok(read) => self.take(&buffer[..read], &mut sink),
                Err(end) => break end,
            }
            if !self.answers.is_empty() {
                match timeout(WRITE, self.stream.write_all(&self.answers)).await {
                    Ok(Ok(())) => self.answers.clear(),
                    Ok(Err(_)) => break Incomplete::Reset,
                    Err(_) => break Incomplete::Expired,
                }
            }
            if self.last {
                self.linger(&mut buffer).await;
                break Incomplete::ClosedEarly;
            }
        };
        let edge = &self.shared.edge;
        self.parser.close(end, &mut |event| {
            if let Event::Incomplete(cause) = event {
                edge.count(cause.into(), 1);
            }
        });
    }

    /// The next bytes, or why there are none.
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Incomplete> {
        let idle_until = Instant::now() + self.shared.settings.idle;
        let until = self
            .head_until
            .map_or(idle_until, |head| head.min(idle_until));
        let stop = async {
            self.shared.stop.cancelled().await;
            if self.parser.is_within_request() {
                sleep(GRACE).await;
            }
        };
        tokio::select! {
            read = self.stream.read(buffer) => match read {
                Ok(0) => Err(Incomplete::ClosedEarly),
                Ok(read) => Ok(read),
                Err(_) => Err(Incomplete::Reset),
            },
            () = sleep_until(until) => Err(Incomplete::Expired),
            () = stop => Err(Incomplete::Stopped),
        }
    }

    fn take(&mut self, bytes: &[u8], sink: &mut impl FnMut(Captured)) {
        let Connection {
            shared,
            answers,
            last,
            peer,
            local,
            ..
        } = self;
        self.parser.push(bytes, Arrival::at(now_ns()), &mut |event| {
            if *last {
                return;
            }
            match event {
                Event::Head { .. } => {}
                Event::Continue => answers.extend_from_slice(CONTINUE),
                Event::Request(message) => {
                    *last = !is_persistent(&message.head);
                    answers.extend_from_slice(if *last { NO_CONTENT_CLOSE } else { NO_CONTENT });
                    sink(Captured {
                        captured_ns: message.captured_ns,
                        client: *peer,
                        server: *local,
                        source: Source::Mirror,
                        head: message.head,
                        body: message.body,
                        trailers: message.trailers,
                        answer: None,
                    });
                }
                Event::Skipped { skip, persistent } => {
                    shared.edge.count(skip.into(), 1);
                    *last = !persistent || skip == Skip::TooLarge;
                    answers.extend_from_slice(match (skip, *last) {
                        (Skip::TooLarge, _) => TOO_LARGE,
                        (Skip::Marked, true) => NO_CONTENT_CLOSE,
                        (Skip::Marked, false) => NO_CONTENT,
                    });
                }
                Event::Incomplete(cause) => shared.edge.count(cause.into(), 1),
                Event::Refused(refusal) => {
                    shared.edge.count(refusal.into(), 1);
                    *last = true;
                    answers.extend_from_slice(BAD_REQUEST);
                    if let Some(suppressed) = shared.refusals.allow() {
                        tracing::warn!(%peer, %refusal, suppressed, "mirror endpoint: refused a request");
                    }
                }
            }
        });
        // After a CONNECT.
        self.last |= self.parser.is_done();
        self.head_until = match (self.parser.is_within_head(), self.head_until) {
            (true, None) => Some(Instant::now() + self.shared.settings.head),
            (true, until) => until,
            (false, _) => None,
        };
        self.keep_budget();
    }

    fn keep_budget(&mut self) {
        let now = self.parser.held();
        let before = std::mem::replace(&mut self.held, now);
        let all = if now >= before {
            let more = now - before;
            self.shared.held.fetch_add(more, Ordering::Relaxed) + more
        } else {
            self.shared.held.fetch_sub(before - now, Ordering::Relaxed);
            return;
        };
        if now > before && all > self.shared.settings.budget {
            self.last = true;
            self.answers.extend_from_slice(UNAVAILABLE);
            let edge = &self.shared.edge;
            self.parser.close(Incomplete::Budget, &mut |_| {
                edge.count(EdgeEvent::IncompleteBudget, 1);
            });
        }
    }

    /// Ends the connection in such a way that the answers arrive.
    async fn linger(&mut self, buffer: &mut [u8]) {
        let mut left = LINGER_BYTES;
        let rest = async {
            self.stream.shutdown().await.ok()?;
            while let Ok(read @ 1..) = self.stream.read(buffer).await {
                left = left.checked_sub(read as u64)?;
            }
            Some(())
        };
        // Whoever sends for longer doesn't get the answer.
        let _ = timeout(LINGER, rest).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(self.held, Ordering::Relaxed);
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
