//! etcd is killed under load, and comes back.

use std::time::Duration;

use reprise_integration_tests::{Shape, Staging, eventually};

use crate::arrivals::assert_faithful;
use crate::fleet::{Fleet, REST, TARGET, target_key};
use crate::rig;

const RATE: u32 = 300;

#[test]
fn nothing_is_lost_and_changes_arrive_again() {
    let _alone = rig::alone();
    let Some(mut fleet) = Fleet::start() else {
        return;
    };
    let members = fleet.etcd.keys("/reprise/v1/members/").unwrap();
    assert_eq!(members.len(), 5, "{members:?}");
    let parts = ["listener1", "relay1", "relay2", "replayer1", "replayer2"];
    let load = fleet.load(Shape::Post { size: 500 }, RATE);
    fleet.more(300);

    fleet.etcd.kill();
    // Longer than a lease lives (5 s).
    let away = if rig::full() { 30 } else { 10 };
    fleet.more(away * RATE as usize);
    for part in parts {
        let log = fleet.cluster.log(part).unwrap();
        let warned = log
            .lines()
            .any(|line| line.contains("WARN") && line.contains("etcd"));
        assert!(warned, "{part} doesn't warn:\n{log}");
    }

    fleet.etcd.revive().unwrap();
    let second = Staging::start(&fleet.place).unwrap();
    let document = format!("url: {}\nmethods: [any]\n", second.url());
    fleet
        .etcd
        .put(&target_key("shop/second"), &document)
        .unwrap();
    second.until(300, Duration::from_secs(20)).unwrap();
    eventually("all members in etcd", Duration::from_secs(20), || {
        let now = fleet.etcd.keys("/reprise/v1/members/")?;
        anyhow::ensure!(now == members, "{now:?}");
        Ok(())
    })
    .unwrap();

    let sent = load.stop().unwrap();
    let books = fleet.cluster.at_rest(sent.len() as u64, REST).unwrap();
    let account = books.account(TARGET);
    assert_eq!(account.replayed_total(), sent.len() as u64, "{account:?}");
    assert_faithful(&sent, &fleet.staging);
    for part in parts {
        assert!(fleet.cluster.is_running(part).unwrap(), "{part} has ended");
    }
}
