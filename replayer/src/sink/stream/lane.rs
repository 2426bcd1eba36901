//! One of a stream's connections, and what goes over it: a task.
//!
//! What enters: exchanges. What leaves: their records, in the order in which they came, and how each ended: taken, once the
//! far host has acknowledged its last byte. What may be lost: what waits longer than `max_age` (`expired`); what was begun to
//! be written when the connection breaks, and not acknowledged, is `unknown`, and never sent twice. What was not begun goes
//! over the next connection.
//!
//! A far host acknowledges what its kernel has. Where it resets the connection, what it acknowledged just before may not have
//! been read by anybody; it stays taken, and is counted.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use reprise_traffic::outcome::TAKEN;
use reprise_traffic::{Disposition, DropReason, Fault};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep_until, timeout};
use tracing::debug;

use super::common::Common;
use super::timing::{Alarm, Looks};
use super::unsent::Form;
use super::window::Window;
use super::wire::{Over, Wire};
use crate::sink::Entry;

/// Bytes that are given to a connection at once; one record more, where the last one doesn't fit.
const BATCH_BYTES: usize = 64 << 10;

/// Taken from the inbox at once.
const BATCH_EXCHANGES: usize = 256;

/// Between two tries to connect, behind the first, which is at once: at first, and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A connection that lived shorter counts as one that was not to be had.
const SHORT: Duration = Duration::from_secs(1);

/// For the far end to close its side too.
const GOODBYE: Duration = Duration::from_secs(1);

/// An exchange that waits.
pub(super) struct Waiting {
    pub(super) entry: Entry,
    pub(super) since: Instant,
}

pub(super) struct Lane {
    common: Arc<Common>,
    /// Its part of the queue.
    part: usize,
    inbox: UnboundedReceiver<Waiting>,
    /// Nothing more comes.
    is_over: bool,
    /// Bounded by its part of the queue.
    waiting: VecDeque<Waiting>,
    /// Before the next try to connect, and when that may be.
    pause: Duration,
    next_try: Instant,
    /// A connection broke, and none took its place yet.
    is_broken: bool,
}

/// What a connection is waited for.
enum Event {
    Flushed,
    Came,
    Late,
    Over(Over),
}

impl Lane {
    pub(super) fn new(common: Arc<Common>, part: usize, inbox: UnboundedReceiver<Waiting>) -> Lane {
        Lane {
            common,
            part,
            inbox,
            is_over: false,
            waiting: VecDeque::new(),
            pause: Duration::ZERO,
            next_try: Instant::now(),
            is_broken: false,
        }
    }

    /// Sends until nobody can give it anything any more and all has ended. `early`: one try to connect is made before there is
    /// anything to send, so that a wrong address is told.
    pub(super) async fn run(mut self, early: bool) {
        let mut wire = match early {
            true => self.open().await,
            false => None,
        };
        loop {
            if let Some(wire) = wire.take() {
                self.serve(wire).await;
            }
            if self.waiting.is_empty() {
                match self.inbox.recv().await {
                    Some(waiting) => self.waiting.push_back(waiting),
                    None => return,
                }
            }
            // What waits may have expired.
            self.meanwhile(sleep_until(self.next_try.into())).await;
            if !self.waiting.is_empty() {
                wire = self.open().await;
            }
        }
    }

    async fn open(&mut self) -> Option<Wire> {
        let common = self.common.clone();
        match self.meanwhile(common.opener.open()).await {
            Ok(wire) => {
                if std::mem::take(&mut self.is_broken) {
                    common.meter.reconnects.inc();
                }
                debug!(target = %common.target, "stream connected");
                Some(wire)
            }
            Err(error) => {
                self.pause_longer();
                common.say_closed(&error);
                None
            }
        }
    }

