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

    /// A job ended, and with the last of an exchange's jobs the exchange: returns what it held.
    fn answer(&mut self, job: &Job, disposition: Disposition) -> Option<Claim> {
        let id = &job.exchange.id;
        let key = self.keys.hash_one(id);
        let found = self.pending.find_entry(key, |pending| pending.id == *id);
        let mut entry = found.ok()?;
        let pending = entry.get_mut();
        let outcome = (job.target().name.clone(), disposition);
        pending.outcomes.push(outcome);
        pending.left -= 1;
        if pending.left > 0 {
            return None;
        }
        let (ended, _) = entry.remove();
        self.settled.push(Settlement {
            id: ended.id,
            outcomes: ended.outcomes,
        });
        Some(ended.claim)
    }
}

#[derive(Debug)]
struct Pending {
    id: ExchangeId,
    /// Deliveries without an answer.
    left: usize,
    outcomes: Outcomes,
    /// Gives the memory back when the exchange is settled.
    claim: Claim,
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

    /// Takes exchanges that are for these targets: one job for each of both, in their order. Those that have no claim on
    /// the relay's memory yet, as they came from within the process, wait while that is full.
    pub(crate) async fn take(
        self: &Arc<Custody>,
        parcels: Vec<Parcel>,
        targets: &[Arc<Target>],
        now: Instant,
    ) -> Vec<Job> {
        let unclaimed = parcels.iter().filter(|parcel| parcel.claim.is_none());
        let sizes = unclaimed.map(|parcel| parcel.exchange.request.size());
        let mut claims = self.budget.share(Claim::default(), sizes.collect()).await;
        let mut jobs = Vec::with_capacity(parcels.len() * targets.len());
        let ways: Vec<Arc<Way>> = targets.iter().map(|target| self.way(target, now)).collect();
        let mut inner = self.lock();
        for parcel in parcels {
            let claim = parcel.claim.or_else(|| claims.next());
            let pending = Pending {
                id: parcel.exchange.id.clone(),
                left: targets.len(),
                outcomes: Outcomes::with_capacity(targets.len()),
                claim: claim.unwrap_or_default(),
            };
            if targets.is_empty() {
                let Pending { id, outcomes, .. } = pending;
                inner.settled.push(Settlement { id, outcomes });
                continue;
            }
            // The same exchange twice on one stream is a listener gone mad; the first copy's answers count.
            if !inner.insert(pending) {
                continue;
            }
            let size = parcel.exchange.request.size();
            jobs.extend(ways.iter().map(|way| Job {
                exchange: parcel.exchange.clone(),
                way: way.clone(),
                size,
                session: 0,
                resent: parcel.resent,
                is_answered: false,
            }));
        }
        drop(inner);
        if targets.is_empty() {
            self.changed.notify_one();
        }
        jobs
    }

    fn way(self: &Arc<Custody>, target: &Arc<Target>, since: Instant) -> Arc<Way> {
        Arc::new(Way {
            custody: self.clone(),
            target: target.clone(),
            since,
        })
    }

    /// Deliveries ended.
    fn answer<'j>(&self, ended: impl Iterator<Item = (&'j Job, Disposition)> + Clone) {
        {
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            for (job, disposition) in ended.clone() {
                tally.add(&job.exchange.id.epoch, &job.target().name, disposition);
            }
        }
        let mut inner = self.lock();
        let before = inner.settled.len();
        let mut free = Claim::default();
        for (job, disposition) in ended {
            if let Some(claim) = inner.answer(job, disposition) {
                free.add(claim);
            }
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

/// What the jobs of a batch for one target have in common, so that each counts up one reference and not one for all of it.
#[derive(Debug)]
struct Way {
    custody: Arc<Custody>,
    target: Arc<Target>,
    /// When the batch came here.
    since: Instant,
}

/// One exchange on its way to one target.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) exchange: Arc<Exchange>,
    way: Arc<Way>,
    /// Bytes of the exchange: it is asked for them on threads that have no use for the rest of it.
    size: usize,
    /// Hash of the session key.
    pub(crate) session: u64,
    /// An earlier copy may have reached a replayer: when the listener first sent it, so long before it came here.
    pub(crate) resent: Option<Duration>,
    is_answered: bool,
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
        let of_one = |(a, _): &(Job, Disposition), (b, _): &(Job, Disposition)| {
            Arc::ptr_eq(&a.way.custody, &b.way.custody)
        };
        for run in ended.chunk_by_mut(of_one) {
            if let Some((first, _)) = run.first() {
                let ended = run.iter().map(|(job, disposition)| (job, *disposition));
                first.way.custody.answer(ended);
            }
            run.iter_mut().for_each(|(job, _)| job.is_answered = true);
        }
    }

    fn answer(&mut self, disposition: Disposition) {
        if !std::mem::replace(&mut self.is_answered, true) {
            let ended = std::iter::once((&*self, disposition));
            self.way.custody.answer(ended);
        }
    }

    pub(crate) fn target(&self) -> &Target {
        &self.way.target
    }

    /// When it came here.
    pub(crate) fn since(&self) -> Instant {
        self.way.since
    }

    /// True for a job of that exchange for that target.
    pub(crate) fn is(&self, id: &ExchangeId, target: &TargetName) -> bool {
        self.exchange.id == *id && self.target().name == *target
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since()) > self.target().document.max_age
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.answer(Disposition::Failed(Fault::Ours));
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
            .take(vec![parcel(5)], &targets, Instant::now())
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
    async fn answers_given_together_are_each_given_and_booked_once() {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let custody = || Custody::new(Budget::new(1 << 20), tally.clone());
        let (first, second) = (custody(), custody());
        let targets = [target("t/a")];
        let mut ended = Vec::new();
        for (custody, sequence) in [(&first, 1), (&first, 2), (&second, 3), (&first, 4)] {
            let parcels = vec![parcel(sequence)];
            let jobs = custody.take(parcels, &targets, Instant::now()).await;
            ended.extend(
                jobs.into_iter()
                    .map(|job| (job, Disposition::Replayed(200))),
            );
        }
        Job::settle_all(ended);
        for (custody, expected) in [(first, vec![1, 2, 4]), (second, vec![3])] {
            let (settled, left) = custody.take_settled();
            let settled: Vec<u64> = settled.iter().map(|end| end.id.sequence).collect();
            assert_eq!((settled, left), (expected, 0));
        }
        let booked = &tally.lock().unwrap().reports()[0].targets["t/a"];
        assert_eq!((booked.replayed[&200], booked.total()), (4, 4));
    }

    #[tokio::test]
    async fn without_targets_it_is_settled_at_once() {
        let custody = Custody::new(Budget::new(1 << 20), Arc::default());
        assert!(
            custody
                .take(vec![parcel(1)], &[], Instant::now())
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
            .take(vec![parcel(1)], &targets, Instant::now())
            .await;
        let second = custody.take(vec![parcel(2)], &targets, Instant::now());
        assert!(
            tokio::time::timeout(Duration::from_secs(1), second)
                .await
                .is_err()
        );
        drop(jobs);
        assert_eq!(
            custody
                .take(vec![parcel(2)], &targets, Instant::now())
                .await
                .len(),
            1
        );
    }
}
