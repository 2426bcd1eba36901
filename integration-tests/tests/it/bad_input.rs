//! Bad input gets one clear line, disturbs nothing else and panics nowhere.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use reprise_integration_tests::process::run;
use reprise_integration_tests::{Cluster, Load, Place, Role, Shape, Staging, eventually};

use crate::fleet::{Fleet, REST, TARGET, target_key};
use crate::rig;

const LIMIT: Duration = Duration::from_secs(20);
const TO: [&str; 2] = ["--to", "http://127.0.0.1:9"];

/// The command is refused: it ends with a failure and one line, which says all of `parts`.
fn assert_refused(mut command: Command, arguments: &[&str], parts: &[&str]) {
    command.args(arguments);
    let finished = run(command, LIMIT).unwrap();
    let said = finished.stderr.trim();
    assert!(!finished.status.success(), "{arguments:?} is accepted");
    assert_eq!(said.lines().count(), 1, "{arguments:?}:\n{said}");
    for part in parts {
        assert!(said.contains(part), "{arguments:?}: no {part:?} in: {said}");
    }
}

fn reprise() -> Command {
    Place::loopback().command(rig::binary())
}

#[test]
fn an_unknown_interface() {
    if rig::may_capture() {
        let arguments = [&["run", "--capture", "nosuch0:80"], &TO[..]].concat();
        assert_refused(reprise(), &arguments, &["nosuch0"]);
    }
}

#[test]
fn a_file_that_is_no_capture() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop.pcap");
    let file = path.to_str().unwrap();
    let arguments = [&["run", "--read", file], &TO[..]].concat();
    assert_refused(reprise(), &arguments, &["shop.pcap", "No such file"]);
    fs::write(&path, "no capture").unwrap();
    assert_refused(reprise(), &arguments, &["shop.pcap", "neither a capture"]);
    let twice = [&["run", "--read", "-", "--read", "-"], &TO[..]].concat();
    assert_refused(reprise(), &twice, &["standard input (-)"]);
    let no_file = ["run", "--mirror", "127.0.0.1:0", "--read-port", "80"];
    assert_refused(reprise(), &[&no_file, &TO[..]].concat(), &["--read-port"]);
}

#[test]
fn a_port_in_use() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let free = Place::loopback().free().unwrap().to_string();
    for arguments in [
        [&["run", "--mirror", &taken], &TO[..]].concat(),
        [&["run", "--mirror", &free, "--admin", &taken], &TO[..]].concat(),
        vec!["replayer", "--listen", &taken],
    ] {
        assert_refused(reprise(), &arguments, &[&taken]);
    }
}

#[test]
fn no_right_to_capture() {
    let mut command = Place::loopback().command("setpriv");
    command.args([
        "--bounding-set",
        "-net_raw,-net_admin",
        "--inh-caps",
        "-all",
        "--",
    ]);
    command.arg(rig::binary());
    let arguments = [&["run", "--capture", "lo:80"], &TO[..]].concat();
    assert_refused(command, &arguments, &["CAP_NET_RAW"]);
}

#[test]
fn a_malformed_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("targets.yaml");
    let path = path.to_str().unwrap();
    let mirror = Place::loopback().free().unwrap().to_string();
    for (text, part) in [
        ("targets: [", "line"),
        ("targets:\n  a/b: {url: 'http://h', colour: red}", "colour"),
        ("targets:\n  a/b: {url: 'ftp://h'}", "ftp://h"),
    ] {
        fs::write(path, text).unwrap();
        let arguments = ["run", "--mirror", &mirror, "--targets", path];
        assert_refused(reprise(), &arguments, &["targets.yaml", part]);
    }
    let config = dir.path().join("reprise.toml");
    fs::write(&config, "colour = \"red\"\n").unwrap();
    let config = config.to_str().unwrap();
    let arguments = [&["run", "--mirror", &mirror, "--config", config], &TO[..]].concat();
    assert_refused(reprise(), &arguments, &["reprise.toml", "colour"]);
}

#[test]
fn an_etcd_that_is_not_there() {
    let nobody = Place::loopback().free().unwrap();
    let url = format!("http://{nobody}");
    let listen = Place::loopback().free().unwrap().to_string();
    let arguments = ["relay", "--listen", &listen, "--etcd", &url];
    assert_refused(reprise(), &arguments, &["etcd", &nobody.to_string()]);
}

#[test]
fn a_file_that_becomes_malformed_changes_nothing() {
    let _alone = rig::alone();
    let place = Place::loopback();
    let staging = Staging::start(&place).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("targets.yaml");
    fs::write(
        &path,
        format!("targets:\n  {TARGET}: {{url: '{}'}}\n", staging.url()),
    )
    .unwrap();
    let mirror = place.free().unwrap();
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    let arguments = [
        "--mirror",
        &mirror.to_string(),
        "--targets",
        path.to_str().unwrap(),
    ];
    cluster.start(Role::Run, "run", &place, &arguments).unwrap();

    let lines = cluster.log("run").unwrap().lines().count();
    fs::write(&path, "targets:\n  a/b: {url: 'http://h', colour: red}\n").unwrap();
    let line = eventually("a line about the file", LIMIT, || {
        new_lines(&cluster, "run", lines)
    });
    assert!(line.unwrap()[0].contains("colour"));
    Load::new(&place, mirror, Shape::Get, 100).run().unwrap();
    let account = cluster.at_rest(100, REST).unwrap().account(TARGET);
    assert_eq!(account.replayed_total(), 100, "{account:?}");
    assert_eq!(new_lines(&cluster, "run", lines).unwrap().len(), 1);
}

