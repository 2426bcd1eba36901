//! Takes parcels from relays: each delivery once, whatever is sent again.
//!
//! What enters: batches and target documents on one stream for each relay. What leaves: jobs and ends of connections
//! for the targets' runners, and an answer for each parcel. What may be lost: nothing; a parcel for a target that
//! nobody described, or that comes while we leave, is given back untouched.

use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use futures_util::future::join_all;
use reprise_proto::{
    Batch, Delivery, Downstream, Inlet, Item, LinkError, Notice, Parcel, Settlement, Upstream,
    in_order,
};
use reprise_traffic::ledger::Tally;
use reprise_traffic::{Disposition, Epoch, ExchangeId, Measured, Target, TargetName};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, info_span, warn};

use crate::clock::{Clock, Look};
use crate::dedup::{OUT_OF_REACH, SETTLED_BEFORE, Seen, Windows};
use crate::metrics::Metrics;
use crate::outbox::{Outbox, Reply};
use crate::replayed::Tap;
use crate::runner::{Ended, Job, Runner};
use crate::schedule::Schedule;
use crate::sessions::Room;

/// What all streams share.
pub(crate) struct Desk {
    inner: Mutex<Inner>,
    tally: Arc<Mutex<Tally>>,
    metrics: Metrics,
    schedule: Schedule,
    clock: Clock,
    room: Room,
    /// Gets answers to replays.
    tap: Option<Tap>,
    /// Streams so far, to tell relays apart.
    streams: AtomicU64,
    leaving: CancellationToken,
}

#[derive(Default)]
struct Inner {
    windows: Windows,
    runners: HashMap<TargetName, Arc<Runner<Ticket>>>,
    /// What each connected relay routes to.
    described: HashMap<u64, HashSet<TargetName>>,
    /// Copies that wait for the end of the first.
    copies: HashMap<Delivery, Vec<Reply>>,
}

/// Jobs of one target.
struct Group {
    runner: Arc<Runner<Ticket>>,
    jobs: Vec<Job<Ticket>>,
}

/// Whom to answer when a job ends.
#[derive(Debug)]
struct Ticket {
    target: TargetName,
    reply: Reply,
}

