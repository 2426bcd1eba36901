//! How an exchange ended for a target. The list is closed: what ends in no other way is counted here.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// How an exchange ended for a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Disposition {
    /// Sent and answered, with this HTTP status; [`TAKEN`] where nobody answers.
    Replayed(u16),
    /// Certainly without effect, or a safe method without an answer.
    Failed(Fault),
    /// It may or may not have reached the target.
    Unknown,
    /// The target's rules don't want it.
    Filtered,
    /// Not in the share of sessions that the target takes.
    SampledOut,
    /// Given up on purpose.
    Dropped(DropReason),
}

/// In the place of an HTTP status: recorded in a file, or taken by a target that does nothing. Nobody answers there. It is
/// no disposition of its own, so that neighbours of another version understand it, and the books need no further column.
pub const TAKEN: u16 = 0;

/// What a status is called in ledgers and metrics: its number, or `taken`.
pub fn status_name(status: u16) -> Cow<'static, str> {
    match status {
        TAKEN => Cow::Borrowed("taken"),
        status => Cow::Owned(status.to_string()),
    }
}

/// Whose fault a failure was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// Reprise's own.
    Ours,
    /// The target answered with something that is no HTTP, or not in time.
    Target,
    /// The target couldn't be reached.
    Network,
    /// Somebody's of whom this version doesn't know, as a neighbour of a newer one said. Never decided on here.
    Other,
}

/// Why an exchange was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// The listener's window was full.
    ListenerFull,
    /// The listener ended before it could be settled.
    ListenerStopped,
    /// Over the target's rate limit.
    RateLimited,
    /// The target's queue at the relay was full.
    RelayFull,
    /// The target's queue at the replayer was full.
    ReplayerFull,
    /// It waited longer than the target's `max_age`.
    Expired,
    /// The target doesn't answer, and is left alone for a while.
    BreakerOpen,
    /// No replayer served the target's pool for too long.
    NoReplayer,
    /// The target did not exist when it was routed.
    NotATarget,
    /// The target is a recording that could not be gone on with: the disk was full, or what it may take was reached.
    RecordingStopped,
    /// A reason that this version doesn't know, as a neighbour of a newer one said. Never decided on here.
    Other,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 4] = [Fault::Ours, Fault::Target, Fault::Network, Fault::Other];

    /// Its name in metrics, ledgers and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Ours => "ours",
            Fault::Target => "target",
            Fault::Network => "network",
            Fault::Other => "other",
        }
    }
}

impl DropReason {
    /// All of them.
    pub const ALL: [DropReason; 11] = [
        DropReason::ListenerFull,
        DropReason::ListenerStopped,
        DropReason::RateLimited,
        DropReason::RelayFull,
        DropReason::ReplayerFull,
        DropReason::Expired,
        DropReason::BreakerOpen,
        DropReason::NoReplayer,
        DropReason::NotATarget,
        DropReason::RecordingStopped,
        DropReason::Other,
    ];

    /// Its name in metrics, ledgers and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::ListenerFull => "listener_full",
            DropReason::ListenerStopped => "listener_stopped",
            DropReason::RateLimited => "rate_limited",
            DropReason::RelayFull => "relay_full",
            DropReason::ReplayerFull => "replayer_full",
            DropReason::Expired => "expired",
            DropReason::BreakerOpen => "breaker_open",
            DropReason::NoReplayer => "no_replayer",
            DropReason::NotATarget => "not_a_target",
            DropReason::RecordingStopped => "recording_stopped",
            DropReason::Other => "other",
        }
    }
}

/// A name that is in no closed list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown reason {0:?}")]
pub struct UnknownReason(String);

impl UnknownReason {
    pub(crate) fn new(name: &str) -> UnknownReason {
        UnknownReason(name.to_owned())
    }
}

impl FromStr for Fault {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<Fault, UnknownReason> {
        Fault::ALL
            .into_iter()
            .find(|fault| fault.as_str() == name)
            .ok_or_else(|| UnknownReason(name.to_owned()))
    }
}

impl FromStr for DropReason {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<DropReason, UnknownReason> {
        DropReason::ALL
            .into_iter()
            .find(|reason| reason.as_str() == name)
            .ok_or_else(|| UnknownReason(name.to_owned()))
    }
}

impl fmt::Display for Disposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disposition::Replayed(status) => write!(f, "replayed ({})", status_name(*status)),
            Disposition::Failed(fault) => write!(f, "failed ({})", fault.as_str()),
            Disposition::Unknown => f.write_str("unknown"),
            Disposition::Filtered => f.write_str("filtered"),
            Disposition::SampledOut => f.write_str("sampled out"),
            Disposition::Dropped(reason) => write!(f, "dropped ({})", reason.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_stands_once() {
        for fault in Fault::ALL {
            assert_eq!(fault.as_str().parse(), Ok(fault));
        }
        for reason in DropReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
        }
        assert!("bored".parse::<DropReason>().is_err());
        assert_eq!(Disposition::Replayed(200).to_string(), "replayed (200)");
        assert_eq!(Disposition::Replayed(TAKEN).to_string(), "replayed (taken)");
    }
}
