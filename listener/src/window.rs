//! The resend window: what was captured and is not settled yet.
//!
//! What enters: captured requests, each of which gets the next sequence number of the epoch. What leaves: parcels for
//! the stream that is open, first those whose stream broke, then new ones, both in order. What may be lost: when the
//! budget is used up, or the window is full in exchanges, a new request is refused and its caller counts it; what is
//! in the window is never dropped by it. No I/O and no clock: time is handed in.
//!
//! A request that takes a large part of the room that is left is entrusted to its relay as soon as that has custody:
//! its bytes are let go here, and it can't be sent again. Where there is no room for two more of its size, each part
//! of its body is let go as soon as it is on the wire, from when it is queued for the stream. A relay that dies takes
//! such a request along, and it ends as unknown. The alternative is to have no room for the next one, which is lost
//! for certain.
//!
//! Ends of connections ([`closings`]) leave behind the exchanges that were there before them. They are not sent
//! again.

mod closings;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use reprise_proto::{Notice, Parcel};
use reprise_traffic::exchange::Captured;
use reprise_traffic::{Closed, Epoch, Exchange, ExchangeId};

use crate::budget::Budget;
use closings::Closings;

/// What is in a window, or a stream's credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of unsettled exchanges, their bookkeeping included.
    pub bytes: usize,
    /// Unsettled exchanges.
    pub exchanges: usize,
}

/// One stream to one relay, of the many in a listener's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// There is no room; the request is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the window is full")]
pub struct Full;

#[derive(Debug)]
struct Slot {
    content: Content,
    stream: Option<StreamId>,
    first_sent: Option<Instant>,
}

#[derive(Debug)]
enum Content {
    Here(Arc<Exchange>),
    /// Its bytes, so many, are at the relay alone.
    Entrusted(usize),
    Settled,
}

impl Slot {
    fn is_settled(&self) -> bool {
        matches!(self.content, Content::Settled)
    }
}

/// What ended with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Exchanges to be sent again.
    pub again: usize,
    /// Exchanges that only the relay had.
    pub entrusted: u64,
}

#[derive(Debug)]
struct Outstanding {
    credit: Room,
    used: Room,
    /// The relay is another process: what it holds, we need not hold.
    entrusts: bool,
    /// Large exchanges by the batch that they went with, until the relay has custody.
    large: VecDeque<(u64, u64)>,
}

/// Unsettled exchanges of one epoch, in order of sequence.
#[derive(Debug)]
pub struct Window {
    epoch: Arc<Epoch>,
    /// Bound of unsettled exchanges; that of bytes is the budget.
    exchanges: usize,
    budget: Arc<Budget>,
    used: Room,
    /// Sequence number of the first slot; all below are settled.
    base: u64,
    slots: VecDeque<Slot>,
    /// Sent on a stream that is gone.
    lost: BTreeSet<u64>,
    /// The next that was never sent.
    fresh: u64,
    closings: Closings,
    streams: HashMap<StreamId, Outstanding>,
}

/// What a batch is made of.
#[derive(Debug, Default)]
pub struct Taken {
    /// Exchanges.
    pub parcels: Vec<Parcel>,
    /// Ends of connections, each behind so many of those.
    pub closed: Vec<Notice>,
}

impl Taken {
    /// True where there is nothing.
    pub fn is_empty(&self) -> bool {
        self.parcels.is_empty() && self.closed.is_empty()
    }

    /// True where more may wait than what was asked for.
    pub fn is_full(&self, most: Room) -> bool {
        let bytes: usize = self.parcels.iter().map(|p| p.exchange.request.size()).sum();
        self.parcels.len().max(self.closed.len()) >= most.exchanges || bytes >= most.bytes
    }
}

/// Settled slots are kept until all before them are settled: so many times the exchange limit at most.
const SPAN: usize = 8;

/// What a slot costs for as long as it stands: a queue has up to twice the room that it needs, and a lost exchange
/// is in a set besides.
const SLOT: usize = 2 * size_of::<Slot>() + 2 * size_of::<u64>();

