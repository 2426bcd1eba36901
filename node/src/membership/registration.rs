//! A member's key in etcd and the lease under it.
//!
//! What enters: who this member is; etcd's answers. What leaves: the key, kept alive; whether it is held.
//! What may be lost: the key, while etcd is away or another process claims the id; it comes back by itself.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::etcd::{Link, call, describe};
use super::{Member, TTL};
use crate::{Backoff, LogLimit};

/// Between two renewals.
const RENEWAL: Duration = Duration::from_millis(1_600);
/// Counted from the last renewal that etcd confirmed: a member that can't renew knows it before its lease ends.
const CONFIRMED_FOR: Duration = Duration::from_secs(4);
/// Short against the lease's life, so that a restarted etcd doesn't outlive our lease.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Keeps a member registered. Dropped without [`Registration::leave`], it stops renewing and the lease runs out, as
/// when the process dies.
#[derive(Debug)]
pub struct Registration {
    held: watch::Receiver<bool>,
    leaving: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Registration {
    /// True while the key is ours and the lease under it is known to be alive. False says nothing about the others:
    /// with etcd away everybody goes on.
    pub fn held(&self) -> watch::Receiver<bool> {
        self.held.clone()
    }

    /// Waits until the others can see this member, for a few seconds at most: with etcd away the node works all the
    /// same, and is seen when etcd is back.
    pub async fn seen(&self) {
        let mut held = self.held();
        let seen = held.wait_for(|held| *held);
        if tokio::time::timeout(TTL, seen).await.is_err() {
            tracing::warn!("not registered in etcd yet, going on without");
        }
    }

    /// Revokes the lease, so that the others know at once. Takes a few seconds at most, where etcd is away.
    pub async fn leave(mut self) {
        self.leaving.cancel();
        if let Some(task) = self.task.take() {
            task.await.ok();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

pub(super) fn start(client: Client, link: Arc<Link>, key: String, member: Member) -> Registration {
    let (held, held_receiver) = watch::channel(false);
    let (confirmed, confirmed_receiver) = watch::channel(None);
    let leaving = CancellationToken::new();
    let mut keeper = Keeper {
        client,
        link,
        key,
        member,
        confirmed,
        lease: None,
        standing_by: LogLimit::every(Duration::from_secs(60)),
    };
    let stop = leaving.clone();
    let task = tokio::spawn(async move {
        tokio::select! {
            () = keeper.keep() => {}
            () = watch_confirmations(confirmed_receiver, &held) => {}
            () = stop.cancelled() => {}
        }
        held.send_replace(false);
        keeper.revoke().await;
    });
    Registration {
        held: held_receiver,
        leaving,
        task: Some(task),
    }
}

/// Turns renewals into "held", and their absence into "not held", whatever a pending call is waiting for.
async fn watch_confirmations(
    mut confirmed: watch::Receiver<Option<Instant>>,
    held: &watch::Sender<bool>,
) {
    loop {
        let until = confirmed.borrow_and_update().map(|at| at + CONFIRMED_FOR);
        let alive = until.filter(|until| *until > Instant::now());
        held.send_if_modified(|held| std::mem::replace(held, alive.is_some()) != alive.is_some());
        let changed = match alive {
            Some(until) => tokio::time::timeout_at(until, confirmed.changed()).await,
            None => Ok(confirmed.changed().await),
        };
        if let Ok(Err(_)) = changed {
            return;
        }
    }
}

struct Keeper {
    client: Client,
    link: Arc<Link>,
    key: String,
    member: Member,
    /// When etcd last confirmed the lease, measured before it was asked.
    confirmed: watch::Sender<Option<Instant>>,
    lease: Option<i64>,
    standing_by: LogLimit,
}

/// How an attempt to get the key ended.
enum Claim {
    Ours,
    /// A process that started later holds it.
    Newer(String),
    /// Somebody else changed it at the same moment.
    Contended,
}

impl Keeper {
    async fn keep(&mut self) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            match self.claim().await {
                Ok(Claim::Ours) => {
                    self.link.working();
                    tracing::info!(key = self.key, "registered in etcd");
                    backoff.reset();
                    self.renew().await;
                    self.confirmed.send_replace(None);
                }
                Ok(Claim::Newer(address)) => {
                    self.link.working();
                    if self.standing_by.allow().is_some() {
                        tracing::error!(
                            key = self.key,
                            "another process with the same id, at {address}, started later and takes this one's \
                             place: give each its own --id"
                        );
                    }
                    tokio::time::sleep(TTL).await;
                }
                Ok(Claim::Contended) => backoff.wait().await,
                Err(reason) => {
                    self.link.broken(&reason);
                    backoff.wait().await;
                }
            }
        }
    }

    /// Takes the key, unless a newer process has it.
    async fn claim(&mut self) -> Result<Claim, String> {
        let holder = self.holder().await?;
        let (unchanged, its_lease) = match &holder {
            None => (
                Compare::create_revision(self.key.as_str(), CompareOp::Equal, 0),
                None,
            ),
            Some(kv) => {
                if let Some(newer) = self.newer(kv) {
                    return Ok(Claim::Newer(newer.address));
                }
                (
                    Compare::mod_revision(self.key.as_str(), CompareOp::Equal, kv.mod_revision()),
                    Some(kv.lease()).filter(|lease| *lease != 0),
                )
            }
        };
        let asked = Instant::now();
        let ttl = i64::try_from(TTL.as_secs()).unwrap_or(i64::MAX);
        let lease = call(self.client.lease_client().grant(ttl, None))
            .await?
            .id();
        let value = serde_json::to_vec(&self.member).map_err(|error| error.to_string())?;
        let put = PutOptions::new().with_lease(lease);
        let txn = Txn::new().when([unchanged]).and_then([TxnOp::put(
            self.key.as_str(),
            value,
            Some(put),
        )]);
        if !call(self.client.kv_client().txn(txn)).await?.succeeded() {
            return Ok(Claim::Contended);
        }
        self.lease = Some(lease);
        self.confirmed.send_replace(Some(asked));
        if let Some(kv) = holder {
            self.replaced(&kv, its_lease).await;
        }
        Ok(Claim::Ours)
    }

    /// The key was somebody's. Its lease has no key any more; without it, its owner notices at once if it lives.
    async fn replaced(&self, kv: &KeyValue, lease: Option<i64>) {
        let earlier = serde_json::from_slice::<Member>(kv.value()).ok();
        if earlier
            .as_ref()
            .is_none_or(|earlier| earlier.incarnation != self.member.incarnation)
        {
            let address = earlier.map_or("unknown".to_owned(), |earlier| earlier.address);
            tracing::warn!(
                key = self.key,
                "took over the id from an earlier process at {address}, which didn't leave"
            );
        }
        if let Some(lease) = lease {
            // If this fails it runs out by itself.
            call(self.client.lease_client().revoke(lease)).await.ok();
        }
    }

    /// Renews until the key or the lease is lost.
    async fn renew(&mut self) {
        let Some(lease) = self.lease else { return };
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            match self.renewals(lease, &mut backoff).await {
                Ok(lost) => {
                    tracing::warn!(key = self.key, "{lost}, registering again");
                    return;
                }
                Err(reason) => {
                    self.link.broken(&reason);
                    backoff.wait().await;
                }
            }
        }
    }

    /// Renews over one stream; `Ok` says what was lost, an error that etcd is away.
    async fn renewals(&self, lease: i64, backoff: &mut Backoff) -> Result<&'static str, String> {
        const GONE: &str = "the lease ran out";
        let mut asked = Instant::now();
        let mut client = self.client.lease_client();
        let opened = tokio::time::timeout(RENEWAL, client.keep_alive(lease));
        let (mut keeper, mut answers) = match opened.await {
            Ok(Ok(opened)) => opened,
            Ok(Err(etcd_client::Error::LeaseKeepAliveError(_))) => return Ok(GONE),
            Ok(Err(error)) => return Err(describe(&error)),
            Err(_) => return Err("no answer to a renewal".to_owned()),
        };
        loop {
            let holder = self.holder().await?;
            let ours = holder.is_some_and(|kv| kv.lease() == lease);
            if !ours {
                return Ok("the key was removed or taken");
            }
            self.link.working();
            backoff.reset();
            self.confirmed.send_replace(Some(asked));
            tokio::time::sleep_until(asked + RENEWAL).await;
            asked = Instant::now();
            let renewed = tokio::time::timeout(RENEWAL, async {
                keeper.keep_alive().await?;
                answers.message().await
            });
            match renewed.await {
                Ok(Ok(Some(answer))) if answer.ttl() > 0 => {}
                Ok(Ok(Some(_))) => return Ok(GONE),
                Ok(Ok(None)) => return Err("it closed the renewals".to_owned()),
                Ok(Err(error)) => return Err(describe(&error)),
                Err(_) => return Err("no answer to a renewal".to_owned()),
            }
        }
    }

