//! Against a name server on loopback whose records the tests change.

use std::net::Ipv4Addr;
use std::path::Path;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tempfile::TempDir;
use tokio::net::UdpSocket;

use super::*;

/// A name that nobody else knows: RFC 6761 §6.2.
const NAME: &str = "shop.test.";

/// A name server, and the system's files that lead to it.
struct Server {
    zone: Arc<Mutex<Zone>>,
    files: TempDir,
    port: u16,
}

#[derive(Default)]
struct Zone {
    records: Vec<Record>,
    /// Takes queries and says nothing.
    is_mute: bool,
    /// What was asked, and when.
    queries: Vec<(String, RecordType, Instant)>,
}

impl Zone {
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        let mut message = Message::from_vec(query).unwrap();
        let asked = message.queries[0].clone();
        let (name, kind) = (asked.name().clone(), asked.query_type());
        self.queries.push((name.to_string(), kind, Instant::now()));
        if self.is_mute {
            return None;
        }
        let of_name = self.records.iter().filter(|record| record.name == name);
        if of_name.clone().count() == 0 {
            message.metadata.response_code = ResponseCode::NXDomain;
        }
        let fits = |record: &&Record| [kind, RecordType::CNAME].contains(&record.record_type());
        message.answers = of_name.filter(fits).cloned().collect();
        Some(message.into_response().to_vec().unwrap())
    }
}

impl Server {
    /// With no records, and this in front of the address in `resolv.conf`.
    async fn start(settings: &str) -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let files = TempDir::new().unwrap();
        let server = Server {
            zone: Arc::default(),
            files,
            port,
        };
        server.write(
            "resolv.conf",
            &format!("{settings}\nnameserver 127.0.0.1\n"),
        );
        let zone = server.zone.clone();
        tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (size, from) = socket.recv_from(&mut query).await.unwrap();
                let answer = zone.lock().unwrap().answer(&query[..size]);
                if let Some(answer) = answer {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        server
    }

    fn path(&self) -> &Path {
        self.files.path()
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path().join(file), text).unwrap();
    }

    fn resolver(&self, host: &str) -> Arc<Resolver> {
        let sources = Sources {
            resolv_conf: self.path().join("resolv.conf"),
            hosts: self.path().join("hosts"),
            nsswitch: self.path().join("nsswitch.conf"),
            port: self.port,
        };
        Resolver::new(host, 80, sources)
    }

    /// From now on, this is all that it knows.
    fn set(&self, records: impl IntoIterator<Item = Record>) {
        self.zone.lock().unwrap().records = records.into_iter().collect();
    }

    fn mute(&self, is_mute: bool) {
        self.zone.lock().unwrap().is_mute = is_mute;
    }

    /// The names asked for, in order, each with its type, and when.
    fn asked(&self) -> Vec<(String, RecordType, Instant)> {
        self.zone.lock().unwrap().queries.clone()
    }
}

fn record(name: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(Name::from_str_relaxed(name).unwrap(), ttl, data)
}

/// 127.0.0.N.
fn a(name: &str, ttl: u32, n: u8) -> Record {
    record(name, ttl, RData::A(A(Ipv4Addr::new(127, 0, 0, n))))
}

fn sockets(addresses: &[&str]) -> Arc<[SocketAddr]> {
    let with_port = addresses.iter().map(|address| address.parse().unwrap());
    with_port.collect()
}