/// What an exchange costs besides its own size: the counters of its `Arc`, and what the allocator adds to each of its
/// four or five allocations. Measured with glibc: 33 to 42 bytes.
const OVERHEAD: usize = 48;

/// An exchange that takes more than this part of the room that is left is entrusted.
const LARGE_PART: usize = 8;

/// One that takes more than this part isn't held until the relay has custody of it.
const NO_ROOM_PART: usize = 2;

/// Smaller ones never are.
const LARGE: usize = 256 * 1024;

/// Queues with less room than this are not made smaller.
const SMALL: usize = 1024;

/// The same exchange, of whose bodies each chunk is counted until it is on the wire.
fn passing(exchange: Exchange, budget: &Arc<Budget>) -> Arc<Exchange> {
    let Exchange {
        id,
        due_ns,
        mut request,
    } = exchange;
    let mut size = request.size();
    let answer = request.answer.as_mut().map(|answer| &mut answer.body);
    for body in std::iter::once(&mut request.body).chain(answer) {
        let held = body.chunks().iter().map(|chunk| budget.hold(chunk.clone()));
        *body = held.collect();
        size -= body.len();
    }
    budget.give(size);
    Arc::new(Exchange {
        id,
        due_ns,
        request,
    })
}

impl Window {
    /// An empty window of that epoch, for so many exchanges, whose bytes come out of `budget`.
    pub fn new(epoch: Arc<Epoch>, exchanges: usize, budget: Arc<Budget>) -> Window {
        Window {
            epoch,
            exchanges,
            budget,
            used: Room {
                bytes: 0,
                exchanges: 0,
            },
            base: 0,
            slots: VecDeque::new(),
            lost: BTreeSet::new(),
            fresh: 0,
            closings: Closings::default(),
            streams: HashMap::new(),
        }
    }

