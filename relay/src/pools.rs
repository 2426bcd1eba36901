//! The pools of replayers: who serves, which of them a session belongs to, and where jobs go when one is lost.
//!
//! What enters: jobs and ends of connections from [`crate::route`], membership, and what the links hand back. What
//! leaves: each job in the lane of one replayer. What may be lost: a job without any replayer waits for
//! [`PARKED_FOR`] and is then dropped (`no_replayer`); one whose lane is full is dropped (`relay_full`). An end of a
//! connection for which there is no replayer, or no room, is counted and gone. A job that may have reached its target
//! goes to another replayer only if its method is safe; otherwise it ends as `unknown`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use reprise_traffic::target::Split;
use reprise_traffic::{Closed, DropReason, Target, TargetName};
use tracing::info;

use crate::custody::Job;
use crate::link::{Link, Refused};
use crate::ring::Ring;

/// A job waits so long for a replayer to appear.
pub(crate) const PARKED_FOR: Duration = Duration::from_secs(10);

/// Who serves a pool now.
#[derive(Debug)]
struct Table {
    links: Vec<Arc<Link>>,
    ring: Ring,
    /// Names and lives of those who serve.
    members: Vec<(String, u64)>,
}

impl Table {
    fn choose(&self, job: &Job) -> Option<&Arc<Link>> {
        let index = match job.target().document.split {
            Split::Hash => self.ring.member(job.session)?,
            // By identity, not by a counter: a relay that takes over sends a copy to where the first one went.
            Split::RoundRobin if self.links.is_empty() => return None,
            Split::RoundRobin => (job.exchange.id.hash64() % self.links.len() as u64) as usize,
        };
        self.links.get(index)
    }
}

/// The replayer that a job belongs to.
fn choose<'t>(tables: &'t HashMap<String, Arc<Table>>, job: &Job) -> Option<&'t Arc<Link>> {
    let table = tables.get(&job.target().document.pool);
    table.or_else(|| tables.get(ALL))?.choose(job)
}

/// A member that should serve, and its link.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    pub(crate) link: Arc<Link>,
    /// Empty: all pools.
    pub(crate) pools: Vec<String>,
}

/// All pools of the cluster.
#[derive(Debug)]
pub(crate) struct Pools {
    tables: ArcSwap<HashMap<String, Arc<Table>>>,
    serving: Mutex<BTreeMap<String, Serving>>,
    parked: Mutex<Parked>,
    /// Ends of connections that no replayer is told.
    closed_dropped: Counter,
}

#[derive(Debug)]
struct Parked {
    jobs: VecDeque<Job>,
    bytes: usize,
    most: usize,
}

/// The pool's name under which members that serve all pools are found.
const ALL: &str = "";

impl Pools {
    /// No pools yet; jobs without a replayer wait within so many bytes.
    pub(crate) fn new(parked_bytes: usize) -> Pools {
        let parked = Parked {
            jobs: VecDeque::new(),
            bytes: 0,
            most: parked_bytes,
        };
        Pools {
            tables: ArcSwap::default(),
            serving: Mutex::default(),
            parked: Mutex::new(parked),
            closed_dropped: Counter::default(),
        }
    }

    /// Counts the ends of connections that no replayer is told.
    pub(crate) fn closed_dropped(&self) -> &Counter {
        &self.closed_dropped
    }

    fn serving(&self) -> MutexGuard<'_, BTreeMap<String, Serving>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parked(&self) -> MutexGuard<'_, Parked> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Members that are connected, and all that should serve.
    pub(crate) fn links(&self) -> (usize, usize) {
        let serving = self.serving();
        let up = serving.values().filter(|serving| serving.link.is_up());
        (up.count(), serving.len())
    }

    /// A member should serve from now on.
    pub(crate) fn add(&self, serving: Serving) {
        self.serving().insert(serving.link.name.clone(), serving);
        self.rebuild();
    }

    /// A member should serve no longer; what waits for it goes to others.
    pub(crate) fn remove(&self, link: &Arc<Link>) {
        let mut serving = self.serving();
        if serving
            .get(&link.name)
            .is_some_and(|known| Arc::ptr_eq(&known.link, link))
        {
            serving.remove(&link.name);
        }
        drop(serving);
        self.rebuild();
        self.send_all(link.leave());
    }

    /// Puts each job into the lane of its replayer, in order; neighbours for the same replayer at a time.
    pub(crate) fn send_all(&self, jobs: Vec<Job>) {
        let tables = self.tables.load();
        let mut together: Option<(&Arc<Link>, Vec<Job>)> = None;
        for job in jobs {
            let link = choose(&tables, &job);
            match (&mut together, link) {
                (Some((same, jobs)), Some(link)) if Arc::ptr_eq(same, link) => jobs.push(job),
                (_, link) => {
                    if let Some((link, jobs)) = together.take() {
                        self.offer(link, jobs);
                    }
                    match link {
                        Some(link) => together = Some((link, vec![job])),
                        None => self.park(job),
                    }
                }
            }
        }
        if let Some((link, jobs)) = together {
            self.offer(link, jobs);
        }
    }

    fn offer(&self, link: &Link, jobs: Vec<Job>) {
        for refused in link.offer_all(jobs) {
            match refused {
                Refused::Full(job) => job.give_up(DropReason::RelayFull),
                Refused::Down(job) => self.send(job),
            }
        }
    }

