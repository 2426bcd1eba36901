//! Where a connection could be read in two ways: which one is right, and that nothing is made up.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

const SYN: u8 = 2;
const FIN: u8 = 1;
const RST: u8 = 4;
/// Of SYNs: one from the client that acknowledges the server's, or one from the server that acknowledges nothing.
const CROSSED: u8 = 8;

#[derive(Clone)]
struct Packet {
    from_client: bool,
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
    payload: Vec<u8>,
}

/// From the client.
fn c(sequence: u32, acknowledgment: u32, payload: impl AsRef<[u8]>) -> Packet {
    Packet {
        from_client: true,
        sequence,
        acknowledgment,
        flags: 0,
        payload: payload.as_ref().to_vec(),
    }
}

/// From the server.
fn s(sequence: u32, acknowledgment: u32, payload: impl AsRef<[u8]>) -> Packet {
    Packet {
        from_client: false,
        ..c(sequence, acknowledgment, payload)
    }
}

fn with(flags: u8, packet: Packet) -> Packet {
    Packet { flags, ..packet }
}

/// Targets of the requests from the client, and with a `!` those from the server.
fn targets(answers: Answers, packets: &[Packet]) -> Vec<String> {
    let (client, server): (SocketAddr, SocketAddr) =
        (([10, 0, 0, 1], 4000).into(), ([10, 0, 0, 2], 80).into());
    let settings = Settings {
        answers,
        ..Settings::default()
    };
    let mut reassembler = Reassembler::new(settings, Arc::new(Edge::default()));
    let mut found = Vec::new();
    let mut sink = |request: Captured| {
        let reversed = if request.client == client { "" } else { "!" };
        let answer = request.answer.as_ref().map(|answer| answer.head.status());
        let answer = answer
            .map(|status| format!(" {status}"))
            .unwrap_or_default();
        let target = String::from_utf8_lossy(request.head.target());
        found.push(format!("{reversed}{target}{answer}"));
    };
    for (packet, now) in packets.iter().zip(1..) {
        let (source, destination) = match packet.from_client {
            true => (client, server),
            false => (server, client),
        };
        let crossed = packet.flags & CROSSED != 0;
        let opens = packet.flags & SYN != 0 && packet.from_client != crossed;
        let segment = Segment {
            source,
            destination,
            sequence: packet.sequence,
            acknowledgment: (!opens).then_some(packet.acknowledgment),
            syn: packet.flags & SYN != 0,
            fin: packet.flags & FIN != 0,
            rst: packet.flags & RST != 0,
            payload: &packet.payload,
            missing: 0,
        };
        reassembler.push(&segment, now, &mut sink);
    }
    reassembler.finish(&mut sink);
    assert_eq!(reassembler.held(), 0);
    found
}

const WATCHED: Answers = Answers::Watched;
const KEPT: Answers = Answers::Kept { max_body: 10 };
const FAKE: &str = "GET /fake HTTP/1.1\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Yes\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn get(n: usize) -> String {
    format!("GET /{n} HTTP/1.1\r\n\r\n")
}

fn end(sequence: u32, bytes: impl AsRef<[u8]>) -> u32 {
    sequence + bytes.as_ref().len() as u32
}

#[test]
fn a_switch_counts_that_was_answered_before_the_body_was_whole() {
    let head = "POST /1 HTTP/1.1\r\nUpgrade: x\r\nContent-Length: 4\r\n\r\n";
    for (answer, expected) in [
        (SWITCHED, vec!["/1"]),
        (
            "HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n",
            vec!["/1", "/fake"],
        ),
    ] {
        let body = end(1, head);
        let packets = [
            c(1, 1, head),
            s(1, body, answer),
            c(body, end(1, answer), "body"),
            c(body + 4, end(1, answer), FAKE),
        ];
        assert_eq!(targets(WATCHED, &packets), expected);
    }
}

#[test]
fn what_waits_for_an_answer_is_not_lost_with_the_connection() {
    let upgrade = "GET /1 HTTP/1.1\r\nUpgrade: x\r\n\r\n";
    let then = end(1, upgrade);
    for last in [
        with(RST, c(end(then, get(2)), 1, "")),
        with(SYN, c(77_000, 0, "")),
    ] {
        let packets = [
            with(SYN, c(0, 0, "")),
            c(1, 1, upgrade),
            c(then, 1, get(2)),
            last,
        ];
        assert_eq!(targets(WATCHED, &packets), ["/1", "/2"]);
    }
}