    /// Takes a captured request in.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn admit(&mut self, request: Captured) -> Result<(), Full> {
        let size = request.size();
        if self.is_full() || !self.budget.take_moved(size + OVERHEAD + SLOT) {
            return Err(Full);
        }
        self.push(request, None, size);
        Ok(())
    }

    /// Takes in a request that has waited for room, whatever others have taken meanwhile; to be sent when it is due.
    pub fn admit_waited(&mut self, request: Captured, due_ns: Option<u64>) {
        let size = request.size();
        self.budget.take(size + OVERHEAD + SLOT);
        self.push(request, due_ns, size);
    }

    /// Takes in the end of a connection, behind all that was taken in before.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn admit_closed(&mut self, closed: Closed) -> Result<(), Full> {
        if self.closings.is_full() || !self.budget.take_moved(closings::SIZE) {
            return Err(Full);
        }
        let below = self.next_sequence();
        self.closings.push(below, closed);
        Ok(())
    }

    /// True where no more exchanges fit, however small.
    pub fn is_full(&self) -> bool {
        self.used.exchanges >= self.exchanges
            || self.slots.len() >= self.exchanges.saturating_mul(SPAN)
    }

    fn push(&mut self, request: Captured, due_ns: Option<u64>, size: usize) {
        let sequence = self.next_sequence();
        let id = ExchangeId {
            epoch: self.epoch.clone(),
            sequence,
        };
        self.used.bytes += size;
        self.used.exchanges += 1;
        self.slots.push_back(Slot {
            content: Content::Here(Arc::new(Exchange {
                id,
                due_ns,
                request,
            })),
            stream: None,
            first_sent: None,
        });
    }

    /// Opens a stream with the credit that its relay granted. What is large is entrusted to a relay that is another
    /// process; in the same one nothing would be gained.
    pub fn open(&mut self, stream: StreamId, credit: Room, entrusts: bool) {
        let used = Room {
            bytes: 0,
            exchanges: 0,
        };
        let outstanding = Outstanding {
            credit,
            used,
            entrusts,
            large: VecDeque::new(),
        };
        self.streams.insert(stream, outstanding);
    }

    /// The next parcels for a stream, at most `most`, within its credit, for a batch of that number, and the ends of
    /// connections between them, as many at most. A parcel larger than all the credit goes alone.
    pub fn take(&mut self, stream: StreamId, batch: u64, most: Room, now: Instant) -> Taken {
        let mut taken = Taken::default();
        let Some(outstanding) = self.streams.get_mut(&stream) else {
            return taken;
        };
        let Taken { parcels, closed } = &mut taken;
        let mut bytes = 0;
        loop {
            let unsent = self.lost.first().map_or(self.fresh, |lost| *lost);
            let ends = self
                .closings
                .take(unsent, parcels.len(), most.exchanges, closed);
            self.budget.give(ends * closings::SIZE);
            if parcels.len().max(closed.len()) >= most.exchanges || bytes >= most.bytes {
                break;
            }
            let end = self.base + self.slots.len() as u64;
            let next = self
                .lost
                .first()
                .copied()
                .or((self.fresh < end).then_some(self.fresh));
            let Some(sequence) = next else { break };
            let slot = &mut self.slots[(sequence - self.base) as usize];
            let Content::Here(exchange) = &slot.content else {
                // Settled by the answer of another stream while it waited to be sent again.
                self.lost.remove(&sequence);
                self.fresh = self.fresh.max(sequence + 1);
                continue;
            };
            let size = exchange.request.size();
            let (used, credit) = (outstanding.used, outstanding.credit);
            let no_credit = used.exchanges >= credit.exchanges || used.bytes + size > credit.bytes;
            if no_credit && used.exchanges > 0 {
                break;
            }
            let left = self.budget.limit().saturating_sub(self.budget.used());
            let at_once = outstanding.entrusts && size >= LARGE && size > left / NO_ROOM_PART;
            let exchange = match at_once {
                true => {
                    self.used.bytes -= size;
                    let exchange = exchange.clone();
                    slot.content = Content::Entrusted(size);
                    passing(Arc::unwrap_or_clone(exchange), &self.budget)
                }
                false => exchange.clone(),
            };
            parcels.push(Parcel {
                exchange,
                target: None,
                resent: slot.first_sent.map(|at| now.duration_since(at)),
                claim: None,
            });
            slot.first_sent.get_or_insert(now);
            slot.stream = Some(stream);
            outstanding.used.bytes += size;
            outstanding.used.exchanges += 1;
            if size >= LARGE && !at_once {
                outstanding.large.push_back((batch, sequence));
            }
            bytes += size;
            if !self.lost.remove(&sequence) {
                self.fresh = sequence + 1;
            }
        }
        taken
    }

    /// The relay has custody of a batch and of all before it: lets go of what is too large to be kept.
    pub fn accepted(&mut self, stream: StreamId, batch: u64) {
        let Some(outstanding) = self.streams.get_mut(&stream) else {
            return;
        };
        if !outstanding.entrusts {
            return;
        }
        while let Some((of, sequence)) = outstanding.large.front().copied()
            && of <= batch
        {
            outstanding.large.pop_front();
            let Some(slot) = sequence
                .checked_sub(self.base)
                .and_then(|index| self.slots.get_mut(usize::try_from(index).ok()?))
            else {
                continue;
            };
            let Content::Here(exchange) = &slot.content else {
                continue;
            };
            let size = exchange.request.size();
            let left = self.budget.limit().saturating_sub(self.budget.used());
            if slot.stream == Some(stream) && size > left / LARGE_PART {
                slot.content = Content::Entrusted(size);
                self.used.bytes -= size;
                self.budget.give(size);
            }
        }
    }

    /// An exchange ended. False where it had ended before, or never was.
    pub fn settle(&mut self, sequence: u64) -> bool {
        let Some(slot) = sequence
            .checked_sub(self.base)
            .and_then(|index| self.slots.get_mut(usize::try_from(index).ok()?))
        else {
            return false;
        };
        // What was never sent can't have ended: a confused relay must not make us forget it.
        if slot.first_sent.is_none() {
            return false;
        }
        let size = match std::mem::replace(&mut slot.content, Content::Settled) {
            Content::Here(exchange) => {
                let size = exchange.request.size();
                self.used.bytes -= size;
                self.budget.give(size);
                size
            }
            Content::Entrusted(size) => size,
            Content::Settled => return false,
        };
        self.used.exchanges -= 1;
        self.budget.give(OVERHEAD);
        if let Some(outstanding) = slot.stream.take().and_then(|s| self.streams.get_mut(&s)) {
            outstanding.used.bytes -= size;
            outstanding.used.exchanges -= 1;
        }
        self.lost.remove(&sequence);
        self.forget_settled();
        true
    }

    fn forget_settled(&mut self) {
        while self.slots.front().is_some_and(Slot::is_settled) {
            self.slots.pop_front();
            self.budget.give(SLOT);
            self.base += 1;
        }
        let room = self.slots.capacity();
        if room > SMALL && self.slots.len() < room / 4 {
            self.slots.shrink_to(room / 2);
        }
        self.fresh = self.fresh.max(self.base);
    }

    /// A stream is gone: what was on it and isn't settled goes first on the next, but for what was entrusted, which the
    /// caller counts.
    pub fn close(&mut self, stream: StreamId) -> Lost {
        let mut lost = Lost {
            again: 0,
            entrusted: 0,
        };
        if self.streams.remove(&stream).is_none() {
            return lost;
        }
        for (sequence, slot) in (self.base..).zip(&mut self.slots) {
            if slot.stream != Some(stream) {
                continue;
            }
            slot.stream = None;
            match slot.content {
                Content::Here(_) => {
                    self.lost.insert(sequence);
                    lost.again += 1;
                }
                Content::Entrusted(_) => {
                    slot.content = Content::Settled;
                    self.used.exchanges -= 1;
                    self.budget.give(OVERHEAD);
                    lost.entrusted += 1;
                }
                Content::Settled => {}
            }
        }
        self.forget_settled();
        lost
    }

    /// The number that the next exchange will have.
    pub fn next_sequence(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// True of an exchange that was here and has ended.
    pub fn has_settled(&self, sequence: u64) -> bool {
        let Some(index) = sequence.checked_sub(self.base) else {
            return true;
        };
        let slot = usize::try_from(index).ok();
        let slot = slot.and_then(|index| self.slots.get(index));
        slot.is_some_and(Slot::is_settled)
    }

    /// Every sequence number below this one is settled.
    pub fn settled_below(&self) -> u64 {
        self.base
    }

    /// Exchanges that are not settled.
    pub fn unsettled(&self) -> usize {
        self.used.exchanges
    }

    /// Bytes and exchanges in use.
    pub fn used(&self) -> Room {
        self.used
    }

    /// What is on a stream and not settled.
    pub fn outstanding(&self, stream: StreamId) -> usize {
        self.streams
            .get(&stream)
            .map_or(0, |outstanding| outstanding.used.exchanges)
    }

    /// True where something waits to be sent.
    pub fn has_waiting(&self) -> bool {
        !self.lost.is_empty() || self.fresh < self.base + self.slots.len() as u64
    }

    /// Empties the window at the end of a life: how many were never sent, and how many were sent and not settled.
    pub fn give_up(&mut self) -> (u64, u64) {
        let exchanges = self.used.bytes + self.used.exchanges * OVERHEAD;
        self.budget.give(exchanges + self.slots.len() * SLOT);
        let left = self.slots.drain(..).filter(|slot| !slot.is_settled());
        let (sent, unsent): (Vec<Slot>, Vec<Slot>) =
            left.partition(|slot| slot.first_sent.is_some());
        self.used = Room {
            bytes: 0,
            exchanges: 0,
        };
        self.lost.clear();
        self.budget.give(self.closings.len() * closings::SIZE);
        self.closings.clear();
        self.streams.clear();
        (unsent.len() as u64, sent.len() as u64)
    }
}

#[cfg(test)]
mod tests;
