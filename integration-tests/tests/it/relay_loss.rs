//! Each of two relays is killed in its turn under load, so that it hits the one that the listener sends to.

use std::time::Duration;

use reprise_integration_tests::Shape;
use reprise_integration_tests::load::Sent;
use reprise_integration_tests::staging::Behaviour;
use reprise_traffic::ledger::Account;

use crate::arrivals::{assert_agrees, assert_none_twice, lateness};
use crate::fleet::{Fleet, REST, TARGET};
use crate::rig;

const RATE: u32 = 1000;
/// Within this, traffic flows again.
const RECOVERY: Duration = Duration::from_secs(2);

/// Kills both under such a load; what was sent and how it ended.
fn kill_each(fleet: &mut Fleet, shape: Shape) -> (Vec<Sent>, Account) {
    let load = fleet.load(shape, RATE);
    fleet.more(1000);
    for name in ["relay1", "relay2"] {
        fleet.cluster.kill(name).unwrap();
        fleet.more(2000);
        fleet.start_part(name);
        fleet.more(1000);
    }
    let sent = load.stop().unwrap();
    let books = fleet.cluster.at_rest(sent.len() as u64, REST).unwrap();
    (sent, books.account(TARGET))
}

#[test]
fn gets_are_sent_through_the_other_one() {
    let _alone = rig::alone();
    let Some(mut fleet) = Fleet::start() else {
        return;
    };
    let (sent, account) = kill_each(&mut fleet, Shape::Get);
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
    let (sent, account) = kill_each(&mut fleet, Shape::Post { size: 500 });
    assert_none_twice(&fleet.staging);
    assert_agrees(&account, &sent, &fleet.staging);
    assert!(
        account.replayed_total() * 100 >= account.total() * 98,
        "{account:?}"
    );
    let late = lateness(&sent, &fleet.staging);
    assert!(late <= RECOVERY, "a request came {late:?} late");
}
