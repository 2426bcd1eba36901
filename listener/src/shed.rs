//! Which sessions are captured while not all can be.
//!
//! What enters: a client's address; how full the budget is; the share that the CPU limit leaves ([`crate::governor`]).
//! What leaves: whether its connection is turned away, and why. What may be lost: whole sessions, chosen by a hash
//! that nobody outside knows; whoever asks counts each of their requests.
//!
//! A connection's requests are kept or left out together, because half a session is of no use to a replay. The share
//! goes down at once, in steps, as the budget fills, and comes back slowly when it has emptied.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::budget::Budget;
use crate::http::Skip;

/// A share of all sessions: this many of this many.
const ALL: u32 = 1 << 16;

/// Over this part of the budget, in percent, sessions are shed …
const HIGH: usize = 90;
/// … and at this all are: what is left is for requests that are under way.
const BRIM: usize = 99;
/// Under this part more sessions are captured again. The way back from [`HIGH`] is long so that the share rests.
const LOW: usize = 60;
/// From 100 % to nothing in so many steps.
const STEPS: usize = 16;
/// Back from nothing to 100 % in so many calls of [`Shed::recover`].
const CALLS: u32 = 4;

/// Decides for each connection.
#[derive(Debug)]
pub struct Shed {
    budget: Arc<Budget>,
    /// Of this process alone: a client can't choose its port so that it is always, or never, captured.
    seed: RandomState,
    memory: AtomicU32,
    cpu: AtomicU32,
}

/// Shares of sessions that are captured, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// As far as memory goes.
    pub memory: f64,
    /// As far as the CPU limit goes.
    pub cpu: f64,
}

impl Shares {
    /// The share that is captured in fact.
    pub fn both(self) -> f64 {
        self.memory.min(self.cpu)
    }
}

impl Shed {
    /// Captures all sessions until something is short.
    pub fn new(budget: Arc<Budget>) -> Shed {
        Shed {
            budget,
            seed: RandomState::new(),
            memory: AtomicU32::new(ALL),
            cpu: AtomicU32::new(ALL),
        }
    }

    /// Why this client's connection is left out now; `None` where it is captured. Ask once for each request, with the
    /// address of the connection's client in both directions, and count the answer.
    pub fn turned_away(&self, client: SocketAddr) -> Option<Skip> {
        let memory = self.relieve();
        let cpu = self.cpu.load(Ordering::Relaxed);
        if memory.min(cpu) >= ALL {
            return None;
        }
        let place = self.seed.hash_one(client) as u32 % ALL;
        // Where both are short, memory is what would have lost it in any case.
        if place >= memory {
            Some(Skip::ShedMemory)
        } else if place >= cpu {
            Some(Skip::ShedCpu)
        } else {
            None
        }
    }

    /// The shares now.
    pub fn shares(&self) -> Shares {
        let ratio = |share: &AtomicU32| f64::from(share.load(Ordering::Relaxed)) / f64::from(ALL);
        Shares {
            memory: ratio(&self.memory),
            cpu: ratio(&self.cpu),
        }
    }

