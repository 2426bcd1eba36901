//! The bytes that all parts of a listener may hold together.
//!
//! What enters: bytes that a part begins to hold, and bytes that it lets go. What leaves: how many all hold, and
//! whether there is room for more. What may be lost: nothing here; a part that is refused counts what it drops.
//!
//! One bound for all, because a bound for each would have to be a fraction of what the host can spare, and the part
//! that needs it is never the one that has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use reprise_node::config::ByteSize;

/// Resident memory of a listener that holds no request: the pages of the binary and of its libraries that are in use,
/// the runtime, thread stacks, the buffers of one stream to a relay, and what the allocator needs besides what it is
/// asked for. Measured on x86-64 (docs/production.md): 14 MiB idle, 16 MiB while it ships, 19 MiB with a full budget.
pub const LISTENER: ByteSize = ByteSize::mib(20);

/// The same of `reprise run`, which has a relay, a replayer and its connections to targets besides.
pub const RUN: ByteSize = ByteSize::mib(32);

/// A budget under this would drop what every site sends.
const LEAST: ByteSize = ByteSize::mib(4);

/// Bytes held by several parts on several threads, and their bound.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// Nothing held, of `limit` bytes.
    pub fn new(limit: usize) -> Budget {
        Budget {
            limit,
            used: AtomicUsize::new(0),
        }
    }

    /// Counts bytes that are held already. Whoever calls this looks at [`Budget::is_over`] and lets something go.
    pub fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that are to be held. False where they would go over the bound; then nothing was counted.
    #[must_use]
    pub fn try_take(&self, bytes: usize) -> bool {
        self.take_if(bytes, |used| {
            used.checked_add(bytes).is_some_and(|sum| sum <= self.limit)
        })
    }

    /// Counts bytes that move from one part to another, of which the first will let go in a moment. False only where
    /// all together are over the bound before that: bytes that stand in both accounts for an instant are no reason to
    /// drop a request. So the bound may be passed by what moves at the same time, one request a thread.
    #[must_use]
    pub fn take_moved(&self, bytes: usize) -> bool {
        self.take_if(bytes, |used| used <= self.limit)
    }

    fn take_if(&self, bytes: usize, fits: impl Fn(usize) -> bool) -> bool {
        // Nothing else is published by these counters, so no ordering is needed.
        let add = |used: usize| fits(used).then(|| used.saturating_add(bytes));
        let changed = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        changed.is_ok()
    }

    /// Counts bytes that are held no longer.
    pub fn give(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(
            before >= bytes,
            "gives {bytes} bytes of {before} that are held"
        );
    }

    /// Bytes that stay counted, as they are already, until nobody has them any more.
    #[must_use]
    pub fn hold(self: &Arc<Budget>, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held {
            bytes,
            budget: self.clone(),
        })
    }

    /// Bytes that are held.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The bound.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// True where more is held than should be.
    pub fn is_over(&self) -> bool {
        self.used() > self.limit
    }
}

struct Held {
    bytes: Bytes,
    budget: Arc<Budget>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give(self.bytes.len());
    }
}

/// What the memory of a process has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Resident memory of the process, all in all.
    pub memory: ByteSize,
    /// Of that the process itself: [`LISTENER`] or [`RUN`].
    pub process: ByteSize,
    /// Of that the rings of all captures, which the kernel maps into the process.
    pub rings: ByteSize,
    /// The largest request has to fit into the rest.
    pub max_exchange: ByteSize,
}

/// A plan that doesn't work out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing is left for requests.
    #[error(
        "memory {} is too small: the process takes {}, the packet rings {}, and requests need {LEAST}: \
         set memory to {least} or more, or a smaller ring", .plan.memory, .plan.process, .plan.rings
    )]
    TooSmall {
        /// Which.
        plan: Plan,
        /// The smallest memory that would do.
        least: ByteSize,
    },
    /// The largest request could never be captured.
    #[error(
        "max_exchange {} does not fit into the {rest} that memory {} leaves for requests: \
         set memory to {least} or more, or a smaller max_exchange", .plan.max_exchange, .plan.memory
    )]
    TooLarge {
        /// Which.
        plan: Plan,
        /// What is left for requests.
        rest: ByteSize,
        /// The smallest memory that would do.
        least: ByteSize,
    },
}

impl Plan {
    /// Bytes that are left for requests.
    ///
    /// # Errors
    /// When they are too few.
    pub fn budget(&self) -> Result<usize, PlanError> {
        let plan = *self;
        let fixed = self.process.0.saturating_add(self.rings.0);
        let with = |needed: ByteSize| ByteSize(fixed.saturating_add(needed.0));
        let rest = ByteSize(self.memory.0.saturating_sub(fixed));
        if rest < LEAST {
            let least = with(LEAST);
            return Err(PlanError::TooSmall { plan, least });
        }
        if rest < self.max_exchange {
            let least = with(self.max_exchange);
            return Err(PlanError::TooLarge { plan, rest, least });
        }
        Ok(rest.as_usize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_there_is() {
        let budget = Budget::new(100);
        assert!(budget.try_take(60) && !budget.try_take(41) && budget.try_take(40));
        assert!(!budget.is_over() && !budget.try_take(1) && !budget.try_take(usize::MAX));
        budget.give(100);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn bytes_that_move_are_not_refused_for_being_counted_twice() {
        let budget = Budget::new(100);
        budget.take(90);
        assert!(budget.take_moved(90));
        assert!(budget.is_over() && !budget.take_moved(1));
        budget.give(90);
        assert_eq!((budget.used(), budget.is_over()), (90, false));
    }

    #[test]
    fn threads_together_keep_the_bound() {
        let budget = Budget::new(1000);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| budget.try_take(3)).count()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!((taken, budget.used()), (333, 999));
    }

    #[test]
    fn the_rest_is_for_requests() {
        let plan = Plan {
            memory: ByteSize::mib(64),
            process: ByteSize::mib(16),
            rings: ByteSize::mib(16),
            max_exchange: ByteSize::mib(32),
        };
        assert_eq!(plan.budget(), Ok(32 << 20));
        let small = Plan {
            memory: ByteSize::mib(35),
            ..plan
        };
        assert_eq!(
            small.budget().unwrap_err().to_string(),
            "memory 35MiB is too small: the process takes 16MiB, the packet rings 16MiB, and requests need 4MiB: \
             set memory to 36MiB or more, or a smaller ring"
        );
        let tight = Plan {
            memory: ByteSize::mib(40),
            ..plan
        };
        assert_eq!(
            tight.budget().unwrap_err().to_string(),
            "max_exchange 32MiB does not fit into the 8MiB that memory 40MiB leaves for requests: \
             set memory to 64MiB or more, or a smaller max_exchange"
        );
    }
}
