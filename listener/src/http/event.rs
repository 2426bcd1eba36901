//! What the bytes of a connection amount to.

use bytes::Bytes;
use reprise_traffic::Body;
use reprise_traffic::framing::FramingError;
use reprise_traffic::head::{Head, HeadError};

use super::{Asked, MAX_HEAD};

/// When bytes arrived, and what was known then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Unix nanoseconds.
    pub at_ns: u64,
    /// How far the client had received the server's bytes, as a TCP sequence number.
    pub acknowledged: Option<u32>,
    /// What a request whose head is completed by these bytes is passed over for.
    pub skip: Option<Skip>,
}

impl Arrival {
    /// At that time; nothing else is known.
    pub fn at(at_ns: u64) -> Arrival {
        Arrival {
            at_ns,
            acknowledged: None,
            skip: None,
        }
    }
}

/// A whole request, whose sender the parser doesn't know.
#[derive(Debug)]
pub struct Message {
    /// When its first byte arrived, unix nanoseconds.
    pub captured_ns: u64,
    /// Request line and headers.
    pub head: Head,
    /// The body without its chunking.
    pub body: Body,
    /// Trailer lines, without the empty line behind them.
    pub trailers: Bytes,
}

/// What the bytes amount to.
#[derive(Debug)]
pub enum Event {
    /// A request's head is complete, so that the server may answer it.
    Head {
        /// What it asked for.
        asked: Asked,
        /// Its first byte.
        began: Arrival,
    },
    /// The client waits for `100 Continue` before it sends the body.
    Continue,
    /// A request is complete.
    Request(Message),
    /// A request is complete, but not to be captured.
    Skipped {
        /// Why not.
        skip: Skip,
        /// Whether its connection is to be kept.
        persistent: bool,
    },
    /// A request that had begun will not be complete. Comes at once, even where the bytes behind it are yet to be skipped.
    Incomplete(Incomplete),
    /// The bytes mean no request. The last event of its connection.
    Refused(Refusal),
}

/// Why a whole request isn't captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It bears [`reprise_traffic::MARKER`]: a replay.
    Marked,
    /// Head and body exceed the configured size.
    TooLarge,
    /// Its session is left out because memory is short.
    ShedMemory,
    /// Its session is left out to stay within the CPU limit.
    ShedCpu,
}

/// Why a request isn't complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incomplete {
    /// Bytes are missing.
    Gap,
    /// The connection was reset.
    Reset,
    /// Nothing came for too long.
    Expired,
    /// The connection was closed.
    ClosedEarly,
    /// It was given up to keep the memory budget.
    Budget,
    /// The capture was stopped.
    Stopped,
}

/// Why the bytes of a connection mean no (further) request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The first bytes are no HTTP/1 request line.
    #[error("not HTTP/1")]
    NotHttp,
    /// What follows a request for an upgrade or a tunnel is another protocol.
    #[error("the connection became another protocol")]
    Upgraded,
    /// See [`HeadError::Malformed`].
    #[error("malformed request head")]
    MalformedHead,
    /// See [`HeadError::BareLineFeed`].
    #[error("a line of the head ends in a bare LF")]
    BareLineFeed,
    /// Over [`MAX_HEAD`].
    #[error("request head over {MAX_HEAD} bytes")]
    HeadTooLarge,
    /// See [`HeadError::TooManyHeaders`].
    #[error("too many header lines")]
    TooManyHeaders,
    /// See [`FramingError::LengthAndEncoding`].
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    /// See [`FramingError::BadLength`].
    #[error("Content-Length that is no single number")]
    BadLength,
    /// See [`FramingError::BadEncoding`].
    #[error("Transfer-Encoding that does not end in chunked")]
    BadEncoding,
    /// See [`FramingError::BadChunk`].
    #[error("malformed chunk")]
    BadChunk,
    /// See [`FramingError::TrailersTooLarge`].
    #[error("trailers too large")]
    TrailersTooLarge,
}

impl From<FramingError> for Refusal {
    fn from(error: FramingError) -> Refusal {
        match error {
            FramingError::LengthAndEncoding => Refusal::LengthAndEncoding,
            FramingError::BadLength => Refusal::BadLength,
            FramingError::BadEncoding => Refusal::BadEncoding,
            FramingError::BadChunk => Refusal::BadChunk,
            FramingError::TrailersTooLarge => Refusal::TrailersTooLarge,
        }
    }
}

impl From<HeadError> for Refusal {
    fn from(error: HeadError) -> Refusal {
        match error {
            HeadError::BareLineFeed => Refusal::BareLineFeed,
            HeadError::TooManyHeaders => Refusal::TooManyHeaders,
            HeadError::Malformed | HeadError::Incomplete => Refusal::MalformedHead,
        }
    }
}
