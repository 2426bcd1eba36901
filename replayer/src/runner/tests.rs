//! What a target gets of what is submitted for it, while it answers and while it doesn't.

use std::time::Duration;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use reprise_traffic::exchange::Captured;
use reprise_traffic::{Body, Epoch, ExchangeId, Head, Source, TargetDocument, TargetName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::metrics::Metrics;

const SHUT: Disposition = Disposition::Dropped(DropReason::BreakerOpen);
const SILENT: Disposition = Disposition::Failed(Fault::Target);

fn runner(url: &str, yaml: &str) -> Arc<Runner<u64>> {
    let document = TargetDocument::parse("t", &format!("{{url: '{url}', {yaml}}}")).unwrap();
    let target = Target::new(TargetName::new("t/a").unwrap(), 1, document).unwrap();
    let mut registry = Registry::default();
    let meters = Metrics::register(&mut registry).of(&target.name);
    let room = Room {
        bytes: 1 << 20,
        jobs: 1000,
    };
    Arc::new(Runner::new(Arc::new(target), room, meters, None))
}

/// A request of the session `client`: a GET, every other one a POST.
fn job(number: u64, client: u16) -> Job<u64> {
    let method = ["GET", "POST"][number as usize % 2];
    let head = format!("{method} /{number} HTTP/1.1\r\n\r\n");
    let exchange = Exchange {
        id: ExchangeId {
            epoch: Arc::new(Epoch::new("web", 1)),
            sequence: number,
        },
        due_ns: None,
        request: Captured {
            captured_ns: 0,
            client: ([10, 0, 0, 2], client).into(),
            server: ([10, 0, 0, 1], 80).into(),
            source: Source::Wire,
            head: Head::parse(Bytes::from(head)).unwrap(),
            body: Body::default(),
            trailers: Bytes::new(),
            answer: None,
            label: None,
        },
    };
    Job {
        exchange: Arc::new(exchange),
        since: Instant::now(),
        is_scheduled: false,
        ticket: number,
    }
}

#[tokio::test]
async fn what_waits_for_a_target_that_does_not_answer_is_dropped_at_once() {
    // The kernel accepts; nobody ever reads.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let yaml = "timeout: 300ms, concurrency: 2, breaker: {failures: 2, open_for: 1h, max_open: 1h}";
    let schedule = Schedule::start().unwrap();
    let runner = runner(&url, yaml);
    let (ends, mut ended) = mpsc::unbounded_channel();
    let end = move |end: Ended<_>| {
        ends.send((end.ticket, end.disposition, Instant::now()))
            .unwrap();
    };
    let started = Instant::now();
    // 50 sessions of two each: one of the two waits for the other.
    for number in 0..100 {
        runner.submit(job(number, number as u16 / 2), &schedule, end.clone());
    }
    let mut silences = 0;
    for _ in 0..100 {
        let (_, disposition, at) = ended.recv().await.unwrap();
        match disposition {
            SILENT | Disposition::Unknown => silences += 1,
            other => assert_eq!(other, SHUT),
        }
        // All at one timeout's end, though 50 timeouts would be due, two at a time.
        assert!(at - started < Duration::from_secs(3));
    }
    // The first two, and one that got the first one's place before the second had ended.
    assert!((2..=3).contains(&silences), "{silences}");
    assert_eq!(runner.load(), (0, 0));
    // And from now on nothing is queued.
    runner.submit(job(100, 1), &schedule, end);
    let (number, disposition, _) = ended.try_recv().unwrap();
    assert_eq!((number, disposition, runner.load()), (100, SHUT, (0, 0)));
}

/// Closes without an answer while `is_down`; sends on the number of each request that it reads.
async fn server(is_down: Arc<AtomicBool>, read: mpsc::UnboundedSender<u64>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (is_down, read) = (is_down.clone(), read.clone());
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    let number = text.split(['/', ' ']).nth(2).unwrap().parse();
                    read.send(number.unwrap()).unwrap();
                    if is_down.load(Ordering::Relaxed) {
                        return;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn a_session_stays_in_order_and_nothing_is_sent_that_was_dropped() {
    let is_down = Arc::new(AtomicBool::new(false));
    let (read, mut arrived) = mpsc::unbounded_channel();
    let url = server(is_down.clone(), read).await;
    let yaml = "methods: [any], breaker: {failures: 2, open_for: 50ms, max_open: 50ms}";
    let schedule = Schedule::start().unwrap();
    let runner = runner(&url, yaml);
    let (ends, mut ended) = mpsc::unbounded_channel();
    let submit = |number| {
        let ends = ends.clone();
        let end = move |end: Ended<_>| {
            ends.send((end.ticket, end.disposition)).unwrap();
        };
        runner.submit(job(number, 1), &schedule, end);
    };
    let replayed = Disposition::Replayed(200);

    (0..10).for_each(submit);
    for number in 0..10 {
        assert_eq!(ended.recv().await, Some((number, replayed)));
    }
    is_down.store(true, Ordering::Relaxed);
    (10..20).for_each(submit);
    // The first goes over a kept connection, which the server closes: it is safe, and goes once more.
    assert_eq!(ended.recv().await, Some((10, SILENT)));
    assert_eq!(ended.recv().await, Some((11, Disposition::Unknown)));
    for number in 12..20 {
        assert_eq!(ended.recv().await, Some((number, SHUT)));
    }
    is_down.store(false, Ordering::Relaxed);
    // Until a safe one gets through.
    let mut next = 20;
    loop {
        submit(next);
        next += 1;
        match ended.recv().await.unwrap().1 {
            SHUT => tokio::time::sleep(Duration::from_millis(1)).await,
            end => break assert_eq!((end, next % 2), (replayed, 1)),
        }
    }
    let last = next + 10;
    (next..last).for_each(submit);
    for number in next..last {
        assert_eq!(ended.recv().await, Some((number, replayed)));
    }
    let expected = (0..10).chain([10, 10, 11]).chain(next - 1..last);
    for number in expected {
        assert_eq!(arrived.recv().await, Some(number));
    }
    assert!(arrived.is_empty());
}

/// A schedule is kept by its instants, and by the order of arrival within one; sessions stay in order.
#[tokio::test]
async fn what_is_scheduled_leaves_when_it_is_due_and_not_before() {
    let schedule = Schedule::start().unwrap();
    // Nobody listens there: whatever is sent fails at once.
    let runner = runner("http://127.0.0.1:1", "breaker: off");
    let (ends, mut ended) = mpsc::unbounded_channel();
    let start = Instant::now();
    // The last comes first, and all are of one session.
    for number in (0..20_u32).rev() {
        let ends = ends.clone();
        let job = Job {
            since: start + number * Duration::from_millis(5),
            is_scheduled: true,
            ..job(u64::from(number), 1)
        };
        runner.submit(job, &schedule, move |end: Ended<_>| {
            ends.send((end.ticket, Instant::now())).unwrap();
        });
    }
    assert_eq!(runner.load().0 + runner.load().1, 20);
    for number in 0..20_u32 {
        let (ended, at) = ended.recv().await.unwrap();
        assert_eq!(ended, u64::from(number));
        assert!(at >= start + number * Duration::from_millis(5));
    }
}

/// Answers all; sends on what comes and that it ended, by connection.
async fn server_that_hears_ends(
    told: mpsc::UnboundedSender<(usize, Option<u64>)>,
) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for connection in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let told = told.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                // A reset is an error.
                while let length @ 1.. = stream.read(&mut buffer).await.unwrap() {
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    let number = text.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
                    told.send((connection, Some(number))).unwrap();
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
                told.send((connection, None)).unwrap();
            });
        }
    });
    address
}

