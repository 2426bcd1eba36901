//! Live capture on the loopback device. Skipped, saying so, where there are no rights for it.
#![expect(
    clippy::unwrap_used,
    reason = "a test that can't set itself up has to fail"
)]

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use reprise_listener::capture::{self, CaptureError, Captures, Settings};
use reprise_listener::edge::{Edge, EdgeEvent};
use reprise_traffic::exchange::Captured;

/// A server that reads all and answers nothing: what clients send is all that counts here.
fn server(address: &str) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        }
    });
    address
}

struct Live {
    captures: Captures,
    edge: Arc<Edge>,
    found: Arc<Mutex<Vec<Captured>>>,
}

impl Live {
    fn start(specs: &[String]) -> Option<Live> {
        Live::start_with(specs, |_| {})
    }

    fn start_with(specs: &[String], change: impl FnOnce(&mut Settings)) -> Option<Live> {
        let mut settings = Settings {
            specs: specs.iter().map(|s| s.parse().unwrap()).collect(),
            // All bodies of a test at once: a build for tests is slow, and so may be the machine.
            ring: 64 << 20,
            ..Settings::default()
        };
        change(&mut settings);
        let opened = match capture::open(settings) {
            Ok(opened) => opened,
            Err(error @ CaptureError::NoRights { .. }) => {
                println!("skipped: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let edge = Arc::new(Edge::default());
        let found = Arc::new(Mutex::new(Vec::new()));
        let sink = found.clone();
        let sink = move |request| sink.lock().unwrap().push(request);
        let captures = opened.start(&edge, sink).unwrap();
        Some(Live {
            captures,
            edge,
            found,
        })
    }

    fn found(&self) -> MutexGuard<'_, Vec<Captured>> {
        self.found.lock().unwrap()
    }

    fn wait_for(&self, n: usize) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.found().len() < n && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn send(server: SocketAddr, connection: usize, requests: usize) {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_nodelay(true).unwrap();
    for n in 0..requests {
        let body = vec![b'a' + (n % 26) as u8; if n % 10 == 0 { 300_000 } else { n }];
        let head = format!(
            "POST /{connection}/{n} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
    }
}

fn check(spec: impl Fn(u16) -> String, server: SocketAddr) {
    const CONNECTIONS: usize = 8;
    const REQUESTS: usize = 100;
    let Some(live) = Live::start(&[spec(server.port())]) else {
        return;
    };
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            scope.spawn(move || send(server, connection, REQUESTS));
        }
    });
    live.wait_for(CONNECTIONS * REQUESTS);
    let Live {
        captures,
        edge,
        found,
    } = live;
    captures.stop();
    let found = found.lock().unwrap();
    assert_eq!(found.len(), CONNECTIONS * REQUESTS, "{:?}", edge.snapshot());
    assert_eq!(edge.get(EdgeEvent::Connections), CONNECTIONS as u64);
    for connection in 0..CONNECTIONS {
        let start = format!("/{connection}/");
        let of_connection = found
            .iter()
            .filter(|r| r.head.target().starts_with(start.as_bytes()));
        for (n, request) in of_connection.enumerate() {
            assert_eq!(request.head.target(), format!("{start}{n}").as_bytes());
            let body = vec![b'a' + (n % 26) as u8; if n % 10 == 0 { 300_000 } else { n }];
            assert!(request.body == body[..], "{start}{n}");
            assert_eq!(request.server, server);
        }
    }
}

#[test]
fn every_request_on_the_loopback_device_is_captured_once() {
    check(|port| format!("lo:{port}"), server("127.0.0.1:0"));
}

#[test]
fn all_interfaces_and_ipv6_are_captured_too() {
    check(|port| format!(":{port}"), server("[::1]:0"));
}

#[test]
fn an_address_is_captured_wherever_it_shows_up() {
    check(|port| format!("127.0.0.1:{port}"), server("127.0.0.1:0"));
}

#[test]
fn a_stop_takes_what_was_sent_before() {
    let server = server("127.0.0.1:0");
    let Some(live) = Live::start(&[format!("lo:{}", server.port())]) else {
        return;
    };
    send(server, 1, 20);
    let Live {
        captures, found, ..
    } = live;
    let began = Instant::now();
    captures.stop();
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(found.lock().unwrap().len(), 20);
}

#[test]
fn what_is_wrong_is_said_before_anything_starts() {
    let open = |specs: &[&str]| {
        let settings = Settings {
            specs: specs.iter().map(|s| s.parse().unwrap()).collect(),
            ..Settings::default()
        };
        let error = capture::open(settings).err().unwrap();
        error.to_string()
    };
    let unknown = open(&["nosuch0:80"]);
    assert!(unknown.starts_with("no network interface is named \"nosuch0\"; there are"));
    assert!(unknown.contains("lo") && !unknown.contains('\n'));
}

#[test]
fn requests_get_their_clients_address() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let server = server(address);
        let live = Live::start_with(&[format!("lo:{}", server.port())], |settings| {
            settings.real_ip_header = Some("X-Real-IP".to_owned());
        });
        let Some(live) = live else { return };
        let mut stream = TcpStream::connect(server).unwrap();
        stream
            .write_all(
                b"POST / HTTP/1.1\r\nx-real-ip: 1.2.3.4\r\nContent-Length: 2\r\nX-Real-Ip: 5\r\n\r\nok\
                GET /next HTTP/1.1\r\n\r\n",
            )
            .unwrap();
        live.wait_for(2);
        live.captures.stop();
        let found = live.found.lock().unwrap();
        let client = stream.local_addr().unwrap().ip();
        let heads: Vec<String> = found
            .iter()
            .map(|request| String::from_utf8(request.head.raw().to_vec()).unwrap())
            .collect();
        let expected = [
            format!("POST / HTTP/1.1\r\nx-real-ip: {client}\r\nContent-Length: 2\r\n\r\n"),
            format!("GET /next HTTP/1.1\r\nX-Real-IP: {client}\r\n\r\n"),
        ];
        assert_eq!(heads, expected);
        assert!(found[0].body == b"ok"[..]);
    }
    let settings = Settings {
        real_ip_header: Some("Content-Length".to_owned()),
        ..Settings::default()
    };
    let error = capture::open(settings).err().unwrap().to_string();
    assert!(
        error.starts_with("real_ip_header: \"Content-Length\""),
        "{error}"
    );
}
