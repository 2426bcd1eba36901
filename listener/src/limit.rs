//! How much of what a source brings is taken.
//!
//! What enters: requests and records, with the time. What leaves: whether each is taken. What may be lost: whatever is over
//! the limit, counted at the edge (`input_limited`); an answer on its own goes the way of its request. Nothing waits.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reprise_traffic::exchange::Captured;
use reprise_traffic::gor::{Kind, Record};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use crate::edge::{Edge, EdgeEvent};

/// What of a source's requests is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SourceLimit {
    /// At most so many in each second.
    PerSecond(NonZeroU32),
    /// This share, 0 to 1: chosen by the id of a record, of all else by its connection and time.
    Share(f64),
}

/// What the sources of a listener are limited to. Each port and each topic has a limit of its own, and so have all captures together, and
/// all files.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Requests that are captured.
    pub captures: Option<SourceLimit>,
    /// Requests that proxies copy, of each mirror port.
    pub mirrors: Option<SourceLimit>,
    /// Records, of each port for streams of them.
    pub record_ports: Option<SourceLimit>,
    /// The dummy's requests.
    pub dummy: Option<SourceLimit>,
    /// What is in files.
    pub files: Option<SourceLimit>,
    /// Messages, of each topic.
    pub topics: Option<SourceLimit>,
}

const SECOND: Duration = Duration::from_secs(1);

/// Answers may come as long behind their request as so many further requests are taken.
const FOLLOWED: usize = 1 << 16;

/// So that a share here and one of a target, by the same id, don't choose the same ones.
const SEED: u64 = 0x1001;

/// Decides for one source.
pub struct Limiter {
    limit: Option<SourceLimit>,
    edge: Arc<Edge>,
    second: Mutex<Second>,
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.limit)
    }
}

/// One second of those that have a limit.
#[derive(Default)]
struct Second {
    began: Option<Instant>,
    taken: u32,
    /// The last requests that were taken, by their ids' hashes, for their answers.
    order: VecDeque<u128>,
    followed: HashSet<u128>,
}

impl Limiter {
    /// With no limit all is taken.
    pub fn new(limit: Option<SourceLimit>, edge: Arc<Edge>) -> Limiter {
        Limiter {
            limit,
            edge,
            second: Mutex::default(),
        }
    }

    /// Whether a message is taken that comes now; counted where it isn't.
    pub fn takes(&self, message: &Captured, now: Instant) -> bool {
        self.counted(match (self.limit, &message.label) {
            (None, _) => true,
            (Some(SourceLimit::Share(share)), None) => share_has(share, drawn(message)),
            (Some(SourceLimit::Share(share)), Some(label)) => share_has(share, hash(label.id())),
            (Some(SourceLimit::PerSecond(most)), label) => {
                let id = label.as_ref().map(|label| label.id());
                self.in_second(most, id, message.kind(), now)
            }
        })
    }

    /// The same for a record of which no message is made yet.
    pub fn takes_record(&self, record: &Record<'_>, now: Instant) -> bool {
        self.counted(match self.limit {
            None => true,
            Some(SourceLimit::Share(share)) => share_has(share, hash(record.id)),
            Some(SourceLimit::PerSecond(most)) => {
                self.in_second(most, Some(record.id), record.kind, now)
            }
        })
    }

    fn counted(&self, is_taken: bool) -> bool {
        if !is_taken {
            self.edge.count(EdgeEvent::InputLimited, 1);
        }
        is_taken
    }

    fn in_second(&self, most: NonZeroU32, id: Option<&[u8]>, kind: Kind, now: Instant) -> bool {
        let key = id.map(xxh3_128);
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if kind != Kind::Request {
            return key.is_some_and(|key| second.followed.contains(&key));
        }
        second.go_on(now);
        if second.taken >= most.get() {
            // A recording that is read again has the same ids again.
            if let Some(key) = key {
                second.followed.remove(&key);
            }
            return false;
        }
        second.taken += 1;
        if let Some(key) = key {
            second.follow(key);
        }
        true
    }
}

impl Second {
    fn go_on(&mut self, now: Instant) {
        let began = *self.began.get_or_insert(now);
        let passed = now.saturating_duration_since(began);
        if passed >= SECOND {
            self.began = Some(began + Duration::from_secs(passed.as_secs()));
            self.taken = 0;
        }
    }

    fn follow(&mut self, key: u128) {
        if !self.followed.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > FOLLOWED
            && let Some(oldest) = self.order.pop_front()
        {
            self.followed.remove(&oldest);
        }
    }
}

fn hash(id: &[u8]) -> u64 {
    xxh3_64_with_seed(id, SEED)
}

