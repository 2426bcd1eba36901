use proptest::prelude::*;

use super::*;

/// What a parser said, in short.
#[derive(Debug, Default)]
struct Heard {
    requests: Vec<Message>,
    others: Vec<String>,
}

impl Heard {
    fn event(&mut self, event: Event) {
        match event {
            Event::Request(message) => self.requests.push(message),
            Event::Head { .. } => {}
            other => self.others.push(format!("{other:?}")),
        }
    }

    fn targets(&self) -> Vec<String> {
        let target = |m: &Message| String::from_utf8_lossy(m.head.target()).into_owned();
        self.requests.iter().map(target).collect()
    }
}

fn hear(input: &[u8], cut: usize) -> Heard {
    let mut parser = RequestParser::new(1 << 20, Switching::Guess);
    let mut heard = Heard::default();
    for (n, piece) in input.chunks(cut).enumerate() {
        parser.push(piece, Arrival::at(n as u64), &mut |event| {
            heard.event(event)
        });
    }
    heard
}

#[test]
fn pipelined_requests_are_found_whatever_the_cutting() {
    let input = b"\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n\
        POST /b HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc\r\n\
        PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nT: 1\r\n\r\n\
        QUERY /d HTTP/1.1\r\n\r\n";
    for cut in 1..input.len() + 1 {
        let heard = hear(input, cut);
        assert_eq!(heard.targets(), ["/a", "/b", "/c", "/d"], "{cut}");
        assert_eq!(heard.requests[1].body, "abc");
        assert_eq!(heard.requests[2].body, "abc");
        assert_eq!(heard.requests[2].trailers, "T: 1\r\n");
        assert!(heard.others.is_empty());
    }
    assert_eq!(hear(input, 4).requests[0].captured_ns, 1);
}

#[test]
fn a_long_method_is_judged_alike_whatever_the_cutting() {
    for (length, whole) in [(MAX_METHOD, 1), (MAX_METHOD + 1, 0)] {
        let input = format!("{} / HTTP/1.1\r\n\r\n", "M".repeat(length));
        for cut in [1, 7, MAX_METHOD, MAX_METHOD + 1, 1000] {
            let heard = hear(input.as_bytes(), cut);
            assert_eq!(heard.requests.len(), whole, "{length} by {cut}");
            assert_eq!(heard.others.len(), 1 - whole, "{length} by {cut}");
        }
    }
}

#[test]
fn nothing_is_reported_after_what_is_refused() {
    let after = "GET /hidden HTTP/1.1\r\n\r\n";
    for (input, reason) in [
        ("\x16\x03\x01\x02", "NotHttp"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "NotHttp"),
        ("PLAY rtsp://x RTSP/1.0\r\n\r\n", "NotHttp"),
        ("EHLO x\n", "NotHttp"),
        ("GET / HTTP/1.1\nHost: x\n\n", "BareLineFeed"),
        ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", "MalformedHead"),
        ("GET / HTTP/1.1\r\n\r\nrubbish\r\n\r\n", "MalformedHead"),
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "LengthAndEncoding",
        ),
        ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "BadLength"),
        (
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "BadEncoding",
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n",
            "BadChunk",
        ),
    ] {
        let input = format!("{input}{after}");
        for cut in [1, 7, 1000] {
            let heard = hear(input.as_bytes(), cut);
            assert_eq!(
                heard.others,
                [format!("Refused({reason})")],
                "{input} by {cut}"
            );
            assert!(!heard.targets().contains(&"/hidden".to_owned()), "{input}");
        }
    }
}

#[test]
fn tunnels_and_upgrades_end_the_requests() {
    let heard = hear(b"CONNECT a:1 HTTP/1.1\r\n\r\nGET /in HTTP/1.1\r\n\r\n", 9);
    assert_eq!(heard.targets(), ["a:1"]);
    let upgrade = "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
    let heard = hear(format!("{upgrade}\u{81}\u{85}GET").as_bytes(), 9);
    assert_eq!(heard.targets(), ["/ws"]);
    assert_eq!(heard.others, ["Refused(Upgraded)"]);
    let refused = format!("{upgrade}GET /next HTTP/1.1\r\n\r\n");
    assert_eq!(hear(refused.as_bytes(), 9).targets(), ["/ws", "/next"]);
}

#[test]
fn an_empty_line_after_an_upgrade_is_another_protocol_whatever_the_cutting() {
    let input = b"GET /ws HTTP/1.1\r\nUpgrade: x\r\n\r\n\r\nGET /in HTTP/1.1\r\n\r\n";
    for cut in [1, 7, input.len()] {
        let heard = hear(input, cut);
        assert_eq!(heard.targets(), ["/ws"], "{cut}");
        assert_eq!(heard.others, ["Refused(Upgraded)"], "{cut}");
    }
}

#[test]
fn a_chunked_body_may_fill_its_bound_and_no_more() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let wire = format!("{head}2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n");
    for (bound, whole) in [(head.len() + 5, 1), (head.len() + 4, 0)] {
        let mut parser = RequestParser::new(bound, Switching::Guess);
        let mut heard = Heard::default();
        parser.push(wire.as_bytes(), Arrival::at(0), &mut |e| heard.event(e));
        assert_eq!(
            (heard.requests.len(), heard.others.len()),
            (whole, 1 - whole)
        );
    }
}

