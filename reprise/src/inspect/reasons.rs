//! Why something in a file is not listed, in words.
//!
//! What enters: the capture's counters, and what only recordings have. What leaves: text for people.
//! What may be lost: nothing; an event without words of its own is told by its name.

use reprise_listener::edge::EdgeEvent;

/// What only recordings have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Oddity {
    /// No bytes where a request should be.
    EmptyRecord,
    /// More bytes than the request has.
    BytesBehind,
    /// An answer whose request isn't there.
    LoneAnswer,
    /// An answer that is no HTTP/1.
    BadAnswer,
    /// What a replay was answered.
    Replayed,
}

impl Oddity {
    /// What it means to a person.
    pub(super) fn words(self) -> &'static str {
        match self {
            Oddity::EmptyRecord => "records of requests without a byte",
            Oddity::BytesBehind => "records with more bytes than their request, which are left out",
            Oddity::LoneAnswer => "answers without their request",
            Oddity::BadAnswer => "answers that are not clear HTTP/1",
            Oddity::Replayed => "answers to replays, which are not shown",
        }
    }
}

/// What an event means to a person; nothing for what isn't a reason to leave something out.
pub(super) fn words(event: EdgeEvent, recording: bool) -> Option<String> {
    Some(match event {
        EdgeEvent::Packets
        | EdgeEvent::Bytes
        | EdgeEvent::Connections
        | EdgeEvent::FragmentsHeld => return None,
        EdgeEvent::NotTcp => "packets that are no TCP".to_owned(),
        EdgeEvent::Fragments => "IP fragments whose packets did not become whole".to_owned(),
        EdgeEvent::OtherNetwork => "packets of networks that --vni leaves out".to_owned(),
        EdgeEvent::Undecodable => "packets with a broken or unknown header".to_owned(),
        EdgeEvent::Truncated => "segments of which the capture has only the beginning".to_owned(),
        EdgeEvent::OutOfWindow => "segments with a sequence number out of place".to_owned(),
        EdgeEvent::Unaligned => "connections picked up in the middle of something".to_owned(),
        EdgeEvent::Forgotten => "connections given up because there were too many".to_owned(),
        EdgeEvent::NotHttp if recording => "requests that are not HTTP/1".to_owned(),
        EdgeEvent::NotHttp => "connections that do not speak HTTP/1".to_owned(),
        EdgeEvent::Upgraded => "connections that became a tunnel or another protocol".to_owned(),
        EdgeEvent::RefusedLengthAndEncoding => refused("both Content-Length and Transfer-Encoding"),
        EdgeEvent::RefusedBadLength => refused("an unclear Content-Length"),
        EdgeEvent::RefusedBadEncoding => refused("an unclear Transfer-Encoding"),
        EdgeEvent::RefusedBadChunk => refused("malformed chunks"),
        EdgeEvent::RefusedMalformedHead => refused("a malformed head"),
        EdgeEvent::RefusedBareLineFeed => refused("a line of the head that ends in a bare LF"),
        EdgeEvent::RefusedHeadTooLarge => refused("a head over 256 KiB"),
        EdgeEvent::RefusedTooManyHeaders => refused("too many header lines"),
        EdgeEvent::RefusedTrailersTooLarge => refused("trailers that are too large"),
        EdgeEvent::IncompleteGap => "requests that lack bytes".to_owned(),
        EdgeEvent::IncompleteReset => "requests cut off by a reset".to_owned(),
        EdgeEvent::IncompleteExpired => "requests that stood still for too long".to_owned(),
        EdgeEvent::IncompleteClosedEarly if recording => "requests that are not whole".to_owned(),
        EdgeEvent::IncompleteClosedEarly => "requests within which the connection ended".to_owned(),
        EdgeEvent::IncompleteBudget => "requests given up to stay within memory".to_owned(),
        EdgeEvent::IncompleteStopped => "requests within which the capture ends".to_owned(),
        EdgeEvent::Marked => "requests that are replays of ours (Reprise-Id)".to_owned(),
        EdgeEvent::TooLarge => "requests that are too large".to_owned(),
        EdgeEvent::BadRecord => "records that can't be read".to_owned(),
        // Of live sources; should one come up, its name says more than nothing.
        other => other.as_str().replace('_', " "),
    })
}

fn refused(what: &str) -> String {
    format!("requests refused for {what}, with what follows on their connections")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reason_is_told_twice_or_not_at_all() {
        for recording in [false, true] {
            let all: Vec<String> = EdgeEvent::ALL
                .into_iter()
                .filter_map(|event| words(event, recording))
                .collect();
            let mut different = all.clone();
            different.sort();
            different.dedup();
            assert_eq!(different.len(), all.len());
            assert_eq!(all.len(), EdgeEvent::ALL.len() - 4);
        }
    }
}
