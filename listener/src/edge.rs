//! Counters of the capture's edge: all that was seen and didn't become a captured request, and why.
//!
//! What enters: events with a number, from any thread. What leaves: a snapshot by name. What may be lost: nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::http::{Incomplete, Refusal, Skip};

/// What can happen at the edge of the capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgeEvent {
    /// Packets read from the capture.
    Packets,
    /// Their bytes on the wire.
    Bytes,
    /// Packets that the kernel dropped because the ring was full.
    KernelDropped,
    /// Packets that the interface or its driver dropped.
    InterfaceDropped,
    /// Packets that are no TCP.
    NotTcp,
    /// IP fragments taken until the others of their packet come.
    FragmentsHeld,
    /// IP fragments whose packet never became whole.
    Fragments,
    /// Packets of virtual networks that are not captured.
    OtherNetwork,
    /// Packets with a broken or unknown header.
    Undecodable,
    /// Segments of which the capture has only the beginning.
    Truncated,
    /// Segments whose sequence number lies too far from the connection's place in the stream.
    OutOfWindow,
    /// Connections seen, those picked up in mid-stream included.
    Connections,
    /// Connections picked up elsewhere than at a request's begin.
    Unaligned,
    /// Connections forgotten because there were too many.
    Forgotten,
    /// Connections that don't speak HTTP/1.
    NotHttp,
    /// Connections that became a tunnel or another protocol.
    Upgraded,
    /// Requests with both `Content-Length` and `Transfer-Encoding`.
    RefusedLengthAndEncoding,
    /// Requests with an unclear `Content-Length`.
    RefusedBadLength,
    /// Requests with an unclear `Transfer-Encoding`.
    RefusedBadEncoding,
    /// Requests with malformed chunks.
    RefusedBadChunk,
    /// Requests with a head that is not as the grammar has it.
    RefusedMalformedHead,
    /// Requests with a line of the head that ends in a bare LF.
    RefusedBareLineFeed,
    /// Requests with a head over 256 KiB.
    RefusedHeadTooLarge,
    /// Requests with too many header lines.
    RefusedTooManyHeaders,
    /// Requests with trailers that are too large.
    RefusedTrailersTooLarge,
    /// Requests that lack bytes.
    IncompleteGap,
    /// Requests cut off by a reset.
    IncompleteReset,
    /// Requests that stood still for too long.
    IncompleteExpired,
    /// Requests within which their connection ended.
    IncompleteClosedEarly,
    /// Requests given up to stay within the memory budget.
    IncompleteBudget,
    /// Requests that were under way when the capture stopped.
    IncompleteStopped,
    /// Whole requests that bear the marker of a replay.
    Marked,
    /// Requests over the configured size.
    TooLarge,
    /// Requests of sessions that were left out to keep the CPU limit.
    ShedCpu,
    /// Requests of sessions that were left out because memory was short.
    ShedMemory,
    /// Records of a recording that hold nothing, or can't be read.
    BadRecord,
    /// Ends of connections that nobody is told, because too many wait.
    ClosedDropped,
    /// Messages for which the middleware's queue had no room.
    MiddlewareFull,
    /// Messages that the middleware had, or that waited for it, when it ended.
    MiddlewareLost,
    /// Messages that the middleware didn't write back by its end, or for too long.
    MiddlewareLeftOut,
    /// Lines of the middleware that are no messages, and messages that can't be written to it.
    MiddlewareBad,
    /// Connections to the mirror endpoint.
    MirrorConnections,
    /// Connections to the mirror endpoint that were turned away because there were too many.
    MirrorTurnedAway,
    /// Connections that bring records.
    RecordConnections,
    /// Connections that would bring records, turned away because there were too many.
    RecordsTurnedAway,
    /// Requests and records over what a source is limited to.
    InputLimited,
    /// Records of answers to replays that the process offered and there was no room for.
    ReplayedDropped,
}

const COUNT: usize = EdgeEvent::ALL.len();

