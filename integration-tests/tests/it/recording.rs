//! Recordings: what is said to be recorded is in the file, whatever dies, and is what was sent.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reprise_integration_tests::process::{output, run};
use reprise_integration_tests::{Cluster, Load, Nginx, Place, Role, Shape, eventually};
use reprise_traffic::gor::SEPARATOR;
use serde_json::Value;

use crate::fleet::REST;
use crate::{rig, tape};

const LIMIT: Duration = Duration::from_secs(20);
const FLUSH: Duration = Duration::from_millis(200);
/// What a request may take from the wire to the recording, on a machine that is busy with other things.
const ON_THE_WAY: Duration = Duration::from_millis(1500);

/// The requests that are whole in a recording, as `reprise inspect` finds them in order.
fn requests_in(file: &Path) -> Vec<Value> {
    let mut command = Place::loopback().command(rig::binary());
    command.args(["inspect", "--json", "--responses"]).arg(file);
    let said = run(command, LIMIT).unwrap().stdout;
    let line = |line| serde_json::from_str(line).unwrap();
    said.lines().map(line).collect()
}

/// The numbers that a load gave its GETs.
fn ids_in(file: &Path) -> Vec<u64> {
    let id = |request: &Value| {
        let target = request["target"].as_str().unwrap();
        let (_, id) = target.split_once("id=").unwrap();
        id.split('&').next().unwrap().parse().unwrap()
    };
    requests_in(file).iter().map(id).collect()
}

/// Under load, killed at moments of its own choosing, and started again on the same files.
#[test]
fn a_killed_recorder_loses_what_came_within_a_flush_interval_and_nothing_that_it_had() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let production = Nginx::start(&place).unwrap();
    let capture = format!("lo:{}", production.address().port());
    let dir = tempfile::tempdir().unwrap();
    let names = ["tape.gor", "tape.gor.gz", "tape.gor.zst"];
    let files: Vec<PathBuf> = names.iter().map(|name| dir.path().join(name)).collect();
    let interval = humantime::format_duration(FLUSH).to_string();
    let mut arguments = vec!["--capture", &capture, "--record-append"];
    arguments.extend(["--record-flush-interval", &interval]);
    for file in &files {
        arguments.extend(["--record", file.to_str().unwrap()]);
    }
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    let mut known = vec![Vec::new(); files.len()];
    let mut sizes = vec![0; files.len()];
    for life in 0..5_u64 {
        cluster.start(Role::Run, "run", &place, &arguments).unwrap();
        let mut load = Load::new(&place, production.address(), Shape::Get, 1_000_000);
        load.rate = Some(400);
        let load = load.start().unwrap();
        // Not the same distance from a flush each time.
        let enough = 150 + 37 * life;
        let claimed = eventually("recorded requests", LIMIT, || {
            let books = cluster.books()?;
            let claimed: Vec<u64> = (1..=files.len())
                .map(|n| {
                    books
                        .account(&format!("default/recording-{n}"))
                        .replayed_total()
                })
                .collect();
            anyhow::ensure!(claimed.iter().all(|n| *n >= enough), "{claimed:?}");
            Ok(claimed)
        });
        let claimed = claimed.unwrap();
        cluster.kill("run").unwrap();
        let killed = Instant::now();
        let sent = load.stop().unwrap();
        for (n, file) in files.iter().enumerate() {
            let size = fs::metadata(file).unwrap().len();
            assert!(size >= sizes[n], "{} shrank", names[n]);
            sizes[n] = size;
            let ids = ids_in(file);
            assert!(ids.starts_with(&known[n]), "{} lost earlier ones", names[n]);
            let new = &ids[known[n].len()..];
            let set: HashSet<u64> = new.iter().copied().collect();
            assert_eq!(set.len(), new.len(), "twice in {}", names[n]);
            assert!(
                new.len() as u64 >= claimed[n],
                "{}: {} of {}",
                names[n],
                new.len(),
                claimed[n]
            );
            let late = |at: Instant| at + FLUSH + ON_THE_WAY >= killed;
            let lost = sent.iter().filter(|s| !set.contains(&s.id) && !late(s.at));
            assert_eq!(lost.count(), 0, "{} in life {life}", names[n]);
            known[n] = ids;
        }
    }
    // A life that ends well loses nothing, and leaves files that everybody's tools call whole.
    cluster.start(Role::Run, "run", &place, &arguments).unwrap();
    let load = Load::new(&place, production.address(), Shape::Get, 700);
    let sent = load.run().unwrap();
    cluster.at_rest(700, REST).unwrap();
    assert!(cluster.stop("run").unwrap().status.success());
    for (n, file) in files.iter().enumerate() {
        let ids = ids_in(file);
        assert!(ids.starts_with(&known[n]));
        let new: HashSet<u64> = ids[known[n].len()..].iter().copied().collect();
        assert_eq!(
            new,
            sent.iter().map(|sent| sent.id).collect(),
            "{}",
            names[n]
        );
        let tool: &[&str] = match n {
            0 => &["cat"],
            1 => &["zcat"],
            _ => &["zstd", "-dc"],
        };
        if !rig::is_there(tool[0]) {
            continue;
        }
        let mut command = Place::loopback().command(tool[0]);
        command.args(&tool[1..]).arg(file);
        let text = output(command, LIMIT).unwrap();
        assert_eq!(
            text.matches("\n🐵🙈🙉\n").count(),
            ids.len(),
            "{}",
            names[n]
        );
    }
}