    fn pause_longer(&mut self) {
        self.pause = (self.pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
        self.next_try = Instant::now() + self.pause;
    }

    /// Waits for something; what comes is taken meanwhile, and what waits too long dropped.
    async fn meanwhile<T>(&mut self, event: impl Future<Output = T>) -> T {
        let mut event = pin!(event);
        loop {
            let expiry = self.expiry();
            let expired = async {
                match expiry {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = &mut event => return done,
                came = self.inbox.recv(), if !self.is_over => match came {
                    Some(waiting) => self.waiting.push_back(waiting),
                    None => self.is_over = true,
                },
                () = expired => self.expire(Instant::now()),
            }
        }
    }

    /// When the first that waits has waited too long.
    fn expiry(&self) -> Option<Instant> {
        let first = self.waiting.front()?;
        first.since.checked_add(self.common.max_age)
    }

    fn expire(&mut self, now: Instant) {
        while self.expiry().is_some_and(|expiry| expiry <= now)
            && let Some(first) = self.waiting.pop_front()
        {
            self.settle(first, Disposition::Dropped(DropReason::Expired));
        }
    }

    fn settle(&self, waiting: Waiting, disposition: Disposition) {
        self.common
            .queue
            .settle_of(self.part, waiting.entry, disposition);
    }

    /// Sends over a connection until it is over, or nothing will come any more.
    async fn serve(&mut self, mut wire: Wire) {
        let common = self.common.clone();
        common.meter.connections.inc();
        let opened = Instant::now();
        let mut window = Window::new();
        let over = self.send(&mut wire, &mut window).await;
        match over {
            None => close(&mut wire).await,
            Some(over) => {
                match opened.elapsed() < SHORT {
                    true => self.pause_longer(),
                    false => self.pause = Duration::ZERO,
                }
                self.give_up(&mut wire, window, &over);
            }
        }
        common.meter.connections.dec();
    }

    /// `None` once all has ended and nothing will come any more.
    async fn send(&mut self, wire: &mut Wire, window: &mut Window<Waiting>) -> Option<Over> {
        let (mut looks, mut alarm) = (Looks::new(), Alarm::new());
        let mut is_to_look = false;
        loop {
            let now = Instant::now();
            self.expire(now);
            if window.is_empty() {
                looks.rest(now);
            }
            if wire.is_flushed() {
                self.give(wire, window);
            }
            if is_to_look && !window.is_empty() {
                // What the kernel doesn't say it doesn't say of the next either.
                let (bytes, place) = match wire.acknowledged() {
                    Ok(acknowledged) => acknowledged,
                    Err(error) => return Some(Over::Broken(error)),
                };
                looks.saw(bytes, now);
                while let Some(waiting) = window.pop(place, now) {
                    self.settle(waiting, Disposition::Replayed(TAKEN));
                }
            }
            if window.is_empty() {
                if self.is_over && self.waiting.is_empty() {
                    return None;
                }
            } else if looks.quiet(now) > self.common.max_age {
                let error = format!("nothing acknowledged for {:?}", looks.quiet(now));
                return Some(Over::Broken(io::Error::other(error)));
            } else {
                alarm.ring_by(looks.next(now));
            }
            if let Some(expiry) = self.expiry() {
                alarm.ring_by(expiry);
            }
            let event = poll_fn(|cx| self.poll_event(wire, &mut alarm, cx));
            is_to_look = match event.await {
                Event::Over(over) => return Some(over),
                Event::Flushed | Event::Late => true,
                Event::Came => false,
            };
        }
    }

    fn poll_event(
        &mut self,
        wire: &mut Wire,
        alarm: &mut Alarm,
        cx: &mut Context<'_>,
    ) -> Poll<Event> {
        if let Poll::Ready(over) = wire.poll_over(cx) {
            return Poll::Ready(Event::Over(over));
        }
        if !wire.is_flushed() {
            match wire.poll_flush(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Event::Flushed),
                Poll::Ready(Err(over)) => return Poll::Ready(Event::Over(over)),
                Poll::Pending => {}
            }
        }
        if !self.is_over {
            let mut came = Vec::new();
            if let Poll::Ready(count) = self.inbox.poll_recv_many(cx, &mut came, BATCH_EXCHANGES) {
                self.is_over = count == 0;
                self.waiting.extend(came);
                return Poll::Ready(Event::Came);
            }
        }
        alarm.poll(cx).map(|()| Event::Late)
    }

    /// Gives a connection what waits, as much as it should have at once.
    fn give(&mut self, wire: &mut Wire, window: &mut Window<Waiting>) {
        let Common {
            records, opener, ..
        } = &*self.common;
        let form = opener.form();
        let first = wire.given();
        while (wire.given() - first) < BATCH_BYTES as u64
            && let Some(waiting) = self.waiting.pop_front()
        {
            let start = wire.given();
            let put = records.write(&waiting.entry.exchange, |message, answer| {
                wire.put(form, message);
                if let Some(answer) = answer.filter(|_| form != Form::Payload) {
                    wire.put(form, answer);
                }
            });
            match put {
                Ok(()) => window.push(waiting, start, wire.given()),
                Err(_) => self.settle(waiting, Disposition::Failed(Fault::Ours)),
            }
        }
    }

    /// The connection is over: says how ended what was on its way, and keeps what it had not begun with.
    fn give_up(&mut self, wire: &mut Wire, mut window: Window<Waiting>, over: &Over) {
        let now = Instant::now();
        // Who closes properly acknowledges what it read; and after a reset nobody answers that any more.
        if let Over::Closed = over
            && let Ok((_, place)) = wire.acknowledged()
        {
            while let Some(waiting) = window.pop(place, now) {
                self.settle(waiting, Disposition::Replayed(TAKEN));
            }
        }
        if !window.is_empty() {
            // Else the kernel may go on sending it while the next connection is ahead.
            wire.abandon();
        }
        let in_doubt = match over {
            Over::Closed => 0,
            Over::Broken(_) => window.in_doubt(now),
        };
        let mut unknown = 0_u64;
        let mut kept = VecDeque::new();
        for sent in window.take() {
            if sent.start < wire.begun() {
                unknown += 1;
                self.settle(sent.item, Disposition::Unknown);
            } else {
                kept.push_back(sent.item);
            }
        }
        kept.append(&mut self.waiting);
        self.waiting = kept;
        self.is_broken = true;
        self.common.meter.in_doubt.inc_by(in_doubt);
        self.common.say_broken(over, unknown, in_doubt);
    }
}

/// Says goodbye, and waits for that of the far end, so that its kernel has no reason to throw away what it has.
async fn close(wire: &mut Wire) {
    let goodbye = async {
        poll_fn(|cx| wire.poll_close(cx)).await?;
        Ok::<_, Over>(poll_fn(|cx| wire.poll_over(cx)).await)
    };
    match timeout(GOODBYE, goodbye).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => debug!("close a connection of a stream: {error}"),
        Err(_) => debug!("the far end of a stream keeps its side open"),
    }
}