#[test]
fn a_body_that_waits_for_permission_says_so_once() {
    let head = "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let mut parser = RequestParser::new(1000, Switching::Guess);
    let mut heard = Heard::default();
    parser.push(head.as_bytes(), Arrival::at(0), &mut |event| {
        heard.event(event)
    });
    assert_eq!(heard.others, ["Continue"]);
    parser.push(b"ab", Arrival::at(0), &mut |event| heard.event(event));
    assert_eq!(heard.requests[0].body, "ab");
    let at_once = hear(format!("{head}ab").as_bytes(), 1000);
    assert!(at_once.others.is_empty());
}

#[test]
fn replays_and_giants_are_passed_over_whole() {
    let big = "x".repeat(2 << 20);
    let input = format!(
        "GET /1 HTTP/1.1\r\nreprise-id: l/1/2\r\n\r\n\
         POST /2 HTTP/1.1\r\nContent-Length: {}\r\n\r\n{big}\
         POST /3 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        big.len()
    );
    let heard = hear(input.as_bytes(), 1 << 16);
    assert_eq!(
        heard.others,
        [
            "Skipped { skip: Marked, persistent: true }",
            "Skipped { skip: TooLarge, persistent: true }",
            "Refused(BadEncoding)"
        ]
    );
    let chunked = format!(
        "POST /2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{big}\r\n0\r\n\r\nGET /3 HTTP/1.1\r\n\r\n",
        big.len()
    );
    let heard = hear(chunked.as_bytes(), 1 << 16);
    assert_eq!(
        heard.others,
        ["Skipped { skip: TooLarge, persistent: true }"]
    );
    assert_eq!(heard.targets(), ["/3"]);
}

#[test]
fn an_announced_length_reserves_little() {
    let mut parser = RequestParser::new(usize::MAX, Switching::Guess);
    let head = b"POST / HTTP/1.1\r\nContent-Length: 9000000000000000000\r\n\r\nx";
    parser.push(head, Arrival::at(0), &mut |_| {});
    assert!(parser.held() < 64 * 1024);
}

#[test]
fn an_endless_head_is_refused() {
    let input = format!("GET /{} HTTP/1.1\r\n", "a".repeat(2 * MAX_HEAD));
    for cut in [1, 1000, input.len()] {
        let heard = hear(input.as_bytes(), cut);
        assert_eq!(heard.others, ["Refused(NotHttp)"]);
    }
    let input = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(MAX_HEAD));
    for cut in [1, 1000, input.len()] {
        let heard = hear(input.as_bytes(), cut);
        assert_eq!(heard.others, ["Refused(HeadTooLarge)"]);
    }
}

#[test]
fn what_no_server_takes_by_itself_is_read_all_the_same() {
    let long = "x".repeat(200_000);
    let lines = "A: b\r\n".repeat(1000);
    let method = "M".repeat(256);
    let input = format!(
        "GET /1 HTTP/1.1\r\nA: {long}\r\n\r\nGET /2 HTTP/1.1\r\n{lines}\r\n{method} /3 HTTP/1.1\r\n\r\n\
        POST /4 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{}\r\nx\r\n0\r\n\r\n",
        &long[..60_000]
    );
    for cut in [7, 1000, input.len()] {
        assert_eq!(
            hear(input.as_bytes(), cut).targets(),
            ["/1", "/2", "/3", "/4"]
        );
    }
}

#[test]
fn a_gap_is_skipped_only_where_the_length_is_known() {
    let mut heard = Heard::default();
    let mut sink = |event| heard.event(event);
    let mut parser = RequestParser::new(1000, Switching::Guess);
    parser.push(
        b"POST /1 HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc",
        Arrival::at(0),
        &mut sink,
    );
    assert_eq!(parser.gap(4, &mut sink), AfterGap::GoesOn);
    parser.push(b"89GET /2 HTTP/1.1\r\n\r\n", Arrival::at(0), &mut sink);
    assert_eq!(parser.gap(1, &mut sink), AfterGap::Lost);
    parser.push(b"GET /3 HTTP/1.1\r\n\r\n", Arrival::at(0), &mut sink);
    assert_eq!(heard.targets(), ["/2"]);
    assert_eq!(heard.others, ["Incomplete(Gap)", "Incomplete(Gap)"]);
}

#[test]
fn an_end_within_a_request_is_told_once() {
    for (input, told) in [
        ("", false),
        ("GET / HTTP/1.1\r\n\r\n", false),
        ("GET / HT", true),
        ("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nx", true),
        ("POST / HTTP/1.1\r\nContent-Length: -2\r\n\r\nx", false),
    ] {
        let mut parser = RequestParser::new(1000, Switching::Guess);
        parser.push(input.as_bytes(), Arrival::at(0), &mut |_| {});
        let mut causes = Vec::new();
        parser.close(Incomplete::Reset, &mut |event| causes.push(event));
        parser.close(Incomplete::Reset, &mut |event| causes.push(event));
        assert_eq!(causes.len(), usize::from(told), "{input}");
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "(GET|P) /? HTTP/1.[012]\r\n(Content-Length: [0-9]\r\n)?(Transfer-Encoding: chunked\r\n)?\r?\n?"
                    .prop_map(String::into_bytes),
            ],
            0..6,
        ),
        cut in 1_usize..30,
        gap_at in 0_usize..30,
    ) {
        let mut parser = RequestParser::new(64, Switching::Guess);
        for (n, piece) in pieces.concat().chunks(cut).enumerate() {
            parser.push(piece, Arrival::at(0), &mut |_| {});
            if n == gap_at {
                parser.gap(3, &mut |_| {});
            }
        }
        parser.close(Incomplete::Gap, &mut |_| {});
    }
}