/// The parts of a cluster: one target is recorded with production's answers, another one takes all and does nothing.
#[test]
fn a_cluster_records_what_was_sent() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let production = Nginx::start(&place).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let targets = dir.path().join("targets.yaml");
    let document = format!(
        "targets:\n  shop/tape:\n    url: file://{}/shop-%t.gor.zst\n    methods: [POST]\n    recording: {{queue_limit: 0}}\n\
         \x20 shop/nowhere: {{url: 'null:', methods: [any]}}\n\
         \x20 shop/broken: {{url: 'file:///nowhere/shop.gor', methods: [any]}}\n",
        dir.path().display()
    );
    fs::write(&targets, document).unwrap();
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    cluster
        .start(Role::Replayer, "replayer", &place, &[])
        .unwrap();
    let replayer = cluster.listen("replayer").unwrap().to_string();
    let arguments = [
        "--replayer",
        &replayer,
        "--targets",
        targets.to_str().unwrap(),
    ];
    cluster
        .start(Role::Relay, "relay", &place, &arguments)
        .unwrap();
    let relay = cluster.listen("relay").unwrap().to_string();
    let capture = format!("lo:{}", production.address().port());
    let arguments = ["--capture", &capture, "--track-response", "--relay", &relay];
    cluster
        .start(Role::Listener, "listener", &place, &arguments)
        .unwrap();

    let mut sent = Vec::new();
    for (size, requests) in [(10, 300), (300_000, 20)] {
        let load = Load::new(&place, production.address(), Shape::Post { size }, requests);
        sent.extend(load.run().unwrap());
    }
    Load::new(&place, production.address(), Shape::Get, 50)
        .run()
        .unwrap();
    let books = cluster.at_rest(370, REST).unwrap();
    let tape = books.account("shop/tape");
    assert_eq!(
        (tape.replayed.get(&0), tape.filtered),
        (Some(&320), 50),
        "{tape:?}"
    );
    assert_eq!(books.account("shop/nowhere").replayed.get(&0), Some(&370));
    assert_eq!(books.account("shop/broken").failed.get("ours"), Some(&370));
    let log = cluster.log("replayer").unwrap();
    let said = log.lines().filter(|line| line.contains("shop/broken"));
    let said: Vec<&str> = said.collect();
    assert!(
        said.len() == 1 && said[0].contains("no directory /nowhere; make it"),
        "{said:?}"
    );
    let page = cluster.page("replayer", "/metrics").unwrap();
    let taken = "reprise_exchanges_total{target=\"shop/tape\",disposition=\"replayed\",detail=\"taken\"} 320";
    assert!(page.contains(taken), "{page}");

    let file = dir.path().join("shop-1.gor_0.zst");
    let mut bodies: Vec<String> = requests_in(&file)
        .iter()
        .map(|request| request["body_sha256"].as_str().unwrap().to_owned())
        .collect();
    let hex = |hash: &[u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut expected: Vec<String> = sent.iter().map(|sent| hex(&sent.body_sha256)).collect();
    bodies.sort_unstable();
    expected.sort_unstable();
    assert_eq!(bodies, expected);
    assert!(
        dir.path().join("shop-2.gor_0.zst").exists(),
        "answers have a file of their own"
    );
}

