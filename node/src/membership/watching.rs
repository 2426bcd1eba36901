//! Following a prefix of etcd: a list, then its changes from that revision on.
//!
//! What enters: lists and watch events. What leaves: watched values. What may be lost: nothing; whenever the stream
//! of changes breaks, a fresh list takes its place. Resuming the stream at the last revision would be cheaper, but an
//! etcd that was set up anew may have passed that revision already, and then keys would be missed for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, EventType, GetOptions, KeyValue, WatchClient, WatchOptions, WatchResponse, WatchStream,
};
use reprise_traffic::{Target, TargetDocument, TargetName};
use tokio::sync::watch;

use super::etcd::{EtcdError, Link, MESSAGE_BYTES, call, describe};
use super::mirror::{Key, Malformed, Mirror, Parse};
use super::{Member, Members, Role, TARGETS_PREFIX, Targets};
use crate::Backoff;

/// Between attempts to reach etcd again; short against the time for which removals are held back.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

pub(super) async fn members(
    client: Client,
    link: Arc<Link>,
    role: Role,
) -> Result<watch::Receiver<Members>, EtcdError> {
    let follower = Follower::new(client, link, role.prefix(), parse_member);
    let publish = |mirror: &Mirror<Member>, sender: &watch::Sender<Members>| {
        let owned = |(id, member): (&str, &Member)| (id.to_owned(), member.clone());
        let members: BTreeMap<_, _> = mirror.values().map(owned).collect();
        sender.send_if_modified(|known| {
            let changed = **known != members;
            if changed {
                *known = Arc::new(members);
            }
            changed
        });
    };
    follower.start(publish).await
}

pub(super) async fn targets(
    client: Client,
    link: Arc<Link>,
) -> Result<watch::Receiver<Targets>, EtcdError> {
    let follower = Follower::new(client, link, TARGETS_PREFIX.to_owned(), parse_target);
    let publish = |mirror: &Mirror<Arc<Target>>, sender: &watch::Sender<Targets>| {
        let owned = |(_, target): (&str, &Arc<Target>)| (target.name.clone(), Arc::clone(target));
        let targets: BTreeMap<_, _> = mirror.values().map(owned).collect();
        sender.send_if_modified(|known| {
            let same = known.len() == targets.len()
                && known
                    .values()
                    .zip(targets.values())
                    .all(|(known, target)| Arc::ptr_eq(known, target));
            if !same {
                *known = Arc::new(targets);
            }
            !same
        });
    };
    follower.start(publish).await
}

fn parse_member(key: &Key) -> Result<Member, String> {
    serde_json::from_slice(&key.raw).map_err(|error| error.to_string())
}

fn parse_target(key: &Key) -> Result<Arc<Target>, String> {
    let name = TargetName::new(&key.name).map_err(|error| error.reason)?;
    let text = str::from_utf8(&key.raw).map_err(|_| "not UTF-8 text".to_owned())?;
    let document = TargetDocument::parse(&key.name, text).map_err(|error| error.reason)?;
    let revision = u64::try_from(key.revision).unwrap_or_default();
    Target::new(name, revision, document)
        .map(Arc::new)
        .map_err(|error| error.reason)
}

struct Follower<V> {
    client: Client,
    link: Arc<Link>,
    prefix: String,
    mirror: Mirror<V>,
}

/// Why a stream of changes ended.
enum Ended {
    /// The revision is compacted away, or etcd asked for it: list again at once.
    Stale,
    Broken(String),
}

