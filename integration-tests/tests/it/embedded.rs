//! Everything in one process, capturing on loopback.

use reprise_integration_tests::{Cluster, Load, Nginx, Place, Role, Shape, Staging, load};

use crate::arrivals::assert_faithful;
use crate::fleet::REST;
use crate::rig;

/// What `--to` calls the first target.
const TARGET: &str = "default/1";

/// An embedded cluster that captures what goes to `production`.
fn run(production: &Nginx, to: &str, more: &[&str]) -> Cluster {
    let place = Place::loopback();
    let capture = format!("lo:{}", production.address().port());
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    let arguments = [&["--capture", &capture, "--to", to], more].concat();
    cluster.start(Role::Run, "run", &place, &arguments).unwrap();
    cluster
}

#[test]
fn twenty_thousand_gets_leave_the_same_access_log() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let (production, staging) = (Nginx::start(&place).unwrap(), Nginx::start(&place).unwrap());
    let cluster = run(&production, &staging.url(), &[]);
    let url = format!("{}/shop/a%20b//c;v=1?q=%C3%A9+&&x=", production.url());
    load::hey(&place, &url, 20_000, 50).unwrap();

    let books = cluster.at_rest(20_000, REST).unwrap();
    let account = books.account(TARGET);
    assert_eq!(account.replayed.get(&200), Some(&20_000), "{account:?}");
    let lines = staging.request_lines(20_000).unwrap();
    assert_eq!(lines.len(), 20_000);
    assert_eq!(lines, production.request_lines(20_000).unwrap());
}

#[test]
fn each_request_keeps_its_bytes() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let large = if rig::full() { 5000 } else { 200 };
    let loads = [
        (Shape::Get, 5000, 2000),
        (Shape::Post { size: 10_000 }, 5000, 1000),
        (Shape::Post { size: 1_000_000 }, large, 40),
    ];
    for (shape, requests, rate) in loads {
        let (production, staging) = (
            Nginx::start(&place).unwrap(),
            Staging::start(&place).unwrap(),
        );
        let cluster = run(&production, &staging.url(), &["--methods", "any"]);
        let mut load = Load::new(&place, production.address(), shape, requests);
        load.rate = Some(rate);
        let sent = load.run().unwrap();
        let books = cluster.at_rest(requests, REST).unwrap();
        let account = books.account(TARGET);
        assert_eq!(account.replayed.get(&200), Some(&requests), "{account:?}");
        assert_faithful(&sent, &staging);
    }
}

#[test]
fn unsafe_methods_are_replayed_only_when_asked_for() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let (production, staging) = (
        Nginx::start(&place).unwrap(),
        Staging::start(&place).unwrap(),
    );
    let cluster = run(&production, &staging.url(), &[]);
    let post = Shape::Post { size: 100 };
    Load::new(&place, production.address(), post, 100)
        .run()
        .unwrap();
    Load::new(&place, production.address(), Shape::Get, 50)
        .run()
        .unwrap();
    let account = cluster.at_rest(150, REST).unwrap().account(TARGET);
    assert_eq!((account.filtered, account.replayed_total()), (100, 50));
    assert_eq!(staging.count(), 50);
}

#[test]
fn what_was_replayed_is_not_captured_again() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let (production, staging) = (
        Nginx::start(&place).unwrap(),
        Staging::start(&place).unwrap(),
    );
    let both = format!("lo:{}", staging.address().port());
    let cluster = run(&production, &staging.url(), &["--capture", &both]);
    Load::new(&place, production.address(), Shape::Get, 300)
        .run()
        .unwrap();
    cluster.at_rest(300, REST).unwrap();
    // One that isn't marked is captured at staging's port too, behind all that were marked.
    Load::new(&place, staging.address(), Shape::Get, 1)
        .run()
        .unwrap();
    cluster.at_rest(301, REST).unwrap();
    assert_eq!(staging.count(), 302);
}