/// What stands for an id where there is none: the connection and the time.
fn drawn(message: &Captured) -> u64 {
    let mut bytes = [0; 26];
    let (client, at) = (message.client, message.captured_ns);
    let address = client.ip().to_canonical();
    match address {
        std::net::IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        std::net::IpAddr::V6(v6) => bytes[..16].copy_from_slice(&v6.octets()),
    }
    bytes[16..18].copy_from_slice(&client.port().to_be_bytes());
    bytes[18..].copy_from_slice(&at.to_be_bytes());
    hash(&bytes)
}

fn share_has(share: f64, place: u64) -> bool {
    // The upper bits are as many as a float tells apart.
    const PLACES: f64 = (1_u64 << 53) as f64;
    ((place >> 11) as f64) < share * PLACES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records;

    fn record(kind: u8, id: u64) -> Vec<u8> {
        format!("{kind} {id:024x} 1\nGET / HTTP/1.1\r\n\r\n").into_bytes()
    }

    fn limiter(limit: SourceLimit) -> (Arc<Edge>, Limiter) {
        let edge = Arc::new(Edge::default());
        (edge.clone(), Limiter::new(Some(limit), edge))
    }

    fn takes(limiter: &Limiter, kind: u8, id: u64, now: Instant) -> bool {
        let bytes = record(kind, id);
        let record = Record::parse(&bytes, 1).unwrap();
        limiter.takes_record(&record, now)
    }

    #[test]
    fn so_many_are_taken_each_second_and_their_answers_with_them() {
        let three = SourceLimit::PerSecond(NonZeroU32::new(3).unwrap());
        let (edge, limiter) = limiter(three);
        let start = Instant::now();
        let mut id = 0;
        for (ms, taken) in [
            (0, 3),
            (999, 0),
            (1000, 3),
            (1999, 0),
            (2500, 3),
            (2999, 0),
            (3000, 3),
        ] {
            let now = start + Duration::from_millis(ms);
            let mut count = 0;
            for _ in 0..10 {
                id += 1;
                let request = takes(&limiter, 1, id, now);
                count += u32::from(request);
                for kind in [2, 3] {
                    assert_eq!(takes(&limiter, kind, id, now), request);
                }
            }
            assert_eq!(count, taken, "{ms} ms");
        }
        assert_eq!(edge.get(EdgeEvent::InputLimited), (70 - 12) * 3);
        assert!(!takes(&limiter, 2, 999, start));
        // The same ids again: the answer goes the way of the last request.
        let later = start + Duration::from_secs(10);
        let again = [71, 72, 73, 1].map(|id| takes(&limiter, 1, id, later));
        assert_eq!(again, [true, true, true, false]);
        assert!(takes(&limiter, 2, 71, later) && !takes(&limiter, 2, 1, later));
    }

    #[test]
    fn a_share_is_chosen_by_id_and_answers_come_with_their_requests() {
        let (_, limiter) = limiter(SourceLimit::Share(0.25));
        let now = Instant::now();
        let taken = |kind| -> Vec<u64> {
            (0..10_000)
                .filter(|id| takes(&limiter, kind, *id, now))
                .collect()
        };
        let requests = taken(1);
        assert!((2300..2700).contains(&requests.len()), "{}", requests.len());
        assert_eq!((taken(2), taken(3)), (requests.clone(), requests));
        let all = Limiter::new(Some(SourceLimit::Share(1.0)), Arc::default());
        let none = Limiter::new(Some(SourceLimit::Share(0.0)), Arc::default());
        assert!((0..1000).all(|id| takes(&all, 1, id, now) && !takes(&none, 1, id, now)));
    }

    #[test]
    fn of_the_wire_a_share_is_drawn_for_each_request() {
        let (_, limiter) = limiter(SourceLimit::Share(0.5));
        let bytes = record(1, 1);
        let mut message = records::message(&Record::parse(&bytes, 1).unwrap(), 1000).unwrap();
        message.label = None;
        let taken = |at| {
            message.captured_ns = at;
            limiter.takes(&message, Instant::now())
        };
        let count = (0..1000).map(taken).filter(|taken| *taken).count();
        assert!((400..600).contains(&count), "{count}");
    }

    #[test]
    fn requests_that_are_remembered_are_bounded() {
        let many = SourceLimit::PerSecond(NonZeroU32::MAX);
        let (_, limiter) = limiter(many);
        let now = Instant::now();
        for id in 0..=FOLLOWED as u64 {
            assert!(takes(&limiter, 1, id, now));
        }
        assert!(!takes(&limiter, 2, 0, now) && takes(&limiter, 2, 1, now));
    }
}