impl<V: Send + Sync + 'static> Follower<V> {
    fn new(client: Client, link: Arc<Link>, prefix: String, parse: Parse<V>) -> Follower<V> {
        Follower {
            client,
            link,
            prefix,
            mirror: Mirror::new(parse),
        }
    }

    async fn start<T: Default + Send + Sync + 'static>(
        mut self,
        publish: impl Fn(&Mirror<V>, &watch::Sender<T>) + Send + Sync + 'static,
    ) -> Result<watch::Receiver<T>, EtcdError> {
        let revision = match self.list().await {
            Ok(revision) => revision,
            Err(reason) => return Err(self.link.unreachable(reason)),
        };
        let (sender, receiver) = watch::channel(T::default());
        publish(&self.mirror, &sender);
        tokio::spawn(async move {
            tokio::select! {
                () = self.follow(revision, |mirror| publish(mirror, &sender)) => {}
                () = sender.closed() => {}
            }
        });
        Ok(receiver)
    }

    async fn follow(&mut self, mut revision: i64, publish: impl Fn(&Mirror<V>)) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            if let Ended::Broken(reason) = self.changes(revision, &publish).await {
                self.link.broken(&reason);
                backoff.wait().await;
            }
            revision = loop {
                match self.list().await {
                    Ok(revision) => break revision,
                    Err(reason) => self.link.broken(&reason),
                }
                backoff.wait().await;
            };
            backoff.reset();
            publish(&self.mirror);
        }
    }

    /// Takes a fresh list and returns its revision.
    async fn list(&mut self) -> Result<i64, String> {
        let mut kv = self
            .client
            .kv_client()
            .max_decoding_message_size(MESSAGE_BYTES);
        let options = GetOptions::new().with_prefix();
        let mut answer = call(kv.get(self.prefix.as_str(), Some(options))).await?;
        self.link.working();
        let keys = answer.take_kvs();
        let keys = keys.iter().map(|kv| self.key(kv)).collect();
        let hold = self.link.hold_until().is_some();
        let malformed = self.mirror.list(keys, hold);
        self.complain(malformed);
        self.announce_held_back();
        Ok(answer.header().map_or(0, |header| header.revision()))
    }

    /// Follows the changes after a revision until the stream ends.
    async fn changes(&mut self, revision: i64, publish: &impl Fn(&Mirror<V>)) -> Ended {
        let mut stream = match self.watch(revision + 1).await {
            Ok(stream) => stream,
            Err(reason) => return Ended::Broken(reason),
        };
        loop {
            let release = self
                .link
                .hold_until()
                .filter(|_| self.mirror.held_back() > 0);
            let held = self.mirror.held_back() > 0;
            let released = async {
                match release {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None if held => {}
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(response)) => {
                        if let Err(ended) = self.apply(&response) {
                            return ended;
                        }
                        publish(&self.mirror);
                    }
                    Ok(None) => return Ended::Broken("it closed the watch".to_owned()),
                    Err(error) => return Ended::Broken(describe(&error)),
                },
                () = released => {
                    // Another interruption may have begun meanwhile.
                    if self.link.hold_until().is_none() {
                        self.mirror.release();
                        publish(&self.mirror);
                    }
                }
            }
        }
    }

    async fn watch(&self, from: i64) -> Result<WatchStream, String> {
        let mut watch: WatchClient = self
            .client
            .watch_client()
            .max_decoding_message_size(MESSAGE_BYTES);
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        call(watch.watch(self.prefix.as_str(), Some(options))).await
    }

    fn apply(&mut self, response: &WatchResponse) -> Result<(), Ended> {
        if response.compact_revision() > 0 {
            return Err(Ended::Stale);
        }
        if response.canceled() {
            return Err(Ended::Broken(format!(
                "it cancelled the watch: {}",
                response.cancel_reason()
            )));
        }
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let key = self.key(kv);
            match event.event_type() {
                EventType::Put => {
                    let malformed = self.mirror.put(key).err();
                    self.complain(malformed);
                }
                EventType::Delete => {
                    let hold = self.link.hold_until().is_some();
                    self.mirror.delete(&key.name, hold);
                }
            }
        }
        self.announce_held_back();
        Ok(())
    }

    fn key(&self, kv: &KeyValue) -> Key {
        let name = kv.key().strip_prefix(self.prefix.as_bytes());
        Key {
            name: String::from_utf8_lossy(name.unwrap_or(kv.key())).into_owned(),
            revision: kv.mod_revision(),
            raw: kv.value().to_vec(),
        }
    }

    fn announce_held_back(&self) {
        let removals = self.mirror.held_back();
        if removals > 0 {
            tracing::debug!(
                removals,
                prefix = self.prefix,
                "etcd was away: removals are held back for a while"
            );
        }
    }

    fn complain(&self, malformed: impl IntoIterator<Item = Malformed>) {
        for Malformed { name, reason, kept } in malformed {
            let instead = if kept {
                "its last good version stays in force"
            } else {
                "it is left out"
            };
            // Once for each version: seen again, it isn't parsed again.
            tracing::warn!("malformed {}{name}: {reason}; {instead}", self.prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Health;
    use crate::membership::{Etcd, EtcdSettings};
    use crate::test_support::EtcdServer;

    #[tokio::test]
    async fn a_compacted_revision_means_a_fresh_list() {
        let Some(server) = EtcdServer::start().await.unwrap() else {
            return;
        };
        let settings = EtcdSettings {
            endpoints: vec![server.endpoint()],
        };
        let etcd = Etcd::connect(&settings, Health::new()).await.unwrap();
        let (client, link) = etcd.parts();
        let mut kv = client.kv_client();
        for port in 1..=3 {
            let document = format!("url: http://h:{port}");
            kv.put("/reprise/v1/targets/a/x", document, None)
                .await
                .unwrap();
        }
        kv.compact(3, None).await.unwrap();
        let prefix = TARGETS_PREFIX.to_owned();
        let mut follower = Follower::new(client, Arc::clone(&link), prefix, parse_target);
        let ended = follower.changes(0, &|_| ()).await;
        assert!(matches!(ended, Ended::Stale));
        let (sender, mut targets) = watch::channel(0);
        let follow = tokio::spawn(async move {
            let port = |mirror: &Mirror<Arc<Target>>| {
                mirror
                    .values()
                    .map(|(_, target)| target.endpoint().unwrap().port)
                    .sum()
            };
            let publish = |mirror: &_| sender.send_modify(|value| *value = port(mirror));
            follower.follow(0, publish).await;
        });
        let listed = targets.wait_for(|port: &u16| *port == 3);
        tokio::time::timeout(Duration::from_secs(30), listed)
            .await
            .unwrap()
            .unwrap();
        // No interruption: removals would count at once.
        assert_eq!(link.hold_until(), None);
        follow.abort();
    }
}
