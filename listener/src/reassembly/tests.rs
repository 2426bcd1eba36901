use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

fn address(port: u16) -> SocketAddr {
    ([10, 0, 0, 1], port).into()
}

fn segment(sequence: u32, payload: &[u8]) -> Segment<'_> {
    Segment {
        source: address(40_000),
        destination: address(80),
        sequence,
        acknowledgment: Some(1),
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
        ..segment(sequence, b"")
    }
}

/// A reassembler and what it gave.
struct Bench {
    reassembler: Reassembler,
    edge: Arc<Edge>,
    found: Vec<String>,
    now: u64,
}

impl Bench {
    fn new(limits: Limits) -> Bench {
        Bench::within(64 << 20, limits)
    }

    /// With a budget of so many bytes.
    fn within(budget: usize, limits: Limits) -> Bench {
        let edge = Arc::new(Edge::default());
        Bench {
            reassembler: Reassembler::new(
                Settings {
                    limits,
                    budget: Arc::new(Budget::new(budget)),
                    ..Settings::default()
                },
                edge.clone(),
            ),
            edge,
            found: Vec::new(),
            now: SECOND,
        }
    }

    fn push(&mut self, segment: Segment<'_>) {
        self.now += 1;
        let (now, found) = (self.now, &mut self.found);
        self.reassembler
            .push(&segment, now, &mut |request| found.push(text(&request)));
    }

    fn wait(&mut self, ns: u64) {
        self.now += ns;
        let (now, found) = (self.now, &mut self.found);
        self.reassembler
            .expire(now, &mut |request| found.push(text(&request)));
    }

    fn finish(&mut self) {
        let found = &mut self.found;
        self.reassembler
            .finish(&mut |request| found.push(text(&request)));
        assert_eq!(self.reassembler.held(), 0);
        assert_eq!(self.reassembler.connections(), 0);
    }

    fn count(&self, event: EdgeEvent) -> u64 {
        self.edge.get(event)
    }
}

fn text(request: &Captured) -> String {
    let target = String::from_utf8_lossy(request.head.target());
    format!(
        "{target} {}",
        String::from_utf8_lossy(&request.body.to_bytes())
    )
}

fn get(n: usize) -> Vec<u8> {
    format!("GET /{n} HTTP/1.1\r\n\r\n").into_bytes()
}

