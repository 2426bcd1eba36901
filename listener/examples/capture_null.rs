//! Captures to a sink that only counts, and prints each second what came and how late, for measurements.
//!
//! What enters: capture specs, packets. What leaves: a line a second and one for all. What may be lost: see the
//! capture. Usage: `capture_null SECONDS [ring=16MiB] [threads=2] [ignore=docker*] SPEC…`
#![expect(
    clippy::unwrap_used,
    reason = "a tool for measurements that stops at what is wrong"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reprise_listener::capture::{self, Settings};
use reprise_listener::edge::{Edge, EdgeEvent};
use reprise_node::config::ByteSize;
use reprise_traffic::exchange::Captured;

/// Steps of 100 µs up to 100 ms.
const STEPS: usize = 1000;

struct Seen {
    requests: AtomicU64,
    body_bytes: AtomicU64,
    late: [AtomicU64; STEPS],
}

impl Seen {
    fn take(&self, request: &Captured) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let late_ns = (now.as_nanos() as u64).saturating_sub(request.captured_ns);
        let step = (late_ns / 100_000) as usize;
        self.late[step.min(STEPS - 1)].fetch_add(1, Ordering::Relaxed);
        let body = request.body.len() as u64;
        self.body_bytes.fetch_add(body, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn quantile_ms(&self, share: f64) -> f64 {
        let all: u64 = self.late.iter().map(|n| n.load(Ordering::Relaxed)).sum();
        let mut left = (all as f64 * share) as u64;
        for (step, n) in self.late.iter().enumerate() {
            let n = n.load(Ordering::Relaxed);
            if n > left {
                return (step + 1) as f64 / 10.0;
            }
            left -= n;
        }
        f64::NAN
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().unwrap().parse().unwrap();
    let mut settings = Settings::default();
    for argument in arguments {
        match argument.split_once('=') {
            Some(("ring", size)) => settings.ring = size.parse::<ByteSize>().unwrap().as_usize(),
            Some(("threads", n)) => settings.threads = n.parse().unwrap(),
            Some(("ignore", name)) => settings.ignore.push(name.parse().unwrap()),
            _ => settings.specs.push(argument.parse().unwrap()),
        }
    }
    let seen = Arc::new(Seen {
        requests: AtomicU64::new(0),
        body_bytes: AtomicU64::new(0),
        late: std::array::from_fn(|_| AtomicU64::new(0)),
    });
    let edge = Arc::new(Edge::default());
    let sink = seen.clone();
    let captures = capture::open(settings)
        .and_then(|opened| opened.start(&edge, move |request| sink.take(&request)))
        .unwrap();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut before = 0;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_secs(1));
        let requests = seen.requests.load(Ordering::Relaxed);
        let drops = edge.get(EdgeEvent::KernelDropped);
        eprintln!(
            "{} requests/s, {drops} packets dropped, {}",
            requests - before,
            status("VmRSS")
        );
        before = requests;
    }
    captures.stop();
    let quantiles = [0.5, 0.9, 0.99, 1.0].map(|share| seen.quantile_ms(share - 1e-9));
    println!(
        "requests {} body_bytes {} late_ms p50/p90/p99/max {quantiles:?} {} {}",
        seen.requests.load(Ordering::Relaxed),
        seen.body_bytes.load(Ordering::Relaxed),
        status("VmHWM"),
        cpu(),
    );
    println!("{:?}", edge.snapshot());
}

fn status(key: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Clock ticks in user mode and in the kernel.
fn cpu() -> String {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.split_whitespace().collect();
    format!("cpu_ticks user {} kernel {}", fields[13], fields[14])
}
