//! Conversations that a real TCP stack carried, captured by tcpdump: what `reprise inspect` finds is what the servers
//! logged.
//!
//! The conversations come out of a seed, which is printed; `REPRISE_SEED=N` repeats them. What the kernel makes of
//! them, its segments and their order, is its own every time.

mod client;
mod server;
mod talk;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use reprise_integration_tests::process::{Signal, output, run};
use reprise_integration_tests::{Nginx, Place, Process, eventually, load};
use serde_json::Value;
use tempfile::TempDir;

use crate::rig;
use server::Server;
use talk::Talk;

/// Raw sockets to our own server; curl to it; raw sockets to nginx.
const CONVERSATIONS: [u64; 3] = [140, 30, 30];
/// Requests of `hey` to nginx, on connections that it keeps.
const HEY: (u64, u64) = (300, 4);
const THREADS: usize = 8;
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn what_is_found_in_a_capture_is_what_the_servers_logged() {
    let _alone = rig::alone();
    if !rig::may_capture() || !rig::is_there("tcpdump") || !rig::is_there("nginx") {
        return;
    }
    let seed = match env::var("REPRISE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => fastrand::u64(..1_000_000_000),
    };
    println!("REPRISE_SEED={seed}");
    let place = Place::loopback();
    let server = Server::start();
    let nginx = Nginx::start_recording(&place).unwrap();
    let ports = [server.address().port(), nginx.address().port()];
    let capture = Capture::start(&place, &ports);
    converse(seed, &server, &nginx);
    let hey = rig::is_there("hey");
    if hey {
        load::hey(&place, &format!("{}/hey?a=%20b", nginx.url()), HEY.0, HEY.1).unwrap();
    }
    let (_dir, file) = capture.finish(&server);

    let (logged, recorded) = (server.logged(), nginx.records().unwrap());
    println!(
        "{} requests to our own server, {} to nginx",
        logged.len(),
        recorded.len()
    );
    assert!(logged.len() >= 400 && recorded.len() >= 60);
    for (ports, answers) in [
        (&ports[..], false),
        (&[], false),
        (&ports[..], true),
        (&[], true),
    ] {
        let found = inspect(&file, ports, answers);
        let (own, others): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|row| row["server"] == server.address().to_string());
        let own = own.iter().map(|row| shown(row, answers));
        assert_same(own, logged.iter().map(|entry| entry.shown(answers)));
        let others = others.iter().map(|row| recorded_as(row, answers));
        assert_same(
            others,
            recorded.iter().map(|line| without_status(line, answers)),
        );
    }
}

