//! What rules take, and what passes no filter.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::body::Body;
use crate::exchange::{Epoch, ExchangeId, Source};
use crate::label::Label;

fn request(line: &str, headers: &str, port: u16) -> Exchange {
    let raw = format!("{line} HTTP/1.1\r\n{headers}\r\n");
    of(Head::parse(Bytes::from(raw)).unwrap(), port)
}

fn of(head: Head, port: u16) -> Exchange {
    let request = Captured {
        captured_ns: 0,
        client: ([10, 0, 0, 9], port).into(),
        server: ([10, 0, 0, 1], 80).into(),
        source: Source::Wire,
        head,
        body: Body::default(),
        trailers: Bytes::new(),
        answer: None,
        label: None,
    };
    let epoch = Arc::new(Epoch::new("l", 1));
    let id = ExchangeId {
        epoch,
        sequence: u64::from(port),
    };
    Exchange {
        id,
        due_ns: None,
        request,
    }
}

fn labelled(line: &str, turn: u64) -> Exchange {
    let mut exchange = request("GET /api", "", 1);
    let label = Label::new(line.as_bytes(), turn).unwrap();
    if label.kind() != Kind::Request {
        exchange.request.head = Head::opaque();
    }
    exchange.request.label = Some(Box::new(label));
    exchange
}

fn rules(yaml: &str) -> Rules {
    rules_of(yaml, Takes::REQUESTS)
}

fn rules_of(yaml: &str, takes: Takes) -> Rules {
    let text = format!("{{url: 'http://h', {yaml}}}");
    Rules::compile(&TargetDocument::parse("t", &text).unwrap(), takes).unwrap()
}

fn takes(rules: &Rules, line: &str, headers: &str) -> bool {
    matches!(rules.decide(&request(line, headers, 1)), Decision::Take(_))
}

#[test]
fn safe_methods_only_unless_asked_for() {
    let default = rules("");
    assert!(takes(&default, "GET /", ""));
    assert!(takes(&default, "TRACE /", ""));
    assert!(!takes(&default, "POST /", ""));
    assert!(!takes(&default, "get /", ""));
    assert!(!takes(&default, "PURGE /", ""));
    let any = rules("methods: [any]");
    assert!(takes(&any, "POST /", "") && takes(&any, "PURGE /", ""));
    let post = rules("methods: [POST]");
    assert!(takes(&post, "POST /", "") && !takes(&post, "GET /", ""));
}

#[test]
fn url_and_header_filters() {
    let urls = rules("allow_urls: [^/api, ^/v1], deny_urls: [secret]");
    assert!(takes(&urls, "GET /api/x", ""));
    assert!(takes(&urls, "GET http://other/v1/x", ""));
    assert!(!takes(&urls, "GET /x/api", ""));
    assert!(!takes(&urls, "GET /api/secret", ""));
    let headers =
        rules("allow_headers: [{name: V, matches: ^1}], deny_headers: [{name: Bot, matches: .}]");
    assert!(takes(&headers, "GET /", "v: 1.2\r\n"));
    assert!(!takes(&headers, "GET /", ""));
    assert!(!takes(&headers, "GET /", "v: 2\r\n"));
    assert!(!takes(&headers, "GET /", "v: 1\r\nbot: y\r\n"));
}

#[test]
fn a_share_takes_whole_sessions_and_about_its_part() {
    let tenth = rules("share: 10%");
    let taken = (1..10_000)
        .filter(|port| {
            let decide = || tenth.decide(&request("GET /", "", *port));
            assert_eq!(decide(), decide());
            matches!(decide(), Decision::Take(_))
        })
        .count();
    assert!((850..1150).contains(&taken), "{taken}");
    assert!(takes(&rules("share: 100%"), "GET /", ""));
    assert!(!takes(&rules("share: 0%"), "GET /", ""));
}

