//! A listener that ships nothing counts all the same, and its books balance.

use std::time::Duration;

use reprise_integration_tests::{Cluster, Load, Nginx, Place, Role, Shape};

use crate::rig;

const LIMIT: Duration = Duration::from_secs(10);
const REQUESTS: u64 = 200;

#[test]
fn what_is_discarded_is_counted_and_the_books_balance() {
    let _machine = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let production = Nginx::start_plain(&place).unwrap();
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    let capture = format!("lo:{}", production.address().port());
    let arguments = ["--capture", &capture, "--discard"];
    cluster
        .start(Role::Listener, "web", &place, &arguments)
        .unwrap();
    let shape = Shape::Post { size: 3000 };
    let load = Load::new(&place, production.address(), shape, REQUESTS);
    load.run().unwrap();

    let books = cluster.at_rest(REQUESTS, LIMIT).unwrap();
    let epoch = &books.epochs[0];
    assert_eq!(epoch.settled, REQUESTS);
    assert!(epoch.targets.is_empty() && epoch.dropped.is_empty());
    let stopped = cluster.stop("web").unwrap();
    assert!(stopped.status.success(), "{}", stopped.log);
    let flushed = format!("flushed: {REQUESTS} of {REQUESTS} captured exchanges are settled");
    assert!(stopped.log.contains(&flushed), "{}", stopped.log);
}
