//! A client, a web host, a relay with etcd, and a staging host with the replayer, joined by a network.

use reprise_integration_tests::{Cluster, Etcd, Load, Nginx, Role, Shape, Staging, load};

use crate::fleet::{REST, target_key};
use crate::rig;

#[test]
fn the_job_is_done_over_a_network() {
    let _alone = rig::alone();
    let Some(hosts) = rig::hosts(&["client", "web", "relay", "stage"]) else {
        return;
    };
    let [client, web, relay, stage] =
        ["client", "web", "relay", "stage"].map(|name| hosts.place(name).unwrap());
    let etcd = Etcd::start(&relay).unwrap();
    let production = Nginx::start(&web).unwrap();
    let (lines, bodies) = (
        Nginx::start(&stage).unwrap(),
        Staging::start(&stage).unwrap(),
    );
    let safe = format!("url: {}\n", lines.url());
    let any = format!("url: {}\nmethods: [POST]\n", bodies.url());
    etcd.put(&target_key("shop/lines"), &safe).unwrap();
    etcd.put(&target_key("shop/bodies"), &any).unwrap();

    let url = etcd.url();
    let capture = format!("eth0:{}", production.address().port());
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    let mut start = |role, name, place, arguments: &[&str]| {
        let arguments = [&["--etcd", &url], arguments].concat();
        cluster.start(role, name, place, &arguments).unwrap();
    };
    start(Role::Replayer, "replayer", &stage, &[]);
    start(Role::Relay, "relay", &relay, &[]);
    start(Role::Listener, "listener", &web, &["--capture", &capture]);

    load::hey(
        &client,
        &format!("{}/a%2Fb?c", production.url()),
        20_000,
        50,
    )
    .unwrap();
    let books = cluster.at_rest(20_000, REST).unwrap();
    assert_eq!(
        books.account("shop/lines").replayed.get(&200),
        Some(&20_000)
    );
    assert_eq!(books.account("shop/bodies").filtered, 20_000);
    let logged = lines.request_lines(20_000).unwrap();
    assert_eq!(logged.len(), 20_000);
    assert_eq!(logged, production.request_lines(20_000).unwrap());

    let post = Shape::Post { size: 10_000 };
    let mut load = Load::new(&client, production.address(), post, 2000);
    load.rate = Some(1000);
    let sent = load.run().unwrap();
    let books = cluster.at_rest(22_000, REST).unwrap();
    assert_eq!(books.account("shop/lines").filtered, 2000);
    assert_eq!(books.account("shop/bodies").replayed.get(&200), Some(&2000));
    crate::arrivals::assert_faithful(&sent, &bodies);
}
