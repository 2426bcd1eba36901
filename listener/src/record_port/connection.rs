//! One connection that brings records.
//!
//! What enters: a stream's bytes, read when the window has room for what is in them. What leaves: messages into the window, a
//! read's worth at once. What may be lost: what [`Cutter`] passes over, counted; of a connection that breaks off, or is
//! stopped, the record under way.
//!
//! Nobody waits while others can't: a connection has a turn to read only for as long as it takes to read once what is there.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use reprise_traffic::exchange::Captured;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::Shared;
use super::cutter::{Cut, Cutter, Passed, Whole};
use super::under_way::Part;
use crate::edge::EdgeEvent;
use crate::records;

const READ: usize = 32 << 10;
/// Where a record has to wait for a place before it goes on, so much is read to see that it goes on at all.
const PROBE: usize = 512;
/// What was sent by the time of a stop may come within this time.
const GRACE: Duration = Duration::from_millis(200);
/// Flaws of a connection that are told one by one; the rest are only counted …
const TOLD: u64 = 10;
/// … and so many of all connections, behind which some are told now and then.
const TOLD_IN_ALL: u64 = 1000;
/// No more room is made at once for what is in a read.
const MOST_AT_ONCE: usize = 512;

/// Why nothing more is read.
enum End {
    /// By the sender.
    Closed,
    Broken(io::Error),
    Stopped,
}

pub(super) struct Connection {
    peer: SocketAddr,
    shared: Arc<Shared>,
    cutter: Cutter,
    part: Part,
    /// Records that were passed over.
    flaws: u64,
    /// Messages in the last read.
    last: usize,
    /// A record that needs a place goes on.
    probed: bool,
}

impl Connection {
    pub(super) fn new(peer: SocketAddr, shared: Arc<Shared>) -> Connection {
        Connection {
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            cutter: Cutter::new(shared.entry.max_exchange),
            part: Part::new(&shared.entry.pool),
            shared,
            flaws: 0,
            last: 0,
            probed: false,
        }
    }

