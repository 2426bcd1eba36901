//! That connections end, once each, behind their requests.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

/// What came of segments, in order.
#[derive(Default)]
struct Seen(Vec<String>);

impl Sink for Seen {
    fn take(&mut self, request: Captured) {
        let target = String::from_utf8_lossy(request.head.target()).into_owned();
        self.0.push(target);
    }

    fn closed(&mut self, closed: Closed) {
        assert!((SECOND..100 * SECOND).contains(&closed.closed_ns));
        self.0
            .push(format!("{} - {}", closed.client, closed.server));
    }
}

const END: &str = "10.0.0.9:40000 - 10.0.0.1:80";

struct Bench {
    reassembler: Reassembler,
    seen: Seen,
    now: u64,
}

impl Bench {
    fn new(answers: Answers) -> Bench {
        let settings = Settings {
            answers,
            ports: Ports::only(&[80]),
            ..Settings::default()
        };
        Bench {
            reassembler: Reassembler::new(settings, Arc::default()),
            seen: Seen::default(),
            now: SECOND,
        }
    }

    fn push(&mut self, segment: Segment<'_>) {
        self.now += 1;
        self.reassembler.push(&segment, self.now, &mut self.seen);
    }

    fn wait(&mut self, ns: u64) {
        self.now += ns;
        self.reassembler.expire(self.now, &mut self.seen);
    }

    fn finish(mut self) -> Vec<String> {
        self.reassembler.finish(&mut self.seen);
        self.seen.0
    }
}

fn asks(sequence: u32, payload: &[u8]) -> Segment<'_> {
    Segment {
        source: ([10, 0, 0, 9], 40_000).into(),
        destination: ([10, 0, 0, 1], 80).into(),
        sequence,
        acknowledgment: Some(501),
        syn: false,
        fin: false,
        rst: false,
        payload,
        missing: 0,
    }
}

fn syn(sequence: u32) -> Segment<'static> {
    Segment {
        syn: true,
        acknowledgment: None,
        ..asks(sequence, b"")
    }
}

fn fin(sequence: u32) -> Segment<'static> {
    Segment {
        fin: true,
        ..asks(sequence, b"")
    }
}

fn rst(sequence: u32) -> Segment<'static> {
    Segment {
        rst: true,
        ..asks(sequence, b"")
    }
}

fn answers(sequence: u32, acknowledgment: u32, payload: &[u8]) -> Segment<'_> {
    let there = asks(sequence, payload);
    Segment {
        source: there.destination,
        destination: there.source,
        acknowledgment: Some(acknowledgment),
        ..there
    }
}

const GET: &[u8] = b"GET /1 HTTP/1.1\r\n\r\n";
const NEXT: &[u8] = b"GET /2 HTTP/1.1\r\n\r\n";
const LENGTH: u32 = GET.len() as u32;
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const KEPT: Answers = Answers::Kept { max_body: 100 };

#[test]
fn a_connection_ends_once_with_the_client_s_fin_or_a_reset() {
    for end in [fin, rst] {
        let mut bench = Bench::new(Answers::Switches);
        bench.push(syn(0));
        bench.push(asks(1, GET));
        bench.push(asks(1 + LENGTH, NEXT));
        // Idle for however long, it is open.
        bench.wait(50 * SECOND);
        assert_eq!(bench.seen.0, ["/1", "/2"]);
        for _ in 0..2 {
            bench.push(end(1 + 2 * LENGTH));
        }
        assert_eq!(bench.seen.0, ["/1", "/2", END]);
        assert_eq!(bench.finish().len(), 3);
    }
}

#[test]
fn one_without_a_request_is_none_s_business() {
    for end in [fin, rst, syn] {
        let mut bench = Bench::new(Answers::Watched);
        bench.push(syn(0));
        bench.push(asks(1, b"\r\n"));
        bench.push(end(3));
        assert_eq!(bench.finish(), Vec::<String>::new());
    }
    // Nor is one that only stops to be followed.
    let mut bench = Bench::new(Answers::Switches);
    bench.push(syn(0));
    bench.push(asks(1, GET));
    assert_eq!(bench.finish(), ["/1"]);
}

