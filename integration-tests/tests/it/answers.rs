//! With `--track-response`, what production answered reaches the replayer with its request.

use std::fs;
use std::time::Duration;

use reprise_integration_tests::process::output;
use reprise_integration_tests::{Cluster, Load, Nginx, Place, Role, Shape, Staging, eventually};

use crate::fleet::REST;
use crate::rig;

const LIMIT: Duration = Duration::from_secs(20);

/// Waits until the replayer has taken so many requests with whole answers, and none with less.
fn until_answers(cluster: &Cluster, name: &str, target: &str, count: u64) {
    let line =
        |kept| format!("reprise_production_answers_total{{target=\"{target}\",kept=\"{kept}\"}}");
    let found = eventually("answers at the replayer", LIMIT, || {
        let page = cluster.page(name, "/metrics")?;
        let whole = format!("{} {count}", line("whole"));
        anyhow::ensure!(page.lines().any(|l| l == whole), "no {whole}:\n{page}");
        Ok(page)
    });
    let page = found.unwrap();
    for kept in ["part", "nothing"] {
        let none = format!("{} 0", line(kept));
        assert!(page.lines().any(|l| l == none), "no {none}:\n{page}");
    }
}

#[test]
fn answers_travel_from_the_listener_to_the_replayer() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let (production, staging) = (
        Nginx::start(&place).unwrap(),
        Staging::start(&place).unwrap(),
    );
    let dir = tempfile::tempdir().unwrap();
    let targets = dir.path().join("targets.yaml");
    let document = format!(
        "targets:\n  shop/staging: {{url: '{}', methods: [any]}}\n",
        staging.url()
    );
    fs::write(&targets, document).unwrap();
    let targets = targets.to_str().unwrap();
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    cluster
        .start(Role::Replayer, "replayer", &place, &[])
        .unwrap();
    let replayer = cluster.listen("replayer").unwrap().to_string();
    let arguments = ["--replayer", &replayer, "--targets", targets];
    cluster
        .start(Role::Relay, "relay", &place, &arguments)
        .unwrap();
    let relay = cluster.listen("relay").unwrap().to_string();
    let capture = format!("lo:{}", production.address().port());
    let arguments = ["--capture", &capture, "--track-response", "--relay", &relay];
    cluster
        .start(Role::Listener, "web", &place, &arguments)
        .unwrap();

    for shape in [Shape::Get, Shape::Post { size: 3000 }] {
        let load = Load::new(&place, production.address(), shape, 200);
        load.run().unwrap();
    }
    // No body follows a HEAD's answer; before the one to an expectation comes an interim one.
    let url = production.url();
    let head = ["--head", &url];
    let expecting = ["--header=Expect: 100-continue", "--data=body", &url];
    for arguments in [&head[..], &expecting[..]] {
        let mut command = place.command("curl");
        command.args(["--silent", "--show-error", "--fail"]);
        command.args(arguments.iter().flat_map(|a| a.splitn(2, '=')));
        output(command, LIMIT).unwrap();
    }
    cluster.at_rest(402, REST).unwrap();
    until_answers(&cluster, "replayer", "shop/staging", 402);
}