fn closed(client: u16) -> Closed {
    Closed {
        closed_ns: 0,
        client: ([10, 0, 0, 2], client).into(),
        server: ([10, 0, 0, 1], 80).into(),
        due_ns: None,
    }
}

/// At once where it is idle, or behind what is under way, waits or is due; what comes then goes over another.
#[tokio::test]
async fn a_session_s_connection_closes_behind_its_last_request() {
    let (told, mut hears) = mpsc::unbounded_channel();
    let url = format!("http://{}", server_that_hears_ends(told).await);
    let schedule = Schedule::start().unwrap();
    for (key, follows) in [
        ("connection", true),
        ("cookie:sid", true),
        ("client", false),
    ] {
        let yaml = format!("methods: [any], connections: per-session, session_key: {key}");
        let runner = runner(&url, &yaml);
        let submit = |number, due: Option<Instant>| {
            let fresh = job(number, 7);
            let job = Job {
                is_scheduled: due.is_some(),
                since: due.unwrap_or(fresh.since),
                ..fresh
            };
            runner.submit(job, &schedule, |_| {});
        };
        (0..3).for_each(|number| submit(number, None));
        runner.close(&closed(7), None, &schedule);
        (3..5).for_each(|number| submit(number, None));
        // Nobody's.
        runner.close(&closed(8), None, &schedule);
        let first = hears.recv().await.unwrap().0;
        let mut seen = vec![(first, Some(0))];
        let expected = match follows {
            false => [0, 1, 2, 3, 4].map(|n| (first, Some(n))).to_vec(),
            true => vec![
                (first, Some(0)),
                (first, Some(1)),
                (first, Some(2)),
                (first, None),
                (first + 1, Some(3)),
                (first + 1, Some(4)),
            ],
        };
        while seen.len() < expected.len() {
            seen.push(hears.recv().await.unwrap());
        }
        // Two connections tell independently of each other.
        seen.sort_by_key(|(connection, number)| (*connection, number.unwrap_or(99)));
        assert_eq!(seen, expected, "{key}");
        if !follows {
            continue;
        }
        let due = Instant::now() + Duration::from_millis(50);
        submit(5, Some(due));
        runner.close(&closed(7), Some(due), &schedule);
        assert_eq!(hears.recv().await, Some((first + 1, Some(5))));
        assert_eq!(hears.recv().await, Some((first + 1, None)));
        assert!(Instant::now() >= due);
        submit(6, None);
        assert_eq!(hears.recv().await, Some((first + 2, Some(6))));
        while runner.load() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Idle.
        runner.close(&closed(7), None, &schedule);
        assert_eq!(hears.recv().await, Some((first + 2, None)));
    }
}