/// A recording is replayed into another one, with production's answers.
#[test]
fn answers_in_a_recording_go_along_with_their_requests() {
    const LATE: u64 = 5;
    let dir = tempfile::tempdir().unwrap();
    let answer = |n: u64| {
        let (at, status) = (tape::BEGIN + n * tape::MS, 200 + n);
        let head =
            format!("2 {n:024x} {at} 1000\nHTTP/1.1 {status} OK\r\nContent-Length: 2\r\n\r\n");
        [head.as_bytes(), format!("a{n}").as_bytes(), SEPARATOR].concat()
    };
    let request = |n: u64, at: u64| tape::record(0, n, at * tape::MS, &tape::get(n, 1));
    let parts = [
        // Right behind its request, in the wrong order, none, and of nobody.
        [request(0, 0), answer(0)].concat(),
        [request(1, 10), request(2, 20), answer(2), answer(1)].concat(),
        [request(3, 30), answer(99)].concat(),
        // Behind a request that came more than a second later; and at the very end.
        [
            request(LATE, 40),
            request(6, 2_000),
            answer(LATE),
            answer(6),
        ]
        .concat(),
    ];
    let from = tape::write(dir.path(), "from.gor", &parts.concat());
    let statuses = |file: &Path| -> Vec<(String, Option<u64>, Value)> {
        let rows = requests_in(file).into_iter();
        let row = |row: Value| {
            let target = row["target"].as_str().unwrap().to_owned();
            (
                target,
                row["response"]["status"].as_u64(),
                row["response"]["body_sha256"].clone(),
            )
        };
        rows.map(row).collect()
    };
    let mut expected = statuses(&from);
    assert_eq!(expected.len(), 6);
    for (target, status, body) in &mut expected {
        if target.ends_with(&format!("id={LATE}")) {
            assert_eq!(*status, Some(200 + LATE));
            (*status, *body) = (None, Value::Null);
        }
    }
    for (more, answers) in [(&["--track-response"][..], true), (&[], false)] {
        let into = dir.path().join(format!("into-{answers}.gor"));
        let record = [
            "--record",
            into.to_str().unwrap(),
            "--record-append",
            "--speed",
            "max",
        ];
        let finished = tape::replay(&[&from], "null:", &[&record[..], more].concat());
        assert!(finished.status.success(), "{finished:?}");
        match answers {
            true => assert_eq!(statuses(&into), expected),
            false => assert!(
                statuses(&into)
                    .iter()
                    .all(|(_, status, _)| status.is_none())
            ),
        }
    }
}

#[test]
fn what_cannot_be_recorded_is_said_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    fs::write(file("notes"), "remember the milk\n").unwrap();
    for (arguments, part) in [
        (
            vec!["--record", &file("none/a.gor")],
            "there is no directory",
        ),
        (vec!["--record", &file("%D.gor")], "%D is no placeholder"),
        (
            vec!["--record", &file("notes"), "--record-append"],
            "no recording",
        ),
        (
            vec!["--record", &file("a.gor"), "--record-flush-interval", "1m"],
            "flush_interval",
        ),
    ] {
        let mut command = Place::loopback().command(rig::binary());
        command
            .args(["run", "--check", "--mirror", "127.0.0.1:0"])
            .args(&arguments);
        let finished = run(command, LIMIT).unwrap();
        assert!(!finished.status.success());
        let said = finished.stderr;
        assert!(
            said.contains(part) && said.lines().count() == 1,
            "{arguments:?}: {said}"
        );
    }
}