#[test]
fn shares_and_parts_of_requests() {
    let tenth = rules("share: 10%, share_by: requests");
    let taken = (1..10_000)
        .filter(|port| {
            matches!(
                tenth.decide(&request("GET /", "", *port)),
                Decision::Take(_)
            )
        })
        .count();
    assert!((900..1100).contains(&taken), "{taken}");
    let third = rules("part: 2/3, share_by: requests, methods: [any]");
    for turn in 0..9 {
        let taken = matches!(third.decide(&labelled("1 a 1 1", turn)), Decision::Take(_));
        assert_eq!(taken, turn % 3 == 1);
    }
}

/// The values of the limiters are tested beside their hash.
#[test]
fn users_and_values() {
    let users = rules("allow_basic_auth: ['^joe:'], methods: [any]");
    let auth = |text: &str| {
        let encoded = BASE64_STANDARD.encode(text);
        format!("Authorization: basic {encoded}\r\n")
    };
    assert!(takes(&users, "GET /", &auth("joe:x")) && takes(&users, "GET /", ""));
    assert!(!takes(&users, "GET /", &auth("jim:x")));
    assert!(!takes(&users, "GET /", "Authorization: Basic %%%\r\n"));
    assert!(takes(&users, "GET /", "Authorization: Bearer %%%\r\n"));
    let values = rules(
        "header_limits: [{name: User-Id, share: 32%}], param_limits: [{name: id, share: 12%}]",
    );
    assert!(takes(&values, "GET /?id=42", "user-id: abc\r\n"));
    assert!(takes(&values, "GET /", ""));
    assert!(!takes(&values, "GET /?id=1", "user-id: abc\r\n"));
    assert!(!takes(&values, "GET /?id=42", "user-id: user-2\r\n"));
}

#[test]
fn filters_may_see_what_is_set() {
    let set = "set_headers: {V: '1'}, set_params: {k: '2'}, allow_urls: ['k=2'], \
        allow_headers: [{name: V, matches: '1'}]";
    assert!(!takes(&rules(set), "GET /", ""));
    let changed = rules(&format!("{set}, filters_see: changed"));
    assert!(takes(&changed, "GET /", ""));
}

#[test]
fn what_can_not_be_read_passes_no_filter() {
    let opaque = of(Head::opaque(), 1);
    for (yaml, taken) in [
        ("methods: [any]", true),
        ("methods: [any], allow_urls: [.*]", false),
        ("methods: [any], deny_urls: [x]", false),
        (
            "methods: [any], deny_headers: [{name: A, matches: x}]",
            false,
        ),
        (
            "methods: [any], header_limits: [{name: A, share: 1%}]",
            false,
        ),
        (
            "methods: [any], param_limits: [{name: A, share: 1%}]",
            false,
        ),
        ("methods: [any], allow_basic_auth: [x]", false),
        ("", false),
    ] {
        let is_taken = |takes| matches!(rules_of(yaml, takes).decide(&opaque), Decision::Take(_));
        assert_eq!(is_taken(Takes::ALL), taken, "{yaml}");
        assert!(!is_taken(Takes::REQUESTS));
    }
}

#[test]
fn answers_on_their_own_follow_their_requests() {
    let answer = labelled("2 a 1 1", 0);
    let replayed = labelled("3 a 1 1", 0);
    let decide = |yaml, takes, exchange| rules_of(yaml, takes).decide(exchange);
    for (yaml, follows) in [
        ("methods: [any]", false),
        ("", true),
        ("methods: [any], share: 10%", true),
        ("methods: [any], part: 1/2", true),
        ("methods: [any], rate_limit: 1/s", true),
    ] {
        let decision = decide(yaml, Takes::ALL, &answer);
        assert_eq!(matches!(decision, Decision::Follow(_)), follows, "{yaml}");
        assert_eq!(rules_of(yaml, Takes::ALL).are_followed(), follows);
        assert_eq!(decide(yaml, Takes::REQUESTS, &answer), Decision::Filtered);
    }
    let any = "methods: [any]";
    assert_eq!(decide(any, Takes::ORIGINALS, &replayed), Decision::Filtered);
    assert!(matches!(
        decide(any, Takes::ORIGINALS, &answer),
        Decision::Take(_)
    ));
    assert!(matches!(
        decide(any, Takes::ALL, &replayed),
        Decision::Take(_)
    ));
}