/// Asks until these are the addresses.
async fn until(resolver: &Arc<Resolver>, addresses: &[&str]) {
    let addresses = sockets(addresses);
    while resolver.addresses().await.unwrap() != addresses {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn an_address_is_its_own_answer() {
    let resolver = Resolver::new("::1", 80, Sources::system());
    assert_eq!(
        *resolver.addresses().await.unwrap(),
        *sockets(&["[::1]:80"])
    );
}

#[tokio::test]
async fn a_name_that_is_none_is_an_error() {
    let server = Server::start("").await;
    let resolver = server.resolver(NAME);
    assert!(resolver.addresses().await.is_err());
    // Nor is it asked for at each connection.
    let asked = server.asked().len();
    assert!(resolver.addresses().await.is_err());
    assert_eq!(server.asked().len(), asked);
}

#[tokio::test]
async fn a_changed_record_is_followed_when_its_time_is_over_and_not_asked_for_before() {
    for ttl in [0, 1, 2] {
        let server = Server::start("").await;
        let both = |n| {
            let v6 = format!("::{n}").parse().unwrap();
            [a(NAME, ttl, n), record(NAME, ttl, RData::AAAA(AAAA(v6)))]
        };
        server.set(both(7));
        let resolver = server.resolver(NAME);
        until(&resolver, &["127.0.0.7:80", "[::7]:80"]).await;
        server.set(both(8));
        until(&resolver, &["127.0.0.8:80", "[::8]:80"]).await;
        server.set([a(NAME, ttl, 9)]);
        until(&resolver, &["127.0.0.9:80"]).await;
        // A lookup is a question for either type.
        let asked = server.asked();
        assert_eq!(asked.len(), 3 * 2, "time to live {ttl}");
        let least = Duration::from_secs(u64::from(ttl)).max(FLOOR);
        let begun: Vec<Instant> = asked.chunks(2).map(|both| both[0].2).collect();
        assert!(begun.windows(2).all(|two| two[1] - two[0] >= least));
    }
}

#[tokio::test]
async fn an_alias_lasts_as_long_as_the_shortest_of_its_records() {
    let server = Server::start("").await;
    let alias = |to| record(NAME, 1, RData::CNAME(CNAME(Name::from_utf8(to).unwrap())));
    let hosts = [a("blue.test.", 300, 7), a("green.test.", 300, 8)];
    server.set([alias("blue.test.")].into_iter().chain(hosts.clone()));
    let resolver = server.resolver(NAME);
    until(&resolver, &["127.0.0.7:80"]).await;
    server.set([alias("green.test.")].into_iter().chain(hosts));
    until(&resolver, &["127.0.0.8:80"]).await;
}

#[tokio::test]
async fn last_known_addresses_serve_while_the_name_service_is_away() {
    let server = Server::start("options timeout:1 attempts:1").await;
    server.set([a(NAME, 1, 7)]);
    let resolver = server.resolver(NAME);
    until(&resolver, &["127.0.0.7:80"]).await;
    server.mute(true);
    let asked = server.asked().len();
    // Until a lookup has failed, and then until the next one has begun.
    while resolver.state().failed.is_none() || resolver.state().under_way.is_none() {
        until(&resolver, &["127.0.0.7:80"]).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(server.asked().len() > asked);
    server.set([a(NAME, 1, 8)]);
    server.mute(false);
    until(&resolver, &["127.0.0.8:80"]).await;
}

#[tokio::test]
async fn a_lookup_goes_on_when_nobody_waits_for_it() {
    let server = Server::start("").await;
    server.mute(true);
    let resolver = server.resolver(NAME);
    let short = timeout(Duration::from_millis(20), resolver.addresses()).await;
    assert!(short.is_err());
    server.set([a(NAME, 60, 7)]);
    server.mute(false);
    // The question that got no answer is put again, and nobody else asks.
    while resolver.state().known.is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn names_are_searched_for_as_resolv_conf_says() {
    let server = Server::start("search one.test two.test\noptions ndots:2").await;
    server.set([a("db_1.shop.two.test.", 60, 7)]);
    until(&server.resolver("db_1.shop"), &["127.0.0.7:80"]).await;
    let asked = server.asked();
    let asked = asked.iter().filter(|(_, kind, _)| *kind == RecordType::A);
    let names: Vec<_> = asked.map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["db_1.shop.one.test.", "db_1.shop.two.test."]);

    // The file is read anew.
    let resolver = server.resolver("web");
    server.set([a("web.three.test.", 60, 8)]);
    server.write("resolv.conf", "search three.test\nnameserver 127.0.0.1\n");
    until(&resolver, &["127.0.0.8:80"]).await;
}

#[tokio::test]
async fn what_the_system_knows_from_elsewhere_it_is_asked_for() {
    let server = Server::start("").await;
    // Every system has this name in its hosts file, and ours is told that it has.
    server.write("hosts", "127.0.0.1 localhost\n");
    server.set([a("localhost.", 60, 7)]);
    let found = server.resolver("localhost").addresses().await.unwrap();
    assert!(found.iter().all(|address| address.ip().is_loopback()));
    assert_ne!(found, sockets(&["127.0.0.7:80"]));
    assert!(server.asked().is_empty());

    // The switch has no DNS, and so nobody has the name.
    server.write("nsswitch.conf", "hosts: files\n");
    server.set([a(NAME, 60, 7)]);
    assert!(server.resolver(NAME).addresses().await.is_err());
    assert!(server.asked().is_empty());

    // No configuration of the DNS: the same.
    std::fs::remove_file(server.path().join("nsswitch.conf")).unwrap();
    std::fs::remove_file(server.path().join("resolv.conf")).unwrap();
    assert!(server.resolver(NAME).addresses().await.is_err());
    assert!(server.asked().is_empty());
}