    async fn holder(&self) -> Result<Option<KeyValue>, String> {
        let mut answer = call(self.client.kv_client().get(self.key.as_str(), None)).await?;
        Ok(answer.take_kvs().pop())
    }

    fn newer(&self, kv: &KeyValue) -> Option<Member> {
        serde_json::from_slice::<Member>(kv.value())
            .ok()
            .filter(|holder| holder.incarnation > self.member.incarnation)
    }

    async fn revoke(&self) {
        if let Some(lease) = self.lease
            && let Err(reason) = call(self.client.lease_client().revoke(lease)).await
        {
            tracing::debug!(reason, key = self.key, "lease not revoked, it will run out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_member_that_cannot_renew_knows_before_its_lease_ends() {
        let (confirmed, receiver) = watch::channel(None);
        let (held, mut is_held) = watch::channel(false);
        let watcher = tokio::spawn(async move { watch_confirmations(receiver, &held).await });
        let start = Instant::now();
        confirmed.send_replace(Some(start));
        is_held.wait_for(|held| *held).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        confirmed.send_replace(Some(Instant::now()));
        is_held.wait_for(|held| !*held).await.unwrap();
        let unrenewed = start.elapsed() - Duration::from_secs(2);
        assert!(
            unrenewed >= CONFIRMED_FOR && unrenewed < TTL,
            "{unrenewed:?}"
        );
        confirmed.send_replace(Some(Instant::now()));
        is_held.wait_for(|held| *held).await.unwrap();
        drop(confirmed);
        watcher.await.unwrap();
    }
}
