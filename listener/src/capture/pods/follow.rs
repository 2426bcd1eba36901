//! Follows pods through the cluster's API, on a thread of its own.
//!
//! What enters: lists of pods and events about them. What leaves: their addresses, for the capture threads to look up.
//! What may be lost: while the API server can't be asked, changes; the addresses known last stay, and all is listed again
//! as soon as it answers.
//!
//! A watch that ended is followed by a fresh list, never resumed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http_body_util::BodyExt as _;
use reprise_node::{Backoff, LogLimit};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::Selection;
use super::cluster::{ApiError, Cluster};
use super::members::Members;
use super::{Followed, PodChoice, Pods};

/// So long the API server is to keep a watch; then all is listed again.
const WATCH: Duration = Duration::from_secs(240);
/// The same where a deployment or a daemon set was asked for its labels: it may be another by then.
const WATCH_OWNED: Duration = Duration::from_secs(60);
/// A watch that goes on for longer than it should.
const OVERTIME: Duration = Duration::from_secs(30);

/// etcd takes no object of more than 1.5 MiB.
const LONGEST_EVENT: usize = 4 << 20;

const PAUSE: std::ops::Range<Duration> = Duration::from_millis(250)..Duration::from_secs(2);
/// What held for so long was no failure at once.
const LASTED: Duration = Duration::from_secs(10);

static COMPLAINTS: LogLimit = LogLimit::every(Duration::from_secs(10));

/// Follows each choice until told to stop.
///
/// # Errors
/// If the system grants no thread.
pub(in super::super) fn start(
    cluster: Cluster,
    choices: BTreeSet<Pods>,
    followed: Arc<Followed>,
    stop: CancellationToken,
) -> std::io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("pods".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let mut following = JoinSet::new();
                for pods in choices {
                    following.spawn(follow(cluster.clone(), pods, followed.clone()));
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    // None of them ever ends.
                    _ = following.join_all() => {}
                }
            });
            // Not waiting for a name that is being looked up.
            runtime.shutdown_background();
        })
}

async fn follow(cluster: Cluster, pods: Pods, followed: Arc<Followed>) {
    let mut backoff = Backoff::new(PAUSE.start, PAUSE.end);
    loop {
        let began = Instant::now();
        if let Err(error) = follow_once(&cluster, &pods, &followed).await
            && let Some(suppressed) = COMPLAINTS.allow()
        {
            tracing::warn!(
                %pods,
                error = format!("{error:#}"),
                suppressed,
                "pods can't be followed; those known last stay captured"
            );
        }
        if began.elapsed() >= LASTED {
            backoff.reset();
        }
        backoff.wait().await;
    }
}

/// Lists the pods, and hears of changes until the API server ends it.
async fn follow_once(cluster: &Cluster, pods: &Pods, followed: &Followed) -> anyhow::Result<()> {
    let told = |members: Option<&Members>| {
        let addresses = members.map(Members::addresses).unwrap_or_default();
        let number = addresses.len();
        if followed.set(pods, addresses) {
            tracing::info!(%pods, addresses = number, "pods to capture");
        }
    };
    let Some(selection) = Selection::of(pods, cluster).await? else {
        told(None);
        return Ok(());
    };
    let list = cluster.ask(&selection.list()).await;
    let mut members = Members::of_list(&list.map_err(plain)?)?;
    told(Some(&members));
    let length = match pods.choice {
        PodChoice::Deployment(_) | PodChoice::DaemonSet(_) => WATCH_OWNED,
        PodChoice::Pod(_) | PodChoice::Labels(_) | PodChoice::Fields(_) => WATCH,
    };
    let watch = selection.watch(&members.version, length.as_secs());
    let watching = async {
        let mut events = cluster.listen(&watch).await.map_err(plain)?;
        let mut line = Vec::new();
        while let Some(frame) = events.frame().await {
            let Ok(data) = frame.context("hear of pods")?.into_data() else {
                continue;
            };
            for piece in data.split_inclusive(|byte| *byte == b'\n') {
                line.extend_from_slice(piece);
                if line.len() > LONGEST_EVENT {
                    bail!("the API server says more than {LONGEST_EVENT} bytes of a pod");
                }
                if let [event @ .., b'\n'] = &line[..] {
                    if !event.is_empty() {
                        members.apply(event)?;
                    }
                    line.clear();
                }
            }
            told(Some(&members));
        }
        Ok(())
    };
    let within = tokio::time::timeout(length + OVERTIME, watching).await;
    within.map_err(|_| anyhow!("the API server doesn't end a watch"))?
}

fn plain(error: ApiError) -> anyhow::Error {
    match error {
        ApiError::NotFound(said) => anyhow!(said),
        ApiError::Other(error) => error,
    }
}