    /// Puts a job into the lane of its replayer.
    fn send(&self, mut job: Job) {
        loop {
            let tables = self.tables.load();
            let Some(link) = choose(&tables, &job) else {
                return self.park(job);
            };
            match link.offer(job) {
                Ok(()) => return,
                Err(Refused::Full(job)) => {
                    return job.give_up(DropReason::RelayFull);
                }
                // It went down a moment ago and the table doesn't know yet.
                Err(Refused::Down(refused)) => job = refused,
            }
            self.rebuild();
        }
    }

    /// Puts the end of a connection behind its session's jobs, in the lane of each replayer that can have some.
    pub(crate) fn close(&self, target: &Target, session: u64, closed: Closed) {
        let tables = self.tables.load();
        let table = tables
            .get(&target.document.pool)
            .or_else(|| tables.get(ALL));
        let links = table.map_or(&[][..], |table| match target.document.split {
            Split::Hash => table.ring.member(session).map_or(&[][..], |index| {
                table.links.get(index..=index).unwrap_or_default()
            }),
            Split::RoundRobin => &table.links,
        });
        if links.is_empty() {
            self.closed_dropped.inc();
        }
        for link in links {
            if !link.offer_closed(&target.name, closed) {
                self.closed_dropped.inc();
            }
        }
    }

    fn park(&self, job: Job) {
        let mut parked = self.parked();
        if parked.bytes + job.size() > parked.most {
            drop(parked);
            return job.give_up(DropReason::NoReplayer);
        }
        parked.bytes += job.size();
        parked.jobs.push_back(job);
    }

    /// Tries again to place the jobs without a replayer, and drops those that waited too long. To be called
    /// several times a second, and when a replayer appears.
    pub(crate) fn retry_parked(&self) {
        let jobs = {
            let mut parked = self.parked();
            parked.bytes = 0;
            std::mem::take(&mut parked.jobs)
        };
        for job in jobs {
            if job.since().elapsed() > PARKED_FOR.min(job.target().document.max_age) {
                job.give_up(DropReason::NoReplayer);
            } else {
                self.send(job);
            }
        }
    }

    /// Brings the tables in line with who serves and whose stream is up.
    pub(crate) fn rebuild(&self) {
        let serving = self.serving();
        let mut pools: BTreeMap<&str, Vec<&Arc<Link>>> = BTreeMap::new();
        for Serving { link, pools: names } in serving.values() {
            for name in names {
                pools.entry(name).or_default().push(link);
            }
            if names.is_empty() {
                pools.entry(ALL).or_default().push(link);
            }
        }
        // Who serves all pools serves the named ones too.
        let everywhere = pools.get(ALL).cloned().unwrap_or_default();
        for (name, links) in &mut pools {
            if *name != ALL {
                links.extend(&everywhere);
                links.sort_by(|a, b| a.name.cmp(&b.name));
                links.dedup_by(|a, b| a.name == b.name);
            }
        }
        let before = self.tables.load();
        let tables = pools.into_iter().map(|(name, links)| {
            let table = table_of(&links, before.get(name));
            (name.to_owned(), table)
        });
        self.tables.store(Arc::new(tables.collect()));
    }

    /// Targets were deleted: what waits for them is not sent any more.
    pub(crate) fn retain_targets(&self, known: impl Fn(&TargetName) -> bool) {
        let links: Vec<Arc<Link>> = self.serving().values().map(|s| s.link.clone()).collect();
        let mut gone: Vec<Job> = links
            .iter()
            .flat_map(|l| l.retain_targets(&known))
            .collect();
        {
            let mut parked = self.parked();
            let (kept, deleted): (VecDeque<Job>, VecDeque<Job>) = parked
                .jobs
                .drain(..)
                .partition(|job| known(&job.target().name));
            parked.bytes = kept.iter().map(Job::size).sum();
            parked.jobs = kept;
            gone.extend(deleted);
        }
        for job in gone {
            job.give_up(DropReason::NotATarget);
        }
    }

    /// True when each of these pools has a replayer.
    pub(crate) fn serve<'a>(&self, mut pools: impl Iterator<Item = &'a str>) -> Result<(), String> {
        let tables = self.tables.load();
        let unserved = pools.find(|pool| {
            let table = tables.get(*pool).or_else(|| tables.get(ALL));
            table.is_none_or(|table| table.links.is_empty())
        });
        unserved.map_or(Ok(()), |pool| {
            Err(format!("no replayer serves pool {pool:?}"))
        })
    }

    /// Jobs that wait here or for a link, and jobs with a replayer.
    pub(crate) fn load(&self) -> (usize, usize) {
        let parked = self.parked().jobs.len();
        self.serving()
            .values()
            .map(|serving| serving.link.load())
            .fold((parked, 0), |(waiting, sent), (more_waiting, more_sent)| {
                (waiting + more_waiting, sent + more_sent)
            })
    }
}

fn table_of(links: &[&Arc<Link>], before: Option<&Arc<Table>>) -> Arc<Table> {
    let up: Vec<Arc<Link>> = links
        .iter()
        .filter(|l| l.is_up() && l.weight > 0)
        .map(|l| Arc::clone(l))
        .collect();
    let members: Vec<(String, u64)> = up
        .iter()
        .map(|link| (link.name.clone(), link.incarnation()))
        .collect();
    if let Some(before) = before
        && before.members == members
    {
        return before.clone();
    }
    let ring = Ring::new(up.iter().map(|link| (link.name.as_str(), link.weight)));
    info!(serving = up.len(), members = links.len(), "pool changed");
    Arc::new(Table {
        links: up,
        ring,
        members,
    })
}