impl EdgeEvent {
    /// Every event, in the order of declaration.
    pub const ALL: [EdgeEvent; 47] = [
        EdgeEvent::Packets,
        EdgeEvent::Bytes,
        EdgeEvent::KernelDropped,
        EdgeEvent::InterfaceDropped,
        EdgeEvent::NotTcp,
        EdgeEvent::FragmentsHeld,
        EdgeEvent::Fragments,
        EdgeEvent::OtherNetwork,
        EdgeEvent::Undecodable,
        EdgeEvent::Truncated,
        EdgeEvent::OutOfWindow,
        EdgeEvent::Connections,
        EdgeEvent::Unaligned,
        EdgeEvent::Forgotten,
        EdgeEvent::NotHttp,
        EdgeEvent::Upgraded,
        EdgeEvent::RefusedLengthAndEncoding,
        EdgeEvent::RefusedBadLength,
        EdgeEvent::RefusedBadEncoding,
        EdgeEvent::RefusedBadChunk,
        EdgeEvent::RefusedMalformedHead,
        EdgeEvent::RefusedBareLineFeed,
        EdgeEvent::RefusedHeadTooLarge,
        EdgeEvent::RefusedTooManyHeaders,
        EdgeEvent::RefusedTrailersTooLarge,
        EdgeEvent::IncompleteGap,
        EdgeEvent::IncompleteReset,
        EdgeEvent::IncompleteExpired,
        EdgeEvent::IncompleteClosedEarly,
        EdgeEvent::IncompleteBudget,
        EdgeEvent::IncompleteStopped,
        EdgeEvent::Marked,
        EdgeEvent::TooLarge,
        EdgeEvent::ShedCpu,
        EdgeEvent::ShedMemory,
        EdgeEvent::BadRecord,
        EdgeEvent::ClosedDropped,
        EdgeEvent::MiddlewareFull,
        EdgeEvent::MiddlewareLost,
        EdgeEvent::MiddlewareLeftOut,
        EdgeEvent::MiddlewareBad,
        EdgeEvent::MirrorConnections,
        EdgeEvent::MirrorTurnedAway,
        EdgeEvent::RecordConnections,
        EdgeEvent::RecordsTurnedAway,
        EdgeEvent::InputLimited,
        EdgeEvent::ReplayedDropped,
    ];

    /// Its name in the ledger and as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            EdgeEvent::Packets => "packets",
            EdgeEvent::Bytes => "bytes",
            EdgeEvent::KernelDropped => "kernel_dropped",
            EdgeEvent::InterfaceDropped => "interface_dropped",
            EdgeEvent::NotTcp => "not_tcp",
            EdgeEvent::FragmentsHeld => "fragments_held",
            EdgeEvent::Fragments => "fragments",
            EdgeEvent::OtherNetwork => "other_network",
            EdgeEvent::Undecodable => "undecodable",
            EdgeEvent::Truncated => "truncated",
            EdgeEvent::OutOfWindow => "out_of_window",
            EdgeEvent::Connections => "connections",
            EdgeEvent::Unaligned => "unaligned",
            EdgeEvent::Forgotten => "forgotten",
            EdgeEvent::NotHttp => "not_http",
            EdgeEvent::Upgraded => "upgraded",
            EdgeEvent::RefusedLengthAndEncoding => "refused_ambiguous_length_and_encoding",
            EdgeEvent::RefusedBadLength => "refused_bad_length",
            EdgeEvent::RefusedBadEncoding => "refused_bad_encoding",
            EdgeEvent::RefusedBadChunk => "refused_bad_chunk",
            EdgeEvent::RefusedMalformedHead => "refused_malformed_head",
            EdgeEvent::RefusedBareLineFeed => "refused_bare_line_feed",
            EdgeEvent::RefusedHeadTooLarge => "refused_head_too_large",
            EdgeEvent::RefusedTooManyHeaders => "refused_too_many_headers",
            EdgeEvent::RefusedTrailersTooLarge => "refused_trailers_too_large",
            EdgeEvent::IncompleteGap => "incomplete_gap",
            EdgeEvent::IncompleteReset => "incomplete_reset",
            EdgeEvent::IncompleteExpired => "incomplete_expired",
            EdgeEvent::IncompleteClosedEarly => "incomplete_closed_early",
            EdgeEvent::IncompleteBudget => "incomplete_budget",
            EdgeEvent::IncompleteStopped => "incomplete_stopped",
            EdgeEvent::Marked => "marked",
            EdgeEvent::TooLarge => "too_large",
            EdgeEvent::ShedCpu => "shed_cpu",
            EdgeEvent::ShedMemory => "shed_memory",
            EdgeEvent::BadRecord => "bad_record",
            EdgeEvent::ClosedDropped => "closed_dropped",
            EdgeEvent::MiddlewareFull => "middleware_full",
            EdgeEvent::MiddlewareLost => "middleware_lost",
            EdgeEvent::MiddlewareLeftOut => "middleware_left_out",
            EdgeEvent::MiddlewareBad => "middleware_bad",
            EdgeEvent::MirrorConnections => "mirror_connections",
            EdgeEvent::MirrorTurnedAway => "mirror_turned_away",
            EdgeEvent::RecordConnections => "record_connections",
            EdgeEvent::RecordsTurnedAway => "records_turned_away",
            EdgeEvent::InputLimited => "input_limited",
            EdgeEvent::ReplayedDropped => "replayed_dropped",
        }
    }
}

