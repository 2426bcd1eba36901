//! One replayer as the relay sees it: what waits for it, and what is with it.
//!
//! What enters: jobs that the ring gave to this replayer, and ends of connections behind them. What leaves: parcels
//! within the replayer's credit, each target in turn so that a slow one does not hold up the others, and the ends
//! between them. What may be lost: when a target's lane is full the job is refused and its caller counts it; jobs
//! that waited too long are dropped and counted. When the stream breaks, all jobs are handed back in two heaps: those
//! never sent and those that may have arrived. Ends of connections are gone with it, and counted.
//!
//! No I/O: [`crate::pools`] drives it.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use indexmap::IndexMap;
use prometheus_client::metrics::counter::Counter;
use reprise_proto::{Delivery, Notice, Parcel, Settlement, Welcome};
use reprise_traffic::{Closed, DropReason, ExchangeId, TargetName};
use tokio::sync::Notify;

use crate::custody::Job;

/// How much a lane or a stream holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes of exchanges.
    pub bytes: usize,
    /// Exchanges.
    pub jobs: usize,
}

impl Load {
    fn add(&mut self, size: usize) {
        self.bytes += size;
        self.jobs += 1;
    }

    fn remove(&mut self, size: usize) {
        self.bytes -= size;
        self.jobs -= 1;
    }
}

/// Why a job was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The stream is down or the replayer is leaving.
    Down(Job),
    /// The target's lane is full.
    Full(Job),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    Up,
    /// Answers are still read, nothing more is sent.
    Leaving,
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Job>,
    queued_bytes: usize,
    sent: Load,
    /// Jobs that have left the queue since the lane is there.
    left: u64,
    /// Ends of connections, each behind as many jobs as have left by its turn.
    closed: VecDeque<(u64, Closed)>,
}

impl Lane {
    fn pop(&mut self) -> Option<Job> {
        let job = self.queue.pop_front()?;
        self.queued_bytes -= job.size();
        self.left += 1;
        Some(job)
    }

    fn is_unused(&self) -> bool {
        self.queue.is_empty() && self.closed.is_empty() && self.sent.jobs == 0
    }
}

/// A job that is with the replayer.
#[derive(Debug)]
struct Flight {
    job: Job,
    /// The same again, from a listener that came back: answered with the first, and not sent.
    copies: Vec<Job>,
}

/// Jobs that are with the replayer, by exchange and target: a table of its own, since the keys are in the jobs.
#[derive(Debug, Default)]
struct Flights {
    table: HashTable<Flight>,
    keys: RandomState,
}

impl Flights {
    fn get_mut(&mut self, of: &Job) -> Option<&mut Flight> {
        let (id, target) = (&of.exchange.id, &of.target().name);
        let key = self.keys.hash_one((id, target));
        self.table.find_mut(key, |flight| flight.job.is(id, target))
    }

    fn insert(&mut self, flight: Flight) {
        let keys = &self.keys;
        let key =
            |Flight { job, .. }: &Flight| keys.hash_one((&job.exchange.id, &job.target().name));
        self.table.insert_unique(key(&flight), flight, key);
    }

    fn remove(&mut self, id: &ExchangeId, target: &TargetName) -> Option<Flight> {
        let key = self.keys.hash_one((id, target));
        let found = self
            .table
            .find_entry(key, |flight| flight.job.is(id, target));
        found.ok().map(|entry| entry.remove().0)
    }
}

impl Flight {
    fn into_jobs(self) -> impl Iterator<Item = Job> {
        std::iter::once(self.job).chain(self.copies)
    }
}

#[derive(Debug)]
struct State {
    phase: Phase,
    incarnation: u64,
    credit: Load,
    sent: Load,
    lanes: IndexMap<TargetName, Lane, RandomState>,
    in_flight: Flights,
    /// Index of the lane whose turn comes next.
    turn: usize,
}

/// A replayer's queue and its jobs in flight.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) weight: u32,
    /// What may wait for one target.
    lane: Load,
    state: Mutex<State>,
    /// Ends of connections that the replayer is not told.
    closed_dropped: Counter,
    /// Told when there may be something to send.
    pub(crate) changed: Notify,
}

/// Ends of connections that wait in a lane.
const MOST_CLOSED: usize = 1 << 14;

/// What a batch is made of.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) parcels: Vec<Parcel>,
    /// Ends of connections, each behind so many of those.
    pub(crate) closed: Vec<Notice>,
    /// The parcels' part of the credit.
    load: Load,
}

impl Taken {
    pub(crate) fn is_empty(&self) -> bool {
        self.parcels.is_empty() && self.closed.is_empty()
    }

    /// True where more may wait than what was asked for.
    pub(crate) fn is_full(&self, most: Load) -> bool {
        let Load { bytes, jobs } = self.load;
        jobs.max(self.closed.len()) >= most.jobs || bytes >= most.bytes
    }
}

