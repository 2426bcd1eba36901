//! Requests and answers of whole conversations, through both directions of a connection.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

const SERVER: &str = "10.0.0.2:80";
const CLIENT: &str = "10.0.0.1:4000";

/// A conversation under way, as a capture sees it.
struct Talk {
    reassembler: Reassembler,
    edge: Arc<Edge>,
    found: Vec<String>,
    now: u64,
    /// Next sequence numbers of client and server.
    next: (u32, u32),
}

#[derive(Debug, Clone)]
struct Packet {
    from_client: bool,
    sequence: u32,
    acknowledgment: u32,
    payload: Vec<u8>,
    syn: bool,
    fin: bool,
}

impl Talk {
    fn new(answers: Answers) -> Talk {
        let settings = Settings {
            answers,
            ..Settings::default()
        };
        let edge = Arc::new(Edge::default());
        Talk {
            reassembler: Reassembler::new(settings, edge.clone()),
            edge,
            found: Vec::new(),
            now: 1,
            next: (1000, 5000),
        }
    }

    fn packet(&mut self, from_client: bool, payload: &[u8]) -> Packet {
        let (sequence, acknowledgment) = match from_client {
            true => self.next,
            false => (self.next.1, self.next.0),
        };
        let own = match from_client {
            true => &mut self.next.0,
            false => &mut self.next.1,
        };
        *own = own.wrapping_add(payload.len() as u32);
        Packet {
            from_client,
            sequence,
            acknowledgment,
            payload: payload.to_vec(),
            syn: false,
            fin: false,
        }
    }

    fn see(&mut self, packet: &Packet) {
        let (client, server): (SocketAddr, SocketAddr) =
            (CLIENT.parse().unwrap(), SERVER.parse().unwrap());
        let (source, destination) = match packet.from_client {
            true => (client, server),
            false => (server, client),
        };
        self.now += 1;
        let segment = Segment {
            source,
            destination,
            sequence: packet.sequence,
            acknowledgment: (!packet.syn || !packet.from_client).then_some(packet.acknowledgment),
            syn: packet.syn,
            fin: packet.fin,
            rst: false,
            payload: &packet.payload,
            missing: 0,
        };
        let found = &mut self.found;
        self.reassembler
            .push(&segment, self.now, &mut |c| found.push(text(&c)));
    }

    fn client(&mut self, payload: &str) {
        let packet = self.packet(true, payload.as_bytes());
        self.see(&packet);
    }

    fn server(&mut self, payload: &str) {
        let packet = self.packet(false, payload.as_bytes());
        self.see(&packet);
    }

    fn handshake(&mut self) -> [Packet; 2] {
        let (client, server) = self.next;
        self.next = (client.wrapping_add(1), server.wrapping_add(1));
        let syn = |from_client, sequence, acknowledgment| Packet {
            from_client,
            sequence,
            acknowledgment,
            payload: Vec::new(),
            syn: true,
            fin: false,
        };
        [
            syn(true, client, 0),
            syn(false, server, client.wrapping_add(1)),
        ]
    }

    fn finish(mut self) -> Vec<String> {
        let found = &mut self.found;
        self.reassembler.finish(&mut |c| found.push(text(&c)));
        assert_eq!(self.reassembler.held(), 0);
        self.found
    }
}

fn text(captured: &Captured) -> String {
    assert_eq!(captured.client, CLIENT.parse().unwrap());
    let target = String::from_utf8_lossy(captured.head.target());
    let body = String::from_utf8_lossy(&captured.body.to_bytes()).into_owned();
    let answer = captured.answer.as_ref().map_or("none".to_owned(), |a| {
        let whole = if a.is_whole() { "" } else { " cut" };
        let body = String::from_utf8_lossy(&a.body.to_bytes()).into_owned();
        format!("{} {body}{whole}", a.head.status())
    });
    format!("{target} {body}-> {answer}")
}

const KEPT: Answers = Answers::Kept { max_body: 1000 };

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_request_whose_answer_goes_on_leaves_in_time_and_the_next_answer_is_found() {
    let second = 1_000_000_000;
    let mut talk = Talk::new(KEPT);
    talk.client("GET /events HTTP/1.1\r\n\r\n");
    talk.server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    for _ in 0..29 {
        talk.now += second;
        talk.server("1\r\n.\r\n");
    }
    assert!(talk.found.is_empty());
    talk.now += second;
    talk.server("1\r\n.\r\n");
    let partial = format!("/events -> 200 one{} cut", ".".repeat(29));
    assert_eq!(talk.found, std::slice::from_ref(&partial));
    let held = talk.reassembler.held();
    for _ in 0..500 {
        talk.now += second / 1000;
        talk.server("3\r\ntwo\r\n");
    }
    assert!(talk.reassembler.held() <= held);
    talk.server("0\r\n\r\n");
    talk.client("GET /2 HTTP/1.1\r\n\r\n");
    talk.server(&ok("three"));
    assert_eq!(talk.finish(), [partial, "/2 -> 200 three".to_owned()]);
}

