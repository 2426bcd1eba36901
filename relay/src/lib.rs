//! The relay: applies each target's rules and gives each exchange to a replayer.
//!
//! What enters: batches from listeners ([`accept`]). They are taken into custody, decided on ([`route`]), given to a
//! replayer by the ring ([`pools`], [`ring`]) and sent to it ([`link`], [`feed`]). What leaves: settlements to the
//! listeners. What may be lost: nothing unsaid; a relay keeps nothing that a listener doesn't have still, so one that
//! dies costs no exchange. The ends of connections, which travel behind their exchanges, are best effort. When its
//! memory is full it stops reading, and the listeners shed.

mod accept;
mod custody;
mod followed;
mod limit;
mod route;

mod link;
mod pools;
pub mod ring;

mod feed;
mod watermarks;

pub mod config;
mod run;
#[cfg(test)]
mod samples;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use reprise_node::Health;
use reprise_node::membership::{Member, Members, Targets};
use reprise_proto::{Budget, Hello, Inlet, Outlet};
use reprise_traffic::ledger::{LedgerReport, Tally};
use reprise_traffic::{Measured, TargetName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use config::Config;
pub use run::run;

use crate::custody::Custody;
use crate::feed::{Doubtful, Feed};
use crate::link::Link;
pub use crate::link::Load;
use crate::pools::{Pools, Serving};
use crate::route::Router;
use crate::watermarks::Watermarks;

/// Between two looks at jobs that have no replayer.
const RETRY_PARKED: Duration = Duration::from_millis(250);

/// Where the relay finds its replayers.
#[derive(Debug)]
pub enum Replayers {
    /// One, in the same process, for all pools.
    InProcess(Outlet),
    /// Members of the cluster, or a fixed list.
    Network(watch::Receiver<Members>),
}

/// What a relay is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its member name.
    pub node: String,
    /// The targets, followed as they change.
    pub targets: watch::Receiver<Targets>,
    /// Where it sends.
    pub replayers: Replayers,
    /// Bytes of exchanges in custody.
    pub memory: usize,
    /// What may wait for one target at one replayer.
    pub lane: Load,
    /// Gets the condition `pools`.
    pub health: Health,
    /// Gets what the replayers measure.
    pub observer: Option<Observer>,
}

/// Takes what a replayer, by its name, has measured of targets since it last said so.
#[derive(Clone)]
pub struct Observer(pub Arc<Observe>);

/// What an [`Observer`] does.
pub type Observe = dyn Fn(&str, Vec<(TargetName, Measured)>) + Send + Sync;

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an observer")
    }
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    node: String,
    router: Arc<Router>,
    pools: Arc<Pools>,
    watermarks: Watermarks,
    budget: Budget,
    tally: Arc<Mutex<Tally>>,
    leaving: CancellationToken,
    retire: CancellationToken,
    listeners: TaskTracker,
    feeds: TaskTracker,
}

impl Relay {
    /// Starts routing; listeners come by [`Relay::accept`].
    pub fn start(parts: Parts) -> Relay {
        let Parts {
            node,
            targets,
            replayers,
            memory,
            lane,
            health,
            observer,
        } = parts;
        // One target without replayers may not take the others' room.
        let pools = Arc::new(Pools::new(memory / 4));
        let router = Arc::new(Router::new(&targets.borrow(), pools.clone()));
        let relay = Relay {
            node,
            router,
            pools,
            watermarks: Watermarks::default(),
            budget: Budget::new(memory),
            tally: Arc::default(),
            leaving: CancellationToken::new(),
            retire: CancellationToken::new(),
            listeners: TaskTracker::new(),
            feeds: TaskTracker::new(),
        };
        let following = relay.router.clone().follow(targets.clone());
        tokio::spawn(relay.retire.clone().run_until_cancelled_owned(following));
        let looking = look_after(relay.pools.clone(), targets.clone(), health);
        tokio::spawn(relay.retire.clone().run_until_cancelled_owned(looking));
        let feeder = Feeder {
            hello: Hello {
                node: relay.node.clone(),
                version: reprise_node::identity::VERSION.to_owned(),
                measures: observer.is_some(),
            },
            observer,
            pools: relay.pools.clone(),
            targets,
            watermarks: relay.watermarks.clone(),
            lane,
            feeds: relay.feeds.clone(),
            retire: relay.retire.clone(),
        };
        match replayers {
            Replayers::InProcess(outlet) => feeder.feed_in_process(outlet),
            Replayers::Network(members) => {
                relay.feeds.spawn(feeder.follow(members));
            }
        }
        relay
    }

    /// The memory for what listeners send, to be claimed where it arrives.
    pub fn budget(&self) -> Budget {
        self.budget.clone()
    }

