//! An exchange: one captured request with its identity and where it came from.
//!
//! What enters: the parts that a capture or the wire delivers. What leaves: a value that is shared, never copied.
//! What may be lost: nothing.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::answer::Answer;
use crate::body::Body;
use crate::gor::Kind;
use crate::head::Head;
use crate::label::Label;

/// One life of a listener process.
// Its alignment keeps it out of the cache line of its `Arc`'s counters, which all threads write.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub struct Epoch {
    listener: Box<str>,
    started_ns: u64,
    key: u64,
}

impl Epoch {
    /// The life of `listener` that began at `started_ns` (unix nanoseconds).
    pub fn new(listener: &str, started_ns: u64) -> Epoch {
        Epoch {
            listener: listener.into(),
            started_ns,
            key: xxh3_64_with_seed(listener.as_bytes(), started_ns),
        }
    }

    /// The listener's member name.
    pub fn listener(&self) -> &str {
        &self.listener
    }

    /// When this life began, unix nanoseconds.
    pub fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// A hash that is the same on every host.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }
}

impl PartialEq for Epoch {
    fn eq(&self, other: &Epoch) -> bool {
        self.started_ns == other.started_ns && self.listener == other.listener
    }
}

impl Eq for Epoch {}

impl Hash for Epoch {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.key);
    }
}

impl PartialOrd for Epoch {
    fn partial_cmp(&self, other: &Epoch) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Epoch {
    fn cmp(&self, other: &Epoch) -> std::cmp::Ordering {
        (&self.listener, self.started_ns).cmp(&(&other.listener, other.started_ns))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}", self.listener, self.started_ns)
    }
}

/// An exchange's identity. Sequence numbers of an epoch are dense from 0, so that gaps are visible.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExchangeId {
    /// The life of the listener that captured it.
    pub epoch: Arc<Epoch>,
    /// Its number in that life.
    pub sequence: u64,
}

impl ExchangeId {
    /// A hash that is the same on every host.
    pub fn hash64(&self) -> u64 {
        xxh3_64_with_seed(&self.sequence.to_le_bytes(), self.epoch.key)
    }
}

impl fmt::Display for ExchangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.sequence)
    }
}

/// How a request reached the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Reassembled from packets.
    Wire,
    /// Sent to the mirror endpoint by a proxy.
    Mirror,
}

/// A captured request, before it has an identity; or an answer to one, where it came as a record of its own.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Its first byte on the wire, unix nanoseconds.
    pub captured_ns: u64,
    /// Who sent it.
    pub client: SocketAddr,
    /// Who was to answer it.
    pub server: SocketAddr,
    /// How it reached the listener.
    pub source: Source,
    /// Request line and headers, as captured; [`Head::opaque`] of what is no request, or none that can be read.
    pub head: Head,
    /// The body without its chunking, any content coding left as it is.
    pub body: Body,
    /// Trailer lines as captured, without the empty line behind them.
    pub trailers: Bytes,
    /// What production answered, where answers are tracked and this one was seen.
    pub answer: Option<Box<Answer>>,
    /// Where it came as a record of its own.
    pub label: Option<Box<Label>>,
}

impl Captured {
    /// What it is: a request, unless it came as a record of something else.
    pub fn kind(&self) -> Kind {
        self.label.as_ref().map_or(Kind::Request, |l| l.kind())
    }

    /// True for all but answers that came as records of their own.
    pub fn is_request(&self) -> bool {
        self.kind() == Kind::Request
    }

    /// Bytes that it holds in memory, its own bookkeeping included.
    pub fn size(&self) -> usize {
        self.head.size()
            + self.body.len()
            + self.trailers.len()
            + size_of::<Exchange>()
            + self.answer.as_ref().map_or(0, |answer| answer.size())
            + self.label.as_ref().map_or(0, |label| label.size())
    }
}

/// The end of a captured connection of which there were requests. It is no exchange: nobody counts it, and it is never sent
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// When it was seen, unix nanoseconds.
    pub closed_ns: u64,
    /// Who sent the requests.
    pub client: SocketAddr,
    /// Who was to answer them.
    pub server: SocketAddr,
    /// When connections to targets are to follow, unix nanoseconds; without it at once.
    pub due_ns: Option<u64>,
}

/// A captured request with its identity.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Who captured it, when, and its number.
    pub id: ExchangeId,
    /// When it is to leave for its targets, unix nanoseconds; without it as soon as it comes.
    pub due_ns: Option<u64>,
    /// The request.
    pub request: Captured,
}