    /// Takes records until the stream or the service ends.
    pub(super) async fn serve(mut self, mut stream: impl AsyncRead + Unpin) {
        let stop = self.shared.stop.clone();
        let mut stopped = pin!(stop.cancelled());
        let mut until = None;
        let end = loop {
            let is_over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                read = self.read(&mut stream) => if let Err(end) = read {
                    break end;
                },
                () = stopped.as_mut(), if until.is_none() => until = Some(Instant::now() + GRACE),
                () = is_over => break End::Stopped,
            }
        };
        self.finish(&end);
    }

    /// Reads once. Nothing is lost where this is dropped while it waits.
    async fn read(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<(), End> {
        let shared = self.shared.clone();
        let entry = &shared.entry;
        loop {
            self.make_way(false);
            let pool = &entry.pool;
            let most = match self.part.needs_place(pool, self.cutter.under_way()) {
                false => READ,
                true if self.probed => {
                    self.part.place(pool).await;
                    READ
                }
                true => PROBE,
            };
            let asked = Instant::now();
            // Nobody closes it.
            let turn = entry.reading.acquire().await;
            entry.room().await;
            self.part.waited(asked);
            let read = self.read_now(stream, most).await;
            self.probed = most == PROBE && read.is_some();
            if let Some(read) = read {
                return read;
            }
            drop(turn);
            self.make_way(true);
            self.woken().await;
        }
    }

    /// Reads what is there, into a buffer that exists for that long; nothing where nothing is.
    async fn read_now(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        most: usize,
    ) -> Option<Result<(), End>> {
        poll_fn(|cx| {
            let mut room = [MaybeUninit::uninit(); READ];
            let mut buffer = ReadBuf::uninit(&mut room[..most]);
            Poll::Ready(match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending => None,
                Poll::Ready(Err(error)) => Some(Err(End::Broken(error))),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => Some(Err(End::Closed)),
                Poll::Ready(Ok(())) => {
                    self.take(buffer.filled());
                    Some(Ok(()))
                }
            })
        })
        .await
    }

    /// Waits until whatever was looked at last wakes the task, or the record under way is in others' way.
    async fn woken(&self) {
        let mut is_woken = false;
        let woken = poll_fn(|_| match std::mem::replace(&mut is_woken, true) {
            false => Poll::Pending,
            true => Poll::Ready(()),
        });
        match self.part.until() {
            None => woken.await,
            Some(until) => {
                // Where nobody waits it is looked at again after a while.
                let until = until.max(Instant::now() + Duration::from_millis(50));
                tokio::select! {
                    () = woken => {}
                    () = sleep_until(until) => {}
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.cut(EdgeEvent::IncompleteClosedEarly, |cutter, found| {
            cutter.push(bytes, found);
        });
        let (under_way, held) = (self.cutter.under_way(), self.cutter.held());
        let pool = &self.shared.entry.pool;
        if !self.part.holds(pool, bytes.len(), under_way, held) {
            self.give_up("too many are under way");
        }
    }

    /// Takes in what `cut` finds; a record that is cut off is counted as that.
    fn cut(&mut self, cut_off: EdgeEvent, cut: impl FnOnce(&mut Cutter, &mut dyn FnMut(Cut<'_>))) {
        let shared = &self.shared;
        let entry = &shared.entry;
        let mut messages: Vec<Captured> = Vec::with_capacity(self.last.min(MOST_AT_ONCE));
        let now = std::time::Instant::now();
        let (peer, flaws) = (self.peer, &mut self.flaws);
        cut(&mut self.cutter, &mut |(at, cut)| {
            let (event, why) = match cut {
                Ok(Whole { record, .. }) if !shared.limiter.takes_record(&record, now) => return,
                Ok(Whole { record, owner }) => {
                    match records::message_of(&record, owner, entry.max_exchange) {
                        Ok(mut message) => {
                            entry.turns.number(&mut message);
                            return messages.push(message);
                        }
                        Err(event @ EdgeEvent::Marked) => return entry.edge.count(event, 1),
                        Err(event) => (event, event.as_str().to_owned()),
                    }
                }
                // It was counted then.
                Err(Passed::GivenUp) => return,
                Err(passed @ Passed::TooLarge) => (EdgeEvent::TooLarge, passed.to_string()),
                Err(passed @ Passed::CutOff) => (cut_off, passed.to_string()),
                Err(passed @ Passed::Flawed(_)) => (EdgeEvent::BadRecord, passed.to_string()),
            };
            entry.edge.count(event, 1);
            *flaws += 1;
            if *flaws <= TOLD && may_tell(shared) {
                warn!(%peer, byte = at, "record port: a record is passed over: {why}");
            }
        });
        self.last = messages.len();
        entry.take(messages);
    }

    fn make_way(&mut self, is_idle: bool) {
        if self.part.is_in_the_way(&self.shared.entry.pool, is_idle) {
            self.give_up("its sender is slow, and others wait");
        }
    }

    fn give_up(&mut self, why: &str) {
        let Connection {
            shared,
            cutter,
            part,
            ..
        } = self;
        cutter.give_up();
        part.holds(&shared.entry.pool, 0, cutter.under_way(), cutter.held());
        shared.entry.edge.count(EdgeEvent::IncompleteBudget, 1);
        if let Some(suppressed) = shared.flaws.allow() {
            warn!(peer = %self.peer, suppressed, "record port: a record is given up within: {why}");
        }
    }

    fn finish(&mut self, end: &End) {
        let cut_off = match end {
            // Many end TLS without a word.
            End::Broken(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                EdgeEvent::BadRecord
            }
            End::Closed => EdgeEvent::BadRecord,
            End::Broken(_) => EdgeEvent::IncompleteReset,
            End::Stopped => EdgeEvent::IncompleteStopped,
        };
        self.cut(cut_off, |cutter, found| cutter.finish(found));
        let (peer, flaws) = (self.peer, self.flaws);
        if let End::Broken(error) = end {
            debug!(%peer, %error, "record port: a connection broke off");
        }
        if flaws > TOLD && may_tell(&self.shared) {
            warn!(%peer, "record port: {flaws} records were passed over in all");
        }
    }
}

fn may_tell(shared: &Shared) -> bool {
    shared.told.fetch_add(1, Ordering::Relaxed) < TOLD_IN_ALL || shared.flaws.allow().is_some()
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.part.end(&self.shared.entry.pool);
    }
}