/// What a part has logged since it had so many lines.
fn new_lines(cluster: &Cluster, name: &str, since: usize) -> anyhow::Result<Vec<String>> {
    let log = cluster.log(name)?;
    let new: Vec<String> = log.lines().skip(since).map(str::to_owned).collect();
    anyhow::ensure!(!new.is_empty(), "{name} says nothing");
    Ok(new)
}

#[test]
fn a_malformed_document_in_etcd_disturbs_no_other() {
    let _alone = rig::alone();
    let Some(fleet) = Fleet::start() else {
        return;
    };
    for (key, document) in [
        ("shop/bad", "url: ["),
        ("shop/typo", "{url: 'http://127.0.0.1:9', colour: red}"),
        ("bad", "url: http://127.0.0.1:9"),
    ] {
        fleet.etcd.put(&target_key(key), document).unwrap();
        for relay in ["relay1", "relay2"] {
            let line = eventually("a line about the document", LIMIT, || {
                let log = fleet.cluster.log(relay)?;
                let about: Vec<_> = log.lines().filter(|l| l.contains(key)).collect();
                anyhow::ensure!(!about.is_empty(), "{relay} says nothing");
                Ok(about.len())
            });
            assert!(line.unwrap() >= 1);
        }
    }
    let load = Load::new(&fleet.place, fleet.production.address(), Shape::Get, 300);
    load.run().unwrap();
    let books = fleet.cluster.at_rest(300, REST).unwrap();
    assert_eq!(books.account(TARGET).replayed_total(), 300);
    assert_eq!(books.account("shop/typo").total(), 0);
}

/// What strangers send to a port.
fn garbage() -> Vec<Vec<u8>> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let noise: Vec<u8> = (0..40_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    vec![
        noise.clone(),
        [preface, noise].concat(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hello".to_vec(),
        b"GET / HTTP/1.1\r\nHost".to_vec(),
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"
            .to_vec(),
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"
            .to_vec(),
        b"\n".repeat(5000),
        Vec::new(),
    ]
}

/// Sends it and waits for whatever comes, to the end of the connection or for a moment.
fn throw(address: SocketAddr, garbage: &[u8]) {
    let mut connection = TcpStream::connect(address).unwrap();
    connection
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    connection.set_write_timeout(Some(LIMIT)).unwrap();
    // It may have hung up already, and rightly so.
    let _ = connection.write_all(garbage);
    let _ = connection.shutdown(std::net::Shutdown::Write);
    let _ = connection.read_to_end(&mut Vec::new());
}

#[test]
fn garbage_on_every_port() {
    let _alone = rig::alone();
    let Some(mut fleet) = Fleet::start() else {
        return;
    };
    let mirror = fleet.place.free().unwrap();
    let arguments = ["--mirror", &mirror.to_string(), "--etcd", &fleet.etcd.url()];
    let place = fleet.place.clone();
    fleet
        .cluster
        .start(Role::Listener, "mirror1", &place, &arguments)
        .unwrap();
    let parts = [
        "listener1",
        "mirror1",
        "relay1",
        "relay2",
        "replayer1",
        "replayer2",
    ];
    let mut ports = vec![("mirror1", mirror)];
    for part in parts {
        ports.push((part, fleet.cluster.admin(part).unwrap()));
        if let Ok(listen) = fleet.cluster.listen(part) {
            ports.push((part, listen));
        }
    }
    let lines = |fleet: &Fleet, part: &str| fleet.cluster.log(part).unwrap().lines().count();
    for (part, port) in ports {
        for garbage in garbage() {
            let before = lines(&fleet, part);
            throw(port, &garbage);
            let said = lines(&fleet, part) - before;
            assert!(
                said <= 1,
                "{part} says {said} lines:\n{}",
                fleet.cluster.log(part).unwrap()
            );
        }
    }
    let captured = fleet.cluster.books().unwrap().captured();
    Load::new(&fleet.place, fleet.production.address(), Shape::Get, 300)
        .run()
        .unwrap();
    Load::new(&fleet.place, mirror, Shape::Get, 300)
        .run()
        .unwrap();
    let books = fleet.cluster.at_rest(captured + 600, REST).unwrap();
    assert!(books.account(TARGET).replayed_total() >= 600);
    for part in parts {
        assert!(fleet.cluster.is_running(part).unwrap(), "{part} has ended");
        assert!(
            !fleet.cluster.log(part).unwrap().contains("panicked"),
            "{part} panicked"
        );
    }
}