impl Desk {
    pub(crate) fn new(
        tally: Arc<Mutex<Tally>>,
        metrics: Metrics,
        schedule: Schedule,
        room: Room,
        tap: Option<Tap>,
        leaving: CancellationToken,
    ) -> Desk {
        Desk {
            inner: Mutex::default(),
            tally,
            metrics,
            schedule,
            clock: Clock::new(),
            room,
            tap,
            streams: AtomicU64::new(0),
            leaving,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a relay until it closes its side and has all its answers.
    #[tracing::instrument(name = "relay", skip_all, fields(node = inlet.hello.node))]
    pub(crate) async fn serve(self: Arc<Desk>, inlet: Inlet) {
        let Inlet {
            hello,
            peer,
            mut down,
            up,
        } = inlet;
        info!(version = hello.version, peer, "relay connected");
        let relay = self.streams.fetch_add(1, Ordering::Relaxed);
        let outbox = Arc::new(Outbox::default());
        let input_ended = CancellationToken::new();
        let sending = outbox
            .clone()
            .send(up.clone(), input_ended.clone(), self.leaving.clone());
        let sender = tokio::spawn(sending);
        let measuring = hello.measures.then(|| {
            let telling = self.clone().tell(relay, up.clone());
            tokio::spawn(input_ended.clone().run_until_cancelled_owned(telling))
        });
        loop {
            match down.recv().await {
                Some(Ok(Downstream::Targets(targets))) => {
                    self.learn(relay, &targets);
                    if measuring.is_some() {
                        self.described_by(relay)
                            .for_each(|(_, runner)| runner.measures().want());
                    }
                }
                Some(Ok(Downstream::Batch(batch))) => {
                    let accepted = Upstream::Accepted(batch.id);
                    let taken = info_span!("batch", id = batch.id, parcels = batch.parcels.len())
                        .in_scope(|| self.take(batch, &outbox));
                    if let Err(error) = taken {
                        warn!("closing a relay's stream: {error}");
                        break sender.abort();
                    }
                    if up.send(accepted).await.is_err() {
                        break;
                    }
                }
                Some(Err(error)) => {
                    warn!("lost a relay: {error}");
                    break sender.abort();
                }
                None => break,
            }
        }
        let described: Vec<_> = self.described_by(relay).collect();
        self.lock().described.remove(&relay);
        input_ended.cancel();
        if let Err(error) = sender.await
            && !error.is_cancelled()
        {
            warn!(%error, "the writer of a relay's answers failed");
        }
        if measuring.is_some() {
            // A relay that is gone has no use for it.
            let _ = up.send(Upstream::Measured(measured(described))).await;
        }
    }

    /// The targets that a relay routes to.
    fn described_by(
        &self,
        relay: u64,
    ) -> impl Iterator<Item = (TargetName, Arc<Runner<Ticket>>)> + use<> {
        let inner = self.lock();
        let names = inner.described.get(&relay).into_iter().flatten();
        let runners =
            names.filter_map(|name| Some((name.clone(), inner.runners.get(name)?.clone())));
        runners.collect::<Vec<_>>().into_iter()
    }

    /// Tells a relay now and then what was measured of its targets.
    async fn tell(self: Arc<Desk>, relay: u64, up: mpsc::Sender<Upstream>) {
        let mut ticks = tokio::time::interval(TELL_EVERY);
        loop {
            ticks.tick().await;
            let measured = measured(self.described_by(relay));
            if !measured.is_empty() && up.send(Upstream::Measured(measured)).await.is_err() {
                return;
            }
        }
    }

    /// Targets as a relay describes them: all that it routes to. One that no relay routes to any more was deleted.
    fn learn(&self, relay: u64, targets: &[Arc<Target>]) {
        let names: HashSet<TargetName> = targets.iter().map(|t| t.name.clone()).collect();
        let mut unknown = Vec::new();
        {
            let mut inner = self.lock();
            for target in targets {
                match inner.runners.get(&target.name) {
                    Some(runner) => runner.update(target),
                    None => unknown.push(target),
                }
            }
            inner.described.insert(relay, names);
            let Inner {
                runners, described, ..
            } = &mut *inner;
            runners.retain(|name, runner| {
                let routed_to = described.values().any(|names| names.contains(name));
                if !routed_to {
                    info!(target = %name, "target was deleted");
                    runner.retire();
                }
                routed_to
            });
        }
        // A client reads files: not under the lock that every answer takes.
        for target in unknown {
            let meters = self.metrics.of(&target.name);
            let runner = Arc::new(Runner::new(
                target.clone(),
                self.room,
                meters,
                self.tap.clone(),
            ));
            match self.lock().runners.entry(target.name.clone()) {
                Entry::Vacant(place) => drop(place.insert(runner)),
                // Another relay was faster, maybe with an older document.
                Entry::Occupied(known) => known.get().update(target),
            }
        }
    }

    /// Takes a batch.
    ///
    /// # Errors
    /// When a parcel is not for one target, which no relay sends.
    fn take(self: &Arc<Desk>, batch: Batch, outbox: &Arc<Outbox>) -> Result<(), LinkError> {
        if let Some(stray) = batch.parcels.iter().find(|parcel| parcel.target.is_none()) {
            let id = &stray.exchange.id;
            return Err(LinkError::Protocol(format!("parcel {id} is for no target")));
        }
        let look = self.clock.look();
        for item in in_order(batch.parcels, batch.closed) {
            match item {
                Item::Closed(notice) => self.close(&notice, look),
                Item::Parcels(parcels) => {
                    let groups = self.begin(parcels, &batch.settled_below, look, outbox);
                    groups.into_iter().for_each(|group| self.submit(group));
                }
            }
        }
        Ok(())
    }

    /// A connection ended. One of a target that nobody described has none here.
    fn close(&self, notice: &Notice, look: Look) {
        let target = notice.target.as_ref();
        let Some(runner) = target.and_then(|name| self.lock().runners.get(name).cloned()) else {
            return;
        };
        let closed = &notice.closed;
        let due = closed.due_ns.or_else(|| runner.due_ns(closed.closed_ns));
        let due = due.map(|due| look.instant_of(due));
        runner.close(closed, due, &self.schedule);
    }

    /// Hands jobs to their target's runner.
    fn submit(self: &Arc<Desk>, Group { runner, jobs }: Group) {
        if runner.does_nothing() && jobs.iter().all(|job| !job.is_scheduled) {
            return self.end(jobs.into_iter().map(|job| runner.do_nothing(job)).collect());
        }
        for job in jobs {
            let desk = self.clone();
            let end = move |ended| desk.end(vec![ended]);
            runner.submit(job, &self.schedule, end);
        }
    }

    /// Answers what is not to be attempted, or not again. The rest is begun: in order, neighbours of one target together.
    fn begin(
        &self,
        parcels: Vec<Parcel>,
        marks: &[(Arc<Epoch>, u64)],
        look: Look,
        outbox: &Arc<Outbox>,
    ) -> Vec<Group> {
        let replies = outbox.owe(parcels.len());
        let mut groups: Vec<Group> = Vec::new();
        let mut inner = self.lock();
        for (parcel, reply) in parcels.into_iter().zip(replies) {
            let (exchange, resent) = (parcel.exchange, parcel.resent);
            let Some(target) = parcel.target else {
                continue;
            };
            let id = &exchange.id;
            let mark = mark_of(marks, id);
            let in_doubt = resent.is_some() && !exchange.request.head.is_safe();
            match inner.windows.begin(id, &target, mark, look.now) {
                // Its first copy is not here. It may be on its way to here, and must not be sent then, or have gone to
                // another replayer.
                Seen::Never if in_doubt => {
                    inner.windows.end(id, &target, Some(Disposition::Unknown));
                    reply.settle(id, target, Disposition::Unknown);
                }
                Seen::Never => {
                    let Some(group) = self.group_of(&inner, &mut groups, &target) else {
                        inner.windows.end(id, &target, None);
                        let id = id.clone();
                        reply.give_back(Delivery { id, target });
                        continue;
                    };
                    let due = exchange
                        .due_ns
                        .or_else(|| group.runner.due_ns(exchange.request.captured_ns));
                    group.jobs.push(Job {
                        since: due.map_or(look.now, |due| look.instant_of(due)),
                        is_scheduled: due.is_some(),
                        exchange,
                        ticket: Ticket { target, reply },
                    });
                }
                Seen::InFlight => {
                    let id = id.clone();
                    let delivery = Delivery { id, target };
                    inner.copies.entry(delivery).or_default().push(reply);
                }
                Seen::Ended(disposition) => reply.settle(id, target, disposition),
                Seen::Settled => reply.settle(id, target, SETTLED_BEFORE),
                Seen::OutOfReach => reply.settle(id, target, OUT_OF_REACH),
            }
        }
        groups
    }

    /// The last group where that is the target's, or else a new one. `None`: nobody described the target, or we leave.
    fn group_of<'g>(
        &self,
        inner: &Inner,
        groups: &'g mut Vec<Group>,
        target: &TargetName,
    ) -> Option<&'g mut Group> {
        if self.leaving.is_cancelled() {
            return None;
        }
        let is_same = |group: &Group| {
            group
                .jobs
                .first()
                .is_some_and(|job| job.ticket.target == *target)
        };
        if !groups.last().is_some_and(is_same) {
            let runner = inner.runners.get(target)?.clone();
            let jobs = Vec::new();
            groups.push(Group { runner, jobs });
        }
        groups.last_mut()
    }

