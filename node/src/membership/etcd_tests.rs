//! Membership against a real etcd: lives, deaths and etcd's own.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::Client;
use reprise_traffic::TargetName;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{Etcd, EtcdSettings, GRACE, Member, Members, Registration, Role, TTL, Targets};
use crate::Health;
use crate::test_support::EtcdServer;

/// Far more than anything here should take, on a busy machine.
const LONG: Duration = Duration::from_secs(30);

async fn connect(server: &EtcdServer) -> (Etcd, Health) {
    let health = Health::new();
    let settings = EtcdSettings {
        endpoints: vec![server.endpoint()],
    };
    (
        Etcd::connect(&settings, health.clone()).await.unwrap(),
        health,
    )
}

fn member(address: &str, incarnation: u64) -> Member {
    Member {
        incarnation,
        ..Member::new(address.to_owned())
    }
}

async fn until<T: Clone>(
    receiver: &mut watch::Receiver<T>,
    what: &str,
    condition: impl FnMut(&T) -> bool,
) -> T {
    timeout(LONG, receiver.wait_for(condition))
        .await
        .unwrap_or_else(|_| panic!("waited too long for {what}"))
        .unwrap()
        .clone()
}

async fn held(registration: &Registration) {
    until(&mut registration.held(), "a registration", |held| *held).await;
}

async fn put(client: &Client, target: &str, document: &str) {
    let key = format!("/reprise/v1/targets/{target}");
    client.kv_client().put(key, document, None).await.unwrap();
}

fn port(targets: &Targets, name: &str) -> Option<u16> {
    let target = targets.get(&TargetName::new(name).unwrap())?;
    Some(target.endpoint()?.port)
}

