//! What all connections of a stream share.
//!
//! What enters: what a target's document says. What leaves: the same, and a line in the log now and then. What may be lost:
//! lines.

use std::sync::Arc;
use std::time::Duration;

use reprise_node::LogLimit;
use reprise_traffic::TargetName;
use tracing::{debug, warn};

use super::opener::{OpenError, Opener};
use super::wire::Over;
use crate::metrics::StreamMeter;
use crate::sink::Queue;
use crate::sink::records::Records;

/// What all connections of a stream share.
pub(super) struct Common {
    pub(super) target: TargetName,
    pub(super) opener: Opener,
    pub(super) records: Records,
    pub(super) queue: Arc<Queue>,
    pub(super) meter: StreamMeter,
    pub(super) max_age: Duration,
    pub(super) log: LogLimit,
}

impl Common {
    pub(super) fn say_closed(&self, error: &OpenError) {
        if let Some(suppressed) = self.log.allow() {
            warn!(
                target = %self.target, suppressed,
                "no connection to the stream: {error}; its exchanges wait, up to max_age"
            );
        }
    }

    pub(super) fn say_broken(&self, over: &Over, unknown: u64, in_doubt: u64) {
        let target = &self.target;
        if unknown == 0 && in_doubt == 0 {
            debug!(%target, "a connection of the stream is over: {over}");
        } else if let Some(suppressed) = self.log.allow() {
            warn!(
                %target, unknown, in_doubt, suppressed,
                "a connection of the stream broke: {over}; unknown: what it had begun with; in_doubt: what was acknowledged \
                 just before, and maybe never read"
            );
        }
    }
}
