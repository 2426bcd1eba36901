//! What a relay owes a listener: an answer for each exchange that it took.
//!
//! What enters: exchanges as they are taken, and how each delivery to each target ended. What leaves: a settlement
//! once an exchange has ended for all its targets. What may be lost: nothing; a [`Job`] that is dropped without an
//! answer answers for itself, as our own fault. When the listener's stream is gone the answers have no reader: the
//! listener has the exchanges still and sends them to another relay.

use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use reprise_proto::{Budget, Claim, Outcomes, Parcel, Settlement};
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
    /// By [`Pending::id`].
    pending: HashTable<Pending>,
    keys: RandomState,
    settled: Vec<Settlement>,
}

impl Inner {
    /// False where it is pending already.
    fn insert(&mut self, pending: Pending) -> bool {
        let keys = &self.keys;
        let key = keys.hash_one(&pending.id);
        let same = |known: &Pending| known.id == pending.id;
        match self
            .pending
            .entry(key, same, |known| keys.hash_one(&known.id))
        {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(pending);
                true
            }
        }
    }

    /// A job ended, and with the last of an exchange's jobs the exchange.
    fn answer(&mut self, job: &Job, disposition: Disposition) {
        let id = &job.exchange.id;
        let key = self.keys.hash_one(id);
        let Ok(mut entry) = self.pending.find_entry(key, |pending| pending.id == *id) else {
            return;
        };
        let pending = entry.get_mut();
        let outcome = (job.target.name.clone(), disposition);
        pending.outcomes.push(outcome);
        pending.left -= 1;
        if pending.left == 0 {
            let (Pending { id, outcomes, .. }, _) = entry.remove();
            self.settled.push(Settlement { id, outcomes });
        }
    }
}

#[derive(Debug)]
struct Pending {
    id: ExchangeId,
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
        let outcomes = Outcomes::with_capacity(targets.len());
        let pending = Pending {
            id: parcel.exchange.id.clone(),
            left: targets.len(),
            outcomes,
            _claim: claim,
        };
        let mut inner = self.lock();
        if pending.left == 0 {
            let Pending { id, outcomes, .. } = pending;
            inner.settled.push(Settlement { id, outcomes });
            drop(inner);
            self.changed.notify_one();
            return Vec::new();
        }
        // The same exchange twice on one stream is a listener gone mad; the first copy's answers count.
        if !inner.insert(pending) {
            return Vec::new();
        }
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

    /// Deliveries ended.
    fn answer<'j>(&self, ended: impl Iterator<Item = (&'j Job, Disposition)> + Clone) {
        {
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            for (job, disposition) in ended.clone() {
                tally.add(&job.exchange.id.epoch, &job.target.name, disposition);
            }
        }
        let mut inner = self.lock();
        let before = inner.settled.len();
        for (job, disposition) in ended {
            inner.answer(job, disposition);
        }
        let has_settled = inner.settled.len() > before;
        drop(inner);
        if has_settled {
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

    /// Answers for all of them; neighbours of one listener at a time.
    pub(crate) fn settle_all(mut ended: Vec<(Job, Disposition)>) {
        let of_one = |(a, _): &(Job, Disposition), (b, _): &(Job, Disposition)| match (
            &a.custody, &b.custody,
        ) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        for run in ended.chunk_by_mut(of_one) {
            let Some(custody) = run.first().and_then(|(job, _)| job.custody.clone()) else {
                continue;
            };
            custody.answer(run.iter().map(|(job, disposition)| (job, *disposition)));
            run.iter_mut().for_each(|(job, _)| job.custody = None);
        }
    }

    fn answer(&mut self, disposition: Disposition) {
        if let Some(custody) = self.custody.take() {
            custody.answer(std::iter::once((&*self, disposition)));
        }
    }

    /// True for a job of that exchange for that target.
    pub(crate) fn is(&self, id: &ExchangeId, target: &TargetName) -> bool {
        self.exchange.id == *id && self.target.name == *target
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