fn ids(members: &Members) -> Vec<&str> {
    members.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn members_come_and_leave_at_once() {
    let Some(server) = EtcdServer::start().await.unwrap() else {
        return;
    };
    let (etcd, health) = connect(&server).await;
    let first = etcd.register(Role::Relay, "r1", member("h:1", 1));
    held(&first).await;
    // The first list is there at once.
    let mut relays = etcd.watch_members(Role::Relay).await.unwrap();
    assert_eq!(relays.borrow()["r1"], member("h:1", 1));
    let other_role = etcd.register(Role::Replayer, "p1", member("h:3", 1));
    let second = etcd.register(Role::Relay, "r2", member("h:2", 1));
    until(&mut relays, "r2", |all| ids(all) == ["r1", "r2"]).await;
    let left = Instant::now();
    first.leave().await;
    until(&mut relays, "r1 to leave", |all| ids(all) == ["r2"]).await;
    assert!(left.elapsed() < TTL, "{:?}", left.elapsed());
    // One that just dies goes with its lease.
    drop(second);
    let died = Instant::now();
    until(&mut relays, "r2 to expire", |all| all.is_empty()).await;
    assert!(died.elapsed() < 2 * TTL + GRACE, "{:?}", died.elapsed());
    assert!(health.readiness().conditions["etcd"].ok);
    other_role.leave().await;
}

#[tokio::test]
async fn the_later_process_takes_the_id_over() {
    let Some(server) = EtcdServer::start().await.unwrap() else {
        return;
    };
    let (etcd, _) = connect(&server).await;
    let mut relays = etcd.watch_members(Role::Relay).await.unwrap();
    let earlier = etcd.register(Role::Relay, "r", member("h:1", 1));
    held(&earlier).await;
    let asked = Instant::now();
    let later = etcd.register(Role::Relay, "r", member("h:2", 2));
    until(&mut relays, "the takeover", |all| {
        all.get("r").is_some_and(|member| member.address == "h:2")
    })
    .await;
    assert!(asked.elapsed() < TTL, "{:?}", asked.elapsed());
    until(&mut earlier.held(), "the earlier to notice", |held| !*held).await;
    // The earlier one stands by, and comes back only when the id is free.
    tokio::time::sleep(TTL).await;
    assert_eq!(relays.borrow()["r"].address, "h:2");
    assert!(*later.held().borrow());
    later.leave().await;
    held(&earlier).await;
}

#[tokio::test]
async fn a_key_that_was_removed_by_hand_comes_back() {
    let Some(server) = EtcdServer::start().await.unwrap() else {
        return;
    };
    let (etcd, _) = connect(&server).await;
    let registration = etcd.register(Role::Relay, "r", member("h:1", 1));
    held(&registration).await;
    let mut relays = etcd.watch_members(Role::Relay).await.unwrap();
    let mut kv = etcd.client().kv_client();
    kv.delete("/reprise/v1/members/relay/r", None)
        .await
        .unwrap();
    until(&mut relays, "the removal", |all| all.is_empty()).await;
    until(&mut relays, "the return", |all| ids(all) == ["r"]).await;
}

#[tokio::test]
async fn etcd_killed_and_restarted() {
    let Some(mut server) = EtcdServer::start().await.unwrap() else {
        return;
    };
    let (etcd, health) = connect(&server).await;
    put(&etcd.client(), "a/x", "url: http://h:1").await;
    let registration = etcd.register(Role::Relay, "r", member("h:1", 1));
    held(&registration).await;
    let relays = etcd.watch_members(Role::Relay).await.unwrap();
    let mut targets = etcd.watch_targets().await.unwrap();
    let mut seen = relays.clone();
    // Must never be seen empty, whatever happens.
    let never_empty = tokio::spawn(async move {
        while seen.changed().await.is_ok() {
            assert!(!seen.borrow_and_update().is_empty());
        }
    });

    server.kill();
    let killed = Instant::now();
    until(&mut registration.held(), "the loss", |held| !*held).await;
    // Longer than the lease lives.
    tokio::time::sleep_until(killed + 2 * TTL).await;
    assert!(!health.readiness().conditions["etcd"].ok);
    assert!(health.readiness().ready);
    assert_eq!(port(&targets.borrow(), "a/x"), Some(1));
    server.run().await.unwrap();

    held(&registration).await;
    put(&etcd.client(), "a/x", "url: http://h:2").await;
    until(&mut targets, "a change", |all| port(all, "a/x") == Some(2)).await;
    assert!(health.readiness().conditions["etcd"].ok);
    assert!(!never_empty.is_finished());
    never_empty.abort();
    assert_eq!(ids(&relays.borrow()), ["r"]);
}

#[tokio::test]
async fn etcd_hangs_for_longer_than_a_lease() {
    let Some(server) = EtcdServer::start().await.unwrap() else {
        return;
    };
    let (etcd, health) = connect(&server).await;
    let registration = etcd.register(Role::Relay, "r", member("h:1", 1));
    held(&registration).await;
    let mut relays = etcd.watch_members(Role::Relay).await.unwrap();
    let mut seen = relays.clone();
    let never_empty = tokio::spawn(async move {
        while seen.changed().await.is_ok() {
            assert!(!seen.borrow_and_update().is_empty());
        }
    });
    server.hang().unwrap();
    let hung = Instant::now();
    let mut is_held = registration.held();
    until(&mut is_held, "the loss", |held| !*held).await;
    assert!(hung.elapsed() < TTL, "{:?}", hung.elapsed());
    tokio::time::sleep_until(hung + TTL + TTL / 2).await;
    assert!(!health.readiness().conditions["etcd"].ok);
    // Its first act is to remove what ran out meanwhile.
    server.resume().unwrap();
    held(&registration).await;
    let other = etcd.register(Role::Relay, "other", member("h:2", 1));
    until(&mut relays, "both", |all| ids(all) == ["other", "r"]).await;
    assert!(!never_empty.is_finished());
    never_empty.abort();
    other.leave().await;
}

#[tokio::test]
async fn etcd_loses_its_data() {
    let Some(mut server) = EtcdServer::start().await.unwrap() else {
        return;
    };
    let (etcd, _) = connect(&server).await;
    for target in ["a/x", "a/y"] {
        put(&etcd.client(), target, "url: http://h:1").await;
    }
    let alive = etcd.register(Role::Relay, "alive", member("h:1", 1));
    let dead = etcd.register(Role::Relay, "dead", member("h:2", 1));
    held(&alive).await;
    held(&dead).await;
    let mut relays = etcd.watch_members(Role::Relay).await.unwrap();
    let mut targets = etcd.watch_targets().await.unwrap();

    server.kill();
    drop(dead);
    server.wipe().unwrap();
    server.run().await.unwrap();
    let back = Instant::now();
    held(&alive).await;
    put(&etcd.client(), "a/x", "url: http://h:2").await;
    until(&mut targets, "a change", |all| port(all, "a/x") == Some(2)).await;
    // Held back, then carried out: the member that died and the target that is gone.
    assert_eq!(ids(&relays.borrow()), ["alive", "dead"]);
    assert_eq!(port(&targets.borrow(), "a/y"), Some(1));
    until(&mut relays, "the dead to go", |all| ids(all) == ["alive"]).await;
    until(&mut targets, "the target to go", |all| all.len() == 1).await;
    assert!(
        back.elapsed() > GRACE / 2 && back.elapsed() < 2 * GRACE,
        "{:?}",
        back.elapsed()
    );
}

#[tokio::test]
async fn a_malformed_target_changes_nothing_else() {
    let Some(server) = EtcdServer::start().await.unwrap() else {
        return;
    };
    let (etcd, _) = connect(&server).await;
    let client = etcd.client();
    put(&client, "a/bad", "colour: red").await;
    put(&client, "a/x", "url: http://h:1").await;
    let mut targets = etcd.watch_targets().await.unwrap();
    assert_eq!(targets.borrow().len(), 1);
    let first = targets.borrow()[&TargetName::new("a/x").unwrap()].revision;
    put(&client, "a/x", "url: ftp://h").await;
    put(&client, "no-team", "url: http://h:1").await;
    put(&client, "a/y", "{\"url\": \"http://h:3\"}").await;
    let all = until(&mut targets, "a/y", |all| port(all, "a/y").is_some()).await;
    assert_eq!((all.len(), port(&all, "a/x")), (2, Some(1)));
    put(&client, "a/x", "url: http://h:2").await;
    let all = until(&mut targets, "a/x", |all| port(all, "a/x") == Some(2)).await;
    assert!(all[&TargetName::new("a/x").unwrap()].revision > first);
    let mut kv = client.kv_client();
    kv.delete("/reprise/v1/targets/a/x", None).await.unwrap();
    until(&mut targets, "a deletion", |all| port(all, "a/x").is_none()).await;
}

#[tokio::test]
async fn changes_and_compaction_while_disconnected() {
    let Some(mut server) = EtcdServer::start().await.unwrap() else {
        return;
    };
    let (etcd, _) = connect(&server).await;
    put(&etcd.client(), "a/x", "url: http://h:1").await;
    let mut targets = etcd.watch_targets().await.unwrap();
    server.kill();
    // Another client gets in first, changes things and compacts the history that our watch had followed.
    server.run().await.unwrap();
    let client = Client::connect([server.endpoint()], None).await.unwrap();
    for port in 2..=9 {
        put(&client, "a/x", &format!("url: http://h:{port}")).await;
    }
    let mut kv = client.kv_client();
    let now = kv.get("a", None).await.unwrap();
    let revision = now.header().unwrap().revision();
    kv.compact(revision, None).await.unwrap();
    until(&mut targets, "the last change", |all| {
        port(all, "a/x") == Some(9)
    })
    .await;
}

#[tokio::test]
async fn an_absent_etcd_is_one_line() {
    let asked = Instant::now();
    let settings = EtcdSettings {
        endpoints: vec!["http://127.0.0.1:1".to_owned()],
    };
    let Err(error) = Etcd::connect(&settings, Health::new()).await else {
        panic!("connected to nothing");
    };
    let error = error.to_string();
    assert!(
        error.contains("http://127.0.0.1:1") && error.contains("--etcd"),
        "{error}"
    );
    assert!(
        error.to_lowercase().contains("connection refused"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(asked.elapsed() < LONG);
}

#[tokio::test]
async fn fixed_members_never_change() {
    let members = [("r".to_owned(), member("h:1", 1))];
    let mut receiver = super::fixed_members(members.clone());
    assert_eq!(**receiver.borrow(), BTreeMap::from(members));
    let changed = timeout(Duration::from_millis(50), receiver.changed());
    assert!(changed.await.is_err(), "changed() must wait, not fail");
}

#[test]
fn members_of_other_versions_are_understood() {
    let newer = r#"{"address":"h:1","weight":3,"colour":"red"}"#;
    let member: Member = serde_json::from_str(newer).unwrap();
    assert_eq!((member.weight, member.incarnation), (3, 0));
    let older: Member = serde_json::from_str(r#"{"address":"h:1"}"#).unwrap();
    assert_eq!(older.weight, 1);
}