/// Jobs that a broken stream hands back.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    /// Never sent: certainly not delivered.
    pub(crate) unsent: Vec<Job>,
    /// May have been delivered.
    pub(crate) sent: Vec<Job>,
}

impl Link {
    pub(crate) fn new(name: String, weight: u32, lane: Load, closed_dropped: Counter) -> Link {
        let state = State {
            phase: Phase::Down,
            incarnation: 0,
            credit: Load::default(),
            sent: Load::default(),
            lanes: IndexMap::default(),
            in_flight: Flights::default(),
            turn: 0,
        };
        Link {
            name,
            weight,
            lane,
            state: Mutex::new(state),
            closed_dropped,
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.lock().phase == Phase::Up
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.lock().incarnation
    }

    /// A stream is open.
    pub(crate) fn open(&self, welcome: &Welcome) {
        let mut state = self.lock();
        state.phase = Phase::Up;
        state.incarnation = welcome.incarnation;
        state.credit = Load {
            bytes: usize::try_from(welcome.window_bytes).unwrap_or(usize::MAX),
            jobs: usize::try_from(welcome.window_exchanges).unwrap_or(usize::MAX),
        };
    }

    /// The replayer takes no more; hands back what waits.
    pub(crate) fn leave(&self) -> Vec<Job> {
        let mut state = self.lock();
        if state.phase == Phase::Up {
            state.phase = Phase::Leaving;
        }
        let unsent = self.take_queues(&mut state);
        drop(state);
        self.changed.notify_one();
        unsent
    }

    /// The stream is gone; hands everything back.
    pub(crate) fn close(&self) -> Orphans {
        let mut state = self.lock();
        state.phase = Phase::Down;
        let unsent = self.take_queues(&mut state);
        state.lanes.clear();
        state.sent = Load::default();
        let mut sent: Vec<Job> = std::mem::take(&mut state.in_flight.table)
            .into_iter()
            .flat_map(Flight::into_jobs)
            .collect();
        // A session's exchanges go on in their order, wherever they go.
        sent.sort_by_key(|job| job.exchange.id.sequence);
        Orphans { unsent, sent }
    }

    /// Queues a job.
    pub(crate) fn offer(&self, job: Job) -> Result<(), Refused> {
        self.lock().offer(job, self.lane)?;
        self.changed.notify_one();
        Ok(())
    }

    /// Queues jobs, as if one by one; returns those that were not taken.
    pub(crate) fn offer_all(&self, jobs: Vec<Job>) -> Vec<Refused> {
        let mut state = self.lock();
        let offers = jobs.into_iter().map(|job| state.offer(job, self.lane));
        let refused = offers.filter_map(Result::err).collect();
        drop(state);
        self.changed.notify_one();
        refused
    }

    /// Queues the end of a connection behind a target's jobs. False where there is no room, or the stream is down.
    pub(crate) fn offer_closed(&self, target: &TargetName, closed: Closed) -> bool {
        let mut state = self.lock();
        if state.phase != Phase::Up {
            return false;
        }
        let lane = state.lane(target);
        if lane.closed.len() >= MOST_CLOSED {
            return false;
        }
        let behind = lane.left + lane.queue.len() as u64;
        lane.closed.push_back((behind, closed));
        drop(state);
        self.changed.notify_one();
        true
    }

    /// What is next within the replayer's credit, with ends of connections as many as jobs at most. Jobs that waited too long
    /// are dropped.
    pub(crate) fn take(&self, most: Load) -> Taken {
        let mut expired = Vec::new();
        let taken = self.lock().take(most, &mut expired);
        // Answered outside the lock: an answer takes the custody's.
        for job in expired {
            job.give_up(DropReason::Expired);
        }
        taken
    }

    /// Takes out what waits for targets other than these.
    pub(crate) fn retain_targets(&self, known: impl Fn(&TargetName) -> bool) -> Vec<Job> {
        let mut state = self.lock();
        let gone = state.lanes.iter_mut().filter(|(name, _)| !known(name));
        gone.flat_map(|(_, lane)| {
            // Their connections go with the target.
            lane.closed.clear();
            lane.queued_bytes = 0;
            std::mem::take(&mut lane.queue)
        })
        .collect()
    }

    /// Takes out all that waits.
    fn take_queues(&self, state: &mut State) -> Vec<Job> {
        let mut jobs = Vec::new();
        for lane in state.lanes.values_mut() {
            lane.queued_bytes = 0;
            jobs.extend(lane.queue.drain(..));
            self.closed_dropped.inc_by(lane.closed.len() as u64);
            lane.closed.clear();
        }
        jobs
    }

    /// The replayer answered.
    pub(crate) fn settle(&self, settlements: Vec<Settlement>) {
        let mut answered = Vec::new();
        {
            let mut state = self.lock();
            for Settlement { id, outcomes } in settlements {
                for (target, disposition) in outcomes {
                    let flight = state.land(&id, &target);
                    let jobs = flight.into_iter().flat_map(Flight::into_jobs);
                    answered.extend(jobs.map(|job| (job, disposition)));
                }
            }
        }
        Job::settle_all(answered);
        self.changed.notify_one();
    }

    /// The replayer won't deliver these, and didn't.
    pub(crate) fn returned(&self, deliveries: &[Delivery]) -> Vec<Job> {
        let mut state = self.lock();
        let jobs = deliveries
            .iter()
            .filter_map(|Delivery { id, target }| state.land(id, target))
            .flat_map(Flight::into_jobs)
            .collect();
        drop(state);
        self.changed.notify_one();
        jobs
    }

    /// Jobs that wait and jobs that are with the replayer.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.lock();
        let waiting = state.lanes.values().map(|lane| lane.queue.len()).sum();
        (waiting, state.in_flight.table.len())
    }
}

