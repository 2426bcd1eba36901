//! Real programs: what comes back, and what is counted where nothing does.

use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use reprise_traffic::{Answer, AnswerHead, Body, Head, Source};

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

type Came = (Vec<u8>, Vec<u8>, Option<Origin>);

struct Rig {
    middleware: Middleware,
    edge: Arc<Edge>,
    back: Receiver<Came>,
}

impl Rig {
    fn start(command: &[&str]) -> Rig {
        let settings = Settings {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            max_message: 16 << 20,
            queue: 1 << 20,
        };
        let (tell, back) = channel();
        let edge = Arc::new(Edge::default());
        let epoch = Arc::new(Epoch::new("l", 1));
        let back_to: Box<Back> = Box::new(move |record: &Record<'_>, origin| {
            // The test may be over.
            let _ = tell.send((record.header.to_vec(), record.payload.to_vec(), origin));
        });
        let middleware = Middleware::start(settings, epoch, edge.clone(), back_to).unwrap();
        Rig {
            middleware,
            edge,
            back,
        }
    }

    /// As those who can wait.
    fn put(&self, message: Captured) {
        while self.middleware.is_busy() {
            std::thread::yield_now();
        }
        self.middleware.offer(message);
    }

    fn next(&self) -> Came {
        self.back.recv_timeout(LIMIT).unwrap()
    }

    fn wait_for(&self, event: EdgeEvent, least: u64) {
        let deadline = Instant::now() + LIMIT;
        while self.edge.get(event) < least {
            assert!(Instant::now() < deadline, "{event:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn request(port: u16, body: usize) -> Captured {
    let head = format!("POST /{port} HTTP/1.1\r\nContent-Length: {body}\r\n\r\n");
    Captured {
        captured_ns: 17,
        client: ([10, 0, 0, 9], port).into(),
        server: ([10, 0, 0, 1], 80).into(),
        source: Source::Wire,
        head: Head::parse(Bytes::from(head)).unwrap(),
        body: Body::from(vec![port as u8; body]),
        trailers: Bytes::new(),
        answer: None,
        label: None,
    }
}

#[test]
fn what_a_program_writes_back_comes_back_with_its_origin() {
    let rig = Rig::start(&["cat"]);
    for port in 1..=2000 {
        rig.put(request(port, 100));
    }
    rig.put(request(3000, 10 << 20));
    for port in 1..=2000 {
        let (_, payload, origin) = rig.next();
        let expected = request(port, 100);
        assert!(payload.starts_with(expected.head.raw()));
        assert_eq!(payload.len(), expected.head.raw().len() + 100);
        assert_eq!(origin.unwrap().client, expected.client);
    }
    let (_, large, _) = rig.next();
    assert!(large.ends_with(&vec![3000_u16 as u8; 10 << 20]));
    rig.middleware.finish(LIMIT);
    for event in [
        EdgeEvent::MiddlewareFull,
        EdgeEvent::MiddlewareLost,
        EdgeEvent::MiddlewareLeftOut,
        EdgeEvent::MiddlewareBad,
    ] {
        assert_eq!(rig.edge.get(event), 0, "{event:?}");
    }
}

#[test]
fn a_request_and_its_answer_are_two_messages() {
    let rig = Rig::start(&["cat"]);
    let mut exchange = request(1, 0);
    exchange.answer = Some(Box::new(Answer {
        first_byte_ns: 20,
        last_byte_ns: 25,
        head: AnswerHead::parse(Bytes::from_static(b"HTTP/1.1 204 No\r\n\r\n")).unwrap(),
        body: Body::default(),
        body_len: 0,
        complete: true,
    }));
    rig.middleware.offer(exchange);
    let (first, second) = (rig.next(), rig.next());
    let id = |line: &[u8]| line.split(|b| *b == b' ').nth(1).unwrap().to_vec();
    assert!(first.0.starts_with(b"1 ") && second.0.starts_with(b"2 "));
    assert_eq!(id(&first.0), id(&second.0));
    assert_eq!(second.1, b"HTTP/1.1 204 No\r\n\r\n");
    assert!(second.2.is_some());
}

#[test]
fn what_is_left_out_or_no_message_is_counted() {
    // Writes back every second line, and nonsense before the first.
    let rig = Rig::start(&["sh", "-c", "echo hello; echo 41; sed -u -n 2~2p"]);
    for port in 1..=10 {
        rig.middleware.offer(request(port, 1));
    }
    for port in [2, 4, 6, 8, 10] {
        assert_eq!(rig.next().2.unwrap().client.port(), port);
    }
    assert!(!rig.middleware.is_quiet(LIMIT) && rig.middleware.is_quiet(Duration::ZERO));
    rig.middleware.finish(LIMIT);
    assert_eq!(rig.edge.get(EdgeEvent::MiddlewareLeftOut), 5);
    assert_eq!(rig.edge.get(EdgeEvent::MiddlewareBad), 2);
}

#[test]
fn one_that_ends_is_started_again_and_what_it_had_is_counted() {
    // Takes one line, answers it, takes another, and dies with it.
    let rig = Rig::start(&["sh", "-c", "read a; echo $a; read a; exit 3"]);
    let mut sent = 0;
    for life in 1..=3 {
        for _ in 0..2 {
            sent += 1;
            rig.middleware.offer(request(sent, 1));
        }
        assert!(rig.next().2.is_some());
        rig.wait_for(EdgeEvent::MiddlewareLost, life);
    }
    rig.middleware.finish(LIMIT);
    assert_eq!(rig.edge.get(EdgeEvent::MiddlewareLost), 3);
}

#[test]
fn one_that_hangs_holds_nobody_who_can_not_wait() {
    let rig = Rig::start(&["sleep", "1000"]);
    let mut sent = 0;
    while rig.edge.get(EdgeEvent::MiddlewareFull) < 100 {
        sent += 1;
        rig.middleware.offer(request(1, 50_000));
        assert!(sent < 10_000);
    }
    assert!(rig.middleware.is_busy() && !rig.middleware.is_quiet(Duration::ZERO));
    let begun = Instant::now();
    rig.middleware.finish(Duration::from_millis(200));
    assert!(begun.elapsed() < LIMIT);
    let count = |event| rig.edge.get(event);
    let counted = count(EdgeEvent::MiddlewareFull)
        + count(EdgeEvent::MiddlewareLost)
        + count(EdgeEvent::MiddlewareLeftOut);
    // All messages have the same id's first half and numbers of their own.
    assert_eq!(counted, sent);
}

#[test]
fn what_can_not_be_started_is_said() {
    let settings = Settings {
        command: vec!["/nonexistent/middleware".to_owned()],
        max_message: 1,
        queue: 1,
    };
    let edge = Arc::new(Edge::default());
    let epoch = Arc::new(Epoch::new("l", 1));
    let started = Middleware::start(settings, epoch, edge, Box::new(|_, _| {}));
    let error = format!("{:#}", started.err().unwrap());
    assert!(error.contains("/nonexistent/middleware") && error.lines().count() == 1);
}
