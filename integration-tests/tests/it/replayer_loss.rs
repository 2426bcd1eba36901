//! One of two replayers is killed under load.

use std::time::Duration;

use reprise_integration_tests::Shape;
use reprise_integration_tests::staging::Behaviour;

use crate::arrivals::{assert_agrees, assert_none_twice, lateness};
use crate::fleet::{Fleet, REST, TARGET};
use crate::rig;

const RATE: u32 = 1000;
/// Within this, traffic flows again.
const RECOVERY: Duration = Duration::from_secs(2);

#[test]
fn gets_are_sent_by_the_other_one() {
    let _alone = rig::alone();
    let Some(mut fleet) = Fleet::start() else {
        return;
    };
    let load = fleet.load(Shape::Get, RATE);
    fleet.more(1500);
    fleet.cluster.kill("replayer2").unwrap();
    fleet.more(3000);
    let sent = load.stop().unwrap();
    let books = fleet.cluster.at_rest(sent.len() as u64, REST).unwrap();
    let account = books.account(TARGET);
    assert_agrees(&account, &sent, &fleet.staging);
    assert!(
        account.replayed_total() * 100 >= account.total() * 99,
        "{account:?}"
    );
    let late = lateness(&sent, &fleet.staging);
    assert!(late <= RECOVERY, "a request came {late:?} late");
}

#[test]
fn no_post_is_sent_twice() {
    let _alone = rig::alone();
    let Some(mut fleet) = Fleet::start() else {
        return;
    };
    // So that at any time some thirty are under way, and a part takes them with it.
    fleet
        .staging
        .behave(Behaviour::Slow(Duration::from_millis(30)));
    let load = fleet.load(Shape::Post { size: 500 }, RATE);
    fleet.more(1500);
    fleet.cluster.kill("replayer1").unwrap();
    fleet.more(3000);
    let sent = load.stop().unwrap();
    let books = fleet.cluster.at_rest(sent.len() as u64, REST).unwrap();
    let account = books.account(TARGET);
    assert_none_twice(&fleet.staging);
    assert_agrees(&account, &sent, &fleet.staging);
    assert!(
        account.replayed_total() * 100 >= account.total() * 98,
        "{account:?}"
    );
    let late = lateness(&sent, &fleet.staging);
    assert!(late <= RECOVERY, "a request came {late:?} late");
}