#[test]
fn a_request_that_nobody_answers_leaves_within_twice_the_wait() {
    let second = 1_000_000_000;
    let mut talk = Talk::new(KEPT);
    talk.client("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n");
    let found = &mut talk.found;
    let mut expire = |now| {
        talk.reassembler.expire(now, &mut |c| found.push(text(&c)));
        found.len()
    };
    assert_eq!((expire(29 * second), expire(31 * second)), (0, 2));
    assert_eq!(talk.finish(), ["/1 -> none", "/2 -> none"]);
}

/// Answers that come before the rest of their requests are held like everything else.
#[test]
fn an_early_answer_is_counted_as_held() {
    let mut talk = Talk::new(KEPT);
    talk.client("POST /1 HTTP/1.1\r\nContent-Length: 2\r\n\r\na");
    let before = talk.reassembler.held();
    talk.server(&ok(&"x".repeat(900)));
    assert!(talk.reassembler.held() >= before + 900);
    talk.client("b");
    assert!(talk.reassembler.held() < before + 900);
    assert_eq!(talk.finish(), [format!("/1 ab-> 200 {}", "x".repeat(900))]);
}

#[test]
fn a_capture_that_joins_in_mid_answer_pairs_from_the_next_request_on() {
    let mut talk = Talk::new(KEPT);
    talk.server("the rest of some body, HTTP/1.1 200 OK\r\n\r\n");
    talk.client("GET /1 HTTP/1.1\r\n\r\n");
    talk.server(&ok("one"));
    talk.client("GET /2 HTTP/1.1\r\n\r\n");
    talk.server(&ok("two"));
    assert_eq!(talk.finish(), ["/1 -> 200 one", "/2 -> 200 two"]);
}

#[test]
fn the_end_that_asks_is_the_client_whoever_is_seen_first() {
    let mut talk = Talk::new(KEPT);
    talk.server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123");
    talk.server("456789");
    talk.client("GET /1 HTTP/1.1\r\n\r\n");
    talk.server(&ok("one"));
    assert_eq!(talk.finish(), ["/1 -> 200 one"]);
}

#[test]
fn a_gap_in_the_answers_spoils_only_them() {
    let mut talk = Talk::new(KEPT);
    for packet in talk.handshake() {
        talk.see(&packet);
    }
    talk.client("GET /1 HTTP/1.1\r\n\r\n");
    talk.server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123");
    talk.packet(false, b"456");
    talk.server("789");
    talk.client("GET /2 HTTP/1.1\r\n\r\n");
    talk.packet(false, ok("lost").as_bytes());
    talk.client("GET /3 HTTP/1.1\r\n\r\n");
    talk.server(&ok("three"));
    assert_eq!(
        talk.finish(),
        ["/1 -> 200 123 cut", "/2 -> none", "/3 -> 200 three"]
    );
}

#[test]
fn what_is_no_answer_to_the_first_is_no_answer_to_the_next() {
    let mut talk = Talk::new(KEPT);
    for packet in talk.handshake() {
        talk.see(&packet);
    }
    talk.client("GET /1 HTTP/1.1\r\n\r\nHEAD /2 HTTP/1.1\r\n\r\n");
    // A length that is none, which an answer without a body may have.
    talk.server("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc");
    talk.client("GET /3 HTTP/1.1\r\n\r\n");
    talk.server(&ok("three"));
    assert_eq!(
        talk.finish(),
        ["/1 -> none", "/2 -> none", "/3 -> 200 three"]
    );
}

#[test]
fn an_answer_to_a_request_that_was_not_captured_is_nobodys() {
    let mut talk = Talk::new(KEPT);
    for packet in talk.handshake() {
        talk.see(&packet);
    }
    talk.client("GET /1 HTTP/1.1\r\n\r\n");
    talk.server(&ok("one"));
    talk.packet(true, b"GET /lost HTTP/1.1\r\n\r\n");
    talk.server(&ok("lost"));
    talk.client("GET /3 HTTP/1.1\r\n\r\n");
    talk.server(&ok("three"));
    assert_eq!(talk.finish(), ["/1 -> 200 one", "/3 -> 200 three"]);
}