#[test]
fn a_hole_in_the_answers_is_given_up_before_the_word_on_a_tunnel_is() {
    let connect = "CONNECT a:1 HTTP/1.1\r\n\r\n";
    let (second, third) = (end(1, get(1)), end(1, get(1)) + 24);
    let refused = "HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n";
    // All of the first answer is missing.
    let packets = [
        with(SYN, c(0, 0, "")),
        with(SYN, s(0, 1, "")),
        c(1, 1, get(1)),
        c(second, 40, connect),
        s(40, third, refused),
        c(third, end(40, refused), get(3)),
    ];
    assert_eq!(targets(WATCHED, &packets), ["/1", "a:1", "/3"]);
    let mut reused = packets.to_vec();
    reused.push(with(SYN, c(77_000, 0, "")));
    assert_eq!(targets(WATCHED, &reused), ["/1", "a:1", "/3"]);
}

#[test]
fn the_head_of_an_answer_is_enough_to_refuse_a_tunnel() {
    let connect = "CONNECT a:1 HTTP/1.1\r\n\r\n";
    let packets = [
        c(1, 1, connect),
        s(
            1,
            end(1, connect),
            "HTTP/1.1 407 No\r\nContent-Length: 9\r\n\r\n123",
        ),
        c(end(1, connect), 50, get(2)),
        with(SYN, c(77_000, 0, "")),
    ];
    assert_eq!(targets(WATCHED, &packets), ["a:1", "/2"]);
}

#[test]
fn a_servers_syn_may_acknowledge_data_in_the_clients() {
    let connect = "CONNECT a:1 HTTP/1.1\r\n\r\n";
    let then = end(1, connect);
    let refused = "HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n";
    let packets = [
        with(SYN, c(0, 0, connect)),
        with(SYN, s(500, then, "")),
        s(501, then, refused),
        c(then, end(501, refused), get(2)),
    ];
    assert_eq!(targets(WATCHED, &packets), ["a:1", "/2"]);
    assert_eq!(targets(KEPT, &packets), ["a:1 407", "/2"]);
    // Without it nobody knows whose the first answer is: the second request's it is not.
    let then = end(1, get(1));
    let packets = [
        with(SYN, c(0, 0, get(1))),
        c(then, 501, get(2)),
        s(501, end(then, get(2)), OK),
    ];
    assert_eq!(targets(KEPT, &packets), ["/1", "/2"]);
}

#[test]
fn a_body_that_looks_like_a_request_does_not_turn_the_connection_round() {
    // A capture that joins within a request.
    let packets = [
        c(7, 1, "er: x\r\n\r\n"),
        s(1, 16, "HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n"),
        s(40, 16, FAKE),
    ];
    assert_eq!(targets(WATCHED, &packets), Vec::<String>::new());
    let packets = [
        c(7, 1, "P"),
        c(8, 1, "OST /1 HTTP/1.1\r\nContent-Length: 9\r\n\r\n"),
        s(1, 40, "HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n"),
        s(40, 40, FAKE),
    ];
    assert_eq!(targets(WATCHED, &packets), Vec::<String>::new());
}

#[test]
fn a_capture_that_joins_within_an_answer_learns_from_the_next_request_who_asks() {
    let body = "<html> ";
    let last = end(end(1, body), FAKE);
    let packets = [
        s(1, 1, body),
        s(end(1, body), 1, FAKE),
        c(1, last, get(1)),
        s(last, end(1, get(1)), OK),
    ];
    assert_eq!(targets(KEPT, &packets), ["/1 200"]);
}

#[test]
fn segments_that_a_reset_overtook_still_count() {
    let second = end(1, get(1));
    let last = end(second, get(2));
    let packets = [
        with(SYN, c(0, 0, "")),
        c(second, 1, get(2)),
        with(RST, c(last, 1, "")),
        c(1, 1, get(1)),
        c(last, 1, get(3)),
    ];
    assert_eq!(targets(WATCHED, &packets), ["/1", "/2"]);
}

