//! What is found in a file, in order of time.
//!
//! What enters: requests, and ends of connections that had some. What leaves: the same, with the time at which each was
//! captured. What may be lost: nothing.

use reprise_traffic::Closed;
use reprise_traffic::exchange::Captured;

/// The next in a file.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// A whole request.
    Request(Captured),
    /// The end of a connection whose requests came before.
    Closed(Closed),
}

impl Found {
    /// When it was captured, unix nanoseconds: of a request the first byte.
    pub(super) fn at_ns(&self) -> u64 {
        match self {
            Found::Request(request) => request.captured_ns,
            Found::Closed(closed) => closed.closed_ns,
        }
    }

    /// Bytes that it holds in memory.
    pub(super) fn size(&self) -> usize {
        match self {
            Found::Request(request) => request.size(),
            Found::Closed(_) => size_of::<Found>(),
        }
    }
}
