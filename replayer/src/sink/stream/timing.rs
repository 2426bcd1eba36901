//! When a connection's task looks after what is on its way.
//!
//! What enters: how much was acknowledged so far, and instants at which something is due. What leaves: the next instant. What
//! may be lost: nothing.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep};

/// Between two looks at what is acknowledged: at first, and while nothing is.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(16);

/// When to look what is acknowledged.
pub(super) struct Looks {
    bytes: u64,
    /// When some was, or there was nothing to be.
    since: Instant,
}

impl Looks {
    pub(super) fn new() -> Looks {
        Looks {
            bytes: 0,
            since: Instant::now(),
        }
    }

    pub(super) fn saw(&mut self, bytes: u64, now: Instant) {
        if std::mem::replace(&mut self.bytes, bytes) != bytes {
            self.since = now;
        }
    }

    pub(super) fn rest(&mut self, now: Instant) {
        self.since = now;
    }

    pub(super) fn quiet(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    pub(super) fn next(&self, now: Instant) -> Instant {
        now + self.quiet(now).clamp(LOOK_FIRST, LOOK_MAX)
    }
}

/// Wakes at the earliest of the times it was given, maybe once too often.
pub(super) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    at: Option<Instant>,
}

impl Alarm {
    pub(super) fn new() -> Alarm {
        Alarm {
            sleep: Box::pin(sleep(Duration::ZERO)),
            at: None,
        }
    }

    pub(super) fn ring_by(&mut self, at: Instant) {
        if self.at.is_none_or(|earlier| at < earlier) {
            self.at = Some(at);
            self.sleep.as_mut().reset(at.into());
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.at.is_none() {
            return Poll::Pending;
        }
        let rung = self.sleep.as_mut().poll(cx);
        if rung.is_ready() {
            self.at = None;
        }
        rung
    }
}
