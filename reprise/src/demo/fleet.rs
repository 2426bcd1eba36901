//! The cluster of `reprise demo --cluster`: processes of this very binary and a real etcd, all on loopback.
//!
//! What enters: the shops, and whether they can be captured. What leaves: a running cluster whose parts can be asked;
//! one replayer of it is killed on demand. What may be lost: what a killed replayer held; the ledger says what. No
//! process outlives the demo: a drop kills them, and where the demo itself is killed the kernel does.
//!
//! It is the cluster that the integration tests run on, so that the demo and they can't drift apart.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use reprise_integration_tests::{Cluster, Etcd, Place, Role, eventually};
use reprise_node::membership::TARGETS_PREFIX;

use super::look::{Part, Task};
use super::scene::Scene;

/// The replayer that dies.
pub(crate) const VICTIM: &str = "replayer-2";

/// Programs that a machine may lack, and that `make setup` installs.
const PROGRAMS: [&str; 3] = ["etcd", "etcdctl", "setpriv"];

/// Named after the hosts that they would stand on.
const LISTENERS: [&str; 2] = ["web-1", "web-2"];
const OTHERS: [(Role, &str); 5] = [
    (Role::Replayer, "replayer-1"),
    (Role::Replayer, VICTIM),
    (Role::Replayer, "replayer-3"),
    (Role::Relay, "relay-1"),
    (Role::Relay, "relay-2"),
];

/// Where members register, and how long they may take for it.
const MEMBERS_PREFIX: &str = "/reprise/v1/members/";
const MEMBERS_LIMIT: Duration = Duration::from_secs(10);

/// Production shops that the cluster's listeners stand beside, one each.
pub(crate) const SHOPS: usize = LISTENERS.len();

/// A running cluster of processes.
#[derive(Debug)]
pub(crate) struct Fleet(Arc<Mutex<Processes>>);

// Dropped in this order: the cluster before what it depends on.
#[derive(Debug)]
struct Processes {
    cluster: Cluster,
    etcd: Etcd,
}

/// How the processes ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Parts that ended otherwise than they should.
    pub(crate) badly: Vec<String>,
    /// The ends of all logs.
    pub(crate) logs: String,
}

/// Looks for the programs that a fleet needs besides this one.
///
/// # Errors
/// One line: what is missing, and how to get it.
pub(crate) fn require_programs() -> anyhow::Result<()> {
    let missing = PROGRAMS
        .into_iter()
        .filter(|program| !is_installed(program));
    let missing: Vec<&str> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "demo --cluster needs {}, not installed here: run `make setup`",
        missing.join(" and ")
    )
}

impl Fleet {
    /// Starts an etcd with the scene's targets, then all parts, and waits until they are ready.
    ///
    /// # Errors
    /// When a part doesn't start.
    pub(crate) async fn start(scene: &Scene, capture: bool) -> anyhow::Result<(Fleet, Vec<Part>)> {
        let place = Place::loopback();
        let mut sources = Vec::new();
        for (spec, shop) in scene.captures()?.iter().zip(&scene.production) {
            sources.push(match capture {
                true => ["--capture".to_owned(), spec.to_string()],
                false => {
                    let endpoint = place.free()?;
                    shop.mirror_to(endpoint);
                    ["--mirror".to_owned(), endpoint.to_string()]
                }
            });
        }
        let documents = scene.documents();
        let starting = tokio::task::spawn_blocking(move || launch(&place, &documents, &sources));
        let (processes, parts) = starting.await.context("start the cluster")??;
        Ok((Fleet(Arc::new(Mutex::new(processes))), parts))
    }

    /// `http://ADDRESS` of its etcd.
    pub(crate) fn etcd(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .etcd
            .url()
    }

    /// Kills [`VICTIM`] with SIGKILL.
    ///
    /// # Errors
    /// When it isn't there.
    pub(crate) async fn kill_victim(&self) -> anyhow::Result<()> {
        self.with(|processes| processes.cluster.kill(VICTIM)).await
    }

    /// Stops all parts with SIGTERM, in the order in which traffic flows.
    ///
    /// # Errors
    /// When a part doesn't end in time.
    pub(crate) async fn stop(self, parts: &[Part]) -> anyhow::Result<Ended> {
        let running: Vec<String> = parts
            .iter()
            .filter(|part| part.admin.is_some())
            .map(|part| part.name.clone())
            .collect();
        self.with(move |Processes { cluster, .. }| {
            let mut badly = Vec::new();
            for name in running {
                let stopped = cluster.stop(&name)?;
                if !stopped.status.success() {
                    badly.push(format!("{name}: {}", stopped.status));
                }
            }
            Ok(Ended {
                badly,
                logs: cluster.log_tails(),
            })
        })
        .await
    }

    /// Works with the processes on a thread that may block.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Processes) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let processes = self.0.clone();
        let working = tokio::task::spawn_blocking(move || {
            work(&mut processes.lock().unwrap_or_else(PoisonError::into_inner))
        });
        working.await.context("work with the cluster")?
    }
}

fn launch(
    place: &Place,
    documents: &[(&str, String)],
    sources: &[[String; 2]],
) -> anyhow::Result<(Processes, Vec<Part>)> {
    let etcd = Etcd::start(place)?;
    for (target, document) in documents {
        etcd.put(&format!("{TARGETS_PREFIX}{target}"), document)?;
    }
    let url = etcd.url();
    let binary = std::env::current_exe().context("find this program's own file")?;
    let mut cluster = Cluster::new(&binary)?;
    let mut parts = Vec::new();
    for (role, name) in OTHERS {
        cluster.launch(role, name, place, &["--etcd", &url])?;
        let task = if role == Role::Relay {
            Task::Route
        } else {
            Task::Send
        };
        parts.push(Part::new(name, task, cluster.admin(name)?));
    }
    ready(&mut cluster, &parts)?;
    // A listener stays with the relay that it finds, so that all are to be found before the first begins.
    eventually("members of the cluster", MEMBERS_LIMIT, || {
        let members = etcd.keys(MEMBERS_PREFIX)?;
        anyhow::ensure!(members.len() >= OTHERS.len(), "only {members:?}");
        Ok(())
    })?;
    for (name, [flag, source]) in LISTENERS.into_iter().zip(sources) {
        cluster.launch(Role::Listener, name, place, &[flag, source, "--etcd", &url])?;
        parts.push(Part::new(name, Task::Capture, cluster.admin(name)?));
    }
    ready(&mut cluster, &parts)?;
    // In the order of traffic, so that nobody who is asked later knows less of it.
    parts.sort_by_key(|part| part.task);
    Ok((Processes { cluster, etcd }, parts))
}

fn ready(cluster: &mut Cluster, parts: &[Part]) -> anyhow::Result<()> {
    parts
        .iter()
        .try_for_each(|part| cluster.until_ready(&part.name))
}

/// True where the search path has the program.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_where_they_are() {
        assert!(is_installed("sh"));
        assert!(!is_installed("no-such-program"));
    }
}