impl State {
    fn offer(&mut self, job: Job, most: Load) -> Result<(), Refused> {
        if self.phase != Phase::Up {
            return Err(Refused::Down(job));
        }
        let size = job.size();
        let lane = self.lane(&job.target().name);
        let full = lane.queued_bytes + size > most.bytes || lane.queue.len() >= most.jobs;
        if full && !lane.queue.is_empty() {
            return Err(Refused::Full(job));
        }
        lane.queued_bytes += size;
        lane.queue.push_back(job);
        Ok(())
    }

    fn lane(&mut self, target: &TargetName) -> &mut Lane {
        // `entry` would count up the references to a name that is there already, which all threads share.
        let index = match self.lanes.get_index_of(target) {
            Some(index) => index,
            None => self.lanes.insert_full(target.clone(), Lane::default()).0,
        };
        &mut self.lanes[index]
    }

    /// A job is no longer with the replayer.
    fn land(&mut self, id: &ExchangeId, target: &TargetName) -> Option<Flight> {
        let flight = self.in_flight.remove(id, target)?;
        let size = flight.job.size();
        self.sent.remove(size);
        if let Some(lane) = self.lanes.get_mut(target) {
            lane.sent.remove(size);
            if lane.is_unused() {
                self.lanes.swap_remove(target);
            }
        }
        Some(flight)
    }

    fn take(&mut self, most: Load, expired: &mut Vec<Job>) -> Taken {
        let mut taken = Taken::default();
        if self.phase != Phase::Up {
            return taken;
        }
        let waiting: usize = self.lanes.values().map(|lane| lane.queue.len()).sum();
        taken.parcels.reserve(waiting.min(most.jobs));
        let mut idle_turns = 0;
        let now = Instant::now();
        while !taken.is_full(most) && idle_turns < self.lanes.len() {
            let lane = self.turn % self.lanes.len();
            self.turn = lane + 1;
            idle_turns += 1;
            self.take_closed(lane, most, &mut taken);
            if taken.is_full(most) {
                break;
            }
            if let Some((parcel, size)) = self.take_one(lane, now, expired) {
                taken.load.add(size);
                taken.parcels.push(parcel);
                idle_turns = 0;
            }
        }
        self.lanes.retain(|_, lane| !lane.is_unused());
        taken
    }

    /// Takes the ends of connections whose jobs have left.
    fn take_closed(&mut self, lane: usize, most: Load, taken: &mut Taken) {
        let Some((target, lane)) = self.lanes.get_index_mut(lane) else {
            return;
        };
        while taken.closed.len() < most.jobs
            && let Some((behind, closed)) = lane.closed.front().copied()
            && behind <= lane.left
        {
            lane.closed.pop_front();
            taken.closed.push(Notice {
                behind: taken.parcels.len(),
                target: Some(target.clone()),
                closed,
            });
        }
    }

    fn take_one(
        &mut self,
        lane: usize,
        now: Instant,
        expired: &mut Vec<Job>,
    ) -> Option<(Parcel, usize)> {
        // A part of the credit stays free for a target that has nothing to send just now.
        let share = self.lanes.len() + 1;
        let (_, lane) = self.lanes.get_index_mut(lane)?;
        loop {
            let job = lane.queue.front()?;
            let size = job.size();
            if job.is_expired(now) {
                expired.extend(lane.pop());
                continue;
            }
            if let Some(first) = self.in_flight.get_mut(job) {
                first.copies.extend(lane.pop());
                continue;
            }
            let fits = |used: Load, share: usize| {
                used.jobs == 0
                    || (used.jobs < self.credit.jobs / share
                        && used.bytes + size <= self.credit.bytes / share)
            };
            if !fits(self.sent, 1) || !fits(lane.sent, share) {
                return None;
            }
            let job = lane.pop()?;
            lane.sent.add(size);
            self.sent.add(size);
            let parcel = Parcel {
                exchange: job.exchange.clone(),
                target: Some(job.target().name.clone()),
                resent: job.resent,
                claim: None,
            };
            let flight = Flight {
                job,
                copies: Vec::new(),
            };
            self.in_flight.insert(flight);
            return Some((parcel, size));
        }
    }
}

#[cfg(test)]
mod tests;