#[test]
fn an_early_answer_waits_for_the_whole_request() {
    let mut talk = Talk::new(KEPT);
    talk.client("POST /1 HTTP/1.1\r\nContent-Length: 4\r\n\r\nab");
    talk.server("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
    assert!(talk.found.is_empty());
    talk.client("cd");
    assert_eq!(talk.finish(), ["/1 abcd-> 413 "]);
}

#[test]
fn what_a_server_says_unasked_is_let_go() {
    let mut talk = Talk::new(KEPT);
    talk.client("POST /1 HTTP/1.1\r\nContent-Length: 4\r\n\r\nab");
    talk.server("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
    // More than is held early, and no hole before it.
    for _ in 0..10 {
        talk.server(&"a".repeat(1 << 20));
        assert!(talk.reassembler.held() < 10 << 20);
    }
    talk.client("cd");
    assert_eq!(talk.finish(), ["/1 abcd-> 413 "]);
}

#[test]
fn an_overtaken_syn_shows_where_the_answers_begin() {
    let mut talk = Talk::new(KEPT);
    let [syn, accepted] = talk.handshake();
    talk.see(&syn);
    let (first, second) = (
        talk.packet(false, b"HTTP/1.1 204"),
        talk.packet(false, b" No\r\n\r\n"),
    );
    for packet in [second, first, accepted] {
        talk.see(&packet);
    }
    let mut asked = talk.packet(true, b"GET /1 HTTP/1.1\r\n\r\n");
    asked.acknowledgment = 5001;
    talk.see(&asked);
    assert_eq!(talk.finish(), ["/1 -> 204 "]);
}

#[test]
fn the_close_ends_an_answer_and_a_reset_cuts_it() {
    let mut talk = Talk::new(KEPT);
    talk.client("GET /1 HTTP/1.0\r\n\r\n");
    talk.server("HTTP/1.0 200 OK\r\n\r\nall of");
    let mut last = talk.packet(false, b" it");
    last.fin = true;
    talk.see(&last);
    assert_eq!(talk.found, ["/1 -> 200 all of it"]);
    assert_eq!(talk.finish(), ["/1 -> 200 all of it"]);
}

#[test]
fn a_request_without_an_answer_leaves_in_time() {
    let mut talk = Talk::new(KEPT);
    talk.client("GET /1 HTTP/1.1\r\n\r\n");
    assert!(talk.found.is_empty());
    let found = &mut talk.found;
    talk.reassembler
        .expire(61_000_000_000, &mut |c| found.push(text(&c)));
    assert_eq!(talk.found, ["/1 -> none"]);
    assert_eq!(talk.edge.get(EdgeEvent::IncompleteExpired), 0);
}

#[test]
fn what_a_tunnel_carries_is_no_request_and_after_a_refusal_requests_go_on() {
    for answers in [Answers::Watched, KEPT] {
        for (first, answer, after) in [
            ("CONNECT a:1 HTTP/1.1\r\n\r\n", "200 OK", 1),
            ("CONNECT a:1 HTTP/1.1\r\n\r\n", "407 No", 2),
            ("GET /w HTTP/1.1\r\nUpgrade: w\r\n\r\n", "101 Yes", 1),
            (
                "GET /w HTTP/1.1\r\nUpgrade: w\r\n\r\n",
                "426 No\r\nContent-Length: 0",
                2,
            ),
        ] {
            let answer = match answer {
                "407 No" => "407 No\r\nContent-Length: 0",
                other => other,
            };
            let mut talk = Talk::new(answers);
            talk.client(first);
            // The capture may see what follows before the answer.
            let answer = talk.packet(false, format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes());
            talk.client("GET /in HTTP/1.1\r\n\r\n");
            talk.see(&answer);
            assert_eq!(talk.finish().len(), after, "{first}");
        }
    }
}

#[test]
fn an_answer_that_is_never_seen_holds_an_upgrade_up_for_a_moment_only() {
    let mut talk = Talk::new(Answers::Watched);
    talk.client("GET /w HTTP/1.1\r\nUpgrade: w\r\n\r\n");
    talk.client("GET /next HTTP/1.1\r\n\r\n");
    assert_eq!(talk.found, ["/w -> none"]);
    let found = &mut talk.found;
    talk.reassembler
        .expire(3_000_000_000, &mut |c| found.push(text(&c)));
    assert_eq!(talk.found, ["/w -> none", "/next -> none"]);
}

#[test]
fn a_switch_alone_is_enough_to_stop() {
    let mut talk = Talk::new(Answers::Switches);
    talk.client("GET /w HTTP/1.1\r\nUpgrade: w\r\n\r\n");
    talk.server("HTTP/1.1 101 Switching Protocols\r\n\r\n");
    talk.client("GET /in HTTP/1.1\r\n\r\n");
    assert_eq!(talk.edge.get(EdgeEvent::Upgraded), 1);
    assert_eq!(talk.finish(), ["/w -> none"]);
}

#[test]
fn a_hole_counts_the_requests_that_fit_in() {
    let mut talk = Talk::new(Answers::Switches);
    for packet in talk.handshake() {
        talk.see(&packet);
    }
    for n in 0..100 {
        let packet = talk.packet(true, format!("GET /{n:03} HTTP/1.1\r\n\r\n").as_bytes());
        if !(30..42).contains(&n) && !(60..61).contains(&n) {
            talk.see(&packet);
        }
        talk.packet(false, &[b'x'; 50]);
    }
    let edge = talk.edge.clone();
    // The first behind each hole may be a body whose head was lost.
    assert_eq!(talk.finish().len(), 85);
    assert_eq!(edge.get(EdgeEvent::IncompleteGap), 15);
}

/// A request, its answer, and how they are reported together.
fn exchange() -> impl Strategy<Value = (String, String, String)> {
    let answer = prop_oneof![
        "[a-z]{0,30}".prop_map(|body| (ok(&body), format!("200 {body}"))),
        "[a-z]{1,30}".prop_map(|body| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
            (format!("{head}{chunk}"), format!("200 {body}"))
        }),
        Just((
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n".to_owned(),
            "304 ".to_owned()
        )),
        Just((
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            "204 ".to_owned()
        )),
    ];
    let request = (
        0..1000_usize,
        prop_oneof![Just(None), "[a-z]{1,40}".prop_map(Some)],
    );
    (request, answer, any::<bool>()).prop_map(|((n, body), (answer, answered), head)| {
        if head && body.is_none() && answer.contains("Content-Length") {
            let end = answer.find("\r\n\r\n").unwrap() + 4;
            let status = &answered[..4];
            let request = format!("HEAD /{n} HTTP/1.1\r\n\r\n");
            return (
                request,
                answer[..end].to_owned(),
                format!("/{n} -> {status}"),
            );
        }
        match body {
            None => (
                format!("GET /{n} HTTP/1.1\r\n\r\n"),
                answer,
                format!("/{n} -> {answered}"),
            ),
            Some(body) => {
                let length = body.len();
                let request =
                    format!("POST /{n} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}");
                (request, answer, format!("/{n} {body}-> {answered}"))
            }
        }
    })
}

proptest! {
    #[test]
    fn every_request_gets_its_answer_whatever_the_cutting_and_order(
        exchanges in prop::collection::vec(exchange(), 1..7),
        cuts in prop::collection::vec((1_usize..60, 0_u32..12, prop::option::weighted(0.2, 0_u32..30)), 1..20),
        isns in any::<(u32, u32)>(),
        pipelined in any::<bool>(),
    ) {
        let mut talk = Talk::new(KEPT);
        talk.next = isns;
        let mut packets = Vec::new();
        packets.extend(talk.handshake());
        let mut cuts = cuts.iter().cycle();
        let mut order: Vec<u32> = vec![0, 1];
        let mut send = |talk: &mut Talk, from_client, bytes: &str| {
            let mut rest = bytes.as_bytes();
            while !rest.is_empty() {
                let (len, delay, again) = cuts.next().unwrap();
                let (piece, more) = rest.split_at(rest.len().min(*len));
                let packet = talk.packet(from_client, piece);
                let at = 5 + 2 * packets.len() as u32;
                if let Some(after) = again {
                    packets.push(packet.clone());
                    order.push(at + delay + after);
                }
                packets.push(packet);
                order.push(at + delay);
                rest = more;
            }
        };
        if pipelined {
            for (request, ..) in &exchanges {
                send(&mut talk, true, request);
            }
            // Nothing was acknowledged while they were sent.
            for (_, answer, _) in &exchanges {
                send(&mut talk, false, answer);
            }
        } else {
            for (request, answer, _) in &exchanges {
                send(&mut talk, true, request);
                send(&mut talk, false, answer);
            }
        }
        let mut seen: Vec<usize> = (0..packets.len()).collect();
        seen.sort_by_key(|n| order[*n]);
        for n in seen {
            talk.see(&packets[n]);
        }
        let expected: Vec<String> = exchanges.into_iter().map(|(_, _, said)| said).collect();
        prop_assert_eq!(&talk.found, &expected);
        prop_assert_eq!(talk.finish(), expected);
    }
}