#[test]
fn a_body_behind_an_interim_answer_begins_no_request() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    let packets = [
        with(SYN, c(0, 0, "")),
        c(1, 1, get(1)),
        s(1, 20, OK),
        // The head is cut off.
        c(end(1, get(1)), end(1, OK), "POST /2 HTTP/1.1\r\nContent-"),
        s(end(1, OK), 100, interim),
        c(100, end(end(1, OK), interim), FAKE),
    ];
    assert_eq!(targets(WATCHED, &packets), ["/1"]);
}

#[test]
fn a_body_whose_head_is_lost_begins_no_request() {
    // The head was the first to acknowledge the answer before, so that the body seems to be.
    let (second, answered) = (end(1, get(1)), end(1, OK));
    let body = second + 70;
    let packets = [
        with(SYN, c(0, 0, "")),
        c(1, 1, get(1)),
        s(1, second, OK),
        c(body, answered, FAKE),
        c(end(body, FAKE), answered, FAKE),
        s(answered, end(end(body, FAKE), FAKE), OK),
    ];
    assert_eq!(targets(WATCHED, &packets), ["/1"]);
    let of_client: Vec<Packet> = packets.into_iter().filter(|p| p.from_client).collect();
    assert_eq!(targets(WATCHED, &of_client), ["/1"]);
    assert_eq!(targets(Answers::Unseen, &of_client), ["/1"]);
}

#[test]
fn where_only_the_client_is_heard_an_interim_answer_is_known_by_its_length() {
    let head = "POST /1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    let body = end(1, head);
    // The chunk's size line is lost, or the beginning of the head is.
    let packets = [with(SYN, c(0, 0, "")), c(1, 1, head), c(body + 4, 26, FAKE)];
    assert_eq!(targets(WATCHED, &packets), Vec::<String>::new());
    let packets = [
        with(SYN, c(0, 0, "")),
        c(11, 1, &head[10..]),
        c(body, 26, FAKE),
    ];
    assert_eq!(targets(WATCHED, &packets), Vec::<String>::new());
}

#[test]
fn behind_a_hole_a_request_is_known_by_what_the_server_had_received_when_it_answered() {
    let (second, answered) = (end(1, get(1)), end(1, OK));
    let (third, again) = (end(second, get(2)), end(answered, OK));
    let mut packets = vec![
        with(SYN, c(0, 0, "")),
        c(1, 1, get(1)),
        s(1, second, OK),
        s(answered, third, OK),
        c(third, again, get(3)),
        s(again, end(third, get(3)), OK),
    ];
    assert_eq!(targets(WATCHED, &packets), ["/1", "/3"]);
    assert_eq!(targets(KEPT, &packets), ["/1 200", "/3 200"]);
    // A copy that the server sent again when it had more says nothing.
    packets.truncate(3);
    packets.push(s(1, third, OK));
    packets.push(c(third, answered, get(3)));
    assert_eq!(targets(WATCHED, &packets), ["/1"]);
}

#[test]
fn behind_a_request_for_a_tunnel_that_is_not_whole_nothing_is_looked_for() {
    let part = "GET /1 HTTP/1.1\r\nUpgrade: x\r\n";
    let unseen = "GET /1 HTTP/1.1\r\nA: b";
    for head in [part, unseen, "CONNECT a:1 HTTP/1.1\r\nA:"] {
        let packets = [
            with(SYN, c(0, 0, "")),
            c(1, 1, head),
            s(1, 90, SWITCHED),
            c(90, end(1, SWITCHED), FAKE),
        ];
        assert_eq!(targets(WATCHED, &packets), Vec::<String>::new(), "{head}");
    }
    let packets = [
        with(SYN, c(0, 0, "")),
        c(50, 1, "CONNECT a:1 HTTP/1.1\r\n\r\n"),
        s(1, 74, "HTTP/1.1 200 OK\r\n\r\n"),
        c(74, 20, FAKE),
    ];
    assert_eq!(targets(WATCHED, &packets), Vec::<String>::new());
}

#[test]
fn a_syn_after_an_exchange_opens_another_connection() {
    // Its number is a little below that of the first segment seen of the old one.
    let then = end(5000, get(1));
    let packets = [
        c(5000, 1, get(1)),
        s(1, then, OK),
        c(then, end(1, OK), get(2)),
        with(SYN, c(4000, 0, "")),
        c(4001, 1, get(3)),
    ];
    assert_eq!(targets(WATCHED, &packets), ["/1", "/2", "/3"]);
}