#[tokio::test]
async fn ends_of_connections_that_are_due_later_are_bounded() {
    let schedule = Schedule::start().unwrap();
    let runner = runner("http://127.0.0.1:1", "connections: per-session");
    let due = Instant::now() + Duration::from_secs(3600);
    for port in 0..1010 {
        runner.close(&closed(port), Some(due), &schedule);
    }
    assert_eq!(runner.closed_dropped.get(), 10);
    runner.close(&closed(1), Some(Instant::now()), &schedule);
    assert_eq!(runner.closed_dropped.get(), 11);
}

fn recording(revision: u64, url: &str, yaml: &str) -> Arc<Target> {
    let document = TargetDocument::parse("t", &format!("{{url: '{url}', {yaml}}}")).unwrap();
    Arc::new(Target::new(TargetName::new("t/a").unwrap(), revision, document).unwrap())
}

#[test]
fn a_target_that_does_nothing_takes_all_at_once() {
    let runner = runner("null:", "");
    assert!(runner.does_nothing());
    for number in 0..1000 {
        let end = runner.do_nothing(job(number, 1));
        assert_eq!((end.ticket, end.disposition), (number, NOTHING_DONE));
    }
    assert_eq!(runner.load(), (0, 0));
}

#[test]
fn a_recording_goes_on_while_what_it_is_made_of_stays_the_same() {
    let schedule = Schedule::start().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let dir = tempfile::tempdir().unwrap();
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    let url = format!("file://{}/a.gor", dir.path().display());
    let runner = runner(&url, "");
    runner.measures().want();
    let (ends, ended) = std::sync::mpsc::channel();
    let record = |number| {
        let ends = ends.clone();
        let end = move |end: Ended<_>| {
            ends.send((end.ticket, end.disposition)).unwrap();
        };
        runner.submit(job(number, 1), &schedule, end);
        ended.recv_timeout(Duration::from_secs(20)).unwrap()
    };
    assert_eq!(record(1), (1, NOTHING_DONE));
    runner.update(&recording(2, &url, "methods: [any]"));
    assert_eq!(record(2), (2, NOTHING_DONE));
    assert_eq!(files(), 1);
    let other = "recording: {flush_interval: 10ms}";
    runner.update(&recording(3, &url, other));
    assert_eq!(record(3), (3, NOTHING_DONE));
    assert_eq!(files(), 2);
    runner.update(&recording(4, "file:///nowhere/a.gor", "methods: [any]"));
    assert_eq!(record(4), (4, Disposition::Failed(Fault::Ours)));
    // Of the last one, no sending began.
    let measured = runner.measures().take();
    assert_eq!((measured.sent, measured.answered()), (3, 3));
    assert_eq!((measured.failed(), measured.latency.count()), (0, 3));
}
