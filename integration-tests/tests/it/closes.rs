//! Connections that clients close without a word: a target with connections of its own for each sees them close too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use reprise_integration_tests::process::run;
use reprise_integration_tests::staging::Received;
use reprise_integration_tests::{Cluster, Etcd, Place, Role, Staging, eventually};

use crate::fleet::target_key;
use crate::reading::recorded;
use crate::rig;

const LIMIT: Duration = Duration::from_secs(60);

/// Half of what an idle connection is kept for without a word, and less than after which staging closes one (30 s).
const SOON: Duration = Duration::from_secs(20);

/// A client that keeps its connection open.
struct Client {
    number: u64,
    sent: u64,
    stream: TcpStream,
}

impl Client {
    fn connect(production: SocketAddr, number: u64) -> Client {
        let stream = TcpStream::connect(production).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client {
            number,
            sent: 0,
            stream,
        }
    }

    fn send(&mut self) {
        let id = self.number * 100 + self.sent;
        self.sent += 1;
        let request = format!("GET /?id={id} HTTP/1.1\r\nHost: shop\r\n\r\n");
        self.stream.write_all(request.as_bytes()).unwrap();
    }

    /// Sends a request and reads the whole answer.
    fn ask(&mut self) {
        self.send();
        let mut answer = Vec::new();
        let end = |answer: &[u8]| answer.windows(4).position(|four| four == b"\r\n\r\n");
        let head = loop {
            if let Some(at) = end(&answer) {
                break at + 4;
            }
            self.read(&mut answer);
        };
        let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
        let length = text
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "));
        let length: usize = length.unwrap().parse().unwrap();
        while answer.len() < head + length {
            self.read(&mut answer);
        }
    }

    fn read(&mut self, answer: &mut Vec<u8>) {
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer).unwrap();
        assert!(count > 0, "production closed a connection");
        answer.extend_from_slice(&buffer[..count]);
    }

    /// Closes; what was not read makes it a reset.
    fn close(mut self, resets: bool) {
        if resets {
            self.send();
            assert!(self.stream.peek(&mut [0]).unwrap() > 0);
        }
    }
}

/// Which client's requests came over each connection.
fn clients(received: &[Received]) -> BTreeMap<usize, BTreeSet<u64>> {
    let mut clients: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for received in received {
        let client = received.id().unwrap() / 100;
        clients
            .entry(received.connection)
            .or_default()
            .insert(client);
    }
    clients
}

/// Waits until the connections of just these clients have ended.
fn until_ended(staging: &Staging, expected: &BTreeSet<u64>) {
    let ended = eventually("ends of connections", SOON, || {
        let ends = staging.ends();
        let clients = clients(&staging.received());
        let ended: BTreeSet<u64> = ends
            .iter()
            .flat_map(|e| &clients[&e.connection])
            .copied()
            .collect();
        anyhow::ensure!(ended == *expected, "{ended:?} of {expected:?}");
        anyhow::ensure!(ends.len() == expected.len(), "{} ends", ends.len());
        Ok(())
    });
    ended.unwrap();
}

/// A listener, two relays and two replayers.
fn cluster(place: &Place, etcd: &Etcd, production: u16) -> Cluster {
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    let url = etcd.url();
    let mut start = |role, name: &str, more: &[&str]| {
        let arguments = [&["--etcd", &url][..], more].concat();
        cluster.start(role, name, place, &arguments).unwrap();
    };
    for n in 1..=2 {
        start(Role::Replayer, &format!("replayer{n}"), &[]);
        start(Role::Relay, &format!("relay{n}"), &[]);
    }
    let capture = format!("{}:{production}", place.interface());
    start(Role::Listener, "listener1", &["--capture", &capture]);
    cluster
}

#[test]
fn staging_sees_each_connection_close_when_its_client_did() {
    const CLIENTS: u64 = 40;
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let (production, staging) = (
        Staging::start(&place).unwrap(),
        Staging::start(&place).unwrap(),
    );
    let etcd = Etcd::start(&place).unwrap();
    let document = format!("url: {}\nconnections: per-session\n", staging.url());
    etcd.put(&target_key("shop/staging"), &document).unwrap();
    let _cluster = cluster(&place, &etcd, production.address().port());

    let connect = |number| Client::connect(production.address(), number);
    let mut open: Vec<Client> = (0..CLIENTS).map(connect).collect();
    for _ in 0..3 {
        open.iter_mut().for_each(Client::ask);
    }
    staging.until(3 * CLIENTS as usize, LIMIT).unwrap();
    assert!(staging.ends().is_empty(), "all clients are there");

    // Half of them go, every other one with a reset, and the others are idle.
    let others = open.split_off(CLIENTS as usize / 2);
    let gone: BTreeSet<u64> = open.iter().map(|client| client.number).collect();
    for client in open {
        let resets = client.number % 2 == 1;
        client.close(resets);
    }
    until_ended(&staging, &gone);

    // They go on over the connections that they had.
    let mut open = others;
    open.iter_mut().for_each(Client::ask);
    let sent = 3 * CLIENTS + CLIENTS / 4 + CLIENTS / 2;
    staging.until(sent as usize, LIMIT).unwrap();
    drop(open);
    until_ended(&staging, &(0..CLIENTS).collect());
    let received = staging.received();
    let clients = clients(&received);
    assert_eq!(clients.len() as u64, CLIENTS, "connections");
    assert!(clients.values().all(|clients| clients.len() == 1));
    for end in staging.ends() {
        let own = received.iter().filter(|r| r.connection == end.connection);
        assert!(own.map(|r| r.at).max() <= Some(end.at));
    }
}

fn replay(pcap: &Path, staging: &Staging, pace: &[&str]) {
    let targets = pcap.with_extension("yaml");
    let document = format!(
        "targets:\n  shop/staging:\n    url: {}\n    connections: per-session\n",
        staging.url()
    );
    fs::write(&targets, document).unwrap();
    let place = Place::loopback();
    let mut command = place.command(rig::binary());
    let admin = place.free().unwrap().to_string();
    command.args(["run", "--admin", &admin, "--targets"]);
    command.arg(&targets).arg("--read").arg(pcap).args(pace);
    let finished = run(command, LIMIT).unwrap();
    assert!(finished.status.success(), "{}", finished.stderr);
}

/// A recording that is repeated has the same connections again; as they have ended, they are others at staging.
#[test]
fn connections_of_a_capture_file_close_where_they_did() {
    const CLIENTS: u64 = 20;
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pcap = dir.path().join("shop.pcap");
    recorded(&pcap, |_, production| {
        let connect = |number| Client::connect(production, number);
        let mut open: Vec<Client> = (0..CLIENTS).map(connect).collect();
        for _ in 0..3 {
            open.iter_mut().for_each(Client::ask);
        }
    });
    for pace in [&["--loop", "3"][..], &["--loop", "3", "--speed", "max"]] {
        let staging = Staging::start(&Place::loopback()).unwrap();
        replay(&pcap, &staging, pace);
        let received = staging.received();
        assert_eq!(received.len() as u64, 3 * 3 * CLIENTS, "{pace:?}");
        let clients = clients(&received);
        assert!(clients.values().all(|clients| clients.len() == 1));
        assert_eq!(clients.len() as u64, 3 * CLIENTS, "connections, {pace:?}");
        let counts = (0..clients.len())
            .map(|n| received.iter().filter(|r| r.connection == n).count())
            .collect::<BTreeSet<_>>();
        assert_eq!(counts, BTreeSet::from([3]), "{pace:?}");
    }
}
