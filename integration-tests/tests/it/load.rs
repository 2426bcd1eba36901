//! `reprise load`: what its report says is what the target saw, whoever sent it and however it ends.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper::StatusCode;
use reprise_integration_tests::process::{Finished, Process, Signal, run};
use reprise_integration_tests::staging::Behaviour;
use reprise_integration_tests::{Cluster, Etcd, Nginx, Place, Role, Staging};
use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::target_key;
use crate::rig;
use crate::tape::{self, LIMIT, MS, evenly, get, record};

const USERS: u64 = 20;
const REQUESTS: u64 = 10;

/// Users with a connection and a session cookie each, who ask at the same time.
fn shop(dir: &Path) -> PathBuf {
    let records = (0..USERS * REQUESTS).flat_map(|n| {
        let user = n % USERS;
        record(user, n, n * MS / 2, &get(n, user))
    });
    tape::write(dir, "shop.gor", &records.collect::<Vec<_>>())
}

fn load(from: &Path, target: &str, more: &[&str]) -> Command {
    let mut command = Place::loopback().command(rig::binary());
    command.env("REPRISE_LOG", "error");
    command.arg("load").arg("--from").arg(from);
    command.args(["--target", target]).args(more);
    command
}

fn report(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

const REPLAYERS: [&str; 3] = ["replayer1", "replayer2", "replayer3"];

/// Replayers of the pool `load`, and the target that they serve.
struct Fleet {
    cluster: Cluster,
    etcd: Etcd,
    nginx: Nginx,
    dir: TempDir,
}

impl Fleet {
    fn start() -> Fleet {
        let place = Place::loopback();
        let (etcd, mut cluster) = (
            Etcd::start(&place).unwrap(),
            Cluster::new(rig::binary()).unwrap(),
        );
        let nginx = Nginx::start_logging(&place, "$status $cookie_sid $request").unwrap();
        let document = format!("url: {}\npool: load\n", nginx.url());
        etcd.put(&target_key("shop/staging"), &document).unwrap();
        for name in REPLAYERS {
            let arguments = ["--etcd", &etcd.url(), "--pool", "load"];
            cluster
                .launch(Role::Replayer, name, &place, &arguments)
                .unwrap();
        }
        REPLAYERS
            .iter()
            .for_each(|name| cluster.until_ready(name).unwrap());
        Fleet {
            cluster,
            etcd,
            nginx,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn load(&self, target: &str, more: &[&str]) -> Finished {
        let mut command = load(&shop(self.dir.path()), target, more);
        command.args(["--etcd", &self.etcd.url()]);
        run(command, LIMIT).unwrap()
    }

    /// The sum of a counter over all replayers and targets.
    fn metric(&self, name: &str) -> f64 {
        let start = format!("{name}{{");
        let of_one = |replayer: &&str| {
            let page = self.cluster.page(replayer, "/metrics").unwrap();
            let lines = page.lines().filter(|line| line.starts_with(&start));
            let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>());
            values.map(Result::unwrap).sum::<f64>()
        };
        REPLAYERS.iter().map(of_one).sum()
    }
}

#[test]
fn the_report_of_a_fleet_is_what_the_target_logged() {
    let _alone = rig::alone();
    let fleet = Fleet::start();
    let html = fleet.dir.path().join("report.html");
    let page = html.to_str().unwrap();
    let more = [
        "--users",
        "5x",
        "--unique",
        "cookie:sid",
        "--json",
        "--html",
        page,
    ];
    let finished = fleet.load("shop/staging", &more);
    assert!(finished.status.success(), "{finished:?}");
    let all = USERS * REQUESTS * 5;
    let five = report(&finished);
    for name in ["recorded", "intended", "sent", "answered"] {
        assert_eq!(five[name], all, "{name}: {five}");
    }
    assert_eq!(five["statuses"]["200"], all, "{five}");
    assert_eq!(five["fidelity"]["inversions"], 0, "{five}");
    assert_eq!(five["balances"], true);
    let sums = |report: &Value| {
        let by = report["replayers"].as_object().unwrap();
        let seconds = report["series"].as_array().unwrap().iter();
        (
            by.len(),
            by.values().map(|n| n.as_u64().unwrap()).sum::<u64>(),
            seconds.map(|s| s["sent"].as_u64().unwrap()).sum::<u64>(),
        )
    };
    assert_eq!(sums(&five), (3, all, all), "{five}");
    // The replayers' own metrics say the same.
    for name in ["due", "sent"] {
        let metric = fleet.metric(&format!("reprise_replay_{name}_total"));
        assert_eq!(metric, all as f64, "{name}");
    }
    assert_eq!(fleet.metric("reprise_replay_inversions_total"), 0.0);
    let pauses = fleet.metric("reprise_replay_gaps_total");
    for (metric, name) in [("due", "gap_ms"), ("off", "gap_off_ms")] {
        let sum = fleet.metric(&format!("reprise_replay_gaps_{metric}_seconds_total"));
        let (is, says) = (sum * 1e3 / pauses, five["fidelity"][name].as_f64().unwrap());
        assert!(
            (is / says - 1.0).abs() < 0.2,
            "{name}: {is}, and not {says}"
        );
    }
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("<svg") && page.ends_with("</html>\n"));

    // A part of the pool; what others are asked for doesn't change the recording.
    let finished = fleet.load("shop/staging", &["--workers", "2", "--json"]);
    assert!(finished.status.success(), "{finished:?}");
    let once = report(&finished);
    assert_eq!(sums(&once), (2, all / 5, all / 5), "{once}");

    let mut log: Vec<String> = fleet.nginx.records().unwrap();
    let plain = log.split_off(all as usize);
    assert_eq!(plain.len() as u64, all / 5);
    let mut sessions: HashMap<&str, Vec<&str>> = HashMap::new();
    for line in &log {
        let mut words = line.splitn(3, ' ');
        assert_eq!(words.next(), Some("200"));
        let session = sessions.entry(words.next().unwrap()).or_default();
        session.push(words.next().unwrap());
    }
    assert_eq!(sessions.len() as u64, USERS * 5);
    for (session, lines) in &sessions {
        let original = session.split('~').next().unwrap();
        assert_eq!(lines, &sessions[original], "{session}");
    }
    let sessions: HashSet<&str> = plain.iter().filter_map(|l| l.split(' ').nth(1)).collect();
    assert_eq!(sessions.len() as u64, USERS);
}

/// Instants are computed, so that what was due is known exactly, however busy the machine.
#[test]
fn the_report_has_the_pauses_that_were_asked_for() {
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    let tape = tape::write(dir.path(), "even.gor", &evenly(21, 20 * MS));
    let staging = Staging::start(&Place::loopback()).unwrap();
    for (pace, gap_ms) in [
        (&[][..], 20.0),
        (&["--speed", "2"], 10.0),
        (&["--rate", "200/s"], 5.0),
        (&["--max-gap", "4ms"], 4.0),
    ] {
        let more = [pace, &["--json"]].concat();
        let finished = run(load(&tape, &staging.url(), &more), LIMIT).unwrap();
        assert!(finished.status.success(), "{finished:?}");
        let report = report(&finished);
        let gap = report["fidelity"]["gap_ms"].as_f64().unwrap();
        assert!((gap - gap_ms).abs() < 0.05 * gap_ms, "{pace:?}: {report}");
        assert_eq!(
            (&report["sent"], &report["answered"]),
            (&21.into(), &21.into())
        );
    }
}

#[test]
fn a_rule_ends_the_test_and_so_does_ctrl_c() {
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    let tape = tape::write(dir.path(), "even.gor", &evenly(20, MS));
    let staging = Staging::start(&Place::loopback()).unwrap();
    let forever = ["--loop", "forever", "--rate", "200/s", "--json"];

    staging.behave(Behaviour::Answer(StatusCode::INTERNAL_SERVER_ERROR));
    let more = [&forever[..], &["--stop-if", "error_rate>5%"]].concat();
    let finished = run(load(&tape, &staging.url(), &more), LIMIT).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    let stopped = report(&finished);
    let why = stopped["stopped_by"].as_str().unwrap();
    assert!(
        why.starts_with("error_rate>5% holds: it was 100.0%"),
        "{why}"
    );
    assert_eq!(stopped["statuses"]["500"], staging.count(), "{stopped}");

    staging.behave(Behaviour::Answer(StatusCode::OK));
    let before = staging.count();
    let log = dir.path().join("log");
    let command = load(&tape, &staging.url(), &forever);
    let mut process = Process::start("load", command, &log).unwrap();
    staging.until(before + 50, LIMIT).unwrap();
    process.signal(Signal::INT).unwrap();
    assert!(process.wait(LIMIT).unwrap().success());
    let report: Value = serde_json::from_str(&process.log().unwrap()).unwrap();
    assert_eq!(report["stopped_by"], "by a signal");
    let came = staging.count() - before;
    for name in ["sent", "answered"] {
        assert_eq!(report[name], came, "{name}: {report}");
    }
    assert_eq!(report["balances"], true);
}

#[test]
fn a_target_that_answers_nothing_fails_the_test() {
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    let tape = tape::write(dir.path(), "even.gor", &evenly(20, MS));
    // Nobody listens on the port for discarding.
    let finished = run(load(&tape, "http://127.0.0.1:9", &["--json"]), LIMIT).unwrap();
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    // The report is there all the same.
    let report = report(&finished);
    let refused = report["errors"]["connect"].as_u64().unwrap();
    let dropped = report["dropped"]["breaker_open"].as_u64().unwrap_or(0);
    assert_eq!(
        (refused + dropped, report["answered"].as_u64()),
        (20, Some(0))
    );
    let said = format!(
        "reprise: http://127.0.0.1:9 answered none of 20 requests; errors: connect {refused};"
    );
    let last = finished.stderr.lines().last().unwrap();
    assert!(last.starts_with(&said), "{finished:?}");

    // What the target's rules leave out was not intended.
    let only = ["--methods", "POST", "--json"];
    let finished = run(load(&tape, "http://127.0.0.1:9", &only), LIMIT).unwrap();
    assert!(finished.status.success(), "{finished:?}");
}

#[test]
fn what_cannot_be_tested_is_said_in_a_line() {
    let _alone = rig::alone();
    let place = Place::loopback();
    let etcd = Etcd::start(&place).unwrap();
    let document = "url: http://127.0.0.1:9\npool: nobody\n";
    etcd.put(&target_key("shop/staging"), document).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tape = tape::write(dir.path(), "even.gor", &evenly(3, MS));
    let url = etcd.url();
    let page = dir.path().join("none/report.html");
    let at_etcd = ["--etcd", &url];
    for (target, more, code, reason) in [
        (
            "shop/staging",
            &at_etcd[..],
            1,
            "no replayer serves the pool \"nobody\"",
        ),
        (
            "shop/other",
            &at_etcd,
            1,
            "--target shop/other: there is none in etcd; there are: shop/staging",
        ),
        ("shop/staging", &[], 1, "give a URL, or --etcd"),
        (
            "null:",
            &["--stop-if", "errors>5%"],
            2,
            "\"errors\" is not measured",
        ),
        ("null:", &["--users", "0x"], 2, "write a factor"),
        ("null:", &["--unique", "client"], 1, "--unique client"),
        ("null:", &["--html", page.to_str().unwrap()], 1, "write "),
        (
            "null:",
            &["--from", "-", "--loop", "2"],
            1,
            "read -: what comes through a pipe",
        ),
    ] {
        let finished = run(load(&tape, target, more), LIMIT).unwrap();
        let said = &finished.stderr;
        assert_eq!(finished.status.code(), Some(code), "{said}");
        assert!(said.lines().next().unwrap().contains(reason), "{said}");
        assert!(code == 2 || said.lines().count() == 1, "{said}");
        assert!(finished.stdout.is_empty(), "{}", finished.stdout);
    }
    let finished = run(load(&tape, "null:", &["--json"]), LIMIT).unwrap();
    assert!(finished.status.success(), "{finished:?}");
    assert_eq!(report(&finished)["answered"], 3);
}
