//! Hosts that are network namespaces, and captures on one of them. Gone when they are dropped.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use reprise_listener::capture::{self, Captures, Settings};
use reprise_listener::edge::{Edge, EdgeEvent};
use reprise_traffic::exchange::Captured;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Longer than the listener needs to notice an interface.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A server and a client that are hosts of their own. Gone when it is dropped.
pub(crate) struct Net {
    prefix: String,
}

impl Net {
    /// `None` where the rights are missing.
    pub(crate) fn new() -> Option<Net> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let net = Net {
            prefix: format!("rl{}x{number}", std::process::id()),
        };
        if !rustix::process::geteuid().is_root() {
            println!("skipped: network namespaces need root");
            return None;
        }
        for host in ["server", "client"] {
            let name = net.name(host);
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
        }
        Some(net)
    }

    fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Runs `ip` for a host; `SERVER` and `CLIENT` stand for the namespaces.
    pub(crate) fn ip(&self, host: &str, arguments: &str) {
        self.said(host, arguments);
    }

    pub(crate) fn said(&self, host: &str, arguments: &str) -> String {
        run(&self.command(host, arguments))
    }

    pub(crate) fn try_ip(&self, host: &str, arguments: &str) -> bool {
        let command = self.command(host, arguments);
        let mut words = command.split_whitespace();
        let output = Command::new(words.next().unwrap()).args(words).output();
        output.unwrap().status.success()
    }

    fn command(&self, host: &str, arguments: &str) -> String {
        let arguments = arguments
            .replace("SERVER", &self.name("server"))
            .replace("CLIENT", &self.name("client"));
        format!("ip -n {} {arguments}", self.name(host))
    }

    /// Puts frames on a host's end of a cable.
    pub(crate) fn transmit(&self, host: &str, device: &str, frames: &[Vec<u8>]) {
        self.on(host, || {
            let device = pcap::Capture::from_device(device).unwrap();
            let mut device = device.open().unwrap();
            for frame in frames {
                device.sendpacket(&frame[..]).unwrap();
            }
        });
    }

    /// Joins the two by a cable: the server's end has that name and `10.N.0.1`, the client has `10.N.0.2`.
    pub(crate) fn cable(&self, name: &str, network: u8) {
        self.ip(
            "server",
            &format!("link add {name} type veth peer name {name} netns CLIENT"),
        );
        for (host, number) in [("server", 1), ("client", 2)] {
            self.ip(
                host,
                &format!("addr add 10.{network}.0.{number}/24 dev {name}"),
            );
            self.ip(host, &format!("link set {name} up"));
        }
    }

    /// Calls `work` on a thread of that host; threads that it starts are there too.
    pub(crate) fn on<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name(host))).unwrap();
        thread::scope(|scope| {
            let visit = scope.spawn(move || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).unwrap();
                work()
            });
            visit.join().unwrap()
        })
    }

    /// A server that reads all and answers nothing, at all addresses of the server's host.
    pub(crate) fn serve(&self, port: u16) {
        self.serve_on("server", port);
    }

    pub(crate) fn serve_on(&self, host: &str, port: u16) {
        let listener = self.on(host, || TcpListener::bind(("0.0.0.0", port)).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
            }
        });
    }

    pub(crate) fn send(&self, host: &str, address: &str, path: &str) {
        let address: SocketAddr = address.parse().unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        self.on(host, || {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
        });
    }

    pub(crate) fn capture(
        &self,
        specs: &[&str],
        change: impl FnOnce(&mut Settings) + Send,
    ) -> Live {
        self.on("server", || Live::start(specs, change))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in ["server", "client"] {
            let name = self.name(host);
            let _ = Command::new("ip").args(["netns", "delete", &name]).status();
        }
    }
}

fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) type Found = Arc<Mutex<Vec<(String, ThreadId)>>>;

/// A running capture.
pub(crate) struct Live {
    captures: Captures,
    pub(crate) edge: Arc<Edge>,
    pub(crate) found: Found,
}

impl Live {
    fn start(specs: &[&str], change: impl FnOnce(&mut Settings)) -> Live {
        let mut settings = Settings {
            specs: specs.iter().map(|s| s.parse().unwrap()).collect(),
            ..Settings::default()
        };
        change(&mut settings);
        let edge = Arc::new(Edge::default());
        let found = Found::default();
        let sink = found.clone();
        let captures = capture::open(settings)
            .and_then(|opened| {
                opened.start(&edge, move |request: Captured| {
                    let target = String::from_utf8_lossy(request.head.target()).into_owned();
                    sink.lock().unwrap().push((target, thread::current().id()));
                })
            })
            .unwrap();
        Live {
            captures,
            edge,
            found,
        }
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.found
            .lock()
            .unwrap()
            .iter()
            .any(|(there, _)| there == path)
    }

    /// All that was captured, in alphabetical order.
    pub(crate) fn stop(self) -> Vec<String> {
        self.captures.stop();
        let found = self.found.lock().unwrap();
        assert_eq!(self.edge.get(EdgeEvent::KernelDropped), 0);
        let mut paths: Vec<String> = found.iter().map(|(path, _)| path.clone()).collect();
        paths.sort();
        paths
    }
}

/// Sends until the request shows up, and returns whether it did.
pub(crate) fn captured_at_last(live: &Live, path: &str, send: impl Fn()) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        send();
        let look = Instant::now() + Duration::from_millis(100);
        while Instant::now() < look {
            if live.has(path) {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    false
}
