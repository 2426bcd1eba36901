//! The resend window: what was captured and is not settled yet.
//!
//! What enters: captured requests, each of which gets the next sequence number of the epoch. What leaves: parcels
//! for the stream that is open, first those whose stream broke, then new ones, both in order. What may be lost:
//! when the budget is used up, or the window is full in exchanges, a new request is refused and its caller counts it;
//! what is in the window is never dropped by it. No I/O and no clock: time is handed in.
//!
//! A request that takes a large part of the room that is left is entrusted to its relay as soon as that has custody: its
//! bytes are let go here, and it can't be sent again. A relay that dies takes it along, and it ends as unknown. The
//! alternative is to have no room for the next one, which is lost for certain.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use reprise_proto::Parcel;
use reprise_traffic::exchange::Captured;
use reprise_traffic::{Epoch, Exchange, ExchangeId};

use crate::budget::Budget;

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
    streams: HashMap<StreamId, Outstanding>,
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

/// Smaller ones never are.
const LARGE: usize = 256 * 1024;

/// Queues with less room than this are not made smaller.
const SMALL: usize = 1024;

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
        self.push(request, size);
        Ok(())
    }

    /// Takes in a request that has waited for room, whatever others have taken meanwhile.
    pub fn admit_waited(&mut self, request: Captured) {
        let size = request.size();
        self.budget.take(size + OVERHEAD + SLOT);
        self.push(request, size);
    }

    /// True where no more exchanges fit, however small.
    pub fn is_full(&self) -> bool {
        self.used.exchanges >= self.exchanges
            || self.slots.len() >= self.exchanges.saturating_mul(SPAN)
    }

    fn push(&mut self, request: Captured, size: usize) {
        let sequence = self.base + self.slots.len() as u64;
        let id = ExchangeId {
            epoch: self.epoch.clone(),
            sequence,
        };
        self.used.bytes += size;
        self.used.exchanges += 1;
        self.slots.push_back(Slot {
            content: Content::Here(Arc::new(Exchange { id, request })),
            stream: None,
            first_sent: None,
        });
    }

    /// Opens a stream with the credit that its relay granted.
    pub fn open(&mut self, stream: StreamId, credit: Room) {
        let used = Room {
            bytes: 0,
            exchanges: 0,
        };
        let outstanding = Outstanding {
            credit,
            used,
            large: VecDeque::new(),
        };
        self.streams.insert(stream, outstanding);
    }

    /// The next parcels for a stream, at most `most`, within its credit, for a batch of that number. A parcel larger than
    /// all the credit goes alone.
    pub fn take(&mut self, stream: StreamId, batch: u64, most: Room, now: Instant) -> Vec<Parcel> {
        let Some(outstanding) = self.streams.get_mut(&stream) else {
            return Vec::new();
        };
        let mut parcels: Vec<Parcel> = Vec::new();
        let mut bytes = 0;
        while parcels.len() < most.exchanges && bytes < most.bytes {
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
            parcels.push(Parcel {
                exchange: exchange.clone(),
                target: None,
                resent: slot.first_sent.map(|at| now.duration_since(at)),
                claim: None,
            });
            slot.first_sent.get_or_insert(now);
            slot.stream = Some(stream);
            outstanding.used.bytes += size;
            outstanding.used.exchanges += 1;
            if size >= LARGE {
                outstanding.large.push_back((batch, sequence));
            }
            bytes += size;
            if !self.lost.remove(&sequence) {
                self.fresh = sequence + 1;
            }
        }
        parcels
    }

    /// The relay has custody of a batch and of all before it: lets go of what is too large to be kept.
    pub fn accepted(&mut self, stream: StreamId, batch: u64) {
        let Some(outstanding) = self.streams.get_mut(&stream) else {
            return;
        };
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
        self.streams.clear();
        (unsent.len() as u64, sent.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;
    use reprise_traffic::{Head, Source};

    use super::*;

    fn request(body: usize) -> Captured {
        Captured {
            captured_ns: 0,
            client: "10.0.0.2:1".parse().unwrap(),
            server: "10.0.0.1:80".parse().unwrap(),
            source: Source::Wire,
            head: Head::parse(Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n")).unwrap(),
            body: vec![0; body].into(),
            trailers: Bytes::new(),
            answer: None,
        }
    }

    const MANY: Room = Room {
        bytes: usize::MAX,
        exchanges: usize::MAX,
    };

    fn window(exchanges: usize) -> Window {
        let budget = Arc::new(Budget::new(1 << 20));
        Window::new(Arc::new(Epoch::new("l", 1)), exchanges, budget)
    }

    fn sequences(parcels: &[Parcel]) -> Vec<u64> {
        parcels
            .iter()
            .map(|parcel| parcel.exchange.id.sequence)
            .collect()
    }

    #[test]
    fn what_is_large_is_entrusted_once_it_is_in_custody() {
        let budget = Arc::new(Budget::new(4 << 20));
        let epoch = Arc::new(Epoch::new("l", 1));
        let mut window = Window::new(epoch, 9, budget.clone());
        for body in [10, 1 << 20, 1 << 20, 10] {
            assert!(window.admit(request(body)).is_ok());
        }
        let stream = StreamId(1);
        window.open(stream, MANY);
        assert_eq!(
            sequences(&window.take(stream, 1, MANY, Instant::now())),
            [0, 1, 2, 3]
        );
        assert!(window.settle(1));
        window.accepted(stream, 0);
        let before = budget.used();
        window.accepted(stream, 1);
        assert!(before - budget.used() > 1 << 20);
        assert_eq!((window.unsettled(), window.outstanding(stream)), (3, 3));
        // The relay dies with the one that it was entrusted with; the small ones are sent again.
        let lost = window.close(stream);
        assert_eq!((lost.again, lost.entrusted), (2, 1));
        assert!(!window.settle(2));
        window.open(StreamId(2), MANY);
        let again = window.take(StreamId(2), 1, MANY, Instant::now());
        assert_eq!(sequences(&again), [0, 3]);
        assert!(window.settle(0) && window.settle(3));
        assert_eq!((window.unsettled(), budget.used()), (0, 0));
    }

    #[test]
    fn a_full_window_refuses_and_recovers() {
        let mut window = window(2);
        assert!(window.admit(request(0)).is_ok() && window.admit(request(0)).is_ok());
        assert!(window.admit(request(0)).is_err());
        window.open(StreamId(1), MANY);
        window.take(StreamId(1), 1, MANY, Instant::now());
        assert!(window.settle(1));
        assert!(window.admit(request(0)).is_ok());
        assert!(window.admit(request(0)).is_err());
        assert!(window.settle(0));
        assert_eq!(window.settled_below(), 2);
    }

    #[test]
    fn bytes_come_out_of_the_budget_and_go_back() {
        let mut window = window(10);
        let budget = window.budget.clone();
        // Somebody else still counts what moves here.
        budget.take(1 << 20);
        window.admit(request(1 << 20)).unwrap();
        budget.give(1 << 20);
        assert!(budget.is_over() && window.admit(request(0)).is_err());
        window.open(StreamId(1), MANY);
        window.take(StreamId(1), 1, MANY, Instant::now());
        assert!(window.settle(0));
        assert_eq!(budget.used(), 0);
        window.admit(request(100)).unwrap();
        window.give_up();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_stands_behind_an_unsettled_one_costs_its_slot_only() {
        let mut window = window(1000);
        for _ in 0..500 {
            window.admit(request(1000)).unwrap();
        }
        window.open(StreamId(1), MANY);
        window.take(StreamId(1), 1, MANY, Instant::now());
        for sequence in 1..500 {
            assert!(window.settle(sequence));
        }
        assert_eq!(
            window.budget.used(),
            window.used().bytes + OVERHEAD + 500 * SLOT,
            "one request and all slots"
        );
        assert!(window.settle(0));
        assert_eq!(window.budget.used(), 0);
    }

    #[test]
    fn a_broken_stream_is_sent_again_first_and_marked() {
        let mut window = window(10);
        let now = Instant::now();
        for _ in 0..3 {
            window.admit(request(0)).unwrap();
        }
        window.open(StreamId(1), MANY);
        let two = Room {
            exchanges: 2,
            ..MANY
        };
        assert_eq!(sequences(&window.take(StreamId(1), 1, two, now)), [0, 1]);
        assert!(window.settle(0));
        assert_eq!(window.close(StreamId(1)).again, 1);
        window.open(StreamId(2), MANY);
        let parcels = window.take(StreamId(2), 1, MANY, now);
        assert_eq!(sequences(&parcels), [1, 2]);
        assert!(parcels[0].resent.is_some() && parcels[1].resent.is_none());
        // The late answer of the first stream and that of the second count once.
        assert!(window.settle(1) && !window.settle(1));
    }

    #[test]
    fn credit_bounds_what_is_outstanding_but_a_giant_goes_alone() {
        let mut window = window(10);
        let now = Instant::now();
        for body in [0, 0, 5000] {
            window.admit(request(body)).unwrap();
        }
        window.open(
            StreamId(1),
            Room {
                bytes: 2000,
                exchanges: 2,
            },
        );
        assert_eq!(sequences(&window.take(StreamId(1), 1, MANY, now)), [0, 1]);
        assert!(window.take(StreamId(1), 1, MANY, now).is_empty());
        window.settle(0);
        assert!(window.take(StreamId(1), 1, MANY, now).is_empty());
        window.settle(1);
        assert_eq!(sequences(&window.take(StreamId(1), 1, MANY, now)), [2]);
    }

    #[test]
    fn what_was_never_sent_cannot_be_settled() {
        let mut window = window(10);
        window.admit(request(0)).unwrap();
        assert!(!window.settle(0) && !window.settle(77));
        assert_eq!(window.unsettled(), 1);
        assert_eq!(window.give_up(), (1, 0));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Admit,
        Take,
        Settle(u8),
        Break,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Admit),
            2 => Just(Step::Take),
            3 => any::<u8>().prop_map(Step::Settle),
            1 => Just(Step::Break),
        ]
    }

    proptest! {
        /// Whatever breaks and however answers come: every admitted exchange is settled exactly once.
        #[test]
        fn every_exchange_is_settled_once(steps in prop::collection::vec(step(), 1..200)) {
            let mut window = window(20);
            let now = Instant::now();
            let mut stream = StreamId(0);
            window.open(stream, MANY);
            let mut admitted = 0_u64;
            let mut settled: BTreeMap<u64, u32> = BTreeMap::new();
            let mut sent: Vec<u64> = Vec::new();
            for step in steps {
                match step {
                    Step::Admit => admitted += u64::from(window.admit(request(1)).is_ok()),
                    Step::Take => sent.extend(sequences(&window.take(stream, 1, MANY, now))),
                    Step::Settle(n) if !sent.is_empty() => {
                        let sequence = sent[n as usize % sent.len()];
                        if window.settle(sequence) {
                            *settled.entry(sequence).or_default() += 1;
                        }
                    }
                    Step::Settle(_) => {}
                    Step::Break => {
                        window.close(stream);
                        stream = StreamId(stream.0 + 1);
                        window.open(stream, MANY);
                    }
                }
                prop_assert_eq!(window.unsettled() as u64 + settled.len() as u64, admitted);
            }
            window.close(stream);
            stream = StreamId(stream.0 + 1);
            window.open(stream, MANY);
            for sequence in sequences(&window.take(stream, 1, MANY, now)) {
                prop_assert!(window.settle(sequence));
                *settled.entry(sequence).or_default() += 1;
            }
            prop_assert_eq!(settled.len() as u64, admitted);
            prop_assert!(settled.values().all(|n| *n == 1));
            prop_assert_eq!(window.settled_below(), admitted);
            prop_assert_eq!(window.used(), Room { bytes: 0, exchanges: 0 });
            prop_assert_eq!(window.budget.used(), 0);
        }
    }
}