    /// Deliveries ended: books them, and answers all who wait for them.
    fn end(&self, ended: Vec<Ended<Ticket>>) {
        {
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            for end in &ended {
                let epoch = &end.exchange.id.epoch;
                tally.add(epoch, &end.ticket.target, end.disposition);
            }
        }
        let mut copies = Vec::new();
        {
            let mut inner = self.lock();
            for end in &ended {
                let (id, target) = (&end.exchange.id, &end.ticket.target);
                inner.windows.end(id, target, Some(end.disposition));
                if inner.copies.is_empty() {
                    continue;
                }
                let (id, target) = (id.clone(), target.clone());
                let delivery = Delivery { id, target };
                if let Some(replies) = inner.copies.remove(&delivery) {
                    copies.push((replies, delivery, end.disposition));
                }
            }
        }
        for (replies, Delivery { id, target }, disposition) in copies {
            for reply in replies {
                reply.settle(&id, target.clone(), disposition);
            }
        }
        Reply::settle_all(ended.into_iter().map(|end| {
            let Ticket { target, reply } = end.ticket;
            let settlement = Settlement {
                id: end.exchange.id.clone(),
                outcomes: [(target, end.disposition)].into(),
            };
            (reply, settlement)
        }));
    }

    /// Forgets listeners that have been silent for long. To be called now and then.
    pub(crate) fn forget_silent(&self) {
        self.lock().windows.forget_silent(Instant::now());
    }

    /// Nothing more is to be waited for.
    pub(crate) fn hurry(&self) {
        let runners: Vec<_> = self.lock().runners.values().cloned().collect();
        runners.iter().for_each(|runner| runner.hurry());
    }

    /// Jobs under way, and jobs that wait behind them.
    pub(crate) fn load(&self) -> (usize, usize) {
        let runners: Vec<_> = self.lock().runners.values().cloned().collect();
        runners
            .iter()
            .map(|runner| runner.load())
            .fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    }

    /// Waits until all documents about replays are sent, and gives up what is left then.
    pub(crate) async fn close_documents(&self, patience: Duration) {
        let runners: Vec<_> = self.lock().runners.values().cloned().collect();
        let closing = runners
            .iter()
            .map(|runner| runner.close_documents(patience));
        join_all(closing).await;
    }
}

/// Below which number all exchanges of an epoch are settled.
fn mark_of(settled_below: &[(Arc<Epoch>, u64)], id: &ExchangeId) -> u64 {
    let mark = settled_below.iter().find(|(epoch, _)| *epoch == id.epoch);
    mark.map_or(0, |(_, below)| *below)
}

/// Between two words of what was measured.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What was measured since the last time, of targets of which something was.
fn measured(
    runners: impl IntoIterator<Item = (TargetName, Arc<Runner<Ticket>>)>,
) -> Vec<(TargetName, Measured)> {
    let measured = runners
        .into_iter()
        .map(|(name, runner)| (name, runner.measures().take()));
    measured
        .filter(|(_, measured)| !measured.is_empty())
        .collect()
}

#[cfg(test)]
mod tests;