#[test]
fn a_handshake_that_came_late_is_of_the_same_connection() {
    let then = end(1, get(1));
    let last = end(then, get(2));
    for late in [with(SYN, c(0, 0, "")), with(SYN, s(0, 1, ""))] {
        let packets = [
            c(1, 1, get(1)),
            with(FIN, c(last, end(1, OK), get(3))),
            late,
            c(then, end(1, OK), get(2)),
        ];
        assert_eq!(targets(WATCHED, &packets), ["/1", "/2", "/3"]);
    }
}

#[test]
fn an_end_that_came_first_does_not_tell_where_requests_begin() {
    let packets = [
        s(1, 20, "HTTP/1.1 200 OK\r\n"),
        with(FIN, c(end(1, get(1)), 1, "")),
        c(1, 1, get(1)),
    ];
    assert_eq!(targets(WATCHED, &packets), ["/1"]);
}

/// A whole connection with requests of these numbers, from the client's and the server's SYN on.
fn connection(client: u32, server: u32, numbers: std::ops::Range<usize>) -> Vec<Packet> {
    let (mut sequence, mut acknowledgment) = (client.wrapping_add(1), server.wrapping_add(1));
    let mut packets = vec![
        with(SYN, c(client, 0, "")),
        with(SYN, s(server, sequence, "")),
        c(sequence, acknowledgment, ""),
    ];
    for n in numbers {
        packets.push(c(sequence, acknowledgment, get(n)));
        sequence = sequence.wrapping_add(get(n).len() as u32);
        packets.push(s(acknowledgment, sequence, OK));
        acknowledgment = acknowledgment.wrapping_add(OK.len() as u32);
    }
    packets.push(with(FIN, c(sequence, acknowledgment, "")));
    packets.push(with(FIN, s(acknowledgment, sequence.wrapping_add(1), "")));
    packets
}

#[test]
fn a_late_copy_is_of_the_connection_that_had_its_numbers() {
    // Far away, and a little ahead, where it would be held as a segment that overtook others.
    for other in [2_000_000_000, u32::MAX - 200_000] {
        let old = connection(0, 0, 1..3);
        let late = [
            old[0].clone(),
            old[1].clone(),
            old[3].clone(),
            old[7].clone(),
        ];
        let mut packets = [old, connection(other, 3_000_000_000, 3..9)].concat();
        for (n, packet) in late.into_iter().enumerate() {
            packets.insert(15 + 2 * n, packet);
        }
        let expected: Vec<String> = (1..9).map(|n| format!("/{n}")).collect();
        assert_eq!(targets(WATCHED, &packets), expected);
    }
}

#[test]
fn a_request_out_of_place_is_of_no_connection() {
    let mut packets = connection(0, 0, 1..3);
    packets.insert(5, c(0x4000_0000, packets[5].acknowledgment, FAKE));
    assert_eq!(targets(WATCHED, &packets), ["/1", "/2"]);
    // Nor behind a gap in a body that is larger than any window.
    let packets = [
        with(SYN, c(0, 0, "")),
        c(
            1,
            1,
            "POST /1 HTTP/1.1\r\nContent-Length: 200000000\r\n\r\n",
        ),
        c(100_000_000, 1, FAKE),
        c(100_000_022, 1, FAKE),
    ];
    assert_eq!(targets(WATCHED, &packets), Vec::<String>::new());
    // In a tunnel only a handshake begins something else.
    let connect = "CONNECT a:1 HTTP/1.1\r\n\r\n";
    let answer = "HTTP/1.1 200 Yes\r\n\r\n";
    let then = end(1, connect);
    let packets = [
        c(1, 1, connect),
        s(1, then, answer),
        c(then, end(1, answer), "to the other end"),
        c(0x4000_0000, 0x4000_0000, FAKE),
    ];
    assert_eq!(targets(WATCHED, &packets), ["a:1"]);
}

