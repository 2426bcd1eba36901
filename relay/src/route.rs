//! Decides for which targets an exchange is wanted, and sends it on its ways.
//!
//! What enters: batches of one listener. What leaves: a job for each target that wants the exchange, and an answer at
//! once for each that doesn't; the end of a connection for each target that follows it. What may be lost: what a
//! target's rate limit refuses (`rate_limited`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use reprise_node::membership::Targets;
use reprise_proto::Parcel;
use reprise_traffic::{Closed, Decision, Disposition, DropReason, Target, TargetName, gor};
use tokio::sync::watch;

use crate::custody::{Custody, Job};
use crate::followed::Followed;
use crate::limit::Limit;
use crate::pools::Pools;

/// The targets as they are routed by now.
#[derive(Debug, Default)]
struct Routes {
    targets: Vec<Arc<Target>>,
    limits: BTreeMap<TargetName, Arc<Limit>>,
    followed: BTreeMap<TargetName, Arc<Followed>>,
    /// A target keeps answers to replays, which come back as records. Without one, only the requests that came as records
    /// have answers that do.
    answers_come_back: bool,
}

impl Routes {
    /// A limit goes on as it was unless its rate was changed.
    fn new(targets: &Targets, before: &Routes) -> Routes {
        let limits = targets.values().filter_map(|target| {
            let rate = target.document.rate_limit?.0;
            let known = before.limits.get(&target.name);
            let limit = known.filter(|limit| limit.most() == rate).cloned();
            let limit = limit.unwrap_or_else(|| Arc::new(Limit::new(rate)));
            Some((target.name.clone(), limit))
        });
        let followed = targets
            .values()
            .filter(|target| target.rules.are_followed());
        let followed = followed.map(|target| {
            let known = before.followed.get(&target.name).cloned();
            (target.name.clone(), known.unwrap_or_default())
        });
        Routes {
            limits: limits.collect(),
            followed: followed.collect(),
            answers_come_back: targets
                .values()
                .any(|target| target.document.track_response.is_some()),
            targets: targets.values().cloned().collect(),
        }
    }

    fn over_limit(&self, target: &TargetName, now: Instant) -> bool {
        self.limits
            .get(target)
            .is_some_and(|limit| !limit.passes(now))
    }

    /// A target takes a request: so it does its answers.
    fn taken(&self, job: &Job) {
        if !self.answers_come_back && job.exchange.request.label.is_none() {
            return;
        }
        if let Some(followed) = self.followed.get(&job.target().name) {
            followed.taken(&gor::id(&job.exchange));
        }
    }

    /// Whether a target took the request of an answer.
    fn took_request_of(&self, job: &Job) -> bool {
        let followed = self.followed.get(&job.target().name);
        followed.is_some_and(|followed| followed.is_taken(&gor::id(&job.exchange)))
    }
}

/// Sends exchanges to the targets that want them.
#[derive(Debug)]
pub(crate) struct Router {
    routes: ArcSwap<Routes>,
    pools: Arc<Pools>,
}

impl Router {
    pub(crate) fn new(targets: &Targets, pools: Arc<Pools>) -> Router {
        let routes = Routes::new(targets, &Routes::default());
        Router {
            routes: ArcSwap::from_pointee(routes),
            pools,
        }
    }

    /// Follows the targets until their source ends.
    pub(crate) async fn follow(self: Arc<Router>, mut targets: watch::Receiver<Targets>) {
        while targets.changed().await.is_ok() {
            let now = targets.borrow_and_update().clone();
            let routes = Routes::new(&now, &self.routes.load());
            self.routes.store(Arc::new(routes));
            self.pools.retain_targets(|name| now.contains_key(name));
        }
    }

    /// Takes parcels into custody and sends each to the targets that want it.
    pub(crate) async fn route(&self, custody: &Arc<Custody>, parcels: Vec<Parcel>, now: Instant) {
        let routes = self.routes.load_full();
        let jobs = custody.take(parcels, &routes.targets, now).await;
        let mut wanted = Vec::with_capacity(jobs.len());
        let mut ended = Vec::new();
        for mut job in jobs {
            let resent = job.resent.is_some();
            match job.target().rules.decide(&job.exchange) {
                Decision::Filtered => ended.push((job, Disposition::Filtered)),
                Decision::SampledOut => ended.push((job, Disposition::SampledOut)),
                // A copy of one that was let through before must not end otherwise than the first.
                Decision::Take(_) if !resent && routes.over_limit(&job.target().name, now) => {
                    ended.push((job, Disposition::Dropped(DropReason::RateLimited)));
                }
                Decision::Take(session) => {
                    routes.taken(&job);
                    job.session = session;
                    wanted.push(job);
                }
                Decision::Follow(session) if routes.took_request_of(&job) => {
                    job.session = session;
                    wanted.push(job);
                }
                Decision::Follow(_) => ended.push((job, Disposition::Filtered)),
            }
        }
        Job::settle_all(ended);
        self.pools.send_all(wanted);
    }

    /// Sends the end of a connection, behind the exchanges routed so far, to each target that follows it.
    pub(crate) fn close(&self, closed: Closed) {
        for target in &self.routes.load().targets {
            if let Some(session) = target.session_closed_by(&closed) {
                self.pools.close(target, session, closed);
            }
        }
    }
}