#[test]
fn another_connection_on_the_same_ports_ends_the_one_before_it_ahead_of_its_own_requests() {
    // By its SYN, or where that wasn't captured by numbers that are quite others.
    for opens in [true, false] {
        let mut bench = Bench::new(Answers::Switches);
        bench.push(syn(0));
        bench.push(asks(1, GET));
        if opens {
            bench.push(syn(1 << 30));
        }
        bench.push(Segment {
            acknowledgment: Some(3 << 30),
            ..asks((1 << 30) + 1, NEXT)
        });
        assert_eq!(bench.finish(), ["/1", END, "/2"]);
    }
}

#[test]
fn a_client_that_closes_and_waits_for_its_answer_ends_behind_it() {
    for (kept, within) in [(KEPT, &[][..]), (Answers::Watched, &["/1", END])] {
        let mut bench = Bench::new(kept);
        bench.push(syn(0));
        bench.push(Segment {
            syn: true,
            ..answers(500, 1, b"")
        });
        bench.push(asks(1, GET));
        bench.push(fin(1 + LENGTH));
        assert_eq!(bench.seen.0, within);
        bench.push(answers(501, 2 + LENGTH, OK));
        assert_eq!(bench.seen.0, ["/1", END]);
    }
    // Or behind what was waited for in vain.
    let mut bench = Bench::new(KEPT);
    bench.push(syn(0));
    bench.push(asks(1, GET));
    bench.push(fin(1 + LENGTH));
    bench.wait(61 * SECOND);
    assert_eq!(bench.seen.0, ["/1", END]);
}

#[test]
fn a_connection_ends_with_the_server_s_fin_or_reset_where_servers_are_heard() {
    for kept in [Answers::Watched, KEPT] {
        for reset in [false, true] {
            let mut bench = Bench::new(kept);
            bench.push(syn(0));
            bench.push(Segment {
                syn: true,
                ..answers(500, 1, b"")
            });
            bench.push(asks(1, GET));
            bench.push(answers(501, 1 + LENGTH, OK));
            assert_eq!(bench.seen.0, ["/1"]);
            let end = 501 + OK.len() as u32;
            bench.push(Segment {
                fin: !reset,
                rst: reset,
                ..answers(end, 1 + LENGTH, b"")
            });
            assert_eq!(bench.seen.0, ["/1", END]);
            bench.push(fin(1 + LENGTH));
            assert_eq!(bench.finish().len(), 2);
        }
    }
}

#[test]
fn an_end_behind_a_hole_waits_for_it_to_be_given_up() {
    let mut bench = Bench::new(Answers::Switches);
    bench.push(syn(0));
    bench.push(asks(1, GET));
    bench.push(fin(1 + 3 * LENGTH));
    assert_eq!(bench.seen.0, ["/1"]);
    bench.wait(3 * SECOND);
    assert_eq!(bench.seen.0, ["/1", END]);
}

proptest! {
    #[test]
    fn in_whatever_order_segments_come_the_end_is_the_last_and_the_only_one(
        order in Just((0..6_usize).collect::<Vec<_>>()).prop_shuffle(),
        again in prop::collection::vec(0..6_usize, 0..4),
        kept in any::<bool>(),
    ) {
        let mut bench = Bench::new(if kept { KEPT } else { Answers::Watched });
        bench.push(syn(0));
        bench.push(Segment { syn: true, ..answers(500, 1, b"") });
        for n in order.into_iter().chain(again) {
            let half = 1 + LENGTH / 2;
            bench.push(match n {
                0 => asks(1, &GET[..LENGTH as usize / 2]),
                1 => asks(half, &GET[LENGTH as usize / 2..]),
                2 => asks(1 + LENGTH, NEXT),
                3 => fin(1 + 2 * LENGTH),
                4 => answers(501, 1 + LENGTH, OK),
                _ => answers(501 + OK.len() as u32, 1 + 2 * LENGTH, OK),
            });
        }
        prop_assert_eq!(bench.finish(), ["/1", "/2", END]);
    }
}

#[test]
fn addresses_are_those_of_client_and_server_whoever_is_first() {
    let client: SocketAddr = "[::1]:1".parse().unwrap();
    let mut bench = Bench::new(Answers::Switches);
    for segment in [syn(0), asks(1, GET), fin(1 + LENGTH)] {
        bench.push(Segment {
            source: client,
            destination: "[::2]:80".parse().unwrap(),
            ..segment
        });
    }
    assert_eq!(bench.finish()[1], "[::1]:1 - [::2]:80");
}
