//! Answers to replays, for those who want to see them.
//!
//! What enters: final answers, as they are read from targets. What leaves: their bytes, up to as many as a target's document
//! asks for (`track_response`), with what was replayed and when. What may be lost: the end of a body that is longer than what
//! is kept; requests without a whole answer are not told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reprise_traffic::{Exchange, TargetName};

/// A replay and its answer.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// What was replayed.
    pub exchange: Arc<Exchange>,
    /// Who answered.
    pub target: TargetName,
    /// When its sending began, unix nanoseconds.
    pub began_ns: u64,
    /// From the first byte sent to the last received.
    pub latency: Duration,
    /// The answer.
    pub answer: Kept,
}

/// Gets what was replayed. It must not wait: sessions wait for it.
#[derive(Clone)]
pub struct Tap(pub Arc<dyn Fn(Replayed) + Send + Sync>);

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tap")
    }
}

/// An answer as it came: head, and the body's beginning with its chunking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// All bytes that are kept.
    pub bytes: Bytes,
    /// Where its head ends.
    pub head_end: usize,
    /// False where the body's end is missing.
    pub is_whole: bool,
}

/// Keeps an answer while it is read.
#[derive(Debug)]
pub(crate) struct Keeper {
    bytes: Vec<u8>,
    head_end: usize,
    /// Bytes of the body that are kept.
    most: usize,
    is_whole: bool,
}

impl Keeper {
    /// Keeps so many bytes of the body.
    pub(crate) fn of(most: usize) -> Keeper {
        Keeper {
            bytes: Vec::new(),
            head_end: 0,
            most,
            is_whole: true,
        }
    }

    /// The final answer's head.
    pub(crate) fn head(&mut self, head: &[u8]) {
        self.bytes.extend_from_slice(head);
        self.head_end = head.len();
    }

    /// The next bytes of its body.
    pub(crate) fn body(&mut self, bytes: &[u8]) {
        let room = (self.head_end + self.most).saturating_sub(self.bytes.len());
        self.is_whole &= bytes.len() <= room;
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    pub(crate) fn into_kept(self) -> Kept {
        Kept {
            bytes: self.bytes.into(),
            head_end: self.head_end,
            is_whole: self.is_whole,
        }
    }
}
