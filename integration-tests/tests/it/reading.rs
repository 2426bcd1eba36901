//! Capture files as a source: what is in them is replayed once, and then the process ends by itself.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reprise_integration_tests::process::{Process, Signal, output, run};
use reprise_integration_tests::{
    Cluster, Load, Nginx, Place, Role, Shape, Staging, eventually, load,
};

use crate::arrivals::assert_faithful;
use crate::rig;

const LIMIT: Duration = Duration::from_secs(60);

/// No HTTP: it is captured and not replayed.
const END: &[u8] = b"\x01 the end of the recording\n";

/// tcpdump, which captures what goes to and from `port` into a file or a pipe.
fn tcpdump(port: u16, into: &Path) -> Process {
    let log = into.with_extension("log");
    let mut command = Place::loopback().command("tcpdump");
    // All that a test sends, twice: it sees packets on lo leave and arrive.
    let buffer_kib = "131072";
    command.args(["-i", "lo", "-B", buffer_kib, "-U", "-w"]);
    // Otherwise it becomes a user who may not write there.
    command.arg(into).args(["-Z", "root", "tcp", "port"]);
    command.arg(port.to_string());
    Process::start("tcpdump", command, &log).unwrap()
}

fn until_it_captures(tcpdump: &Process) {
    let listening = eventually("start of tcpdump", LIMIT, || {
        let said = tcpdump.log()?;
        anyhow::ensure!(said.contains("listening on"), "{said}");
        Ok(())
    });
    listening.unwrap();
}

fn end(mut tcpdump: Process) {
    tcpdump.signal(Signal::INT).unwrap();
    tcpdump.wait(LIMIT).unwrap();
    let said = tcpdump.log().unwrap();
    assert!(said.contains("\n0 packets dropped by kernel"), "{said}");
}

/// A capture, by the real tcpdump, of what `traffic` sends to production at the address that it gets.
pub(crate) fn recorded(into: &Path, traffic: impl FnOnce(&Place, SocketAddr)) {
    let place = Place::loopback();
    let production = Nginx::start(&place).unwrap();
    let address = production.address();
    let tcpdump = tcpdump(address.port(), into);
    until_it_captures(&tcpdump);
    traffic(&place, address);
    // When the last packet is in the file, all others are.
    let mut last = TcpStream::connect(address).unwrap();
    last.write_all(END).unwrap();
    let whole = eventually("the last packet", LIMIT, || {
        let file = fs::read(into)?;
        let tail = &file[file.len().saturating_sub(4096)..];
        anyhow::ensure!(tail.windows(END.len()).any(|w| w == END), "isn't written");
        Ok(())
    });
    whole.unwrap();
    end(tcpdump);
}

fn admin() -> String {
    Place::loopback().free().unwrap().to_string()
}

#[test]
fn a_file_is_replayed_once_and_the_process_ends_by_itself() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pcap = dir.path().join("shop.pcap");
    let mut sent = Vec::new();
    recorded(&pcap, |place, production| {
        for (size, requests) in [(10_000, 300), (20_000_000, 1)] {
            let load = Load::new(place, production, Shape::Post { size }, requests);
            sent.extend(load.run().unwrap());
        }
    });
    let staging = Staging::start(&Place::loopback()).unwrap();
    let mut command = Place::loopback().command(rig::binary());
    command.args(["run", "--admin", &admin(), "--to", &staging.url()]);
    command.args(["--speed", "max", "--methods", "any", "--read"]);
    command.arg(&pcap);
    let finished = run(command, LIMIT).unwrap();
    let said = finished.stderr;
    assert!(finished.status.success(), "{said}");
    assert!(said.contains("flushed: 301 of 301 "), "{said}");
    assert_faithful(&sent, &staging);
}

/// A file that is many times what fits: the reader waits, and nothing is left out for want of room.
#[test]
fn standard_input_waits_for_room() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pcap = dir.path().join("shop.pcap");
    let requests = 2000;
    let mut sent = Vec::new();
    recorded(&pcap, |place, production| {
        let load = Load::new(place, production, Shape::Post { size: 10_000 }, requests);
        sent = load.run().unwrap();
    });
    let staging = Staging::start(&Place::loopback()).unwrap();
    // The plumbing that a shell would do.
    let mut command = Place::loopback().command("sh");
    command.args(["-c", "gzip -1c \"$0\" | \"$@\""]).arg(&pcap);
    command.arg(rig::binary());
    command.args(["run", "--admin", &admin(), "--to", &staging.url()]);
    command.args(["--methods", "any", "--read", "-"]);
    // What is left for requests is 4 MiB.
    command.args(["--memory", "36MiB", "--max-exchange", "1MiB"]);
    let finished = run(command, LIMIT).unwrap();
    assert!(finished.status.success(), "{}", finished.stderr);
    assert!(
        !finished.stderr.contains("listener_full") && !finished.stderr.contains("shed_"),
        "{}",
        finished.stderr
    );
    assert_faithful(&sent, &staging);
}

/// Requests leave as they are complete, not when their file ends.
#[test]
fn what_tcpdump_writes_into_a_pipe_is_replayed_as_it_comes() {
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
    let pipe = dir.path().join("pipe");
    let mut mkfifo = Command::new("mkfifo");
    mkfifo.arg(&pipe);
    output(mkfifo, LIMIT).unwrap();
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    let arguments = ["--read", pipe.to_str().unwrap(), "--to", &staging.url()];
    cluster.start(Role::Run, "run", &place, &arguments).unwrap();
    let tcpdump = tcpdump(production.address().port(), &pipe);
    until_it_captures(&tcpdump);
    for count in 1..=3 {
        let load = Load::new(&place, production.address(), Shape::Get, 1);
        load.run().unwrap();
        staging.until(count, LIMIT).unwrap();
    }
    assert!(cluster.is_running("run").unwrap());
    end(tcpdump);
    let log = ended(&mut cluster, "run");
    assert!(log.contains("flushed: 3 of 3 "), "{log}");
}

/// Waits until a part has ended by itself, and returns its log.
fn ended(cluster: &mut Cluster, name: &str) -> String {
    let over = eventually("end of the process", LIMIT, || {
        anyhow::ensure!(!cluster.is_running(name)?, "it runs");
        Ok(())
    });
    over.unwrap();
    cluster.log(name).unwrap()
}

#[test]
fn a_listener_ships_a_file_to_its_relay_and_ends() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let dir = tempfile::tempdir().unwrap();
    let pcap = dir.path().join("shop.pcap");
    let requests = 5000_usize;
    recorded(&pcap, |place, production| {
        let url = format!("http://{production}/shop/a%20b//c;v=1?q=%C3%A9+&&x=");
        load::hey(place, &url, requests as u64, 50).unwrap();
    });
    let staging = Nginx::start(&place).unwrap();
    let targets = dir.path().join("targets.yaml");
    fs::write(
        &targets,
        format!("targets:\n  shop/staging: {{url: '{}'}}\n", staging.url()),
    )
    .unwrap();
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
    let pcap = pcap.to_str().unwrap();
    let arguments = ["--relay", &relay, "--speed", "max", "--read", pcap];
    cluster
        .launch(Role::Listener, "reader", &place, &arguments)
        .unwrap();
    let log = ended(&mut cluster, "reader");
    assert!(
        log.contains(&format!("flushed: {requests} of {requests} ")),
        "{log}"
    );
    assert!(log.contains(&format!("status 200: {requests}")), "{log}");
    assert_eq!(staging.request_lines(requests).unwrap().len(), requests);
}