#[test]
fn a_connection_without_its_handshake_may_follow_another() {
    let packets = [
        connection(0, 0, 1..3),
        connection(0x4000_0000, 0x4000_0000, 3..5)[3..].to_vec(),
    ]
    .concat();
    assert_eq!(targets(WATCHED, &packets), ["/1", "/2", "/3", "/4"]);
    assert_eq!(
        targets(KEPT, &packets),
        ["/1 200", "/2 200", "/3 200", "/4 200"]
    );
}

#[test]
fn both_ends_may_open_a_connection() {
    let (bare, crossed) = (SYN, SYN | CROSSED);
    let of_client = [with(bare, c(0, 0, "")), with(crossed, c(0, 1, ""))];
    let of_server = [with(crossed, s(0, 0, "")), with(bare, s(0, 1, ""))];
    for [first, second] in [[&of_client, &of_server], [&of_server, &of_client]] {
        let handshake = [&first[0], &second[0], &first[1], &second[1]].map(Clone::clone);
        let packets = [&handshake[..], &connection(0, 0, 1..3)[3..]].concat();
        assert_eq!(targets(KEPT, &packets), ["/1 200", "/2 200"]);
    }
}

#[test]
fn a_switch_in_answers_that_cannot_be_told_apart_counts() {
    let upgrade = "GET /w HTTP/1.1\r\nUpgrade: w\r\n\r\n";
    let asked = get(1) + upgrade;
    let then = end(1, &asked);
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "what is this?\r\n\r\n",
    ] {
        let both = answer.to_owned() + SWITCHED;
        let early = [c(1, 1, asked.clone() + FAKE), s(1, then, &both)];
        let later = [
            c(1, 1, &asked),
            s(1, then, answer),
            s(end(1, answer), then, SWITCHED),
            c(then, end(1, &both), FAKE),
        ];
        assert_eq!(targets(WATCHED, &early), ["/1", "/w"], "{answer}");
        assert_eq!(targets(WATCHED, &later), ["/1", "/w"], "{answer}");
    }
}

#[test]
fn a_switch_behind_more_requests_than_are_paired_counts() {
    let upgrade = "GET /w HTTP/1.1\r\nUpgrade: w\r\n\r\n";
    for waiting in [1023, 1024, 1025, 3000] {
        let asked = get(1).repeat(waiting) + upgrade;
        let answer = OK.repeat(waiting) + SWITCHED;
        let then = end(1, &asked);
        let packets = [
            c(1, 1, &asked),
            s(1, then, &answer),
            c(then, end(1, &answer), FAKE),
        ];
        assert_eq!(targets(WATCHED, &packets).len(), waiting + 1);
        assert_eq!(targets(KEPT, &packets).len(), waiting + 1);
        // Where the server isn't heard, what is a request from its first byte goes on to be one.
        let of_client = [packets[0].clone(), packets[2].clone()];
        assert_eq!(targets(WATCHED, &of_client).len(), waiting + 2);
    }
}

proptest! {
    #[test]
    fn packets_that_come_again_never_make_requests_however_often_ports_are_used_again(
        connections in prop::collection::vec((2_usize..6, 0_usize..3), 1..6),
        isn in any::<u32>(),
        delays in prop::collection::vec(prop::option::of(1_usize..7), 1..20),
    ) {
        let (mut client, mut server, mut n) = (isn, isn ^ 0x1234_5678, 0);
        let mut packets = Vec::new();
        for (requests, step) in connections {
            packets.extend(connection(client, server, n..n + requests));
            let steps = [0x3000_0000, 100_000, 100_000_u32.wrapping_neg()];
            client = client.wrapping_add(steps[step]);
            server = server.wrapping_add(0x2000_0000);
            n += requests;
        }
        let mut twice = Vec::new();
        for ((place, packet), delay) in packets.into_iter().enumerate().zip(delays.iter().cycle()) {
            if let Some(delay) = delay {
                twice.push((place + delay, false, packet.clone()));
            }
            twice.push((place, true, packet));
        }
        twice.sort_by_key(|(place, first, _)| (*place, *first));
        let packets: Vec<Packet> = twice.into_iter().map(|(.., packet)| packet).collect();
        let expected: Vec<String> = (0..n).map(|n| format!("/{n}")).collect();
        prop_assert_eq!(targets(WATCHED, &packets), &expected[..]);
        prop_assert_eq!(targets(Answers::Unseen, &packets), expected);
    }
}