impl From<Refusal> for EdgeEvent {
    fn from(refusal: Refusal) -> EdgeEvent {
        match refusal {
            Refusal::NotHttp => EdgeEvent::NotHttp,
            Refusal::Upgraded => EdgeEvent::Upgraded,
            Refusal::LengthAndEncoding => EdgeEvent::RefusedLengthAndEncoding,
            Refusal::BadLength => EdgeEvent::RefusedBadLength,
            Refusal::BadEncoding => EdgeEvent::RefusedBadEncoding,
            Refusal::BadChunk => EdgeEvent::RefusedBadChunk,
            Refusal::MalformedHead => EdgeEvent::RefusedMalformedHead,
            Refusal::BareLineFeed => EdgeEvent::RefusedBareLineFeed,
            Refusal::HeadTooLarge => EdgeEvent::RefusedHeadTooLarge,
            Refusal::TooManyHeaders => EdgeEvent::RefusedTooManyHeaders,
            Refusal::TrailersTooLarge => EdgeEvent::RefusedTrailersTooLarge,
        }
    }
}

impl From<Incomplete> for EdgeEvent {
    fn from(cause: Incomplete) -> EdgeEvent {
        match cause {
            Incomplete::Gap => EdgeEvent::IncompleteGap,
            Incomplete::Reset => EdgeEvent::IncompleteReset,
            Incomplete::Expired => EdgeEvent::IncompleteExpired,
            Incomplete::ClosedEarly => EdgeEvent::IncompleteClosedEarly,
            Incomplete::Budget => EdgeEvent::IncompleteBudget,
            Incomplete::Stopped => EdgeEvent::IncompleteStopped,
        }
    }
}

impl From<Skip> for EdgeEvent {
    fn from(skip: Skip) -> EdgeEvent {
        match skip {
            Skip::Marked => EdgeEvent::Marked,
            Skip::TooLarge => EdgeEvent::TooLarge,
            Skip::ShedMemory => EdgeEvent::ShedMemory,
            Skip::ShedCpu => EdgeEvent::ShedCpu,
        }
    }
}

/// The counters, shared by all sources of a listener.
#[derive(Debug)]
pub struct Edge {
    counters: [AtomicU64; COUNT],
}

impl Default for Edge {
    fn default() -> Edge {
        Edge {
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Edge {
    /// Adds `n` to an event's counter.
    pub fn count(&self, event: EdgeEvent, n: u64) {
        self.counters[event as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// An event's count so far.
    pub fn get(&self, event: EdgeEvent) -> u64 {
        self.counters[event as usize].load(Ordering::Relaxed)
    }

    /// All counts that are not 0, by name; packets and kernel drops always.
    pub fn snapshot(&self) -> BTreeMap<String, u64> {
        EdgeEvent::ALL
            .into_iter()
            .map(|event| (event, self.get(event)))
            .filter(|(event, n)| {
                *n > 0 || matches!(event, EdgeEvent::Packets | EdgeEvent::KernelDropped)
            })
            .map(|(event, n)| (event.as_str().to_owned(), n))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_its_own_counter_and_name() {
        let edge = Edge::default();
        for (n, event) in EdgeEvent::ALL.into_iter().enumerate() {
            assert_eq!(event as usize, n);
            edge.count(event, n as u64 + 1);
        }
        let snapshot = edge.snapshot();
        assert_eq!(snapshot.len(), EdgeEvent::ALL.len());
        assert_eq!(snapshot["packets"], 1);
        let last = EdgeEvent::ALL[EdgeEvent::ALL.len() - 1];
        assert_eq!(snapshot[last.as_str()], EdgeEvent::ALL.len() as u64);
    }

    #[test]
    fn a_quiet_edge_says_that_nothing_was_dropped() {
        let names: Vec<String> = Edge::default().snapshot().into_keys().collect();
        assert_eq!(names, ["kernel_dropped", "packets"]);
    }
}
