//! A node's memory for exchanges that others send to it.
//!
//! What enters: claims for exchanges, as their bytes arrive. What leaves: the same room again, when a claim is
//! dropped. What may be lost: nothing; whoever finds no room waits, and with it its sender.
//!
//! One rule keeps those that wait from waiting for each other: who has a part of an exchange and finds no room for
//! the rest may go past the budget, one at a time and for this one exchange. So all memory is at most the budget and
//! one exchange more.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory in KiB, shared by all streams of a node.
#[derive(Debug, Clone)]
pub struct Budget {
    room: Arc<Semaphore>,
    /// Has one permit: to go past the room.
    excess: Arc<Semaphore>,
    most: usize,
}

/// Room for exchanges, given back when it is dropped.
#[derive(Debug, Default)]
pub struct Claim {
    room: Option<OwnedSemaphorePermit>,
    excess: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Budget {
        let most = (bytes / 1024).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Budget {
            room: Arc::new(Semaphore::new(most)),
            excess: Arc::new(Semaphore::new(1)),
            most,
        }
    }

    /// KiB for an exchange of that size. One larger than the whole budget goes alone.
    fn cost(&self, size: usize) -> usize {
        size.div_ceil(1024).min(self.most)
    }

    /// Waits for room for an exchange of that size.
    #[cfg(test)]
    pub(crate) async fn claim(&self, size: usize) -> Claim {
        let mut claim = Claim::default();
        self.grow(&mut claim, self.cost(size)).await;
        claim
    }

    /// Waits until a claim has room for an exchange of which so much has come.
    pub(crate) async fn extend(&self, claim: &mut Claim, size: usize) {
        let missing = self.cost(size).saturating_sub(claim.kib());
        self.grow(claim, missing).await;
    }

    /// Waits until a claim has room for exchanges of these sizes, and gives each its share.
    pub async fn share(
        &self,
        mut claim: Claim,
        sizes: Vec<usize>,
    ) -> impl Iterator<Item = Claim> + use<> {
        let costs: Vec<usize> = sizes.into_iter().map(|size| self.cost(size)).collect();
        let all = costs.iter().sum::<usize>().min(self.most);
        let missing = all.saturating_sub(claim.kib());
        self.grow(&mut claim, missing).await;
        let mut left = costs.len();
        costs.into_iter().map(move |cost| {
            left -= 1;
            match left {
                // With what rounding left over, and the right to go past the budget.
                0 => std::mem::take(&mut claim),
                _ => claim.split(cost),
            }
        })
    }

    async fn grow(&self, claim: &mut Claim, kib: usize) {
        if kib == 0 || claim.excess.is_some() {
            return;
        }
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        // The semaphores are never closed.
        let room = self.room.clone().acquire_many_owned(kib);
        let Some(held) = &mut claim.room else {
            claim.room = room.await.ok();
            return;
        };
        tokio::select! {
            biased;
            more = room => if let Ok(more) = more { held.merge(more) },
            excess = self.excess.clone().acquire_owned() => claim.excess = excess.ok(),
        }
    }
}

impl Claim {
    fn kib(&self) -> usize {
        self.room.as_ref().map_or(0, |room| room.num_permits())
    }

    /// Takes over what another claim on the same budget holds: dropping both as one takes the budget's lock once.
    pub fn add(&mut self, other: Claim) {
        match (&mut self.room, other.room) {
            (Some(room), Some(more)) => room.merge(more),
            (None, room) => self.room = room,
            (Some(_), None) => {}
        }
        self.excess = self.excess.take().or(other.excess);
    }

    fn split(&mut self, kib: usize) -> Claim {
        let kib = kib.min(self.kib());
        Claim {
            room: self.room.as_mut().and_then(|room| room.split(kib)),
            excess: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn waits(future: impl Future) -> bool {
        let patience = Duration::from_secs(1);
        tokio::time::timeout(patience, future).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn halves_of_exchanges_never_wait_for_each_other() {
        let budget = Budget::new(4 << 10);
        let (mut a, mut b) = (budget.claim(2 << 10).await, budget.claim(2 << 10).await);
        assert!(waits(budget.claim(1)).await);
        // The first goes past the budget, the second waits for it; nobody waits for ever.
        budget.extend(&mut a, 4 << 10).await;
        assert!(waits(budget.extend(&mut b, 3 << 10)).await);
        budget.extend(&mut a, 9 << 10).await;
        drop(a);
        budget.extend(&mut b, 4 << 10).await;
        assert!(waits(budget.claim(1)).await);
        drop(b);
        assert!(!waits(budget.claim(4 << 10)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shared_claim_comes_back_whole() {
        let budget = Budget::new(10 << 10);
        let first = budget.claim(3000).await;
        let shares: Vec<Claim> = budget.share(first, vec![1, 5000, 700]).await.collect();
        let kib: Vec<usize> = shares.iter().map(Claim::kib).collect();
        assert_eq!(kib, [1, 5, 1]);
        assert!(waits(budget.claim(4 << 10)).await);
        let mut sum = Claim::default();
        shares.into_iter().for_each(|share| sum.add(share));
        assert_eq!(sum.kib(), 7);
        drop(sum);
        assert!(!waits(budget.claim(10 << 10)).await);
        // One larger than all goes alone.
        let large = budget.claim(1 << 30).await;
        assert!(waits(budget.claim(1)).await);
        drop(large);
    }
}
