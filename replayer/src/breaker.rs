//! A circuit breaker: after some failures in a row nothing is sent to a target for a while.
//!
//! What enters: the wish to send, how sendings ended, and the time. What leaves: leave to send, or none. What may be
//! lost: nothing here; its caller counts what it turned away (`breaker_open`).
//!
//! Closed, all may go. Open, nobody may, for a time that doubles with each opening. Half-open, a few safe requests may; when
//! they are answered it closes, and the first that isn't opens it again. Pure: no clock and no lock of its own. Crates for
//! this read the clock themselves, and let any number of requests through while half-open.

use std::time::{Duration, Instant};

use reprise_traffic::breaker::BreakerSettings;

/// The time for which it is open is shorter by up to this part, by chance, so that replayers don't knock in step.
const JITTER: f64 = 0.25;

/// Leave to send one request. How that ended has to be told by [`Breaker::ended`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leave {
    /// What ends after a change of state says nothing about the new one.
    round: u64,
}

/// How a sending ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With an answer, whatever its status.
    Answered,
    /// Without one.
    Failed,
    /// Nothing was sent after all.
    Unsent,
}

/// A change of state that people should hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was closed.
    Opened { open_for: Duration },
    /// It was half-open.
    Reopened { open_for: Duration },
    /// The target answers again.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        /// In a row.
        failures: u32,
    },
    Open {
        until: Instant,
    },
    HalfOpen {
        since: Instant,
        under_way: u32,
        answered: u32,
    },
}

/// The breaker of one target.
#[derive(Debug)]
pub(crate) struct Breaker {
    settings: BreakerSettings,
    state: State,
    round: u64,
    /// Openings since it was closed: each doubles the time.
    openings: u32,
    chance: fastrand::Rng,
}

impl Breaker {
    /// Closed.
    pub(crate) fn new(settings: BreakerSettings, chance: fastrand::Rng) -> Breaker {
        Breaker {
            settings,
            state: State::Closed { failures: 0 },
            round: 0,
            openings: 0,
            chance,
        }
    }

    /// True where [`Breaker::leave`] would be given now.
    pub(crate) fn admits(&mut self, now: Instant, is_safe: bool) -> bool {
        if let State::Open { until } = self.state
            && now >= until
        {
            self.turn(State::HalfOpen {
                since: now,
                under_way: 0,
                answered: 0,
            });
        }
        match self.state {
            State::Closed { .. } => true,
            State::Open { .. } => false,
            State::HalfOpen {
                since,
                under_way,
                answered,
            } => {
                // To a target that gets no safe requests an unsafe one has to go first, or nothing would ever again.
                let is_due = is_safe || now - since >= self.settings.open_for;
                is_due && under_way + answered < self.settings.probes.get()
            }
        }
    }

    /// Leave to send a request now, or none.
    pub(crate) fn leave(&mut self, now: Instant, is_safe: bool) -> Option<Leave> {
        if !self.admits(now, is_safe) {
            return None;
        }
        if let State::HalfOpen { under_way, .. } = &mut self.state {
            *under_way += 1;
        }
        Some(Leave { round: self.round })
    }

    /// True where a request that got leave, and was not sent yet, must not be any more.
    pub(crate) fn revokes(&self, leave: Leave) -> bool {
        leave.round != self.round && !matches!(self.state, State::Closed { .. })
    }

    /// A request that got leave has ended.
    pub(crate) fn ended(&mut self, leave: Leave, ended: Ended, now: Instant) -> Option<Change> {
        if leave.round != self.round {
            return None;
        }
        match (&mut self.state, ended) {
            (State::Closed { failures }, Ended::Answered) => *failures = 0,
            (State::Closed { failures }, Ended::Failed) => {
                *failures += 1;
                if *failures >= self.settings.failures.get() {
                    let open_for = self.open(now);
                    return Some(Change::Opened { open_for });
                }
            }
            (State::HalfOpen { .. }, Ended::Failed) => {
                let open_for = self.open(now);
                return Some(Change::Reopened { open_for });
            }
            (
                State::HalfOpen {
                    under_way,
                    answered,
                    ..
                },
                ended,
            ) => {
                *under_way -= 1;
                *answered += u32::from(ended == Ended::Answered);
                if *answered >= self.settings.probes.get() {
                    self.turn(State::Closed { failures: 0 });
                    // Else a target that fails now and then would be left alone for ever longer.
                    self.openings = 0;
                    return Some(Change::Closed);
                }
            }
            // An open one gives no leave, and what got it before belongs to another round.
            (State::Closed { .. }, Ended::Unsent) | (State::Open { .. }, _) => {}
        }
        None
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.round += 1;
    }

    fn open(&mut self, now: Instant) -> Duration {
        let doubled = 1_u32.checked_shl(self.openings).unwrap_or(u32::MAX);
        let longest = self.settings.open_for.saturating_mul(doubled);
        let longest = longest.min(self.settings.max_open);
        let open_for = longest.mul_f64(1.0 - JITTER * self.chance.f64());
        self.openings = self.openings.saturating_add(1);
        self.turn(State::Open {
            until: now + open_for,
        });
        open_for
    }
}

#[cfg(test)]
mod tests;
