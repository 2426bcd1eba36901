use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Instant;

use reprise_proto::Settlement;
use reprise_traffic::gor::{self, Kind, SEPARATOR};
use reprise_traffic::{Epoch, Exchange};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;
use crate::limit::SourceLimit;
use crate::shed::Shed;
use crate::window::{Room, StreamId};

const ALL: Room = Room {
    bytes: usize::MAX,
    exchanges: usize::MAX,
};

/// A port, and what reads the window behind it.
struct Endpoint {
    address: SocketAddr,
    edge: Arc<Edge>,
    budget: Arc<Budget>,
    intake: Arc<Intake>,
    port: RecordPort,
    batch: u64,
}

#[derive(Clone, Default)]
struct Wanted {
    settings: Settings,
    max_exchange: Option<usize>,
    budget: Option<usize>,
    limit: Option<SourceLimit>,
}

impl Endpoint {
    fn start(wanted: Wanted) -> Endpoint {
        let budget = Arc::new(Budget::new(wanted.budget.unwrap_or(64 << 20)));
        let edge = Arc::new(Edge::default());
        let shed = Arc::new(Shed::new(budget.clone()));
        let epoch = Epoch::new("l", 1);
        let intake = Intake::new(epoch, 1 << 18, budget.clone(), shed, edge.clone());
        let intake = Arc::new(intake);
        intake.open(StreamId(1), ALL, false);
        let entry = Entry::new(
            (intake.clone(), false),
            Arc::default(),
            budget.clone(),
            edge.clone(),
            wanted.max_exchange.unwrap_or(8 << 20),
        );
        let settings = Settings {
            addresses: vec![ListenAddress::loopback(0)],
            ..wanted.settings
        };
        let limiter = || Limiter::new(wanted.limit, edge.clone());
        let ports = start(open(&settings).unwrap(), &Arc::new(entry), limiter).unwrap();
        let port = ports.into_iter().next().unwrap();
        Endpoint {
            address: port.address(),
            edge,
            budget,
            intake,
            port,
            batch: 0,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends it, and waits until the port has closed.
    async fn send(&self, bytes: &[u8]) {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }

    /// What is in the window, which a relay settles at once.
    fn settle(&mut self) -> Vec<Arc<Exchange>> {
        self.batch += 1;
        let (taken, _) = self.intake.take(StreamId(1), self.batch, ALL);
        let settlements: Vec<Settlement> = taken
            .parcels
            .iter()
            .map(|parcel| Settlement {
                id: parcel.exchange.id.clone(),
                outcomes: Default::default(),
            })
            .collect();
        if !settlements.is_empty() {
            self.intake.settle(&settlements);
        }
        taken.parcels.into_iter().map(|p| p.exchange).collect()
    }

    async fn settle_until(&mut self, many: usize) -> Vec<Arc<Exchange>> {
        let mut all = Vec::new();
        let until = Instant::now() + Duration::from_secs(60);
        while all.len() < many {
            all.extend(self.settle());
            assert!(Instant::now() < until, "{} of {many}", all.len());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        all
    }

    /// Everything is given back.
    async fn stop(self) {
        let began = Instant::now();
        self.port.stop().await;
        assert!(began.elapsed() < Duration::from_secs(1));
        self.intake.give_up();
        assert_eq!(self.budget.used(), 0);
    }
}

fn written(exchange: &Exchange) -> Vec<u8> {
    let (record, _) = gor::encode(exchange, &exchange.request.head).unwrap();
    record.parts().collect::<Vec<_>>().concat()
}

fn framed(record: &[u8]) -> Vec<u8> {
    [record, SEPARATOR].concat()
}

fn get(connection: usize, n: usize) -> Vec<u8> {
    let id = format!("{connection:012x}{n:012x}");
    framed(format!("1 {id} {n}\nGET /{n} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

/// Of all kinds: plain, chunked, answers, replays, garbage and large ones.
fn any(connection: usize, n: usize) -> Vec<u8> {
    let id = format!("{connection:012x}{n:012x}");
    let record = match n % 7 {
        0 => format!("1 {id} {n}\nGET /{n} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes(),
        1 => format!("2 {id} {n} 7\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").into_bytes(),
        2 => format!("3 {id} {n} 7\r\nHTTP/1.1 200 OK\r\n\r\nuntil the end").into_bytes(),
        3 => format!(
            "1 {id} {n}\nPOST /{n} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n02\r\nbc\r\n0\r\n\r\n"
        )
        .into_bytes(),
        4 => {
            let garbage = (0..n % 300).map(|i| (i * 31 + n) as u8);
            [format!("1 {id} {n}\n").into_bytes(), garbage.collect()].concat()
        }
        5 if n % 1001 == 5 => {
            let head = format!("1 {id} {n}\nPOST /{n} HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n");
            [head.into_bytes(), vec![b'a' + (n % 26) as u8; 5_000_000]].concat()
        }
        5 => format!("2 {id} {n}\nnot even HTTP\n\n").into_bytes(),
        _ => format!("1 {id} {n}\nPOST /{n} HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").into_bytes(),
    };
    framed(&record)
}

/// Records of all kinds over ten connections, with little room: each is there, as it came, in its connection's order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_all_kinds_come_as_they_were_sent_and_in_order() {
    const CONNECTIONS: usize = 10;
    const EACH: usize = 2002;
    let mut endpoint = Endpoint::start(Wanted {
        budget: Some(32 << 20),
        ..Wanted::default()
    });
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let address = endpoint.address;
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                for n in 0..EACH {
                    stream.write_all(&any(connection, n)).await.unwrap();
                }
                stream.shutdown().await.unwrap();
                assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
            })
        })
        .collect();
    let mut next: HashMap<usize, usize> = HashMap::new();
    let mut turns = Vec::new();
    let until = Instant::now() + Duration::from_secs(100);
    while next.values().sum::<usize>() < CONNECTIONS * EACH {
        for exchange in endpoint.settle() {
            let label = exchange.request.label.as_ref().unwrap();
            let id = std::str::from_utf8(label.id()).unwrap();
            let connection = usize::from_str_radix(&id[..12], 16).unwrap();
            let n = next.entry(connection).or_default();
            assert!(
                written(&exchange) == any(connection, *n),
                "{connection} {n}"
            );
            *n += 1;
            if label.kind() == Kind::Request {
                turns.push(label.turn());
            }
        }
        assert!(
            Instant::now() < until,
            "{next:?} {:?}",
            endpoint.edge.snapshot()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for sender in senders {
        sender.await.unwrap();
    }
    turns.sort_unstable();
    assert!(turns.iter().copied().eq(0..turns.len() as u64));
    let edge = endpoint.edge.snapshot();
    let names: Vec<&str> = edge.keys().map(String::as_str).collect();
    assert_eq!(names, ["kernel_dropped", "packets", "record_connections"]);
    endpoint.stop().await;
}

/// Nobody settles: the sender is held up, and what it sent by then is little. Then all comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_window_pushes_back_and_nothing_is_lost() {
    const SENT: usize = 100_000;
    let mut endpoint = Endpoint::start(Wanted::default());
    let mut stream = endpoint.connect().await;
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let sender = tokio::spawn(async move {
        for n in 0..SENT {
            stream.write_all(&get(0, n)).await.unwrap();
            count.store(n as u64, std::sync::atomic::Ordering::Relaxed);
        }
        stream.shutdown().await.unwrap();
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let held_up = sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(held_up < SENT as u64 - 1 && !sender.is_finished());
    assert!(endpoint.intake.used().exchanges < 4000);
    let all = endpoint.settle_until(SENT).await;
    for (n, exchange) in all.iter().enumerate() {
        assert!(written(exchange) == get(0, n), "{n}");
    }
    sender.await.unwrap();
    let report = endpoint.intake.report();
    assert!(report.dropped.is_empty() && report.residue() == 0);
    drop(all);
    endpoint.stop().await;
}

#[tokio::test]
async fn records_come_by_tls_too() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = tempfile::tempdir().unwrap();
    let tls = TlsFiles {
        certificate: files.path().join("certificate.pem"),
        key: files.path().join("key.pem"),
    };
    assert!(tls.acceptor().is_err());
    std::fs::write(&tls.certificate, made.cert.pem()).unwrap();
    std::fs::write(&tls.key, "nothing").unwrap();
    let error = tls.acceptor().err().unwrap().to_string();
    assert!(
        error.ends_with("key.pem: holds no PEM private key"),
        "{error}"
    );
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    let mut endpoint = Endpoint::start(Wanted {
        settings: Settings {
            tls: Some(tls),
            ..Settings::default()
        },
        ..Wanted::default()
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client));
    // Who doesn't speak it harms nobody.
    endpoint.send(&get(9, 9)).await;
    let name = "localhost".try_into().unwrap();
    let mut stream = connector
        .connect(name, endpoint.connect().await)
        .await
        .unwrap();
    for n in 0..5000 {
        stream.write_all(&get(0, n)).await.unwrap();
        if n == 2000 {
            stream.flush().await.unwrap();
            let some = endpoint.settle_until(2001).await;
            assert!(some.len() == 2001 && written(&some[2000]) == get(0, 2000));
        }
    }
    stream.flush().await.unwrap();
    assert_eq!(endpoint.settle_until(2999).await.len(), 2999);
    endpoint.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_counted_and_the_rest_comes() {
    let mut endpoint = Endpoint::start(Wanted {
        max_exchange: Some(1000),
        ..Wanted::default()
    });
    let large = framed(&[b"1 a 1\n", &[b'x'; 5000][..]].concat());
    let marked = framed(b"1 a 1\nGET / HTTP/1.1\r\nReprise-Id: x\r\n\r\n");
    let stream = [
        get(0, 0),
        framed(b"1 two"),
        large,
        framed(b"9 a 1\nGET / HTTP/1.1\r\n\r\n"),
        marked,
        get(0, 1),
        // Whole without its separator.
        b"1 a 7\nGET /last HTTP/1.1\r\n\r\n".to_vec(),
    ];
    endpoint.send(&stream.concat()).await;
    endpoint.send(b"1 a 7\nGET /half HT").await;
    endpoint.send(&[0xff; 100_000]).await;
    endpoint.send(b"").await;
    let targets: Vec<_> = endpoint
        .settle_until(3)
        .await
        .iter()
        .map(|exchange| String::from_utf8_lossy(exchange.request.head.target()).into_owned())
        .collect();
    assert_eq!(targets, ["/0", "/1", "/last"]);
    let count = |event| endpoint.edge.get(event);
    assert_eq!(count(EdgeEvent::BadRecord), 3);
    assert_eq!(count(EdgeEvent::TooLarge), 2);
    assert_eq!(
        (
            count(EdgeEvent::Marked),
            count(EdgeEvent::RecordConnections)
        ),
        (1, 4)
    );
    endpoint.stop().await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let mut endpoint = Endpoint::start(Wanted {
        settings: Settings {
            connections: 2,
            ..Settings::default()
        },
        ..Wanted::default()
    });
    let (mut first, _second) = (endpoint.connect().await, endpoint.connect().await);
    first.write_all(&get(0, 0)).await.unwrap();
    assert_eq!(endpoint.settle_until(1).await.len(), 1);
    for _ in 0..20 {
        let mut refused = endpoint.connect().await;
        assert!(matches!(refused.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
    assert_eq!(endpoint.edge.get(EdgeEvent::RecordsTurnedAway), 20);
    first.write_all(&get(0, 1)).await.unwrap();
    assert_eq!(endpoint.settle_until(1).await.len(), 1);
    endpoint.stop().await;
}

async fn drip(mut stream: impl AsyncWrite + Unpin) {
    while stream.write_all(b"x").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Many stop within a small record, some within a large one, and one sends byte by byte. An honest sender of large records
/// gets its place, and what the others hold is bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_within_a_record_holds_nobody_up_for_long() {
    let limit = 16 << 20;
    let mut endpoint = Endpoint::start(Wanted {
        budget: Some(limit),
        max_exchange: Some(6 << 20),
        ..Wanted::default()
    });
    let mut slow = Vec::new();
    for n in 0..300 {
        let mut stream = endpoint.connect().await;
        let begun = [
            b"1 a 1\n",
            &vec![b'x'; if n < 3 { 3 << 20 } else { 15_000 }][..],
        ]
        .concat();
        slow.push(tokio::spawn(async move {
            // Those without a place are not read to their end.
            let _ = stream.write_all(&begun).await;
            match n {
                0 => drip(stream).await,
                _ => std::future::pending().await,
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Next to 1.1 MiB of connections.
    let bound = limit / 4 + (7 << 20) + (2 << 20);
    assert!(endpoint.budget.used() < bound, "{}", endpoint.budget.used());
    let began = Instant::now();
    let address = endpoint.address;
    let body = vec![b'y'; 5 << 20];
    let length = body.len();
    let head = format!("1 b 1\nPOST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
    let large = framed(&[head.as_bytes(), &body].concat());
    let honest = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..4 {
            stream.write_all(&large).await.unwrap();
        }
        stream
    });
    // Small ones need no place.
    let mut small = endpoint.connect().await;
    small.write_all(&get(0, 0)).await.unwrap();
    let all = endpoint.settle_until(5).await;
    assert_eq!(
        all.iter()
            .filter(|e| e.request.body.len() == length)
            .count(),
        4
    );
    let elapsed = began.elapsed();
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    assert!(endpoint.edge.get(EdgeEvent::IncompleteBudget) >= 2);
    drop(all);
    drop(honest.await.unwrap());
    for slow in slow {
        slow.abort();
    }
    endpoint.stop().await;
}

#[tokio::test]
async fn a_stop_takes_what_is_on_its_way_and_no_longer() {
    let endpoint = Endpoint::start(Wanted::default());
    let mut open = endpoint.connect().await;
    open.write_all(&[get(0, 0), b"1 a 1\nhalf".to_vec()].concat())
        .await
        .unwrap();
    let mut ended = endpoint.connect().await;
    ended
        .write_all(&[get(1, 0), get(1, 1)].concat())
        .await
        .unwrap();
    ended.shutdown().await.unwrap();
    let Endpoint {
        port, edge, intake, ..
    } = endpoint;
    let began = Instant::now();
    port.stop().await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(intake.used().exchanges, 3);
    assert_eq!(edge.get(EdgeEvent::IncompleteStopped), 1);
}

#[tokio::test]
async fn a_limit_is_kept_to_the_record_and_answers_follow() {
    let limit = SourceLimit::PerSecond(NonZeroU32::new(10).unwrap());
    let mut endpoint = Endpoint::start(Wanted {
        limit: Some(limit),
        ..Wanted::default()
    });
    let mut stream = Vec::new();
    for n in 0..50 {
        stream.extend(get(0, n));
    }
    for n in 0..50 {
        let id = format!("{:012x}{n:012x}", 0);
        stream.extend(framed(
            format!("2 {id} 1\nHTTP/1.1 200 OK\r\n\r\n").as_bytes(),
        ));
    }
    endpoint.send(&stream).await;
    let all = endpoint.settle_until(20).await;
    let requests = all.iter().filter(|e| e.request.is_request()).count();
    let turns = all
        .iter()
        .take(10)
        .map(|e| e.request.label.as_ref().unwrap().turn());
    assert!(turns.eq(0..10));
    assert_eq!((all.len(), requests), (20, 10));
    assert_eq!(endpoint.edge.get(EdgeEvent::InputLimited), 80);
    endpoint.stop().await;
}

/// How many small records a port takes in a second, with a relay that settles them at once. Run with `--ignored` and in
/// release.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn small_records_a_second() {
    const SENT: usize = 2_000_000;
    let endpoint = Endpoint::start(Wanted::default());
    let (address, intake) = (endpoint.address, endpoint.intake.clone());
    let stream: Vec<u8> = (0..SENT).flat_map(|n| get(n % 100, n)).collect();
    let began = Instant::now();
    let sender = std::thread::spawn(move || {
        use std::io::Write as _;
        let mut to = std::net::TcpStream::connect(address).unwrap();
        to.write_all(&stream).unwrap();
    });
    let mut endpoint = endpoint;
    let mut taken = 0;
    while taken < SENT {
        let more = endpoint.settle().len();
        taken += more;
        if more == 0 {
            tokio::task::yield_now().await;
        }
    }
    let elapsed = began.elapsed();
    sender.join().unwrap();
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    println!(
        "{:.0} records/s, {}.{:03} s of CPU time in all",
        SENT as f64 / elapsed.as_secs_f64(),
        usage.tv_sec,
        usage.tv_nsec / 1_000_000
    );
    drop(intake);
    endpoint.stop().await;
}