fn post(n: usize, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST /{n} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

#[test]
fn a_connection_without_its_handshake_is_joined_at_a_request() {
    let mut bench = Bench::new(Limits::default());
    bench.push(segment(7, &get(1)));
    assert_eq!(bench.found, ["/1 "]);
}

#[test]
fn a_connection_without_its_handshake_may_begin_in_small_pieces() {
    let stream = [&get(1)[..], b"\r\n\r\n", &get(2)].concat();
    for cut in 1..stream.len() {
        let mut bench = Bench::new(Limits::default());
        // A keep-alive probe.
        bench.push(segment(6, b"\0"));
        for (n, piece) in stream.chunks(cut).enumerate() {
            bench.push(segment(7 + (n * cut) as u32, piece));
        }
        bench.wait(3 * SECOND);
        assert_eq!(bench.found, ["/1 ", "/2 "], "{cut}");
        assert_eq!(bench.count(EdgeEvent::Unaligned), 0);
    }
}

#[test]
fn the_end_of_a_body_is_no_part_of_a_method_nor_an_empty_line() {
    for body in [&b"1234"[..], b"\r\n"] {
        let mut bench = Bench::new(Limits::default());
        bench.push(segment(7, body));
        bench.push(segment(7 + body.len() as u32, &get(1)));
        bench.wait(3 * SECOND);
        bench.finish();
        assert_eq!(bench.found, Vec::<String>::new());
    }
    let mut bench = Bench::new(Limits::default());
    bench.push(segment(7, &[b"\r\n", &get(1)[..]].concat()));
    bench.finish();
    assert_eq!(bench.found, Vec::<String>::new());
}

#[test]
fn a_body_that_looks_like_a_request_is_not_joined() {
    let mut bench = Bench::new(Limits::default());
    bench.push(segment(7, b"the end of a body"));
    bench.push(segment(24, &get(1)));
    bench.wait(10 * SECOND);
    assert_eq!(bench.found, Vec::<String>::new());
    assert_eq!(bench.count(EdgeEvent::Unaligned), 1);
    // The client has read an answer since, so it has sent the request before it whole.
    let answered = Segment {
        acknowledgment: Some(500),
        ..segment(24 + 19, b"GET /2 HTTP/1.1\r\n\r\n")
    };
    bench.push(answered);
    assert_eq!(bench.found, ["/2 "]);
}

#[test]
fn an_acknowledgement_that_was_seen_before_is_no_news() {
    let mut bench = Bench::new(Limits::default());
    fn with(acknowledgment: u32, segment: Segment<'_>) -> Segment<'_> {
        Segment {
            acknowledgment: Some(acknowledgment),
            ..segment
        }
    }
    bench.push(with(400, segment(7, b"the end of a body")));
    bench.wait(10 * SECOND);
    bench.push(with(500, segment(24, b"and of another")));
    // Part of the same body, for all that is known: nothing was received in between.
    bench.push(with(500, segment(38, &get(1))));
    bench.push(with(450, segment(57, &get(2))));
    assert_eq!(bench.found, Vec::<String>::new());
    bench.push(with(501, segment(76, &get(3))));
    assert_eq!(bench.found, ["/3 "]);
}

#[test]
fn ends_that_lie_behind_are_of_another_connection() {
    let mut bench = Bench::new(Limits::default());
    bench.push(syn(1000));
    bench.push(segment(1001, &get(1)));
    let fin = Segment {
        fin: true,
        ..segment(900, b"late")
    };
    let rst = Segment {
        rst: true,
        ..segment(900, b"")
    };
    bench.push(fin);
    bench.push(rst);
    bench.push(segment(1020, &get(2)));
    assert_eq!(bench.found, ["/1 ", "/2 "]);
}

#[test]
fn a_hole_spoils_the_request_it_lies_in() {
    let mut bench = Bench::new(Limits::default());
    let stream = [post(1, "0123456789"), get(2)].concat();
    bench.push(syn(6));
    bench.push(segment(7, &stream[..40]));
    bench.push(segment(7 + 43, &stream[43..]));
    bench.wait(SECOND);
    assert_eq!(bench.found, Vec::<String>::new());
    bench.wait(2 * SECOND);
    assert_eq!(bench.found, ["/2 "]);
    assert_eq!(bench.count(EdgeEvent::IncompleteGap), 1);
    // What was lost comes too late.
    bench.push(segment(7 + 40, &stream[40..43]));
    bench.finish();
    assert_eq!(bench.found, ["/2 "]);
}

#[test]
fn after_a_hole_in_a_head_only_certain_requests_are_taken() {
    let mut bench = Bench::new(Limits::default());
    bench.push(syn(0));
    bench.push(segment(1, b"GET /1"));
    bench.push(segment(100, &get(2)));
    let answered = |acknowledgment, sequence, payload| Segment {
        acknowledgment: Some(acknowledgment),
        ..segment(sequence, payload)
    };
    bench.push(answered(9, 119, b"GET /3 HTTP/1.1\r\n\r\n"));
    // What was lost right before may be the head whose body this is.
    bench.push(answered(18, 200, b"GET /4 HTTP/1.1\r\n\r\n"));
    bench.wait(3 * SECOND);
    assert_eq!(bench.found, ["/3 "]);
    bench.push(answered(27, 300, b"GET /5 HTTP/1.1\r\n\r\n"));
    bench.push(answered(36, 319, b"GET /6 HTTP/1.1\r\n\r\n"));
    bench.wait(3 * SECOND);
    assert_eq!(bench.found, ["/3 ", "/6 "]);
}

#[test]
fn a_cut_off_segment_is_a_hole() {
    let mut bench = Bench::new(Limits::default());
    let stream = [post(1, "0123456789"), get(2)].concat();
    let body = stream.len() - 19;
    bench.push(syn(0));
    let cut = Segment {
        missing: 4,
        ..segment(1, &stream[..body - 4])
    };
    bench.push(cut);
    bench.push(segment(1 + body as u32, &stream[body..]));
    bench.finish();
    assert_eq!(bench.found, ["/2 "]);
    assert_eq!(bench.count(EdgeEvent::Truncated), 1);
}

#[test]
fn ports_are_used_again() {
    let mut bench = Bench::new(Limits::default());
    bench.push(syn(100));
    bench.push(segment(
        101,
        b"POST /1 HTTP/1.1\r\nContent-Length: 5\r\n\r\nab",
    ));
    bench.push(syn(5000));
    bench.push(syn(5000));
    bench.push(segment(5001, &get(2)));
    let reset = Segment {
        rst: true,
        ..segment(5001 + 19, b"")
    };
    bench.push(reset);
    // Sent again by a network that is late.
    bench.push(segment(5001, &get(2)));
    let fast_open = Segment {
        syn: true,
        ..segment(9000, b"GET /3 HTTP/1.1\r\n\r\n")
    };
    bench.push(fast_open);
    bench.finish();
    assert_eq!(bench.found, ["/2 ", "/3 "]);
    assert_eq!(bench.count(EdgeEvent::IncompleteClosedEarly), 1);
    assert_eq!(bench.count(EdgeEvent::Connections), 3);
}

#[test]
fn time_gives_up_what_stands_still() {
    let mut bench = Bench::new(Limits::default());
    bench.push(syn(0));
    bench.push(segment(
        1,
        b"POST /1 HTTP/1.1\r\nContent-Length: 30\r\n\r\nab",
    ));
    bench.wait(61 * SECOND);
    assert_eq!(bench.count(EdgeEvent::IncompleteExpired), 1);
    bench.push(segment(43, b"GET /2 HTTP/1.1\r\n\r\n"));
    bench.wait(700 * SECOND);
    assert_eq!(bench.found, Vec::<String>::new());
    assert_eq!(bench.reassembler.connections(), 0);
}

#[test]
fn memory_stays_within_the_budget() {
    let limits = Limits {
        connections: 50,
        ..Limits::default()
    };
    let mut bench = Bench::within(100_000, limits);
    let half = [
        b"POST / HTTP/1.1\r\nContent-Length: 20000\r\n\r\n",
        &[b'x'; 9000][..],
    ]
    .concat();
    for port in 0..200 {
        let from = |segment| Segment {
            source: address(port),
            ..segment
        };
        bench.push(from(syn(0)));
        bench.push(from(segment(1, &half)));
        bench.push(from(segment(20_000, &half)));
        assert!(bench.reassembler.held() <= 100_000);
        assert!(bench.reassembler.connections() <= 50);
    }
    assert!(bench.count(EdgeEvent::IncompleteBudget) > 190);
    assert_eq!(bench.count(EdgeEvent::Forgotten), 150);
    bench.push(segment(1, &get(1)));
    assert_eq!(bench.found, ["/1 "]);
}

#[test]
fn connections_of_which_only_the_server_was_heard_are_in_the_budget_too() {
    let mut bench = Bench::within(1000, Limits::default());
    for port in 1000..1200 {
        bench.push(Segment {
            source: address(80),
            destination: address(port),
            ..segment(1, b"HTTP/1.1 200 OK\r\n")
        });
        assert!(bench.reassembler.held() <= 1000);
    }
    bench.finish();
}

#[test]
fn one_connection_holds_only_so_much_behind_a_hole() {
    let limits = Limits {
        early: 10_000,
        ..Limits::default()
    };
    let mut bench = Bench::new(limits);
    bench.push(syn(0));
    bench.push(segment(
        1,
        b"POST /1 HTTP/1.1\r\nContent-Length: 20000\r\n\r\n",
    ));
    for n in 1..20 {
        bench.push(segment(1000 * n + 500, &[b'x'; 1000]));
    }
    assert_eq!(bench.count(EdgeEvent::IncompleteGap), 1);
    assert!(bench.reassembler.held() < 12_000);
}

/// A request and how it is reported.
fn request() -> impl Strategy<Value = (Vec<u8>, String)> {
    let body = prop_oneof!["[a-z]{0,40}", Just("GET /no HTTP/1.1\r\n\r\n".to_owned())];
    (0..1000_usize, body, any::<bool>()).prop_map(|(n, body, chunked)| {
        let reported = format!("/{n} {body}");
        if !chunked {
            return (post(n, &body), reported);
        }
        let mut wire =
            format!("PUT /{n} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
        for chunk in body.as_bytes().chunks(7) {
            wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        (wire, reported)
    })
}

/// A piece of the stream, and when it comes.
#[derive(Debug, Clone)]
struct Cut {
    len: usize,
    /// Bytes before and after it that come again with it.
    overlap: (usize, usize),
    delay: u32,
    again_after: Option<u32>,
}

fn cut() -> impl Strategy<Value = Cut> {
    let again = prop::option::weighted(0.3, 0_u32..60);
    (1_usize..90, (0_usize..9, 0_usize..9), 0_u32..40, again).prop_map(
        |(len, overlap, delay, again_after)| Cut {
            len,
            overlap,
            delay,
            again_after,
        },
    )
}

proptest! {
    #[test]
    fn any_cutting_order_and_repetition_gives_the_same_requests_and_the_first_copy_stays(
        requests in prop::collection::vec(request(), 1..8),
        cuts in prop::collection::vec(cut(), 1..30),
        isn in prop_oneof![any::<u32>(), (u32::MAX - 300)..=u32::MAX],
        with_syn in any::<bool>(),
        with_fin in any::<bool>(),
        garbled in any::<bool>(),
    ) {
        let wire: Vec<u8> = requests.iter().flat_map(|(wire, _)| wire.clone()).collect();
        let first_line = requests[0].0.iter().position(|b| *b == b'\n').unwrap() + 1;
        // (time, from, to); without a SYN the first segment is seen first, and holds a request line.
        let mut sent = Vec::new();
        let mut at = 0;
        for (n, cut) in cuts.iter().cycle().enumerate() {
            let end = wire.len().min(at + cut.len);
            let from = at.saturating_sub(cut.overlap.0);
            let first = n == 0 && !with_syn;
            let least = if first { first_line } else { 0 };
            let to = wire.len().min(end + cut.overlap.1).max(least);
            let time = if first { 0 } else { 10 * n as u32 + cut.delay };
            sent.push((time, from, to));
            if let Some(after) = cut.again_after {
                sent.push((time + 1 + after, from, to));
            }
            at = end;
            if at == wire.len() {
                break;
            }
        }
        sent.sort_by_key(|(time, ..)| *time);

        let mut bench = Bench::new(Limits::default());
        let start = isn.wrapping_add(1);
        if with_syn {
            bench.push(syn(isn));
        }
        let mut seen = vec![false; wire.len()];
        for (_, from, to) in sent {
            let mut bytes = wire[from..to].to_vec();
            for (byte, seen) in bytes.iter_mut().zip(&mut seen[from..to]) {
                // What comes again may differ.
                if std::mem::replace(seen, true) && garbled {
                    *byte = b'\n';
                }
            }
            let mut piece = segment(start.wrapping_add(from as u32), &bytes);
            piece.fin = with_fin && to == wire.len();
            bench.push(piece);
        }
        let expected: Vec<String> = requests.into_iter().map(|(_, reported)| reported).collect();
        prop_assert_eq!(&bench.found, &expected);
        bench.finish();
        prop_assert_eq!(bench.found, expected);
        prop_assert_eq!(bench.edge.get(EdgeEvent::IncompleteGap), 0);
    }

    #[test]
    fn an_overtaken_syn_still_opens_the_connection(
        isn in any::<u32>(),
        order in Just(vec![0_usize, 1, 2]).prop_shuffle(),
    ) {
        let wire = post(1, "body");
        let start = isn.wrapping_add(1);
        let mut bench = Bench::new(Limits::default());
        for n in order {
            bench.push(match n {
                0 => syn(isn),
                1 => segment(start, &wire[..9]),
                _ => segment(start.wrapping_add(9), &wire[9..]),
            });
        }
        bench.finish();
        prop_assert_eq!(bench.found, ["/1 body"]);
    }

    #[test]
    fn garbage_never_panics_and_lost_bytes_never_make_requests(
        steps in prop::collection::vec(
            (0_u8..16, prop_oneof![0_u32..200, any::<u32>()], 0_usize..4, 0_u64..5 * SECOND, 0_u32..3),
            0..60,
        ),
    ) {
        let limits = Limits { early: 200, connections: 2, ..Limits::default() };
        let mut bench = Bench::within(300, limits);
        let payloads = [&b""[..], b"GET /1 HTTP/1.1\r\n\r\n", b"\r\nA", b"POST /2 HTTP/1.1\r\nContent-Length: 90\r\n\r\n"];
        for (flags, sequence, payload, wait, missing) in steps {
            bench.push(Segment {
                syn: flags & 1 != 0,
                fin: flags & 3 == 2,
                rst: flags == 15,
                source: address(u16::from(flags % 5)),
                acknowledgment: Some(sequence),
                missing,
                ..segment(sequence, payloads[payload])
            });
            bench.wait(wait);
        }
        bench.finish();
        prop_assert!(bench.found.iter().all(|f| f == "/1 " || f.starts_with("/2 ")));
    }
}

/// As in a file, where a hole may be filled at any time.
#[test]
fn a_connection_goes_on_behind_a_hole_however_long() {
    let mut bench = Bench::within(
        256 << 20,
        Limits {
            early: 200 << 20,
            ..Limits::default()
        },
    );
    let head = b"POST / HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n";
    let body = vec![b'x'; 1_000_000];
    bench.push(syn(0));
    bench.push(segment(1, head));
    let begin = 1 + head.len() as u32;
    for n in 1..100 {
        bench.push(segment(begin + n * 1_000_000, &body));
    }
    bench.push(segment(begin + 100_000_000, b"GET /a HTTP/1.1\r\n\r\n"));
    assert_eq!(bench.count(EdgeEvent::OutOfWindow), 0);
    bench.finish();
    assert_eq!(bench.found, ["/a "]);
    assert_eq!(bench.count(EdgeEvent::IncompleteGap), 1);
}

/// The end of one request and the beginning of the next in one segment, as segmentation offload has it; or not even one
/// whole request before the hole.
#[test]
fn requests_in_a_hole_are_counted_whatever_was_before_it() {
    let head = b"POST / HTTP/1.1\r\nContent-Length: 300\r\n\r\n";
    let one = [&head[..], &[b'x'; 300]].concat();
    let all = one.repeat(20);
    for whole in [0, 2] {
        let mut bench = Bench::new(Limits {
            early: 1000,
            ..Limits::default()
        });
        bench.push(syn(0));
        let cut = whole * one.len() + head.len() + 10;
        bench.push(segment(1, &all[..20]));
        bench.push(segment(21, &all[20..cut]));
        for at in (12 * one.len()..all.len()).step_by(one.len()) {
            let mut next = segment(1 + at as u32, &all[at..at + one.len()]);
            next.acknowledgment = Some(1 + at as u32);
            bench.push(next);
        }
        let found = bench.found.len();
        // The first behind the hole may be a body whose head was lost.
        assert_eq!(found, whole + 7);
        assert_eq!(bench.count(EdgeEvent::IncompleteGap), 20 - found as u64);
    }
}