    /// Lets some more sessions in where the budget has room; to be called a few times a second.
    pub fn recover(&self) {
        let share = self.relieve();
        if share < ALL && self.budget.used() < part(self.budget.limit(), LOW) {
            let more = (share + ALL / CALLS).min(ALL);
            // Where somebody has lowered it in between, the next call will do.
            let _ = self
                .memory
                .compare_exchange(share, more, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Sets the share that the CPU limit leaves, 0 to 1.
    pub fn limit_cpu(&self, share: f64) {
        let share = (share.clamp(0.0, 1.0) * f64::from(ALL)).round() as u32;
        self.cpu.store(share, Ordering::Relaxed);
    }

    /// Lowers the share to what the budget's level allows. Not left to a clock: at full load the last fifth of a
    /// budget fills within a tenth of a second.
    fn relieve(&self) -> u32 {
        let share = self.memory.load(Ordering::Relaxed);
        let (used, limit) = (self.budget.used(), self.budget.limit());
        if used <= part(limit, HIGH) {
            return share;
        }
        let ceiling = ceiling(used, limit);
        if ceiling < share {
            self.memory.fetch_min(ceiling, Ordering::Relaxed);
        }
        share.min(ceiling)
    }
}

/// The largest share at a level over [`HIGH`].
fn ceiling(used: usize, limit: usize) -> u32 {
    let (high, brim) = (part(limit, HIGH), part(limit, BRIM));
    let left = brim.saturating_sub(used) as u128;
    let steps = left * STEPS as u128 / (brim - high).max(1) as u128;
    ALL / STEPS as u32 * steps.min(STEPS as u128) as u32
}

fn part(limit: usize, percent: usize) -> usize {
    // In this order a limit of usize::MAX does no harm.
    limit / 100 * percent
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1_000_000;

    fn shed() -> (Arc<Budget>, Shed) {
        let budget = Arc::new(Budget::new(LIMIT));
        (budget.clone(), Shed::new(budget))
    }

    fn clients() -> impl Iterator<Item = SocketAddr> {
        (1024..5120_u16).map(|port| ([10, 0, 0, 1], port).into())
    }

    fn captured(shed: &Shed) -> Vec<SocketAddr> {
        let kept = clients().filter(|client| shed.turned_away(*client).is_none());
        kept.collect()
    }

    #[test]
    fn with_room_nobody_is_turned_away() {
        let (budget, shed) = shed();
        budget.take(LIMIT / 100 * HIGH);
        assert_eq!(captured(&shed).len(), clients().count());
        assert_eq!(shed.shares().both(), 1.0);
    }

    #[test]
    fn the_share_falls_with_the_room_and_returns_slowly() {
        let (budget, shed) = shed();
        budget.take(LIMIT / 100 * HIGH);
        let mut before = captured(&shed);
        for _ in HIGH..BRIM {
            budget.take(LIMIT / 100);
            let now = captured(&shed);
            // Who is captured still was captured before: no session comes and goes.
            assert!(now.iter().all(|client| before.contains(client)));
            before = now;
        }
        assert!(before.is_empty());
        // Emptier, but not empty: the share rests.
        budget.give(LIMIT / 100 * (BRIM - LOW));
        shed.recover();
        assert_eq!(shed.shares().memory, 0.0);
        budget.give(LIMIT / 100 * 5);
        let mut calls = 0;
        while shed.shares().memory < 1.0 {
            shed.recover();
            calls += 1;
        }
        assert_eq!(calls, CALLS);
        assert_eq!(captured(&shed).len(), clients().count());
    }

    #[test]
    fn shares_are_shares_of_clients_and_each_cause_has_its_own() {
        let (budget, shed) = shed();
        shed.limit_cpu(0.25);
        let kept = captured(&shed).len() as f64 / clients().count() as f64;
        assert!((0.2..0.3).contains(&kept), "{kept}");
        let reasons: Vec<_> = clients().filter_map(|c| shed.turned_away(c)).collect();
        assert!(reasons.iter().all(|r| *r == Skip::ShedCpu));
        budget.take(LIMIT);
        let reasons: Vec<_> = clients().filter_map(|c| shed.turned_away(c)).collect();
        assert_eq!(reasons.len(), clients().count());
        assert!(reasons.iter().all(|r| *r == Skip::ShedMemory));
    }

    #[test]
    fn another_process_chooses_others() {
        let choose = || {
            let (_, shed) = shed();
            shed.limit_cpu(0.5);
            captured(&shed)
        };
        assert_ne!(choose(), choose());
    }

    proptest! {
        #[test]
        fn a_fuller_budget_never_captures_more(used in 0_usize..2 * LIMIT, more in 0_usize..LIMIT) {
            prop_assert!(ceiling(used + more, LIMIT) <= ceiling(used, LIMIT));
            prop_assert!(ceiling(used, LIMIT) <= ALL);
            prop_assert!(ceiling(used, usize::MAX) <= ALL && ceiling(used, 0) == 0);
        }
    }
}
