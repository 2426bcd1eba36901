//! What a relay owes a listener: an answer for each exchange that it took.
//!
//! What enters: exchanges as they are taken, and how each delivery to each target ended. What leaves: a settlement
//! once an exchange has ended for all its targets. What may be lost: nothing; a [`Job`] that is dropped without an
//! answer answers for itself, as our own fault. When the listener's stream is gone the answers have no reader: the
//! listener has the exchanges still and sends them to another relay.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use reprise_proto::{Budget, Claim, Delivery, Outcomes, Parcel, Settlement};
use reprise_traffic::ledger::Tally;
use reprise_traffic::{Disposition, DropReason, Exchange, ExchangeId, Fault, Target, TargetName};
use tokio::sync::Notify;

/// The exchanges of one listener's stream.
#[derive(Debug)]
pub(crate) struct Custody {
    budget: Budget,
    tally: Arc<Mutex<Tally>>,
    inner: Mutex<Inner>,
    /// Told when there are settlements to send, or none outstanding.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    pending: HashMap<ExchangeId, Pending>,
    settled: Vec<Settlement>,
}

#[derive(Debug)]
struct Pending {
    /// Deliveries without an answer.
    left: usize,
    outcomes: Outcomes,
    /// Gives the memory back when the exchange is settled.
    _claim: Claim,
}

impl Custody {
    pub(crate) fn new(budget: Budget, tally: Arc<Mutex<Tally>>) -> Arc<Custody> {
        Arc::new(Custody {
            budget,
            tally,
            inner: Mutex::default(),
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an exchange that is for these targets: one job each. One that has no claim on the relay's memory yet, as
    /// it came from within the process, waits while that is full.
    pub(crate) async fn take(
        self: &Arc<Custody>,
        parcel: Parcel,
        targets: impl ExactSizeIterator<Item = &Arc<Target>>,
        now: Instant,
    ) -> Vec<Job> {
        let size = parcel.exchange.request.size();
        let claim = match parcel.claim {
            Some(claim) => claim,
            None => self.budget.claim(size).await,
        };
        let id = parcel.exchange.id.clone();
        let outcomes = Outcomes::with_capacity(targets.len());
        let pending = Pending {
            left: targets.len(),
            outcomes,
            _claim: claim,
        };
        let mut inner = self.lock();
        if pending.left == 0 {
            inner.settled.push(Settlement {
                id,
                outcomes: Outcomes::new(),
            });
            drop(inner);
            self.changed.notify_one();
            return Vec::new();
        }
        // The same exchange twice on one stream is a listener gone mad; the first copy's answers count.
        if inner.pending.contains_key(&id) {
            return Vec::new();
        }
        inner.pending.insert(id, pending);
        drop(inner);
        targets
            .map(|target| Job {
                exchange: parcel.exchange.clone(),
                target: target.clone(),
                size,
                session: 0,
                resent: parcel.resent,
                since: now,
                custody: Some(self.clone()),
            })
            .collect()
    }

    fn answer(&self, id: &ExchangeId, target: &TargetName, disposition: Disposition) {
        {
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.add(&id.epoch, target, disposition);
        }
        let mut inner = self.lock();
        let Some(pending) = inner.pending.get_mut(id) else {
            return;
        };
        pending.outcomes.push((target.clone(), disposition));
        pending.left -= 1;
        if pending.left > 0 {
            return;
        }
        if let Some((id, pending)) = inner.pending.remove_entry(id) {
            inner.settled.push(Settlement {
                id,
                outcomes: pending.outcomes,
            });
            drop(inner);
            self.changed.notify_one();
        }
    }

    /// Settlements that were not taken yet, and how many exchanges are still to come.
    pub(crate) fn take_settled(&self) -> (Vec<Settlement>, usize) {
        // One look at both: an answer between two looks would be left behind.
        let mut inner = self.lock();
        (std::mem::take(&mut inner.settled), inner.pending.len())
    }

    /// Exchanges without an answer for all their targets.
    pub(crate) fn outstanding(&self) -> usize {
        self.lock().pending.len()
    }
}

/// One exchange on its way to one target.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) target: Arc<Target>,
    /// Bytes of the exchange: it is asked for them on threads that have no use for the rest of it.
    size: usize,
    /// Hash of the session key.
    pub(crate) session: u64,
    /// An earlier copy may have reached a replayer: when the listener first sent it, so long before it came here.
    pub(crate) resent: Option<Duration>,
    /// When it came here.
    pub(crate) since: Instant,
    /// `None` once answered.
    custody: Option<Arc<Custody>>,
}

impl Job {
    /// Answers for good.
    pub(crate) fn settle(mut self, disposition: Disposition) {
        self.answer(disposition);
    }

    /// Gives the job up for a reason of this relay's own. Where an earlier copy of an unsafe request may have
    /// reached the target, nobody can say that it was dropped.
    pub(crate) fn give_up(self, reason: DropReason) {
        let in_doubt = self.resent.is_some() && !self.exchange.request.head.is_safe();
        self.settle(match in_doubt {
            true => Disposition::Unknown,
            false => Disposition::Dropped(reason),
        });
    }

    fn answer(&mut self, disposition: Disposition) {
        if let Some(custody) = self.custody.take() {
            custody.answer(&self.exchange.id, &self.target.name, disposition);
        }
    }

    pub(crate) fn delivery(&self) -> Delivery {
        Delivery {
            id: self.exchange.id.clone(),
            target: self.target.name.clone(),
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > self.target.document.max_age
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.custody.is_some() {
            self.answer(Disposition::Failed(Fault::Ours));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{parcel, target};

    #[tokio::test]
    async fn an_exchange_is_settled_when_all_its_targets_answered() {
        let custody = Custody::new(Budget::new(1 << 20), Arc::default());
        let targets = [target("t/a"), target("t/b")];
        let mut jobs = custody
            .take(parcel(5), targets.iter(), Instant::now())
            .await;
        assert_eq!(custody.outstanding(), 1);
        jobs.remove(0).settle(Disposition::Replayed(200));
        assert!(custody.take_settled().0.is_empty());
        // A job that is forgotten answers for itself.
        drop(jobs);
        let settled = custody.take_settled().0;
        assert_eq!(settled.len(), 1);
        assert_eq!(settled[0].id.sequence, 5);
        assert_eq!(settled[0].outcomes[1].1, Disposition::Failed(Fault::Ours));
        assert_eq!(custody.outstanding(), 0);
    }

    #[tokio::test]
    async fn without_targets_it_is_settled_at_once() {
        let custody = Custody::new(Budget::new(1 << 20), Arc::default());
        assert!(
            custody
                .take(parcel(1), [].iter(), Instant::now())
                .await
                .is_empty()
        );
        assert_eq!(custody.take_settled().0.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_budget_makes_the_next_wait() {
        let custody = Custody::new(Budget::new(1024), Arc::default());
        let targets = [target("t/a")];
        let jobs = custody
            .take(parcel(1), targets.iter(), Instant::now())
            .await;
        let second = custody.take(parcel(2), targets.iter(), Instant::now());
        assert!(
            tokio::time::timeout(Duration::from_secs(1), second)
                .await
                .is_err()
        );
        drop(jobs);
        assert_eq!(
            custody
                .take(parcel(2), targets.iter(), Instant::now())
                .await
                .len(),
            1
        );
    }
}
