//! Who is in the cluster, and which targets there are.
//!
//! What enters: etcd's keys under `/reprise/v1/`, a watched file, or a fixed list. What leaves: the current members of
//! a role and the current targets, as watched values that are filled from the start; this node's own registration.
//! What may be lost: nothing that was known.
//!
//! **Fail static.** While etcd is away everybody goes on with the last values, says so once and then rarely, and
//! comes back with jittered back-off. After such an interruption a removal is held back for [`GRACE`], because the
//! members whose leases ran out meanwhile are alive and about to register again; additions and changes count at once.
//! In normal operation removals count at once as well: a member that leaves revokes its lease.
//!
//! **Leases.** A registration lives under a lease of [`TTL`] that is refreshed three times as often as needed. Two
//! processes with one id: the one that started later wins at once (a node that was killed and restarted takes its
//! place without waiting for the lease); the earlier one says so and stands by until the id is free.

mod etcd;
mod mirror;
mod registration;
mod targets_file;
mod watching;

#[cfg(test)]
mod etcd_tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reprise_traffic::{Target, TargetName};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use etcd::{Etcd, EtcdError, EtcdSettings};
pub use registration::Registration;
pub use targets_file::watch_targets_file;

/// Life of a member's lease without refreshing.
pub const TTL: Duration = Duration::from_secs(5);

/// How long after an interruption of etcd removals are held back.
pub const GRACE: Duration = Duration::from_secs(10);

/// Where targets are kept: `/reprise/v1/targets/TEAM/NAME`, each a document in YAML or JSON.
pub const TARGETS_PREFIX: &str = "/reprise/v1/targets/";

/// What a member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Captures and ships.
    Listener,
    /// Routes.
    Relay,
    /// Sends to targets.
    Replayer,
}

impl Role {
    /// As in keys, ids and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Listener => "listener",
            Role::Relay => "relay",
            Role::Replayer => "replayer",
        }
    }

    /// Where members of this role are kept: `/reprise/v1/members/ROLE/`.
    pub fn prefix(self) -> String {
        format!("/reprise/v1/members/{self}/")
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a member says of itself. Fields that a newer version may add are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `HOST:PORT` for its peers.
    pub address: String,
    /// `HOST:PORT` of its admin port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// The pools that a replayer serves.
    #[serde(default)]
    pub pools: Vec<String>,
    /// Its share of a pool, relative to the others'.
    #[serde(default = "one")]
    pub weight: u32,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// Where it stands, for preferring near ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// This life of it: see [`crate::identity::incarnation`].
    #[serde(default)]
    pub incarnation: u64,
}

fn one() -> u32 {
    1
}

impl Member {
    /// A member of this version and incarnation, of weight 1 and in no pool.
    pub fn new(address: String) -> Member {
        Member {
            address,
            admin: None,
            pools: Vec::new(),
            weight: 1,
            version: crate::identity::VERSION.to_owned(),
            zone: None,
            incarnation: crate::identity::incarnation(),
        }
    }
}

/// Members of a role, by id.
pub type Members = Arc<BTreeMap<String, Member>>;

/// Targets by name. A target that didn't change stays the same `Arc`; one that did has a revision of its own
/// (compare for inequality: an etcd that was set up anew counts from 1 again).
pub type Targets = Arc<BTreeMap<TargetName, Arc<Target>>>;

/// Members that never change, for a cluster without etcd.
pub fn fixed_members(
    members: impl IntoIterator<Item = (String, Member)>,
) -> watch::Receiver<Members> {
    fixed(Arc::new(members.into_iter().collect()))
}

/// Targets that never change, as for `--to URL`.
pub fn fixed_targets(targets: impl IntoIterator<Item = Target>) -> watch::Receiver<Targets> {
    let by_name = |target: Target| (target.name.clone(), Arc::new(target));
    fixed(Arc::new(targets.into_iter().map(by_name).collect()))
}

/// Without a sender `changed()` would return at once for ever, and loops around it would spin.
fn fixed<T: Send + Sync + 'static>(value: T) -> watch::Receiver<T> {
    let (sender, receiver) = watch::channel(value);
    tokio::spawn(async move { sender.closed().await });
    receiver
}