    /// Serves a listener's stream.
    pub fn accept(&self, inlet: Inlet) {
        let custody = Custody::new(self.budget.clone(), self.tally.clone());
        self.listeners.spawn(accept::serve(
            inlet,
            custody,
            self.router.clone(),
            self.watermarks.clone(),
            self.leaving.clone(),
        ));
    }

    /// Replayers that are connected, and all that should be.
    pub fn replayers(&self) -> (usize, usize) {
        self.pools.links()
    }

    /// Shows what a relay counts besides its ledger.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "reprise_relay_closed_dropped",
            "Ends of production's connections that a replayer was not told: it had no room, or was gone",
            self.pools.closed_dropped().clone(),
        );
    }

    /// What passed through this relay, by listener epoch and target.
    pub fn ledger(&self) -> impl Fn() -> LedgerReport + Send + Sync + 'static {
        let (node, tally) = (self.node.clone(), self.tally.clone());
        move || LedgerReport {
            node: node.clone(),
            role: "relay".to_owned(),
            epochs: tally
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .reports(),
        }
    }

    /// Asks the listeners to go elsewhere, waits until all that was taken is settled, and lets the replayers go.
    pub async fn drain(self, patience: Duration) {
        self.leaving.cancel();
        self.listeners.close();
        let (waiting, sent) = self.pools.load();
        info!(listeners = self.listeners.len(), waiting, sent, "draining");
        if tokio::time::timeout(patience, self.listeners.wait())
            .await
            .is_err()
        {
            let (waiting, sent) = self.pools.load();
            warn!(
                waiting,
                sent, "not all was settled in time; the listeners have it still"
            );
        }
        self.retire.cancel();
        self.feeds.close();
        if tokio::time::timeout(Duration::from_secs(2), self.feeds.wait())
            .await
            .is_err()
        {
            warn!("a replayer did not close its stream in time");
        }
    }
}

/// Retries jobs without a replayer, and says which pools nobody serves.
async fn look_after(pools: Arc<Pools>, targets: watch::Receiver<Targets>, health: Health) {
    let mut ticks = tokio::time::interval(RETRY_PARKED);
    loop {
        ticks.tick().await;
        pools.retry_parked();
        let targets = targets.borrow().clone();
        let served = pools.serve(targets.values().map(|target| target.document.pool.as_str()));
        health.set("pools", served);
    }
}

/// Keeps a feed for each replayer that is a member.
#[derive(Debug)]
struct Feeder {
    hello: Hello,
    observer: Option<Observer>,
    pools: Arc<Pools>,
    targets: watch::Receiver<Targets>,
    watermarks: Watermarks,
    lane: Load,
    feeds: TaskTracker,
    retire: CancellationToken,
}

impl Feeder {
    fn feed(&self, name: &str, weight: u32, pools: Vec<String>) -> Feed {
        let closed_dropped = self.pools.closed_dropped().clone();
        let link = Link::new(name.to_owned(), weight, self.lane, closed_dropped);
        let link = Arc::new(link);
        self.pools.add(Serving {
            link: link.clone(),
            pools,
        });
        Feed {
            link,
            pools: self.pools.clone(),
            targets: self.targets.clone(),
            watermarks: self.watermarks.clone(),
            observer: self.observer.clone(),
            retire: self.retire.child_token(),
        }
    }

    fn feed_in_process(&self, outlet: Outlet) {
        let feed = self.feed("in-process", 1, Vec::new());
        self.feeds.spawn(async move {
            feed.pump(outlet, Doubtful::default()).await;
        });
    }

    async fn follow(self, mut members: watch::Receiver<Members>) {
        let mut fed: HashMap<String, (Member, Feed)> = HashMap::new();
        loop {
            let now = members.borrow_and_update().clone();
            fed.retain(|name, (member, feed)| {
                // A restart at the same address shows on the stream, and needs no other feed.
                let stays = now.get(name).is_some_and(|new| serves_alike(new, member));
                if !stays {
                    info!(replayer = name, "no longer a member");
                    self.pools.remove(&feed.link);
                    feed.retire.cancel();
                }
                stays
            });
            for (name, member) in now.iter() {
                if !fed.contains_key(name) {
                    let feed = self.feed(name, member.weight, member.pools.clone());
                    self.feeds.spawn(
                        feed.clone()
                            .connected(member.address.clone(), self.hello.clone()),
                    );
                    fed.insert(name.clone(), (member.clone(), feed));
                }
            }
            tokio::select! {
                changed = members.changed() => if changed.is_err() {
                    return self.retire.cancelled().await;
                },
                () = self.retire.cancelled() => return,
            }
        }
    }
}

fn serves_alike(a: &Member, b: &Member) -> bool {
    (&a.address, &a.pools, a.weight) == (&b.address, &b.pools, b.weight)
}