/// Has all conversations, several at a time.
fn converse(seed: u64, server: &Server, nginx: &Nginx) {
    let [raw, curl, plain] = CONVERSATIONS;
    let next = AtomicU64::new(0);
    let work = || {
        while let n = next.fetch_add(1, Ordering::Relaxed)
            && n < raw + curl + plain
        {
            let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(1000).wrapping_add(n));
            match n {
                _ if n < raw => client::talk(&Talk::odd(n, &mut random), server.address()),
                _ if n < raw + curl => with_curl(n, &mut random, server.address()),
                _ => client::talk(&Talk::plain(n, &mut random), nginx.address()),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
}

/// A few requests on a connection that curl keeps.
fn with_curl(n: u64, random: &mut fastrand::Rng, server: SocketAddr) {
    if !rig::is_there("curl") {
        return;
    }
    let mut command = Place::loopback().command("curl");
    command.args(["--silent", "--show-error", "--output", "/dev/null"]);
    command.args(["--max-time", "15", "--noproxy", "*"]);
    let body = "b".repeat(random.usize(1..100_000));
    match random.u8(..7) {
        0 => command.args(["--http1.0", "--user-agent", "x"]),
        1 => command.args(["--data-binary", &body, "--header", "Expect: 100-continue"]),
        2 => command.args([
            "--data-binary",
            &body,
            "--header",
            "Transfer-Encoding: chunked",
        ]),
        3 => command.arg("--head"),
        4 => command.args(["--request", "PURGE", "--request-target", "*"]),
        5 => command.args(["--form", &format!("field={body}")]),
        _ => command.args(["--header", "Empty;", "--compressed"]),
    };
    for part in 0..random.u8(1..6) {
        command.arg(format!(
            "http://{server}/curl{n}/{part}?{}",
            talk::answer(random)
        ));
    }
    output(command, LIMIT).unwrap();
}

/// A tcpdump under way.
struct Capture {
    process: Process,
    dir: TempDir,
}

impl Capture {
    fn start(place: &Place, ports: &[u16]) -> Capture {
        let dir = tempfile::tempdir().unwrap();
        let mut command = place.command("tcpdump");
        command.args([
            "-i",
            place.interface(),
            "-n",
            "-U",
            "-Z",
            "root",
            "-B",
            "65536",
        ]);
        command.arg("-w").arg(dir.path().join("capture.pcap"));
        let ports: Vec<_> = ports
            .iter()
            .map(|port| format!("tcp port {port}"))
            .collect();
        command.arg(ports.join(" or "));
        let process = Process::start("tcpdump", command, &dir.path().join("log")).unwrap();
        eventually("start of tcpdump", LIMIT, || {
            let log = process.log()?;
            anyhow::ensure!(log.contains("listening on"), "it says {log}");
            Ok(())
        })
        .unwrap();
        Capture { process, dir }
    }

    /// Stops once the file has the end of a last conversation, and with it all before.
    fn finish(mut self, server: &Server) -> (TempDir, PathBuf) {
        client::talk(&Talk::last(), server.address());
        let path = self.dir.path().join("capture.pcap");
        eventually("end of the capture", LIMIT, || {
            let capture = fs::read(&path)?;
            let mut windows = capture.rchunks(1 << 16).take(2);
            let has = windows.any(|part| find(part, talk::LAST_ANSWER.as_bytes()));
            anyhow::ensure!(has, "the last answer isn't there");
            Ok(())
        })
        .unwrap();
        self.process.signal(Signal::INT).unwrap();
        self.process.wait(LIMIT).unwrap();
        let log = self.process.log().unwrap();
        assert!(log.contains("\n0 packets dropped by kernel"), "{log}");
        (self.dir, path)
    }
}

fn find(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// What `reprise inspect` reports.
fn inspect(file: &Path, ports: &[u16], answers: bool) -> Vec<Value> {
    let mut command = Command::new(rig::binary());
    command.args(["inspect", "--json"]).arg(file);
    command.args(answers.then_some("--responses"));
    command.args(ports.iter().map(|port| format!("--port={port}")));
    let found = run(command, LIMIT).unwrap();
    assert!(found.status.success(), "{}", found.stderr);
    let lines = found.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A request's client, and what our own server logs of it.
fn shown(row: &Value, answers: bool) -> (String, String) {
    let mut fields = [
        "method",
        "target",
        "version",
        "headers",
        "body_len",
        "body_sha256",
    ]
    .map(|field| row[field].to_string())
    .to_vec();
    if answers {
        fields.push(row["response"]["status"].to_string());
    }
    (text(row, "client"), fields.join(" "))
}

/// A request's client, and what nginx logs of it: `STATUS REQUEST_LENGTH METHOD TARGET VERSION`.
fn recorded_as(row: &Value, answers: bool) -> (String, String) {
    let headers = row["headers"].as_array().unwrap().iter();
    // All clients write `name: value`.
    let headers = headers.map(|pair| {
        let length = |n: usize| pair[n].as_str().unwrap().chars().count();
        length(0) + length(1) + ": \r\n".len()
    });
    let line = ["method", "target", "version"]
        .map(|field| text(row, field))
        .join(" ");
    let body = row["body_len"].as_u64().unwrap() as usize;
    let length = line.len() + headers.sum::<usize>() + 2 * "\r\n".len() + body;
    let status = match answers {
        true => row["response"]["status"].to_string(),
        false => String::new(),
    };
    (text(row, "client"), format!("{status} {length} {line}"))
}

/// A line of nginx's log, `CLIENT STATUS REQUEST_LENGTH …`.
fn without_status(line: &str, answers: bool) -> (String, String) {
    let (client, rest) = line.split_once(' ').unwrap();
    let rest = match answers {
        true => rest,
        false => &rest[rest.find(' ').unwrap()..],
    };
    (client.to_owned(), rest.to_owned())
}

fn text(row: &Value, field: &str) -> String {
    row[field].as_str().unwrap().to_owned()
}

/// The same requests of the same clients, those of each in the same order.
fn assert_same(
    found: impl Iterator<Item = (String, String)>,
    logged: impl Iterator<Item = (String, String)>,
) {
    let (mut found, logged) = (by_client(found), by_client(logged));
    for (client, logged) in logged {
        assert_eq!(
            found.remove(&client).unwrap_or_default(),
            logged,
            "of {client}"
        );
    }
    assert_eq!(found, BTreeMap::new(), "of clients that no server saw");
}

fn by_client(rows: impl Iterator<Item = (String, String)>) -> BTreeMap<String, Vec<String>> {
    let mut clients = BTreeMap::<String, Vec<String>>::new();
    for (client, row) in rows {
        clients.entry(client).or_default().push(row);
    }
    clients
}
