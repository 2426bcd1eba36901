//! One connection of a proxy to the mirror endpoint.
//!
//! What enters: the proxy's bytes. What leaves: requests into the sink, answers in order to the proxy.
//! What may be lost: what the parser loses; a request that is unfinished when time or the budget runs out.
//!
//! A proxy keeps many connections that do nothing for most of the time: one that is idle has no buffer, and one that
//! is busy sets no timer and takes no lock for each request.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reprise_traffic::exchange::{Captured, Source};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::{Shared, Status};
use crate::edge::EdgeEvent;
use crate::http::{Arrival, Event, Incomplete, RequestParser, Skip, Switching, is_persistent};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n";
const NO_CONTENT_CLOSE: &[u8] = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n";
const OK_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
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
/// What a connection costs that holds no request: its task, its socket's place in the runtime, its answers.
const IDLE_COST: usize = 4 * 1024;

pub(super) struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    shared: Arc<Shared>,
    parser: RequestParser,
    /// This connection's part of the budget, besides [`IDLE_COST`].
    held: usize,
    /// When the head that is under way has to be there.
    head_until: Option<Instant>,
    /// When the last byte came.
    heard: Instant,
    /// Set at a stop: when the request that is under way has to be there.
    grace_until: Option<Instant>,
    answers: Vec<u8>,
    /// Nothing is read after these answers.
    last: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) -> Connection {
        let local = stream.local_addr().unwrap_or(peer);
        shared.budget.take(IDLE_COST);
        let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        Connection {
            stream,
            peer: canonical(peer),
            local: canonical(local),
            parser: RequestParser::new(shared.settings.max_exchange, Switching::Guess),
            shared,
            held: 0,
            head_until: None,
            heard: Instant::now(),
            grace_until: None,
            answers: Vec::new(),
            last: false,
        }
    }

    /// Takes requests until the connection or the service ends.
    pub(super) async fn serve(mut self, mut sink: impl FnMut(Captured)) {
        // Small answers are to leave at once; without the option they leave a little later.
        let _ = self.stream.set_nodelay(true);
        let stop = self.shared.stop.clone();
        let mut stopped = pin!(stop.cancelled());
        let mut alarm = pin!(sleep_until(self.deadline().0));
        let end = loop {
            let stopped = stopped.as_mut();
            if let Err(end) = self.next(stopped, alarm.as_mut(), &mut sink).await {
                break end;
            }
            if !self.answers.is_empty() {
                match timeout(WRITE, self.stream.write_all(&self.answers)).await {
                    Ok(Ok(())) => self.answers.clear(),
                    Ok(Err(_)) => break Incomplete::Reset,
                    Err(_) => break Incomplete::Expired,
                }
            }
            if self.last {
                self.linger().await;
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

    /// Takes the next bytes, or says why there are none.
    async fn next(
        &mut self,
        mut stopped: Pin<&mut impl Future<Output = ()>>,
        mut alarm: Pin<&mut Sleep>,
        sink: &mut impl FnMut(Captured),
    ) -> Result<(), Incomplete> {
        loop {
            let idle = !self.parser.is_within_request();
            if idle && self.grace_until.is_some() {
                return Err(Incomplete::Stopped);
            }
            // An alarm that is set too early does no harm: it is set anew when it comes.
            let (until, cause) = self.deadline();
            if until < alarm.deadline() {
                alarm.as_mut().reset(until);
            }
            tokio::select! {
                taken = poll_fn(|cx| self.poll_take(cx, sink)) => return taken,
                () = alarm.as_mut() => match until <= Instant::now() {
                    true => return Err(cause),
                    false => alarm.as_mut().reset(until),
                },
                () = stopped.as_mut(), if self.grace_until.is_none() => {
                    self.grace_until = Some(Instant::now() + GRACE);
                }
            }
        }
    }

    /// Until when the next byte has to come, and what is the matter if it doesn't.
    fn deadline(&self) -> (Instant, Incomplete) {
        let idle = self.heard + self.shared.settings.idle;
        let until = self.head_until.map_or(idle, |head| head.min(idle));
        match self.grace_until {
            Some(grace) if grace < until => (grace, Incomplete::Stopped),
            _ => (until, Incomplete::Expired),
        }
    }

    /// Reads once, into a buffer that exists for that long.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl FnMut(Captured),
    ) -> Poll<Result<(), Incomplete>> {
        let mut room = [MaybeUninit::uninit(); READ];
        let mut buffer = ReadBuf::uninit(&mut room);
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
        Poll::Ready(match (read, buffer.filled()) {
            (Ok(()), []) => Err(Incomplete::ClosedEarly),
            (Ok(()), bytes) => {
                self.heard = Instant::now();
                self.take(bytes, sink);
                Ok(())
            }
            (Err(_), _) => Err(Incomplete::Reset),
        })
    }

    fn take(&mut self, bytes: &[u8], sink: &mut impl FnMut(Captured)) {
        // What the sink takes is counted there, and what stays is counted below: no request is to be turned away
        // because of its own bytes.
        self.shared.budget.give(std::mem::take(&mut self.held));
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
                    answers.extend_from_slice(understood(shared.settings.status, *last));
                    sink(Captured {
                        captured_ns: message.captured_ns,
                        client: *peer,
                        server: *local,
                        source: Source::Mirror,
                        head: message.head,
                        body: message.body,
                        trailers: message.trailers,
                        answer: None,
                        label: None,
                    });
                }
                Event::Skipped { skip, persistent } => {
                    shared.edge.count(skip.into(), 1);
                    *last = !persistent || skip == Skip::TooLarge;
                    answers.extend_from_slice(match (skip, *last) {
                        (Skip::TooLarge, _) => TOO_LARGE,
                        (_, last) => understood(shared.settings.status, last),
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
        self.held = self.parser.held();
        let budget = &self.shared.budget;
        budget.take(self.held);
        if self.held > 0 && budget.is_over() {
            self.last = true;
            self.answers.extend_from_slice(UNAVAILABLE);
            let edge = &self.shared.edge;
            self.parser.close(Incomplete::Budget, &mut |_| {
                edge.count(EdgeEvent::IncompleteBudget, 1);
            });
        }
    }

    /// Ends the connection in such a way that the answers arrive.
    async fn linger(&mut self) {
        let mut left = LINGER_BYTES;
        let rest = async {
            self.stream.shutdown().await.ok()?;
            let mut buffer = vec![0; READ];
            while let Ok(read @ 1..) = self.stream.read(&mut buffer).await {
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
        self.shared.budget.give(IDLE_COST + self.held);
    }
}

fn understood(status: Status, last: bool) -> &'static [u8] {
    match (status, last) {
        (Status::NoContent, false) => NO_CONTENT,
        (Status::NoContent, true) => NO_CONTENT_CLOSE,
        (Status::Ok, false) => OK,
        (Status::Ok, true) => OK_CLOSE,
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
