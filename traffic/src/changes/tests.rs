//! Changes as documents ask for them, and what no document gets.

use proptest::prelude::*;

use super::*;
use crate::target::{Target, TargetName};

fn target(yaml: &str) -> Result<Target, String> {
    let text = format!("{{url: 'http://staging/base', {yaml}}}");
    let document = TargetDocument::parse("t/a", &text).map_err(|e| e.to_string())?;
    Target::new(TargetName::new("t/a").unwrap(), 1, document).map_err(|e| e.to_string())
}

fn changes(yaml: &str) -> Changes {
    Changes {
        // Has tests of its own, and would be in each line here.
        url: UrlChanges {
            base: String::new(),
            ..target(yaml).unwrap().changes.url
        },
        ..target(yaml).unwrap().changes
    }
}

fn head(text: &str) -> Head {
    Head::parse(Bytes::from(text.to_owned())).unwrap()
}

fn changed(yaml: &str, text: &str) -> String {
    let head = head(text);
    let changed = changes(yaml).apply(&head).unwrap();
    String::from_utf8(changed.raw().to_vec()).unwrap()
}

#[test]
fn headers_are_set_removed_and_rewritten_and_nothing_else() {
    let captured = "GET /a HTTP/1.1\r\nHost: shop\r\nX-a:  1 \r\nCookie: sid=7; a=b\r\nx-A: 2\r\nEmpty:\r\n\r\n";
    for (yaml, expected) in [
        // All lines of the name, in the place of the first; the name as captured.
        (
            "set_headers: {x-a: new}",
            "GET /a HTTP/1.1\r\nHost: shop\r\nX-a:  new\r\nCookie: sid=7; a=b\r\nEmpty:\r\n\r\n",
        ),
        (
            "set_headers: {X-New: 'a b', Empty: x, host: h:81}",
            "GET /a HTTP/1.1\r\nHost: h:81\r\nX-a:  1 \r\nCookie: sid=7; a=b\r\nx-A: 2\r\nEmpty:x\r\nX-New: a b\r\n\r\n",
        ),
        (
            "remove_headers: [cookie, EMPTY, none]",
            "GET /a HTTP/1.1\r\nHost: shop\r\nX-a:  1 \r\nx-A: 2\r\n\r\n",
        ),
        // Lines that an expression doesn't match keep their white space.
        (
            "rewrite_headers: [{name: X-A, matches: '2', replace: 'v$0'}, {name: x-a, matches: v, replace: w}]",
            "GET /a HTTP/1.1\r\nHost: shop\r\nX-a:  1 \r\nCookie: sid=7; a=b\r\nx-A: w2\r\nEmpty:\r\n\r\n",
        ),
        (
            "rewrite_headers: [{name: cookie, matches: 'sid=(\\d+)', replace: 'sid=s$1'}]",
            "GET /a HTTP/1.1\r\nHost: shop\r\nX-a:  1 \r\nCookie: sid=s7; a=b\r\nx-A: 2\r\nEmpty:\r\n\r\n",
        ),
        (
            "original_host: true, rewrite_headers: [{name: Host, matches: $, replace: .staging}]",
            "GET /a HTTP/1.1\r\nHost: shop.staging\r\nX-a:  1 \r\nCookie: sid=7; a=b\r\nx-A: 2\r\nEmpty:\r\n\r\n",
        ),
    ] {
        assert_eq!(changed(yaml, captured), expected, "{yaml}");
    }
}

#[test]
fn the_order_is_set_header_set_param_rewrite_url_rewrite_header() {
    let yaml = "set_headers: {A: one}, set_params: {p: one}, rewrite_urls: [{matches: 'p=one', replace: p=two}], \
                rewrite_headers: [{name: a, matches: one, replace: two}]";
    assert_eq!(
        changed(yaml, "GET /?p=0 HTTP/1.0\r\n\r\n"),
        "GET /?p=two HTTP/1.0\r\nA: two\r\n\r\n"
    );
}

#[test]
fn the_base_path_is_the_url_s() {
    let target = target("set_params: {a: 1}").unwrap();
    let head = head("\r\nGET / HTTP/1.1\r\n\r\n");
    let changed = target.changes.apply(&head).unwrap();
    assert_eq!(**changed.raw(), *b"\r\nGET /base/?a=1 HTTP/1.1\r\n\r\n");
}

#[test]
fn a_secret_is_set_and_not_shown() {
    let changes = changes("").with_authorization(b"Basic c2VjcmV0".to_vec());
    let head =
        head("GET / HTTP/1.1\r\nauthorization: Bearer x\r\nA: b\r\nAuthorization: y\r\n\r\n");
    let changed = changes.apply(&head).unwrap();
    let expected = b"GET / HTTP/1.1\r\nauthorization: Basic c2VjcmV0\r\nA: b\r\n\r\n";
    assert_eq!(**changed.raw(), *expected);
    assert!(!format!("{changes:?}").contains("c2Vj"));
}

#[test]
fn documents_that_would_make_malformed_requests_are_refused_in_one_line() {
    for (yaml, part) in [
        ("set_headers: {'A b': c}", "set_headers: \"A b\""),
        (
            "set_headers: {A: \"b\\r\\nC: d\"}",
            "set_headers: A: \"b\\r\\nC: d\"",
        ),
        ("set_headers: {A: \"b\\0\"}", "set_headers: A"),
        ("set_headers: {Host: a b}", "set_headers: Host: \"a b\""),
        ("set_headers: {Host: a/b}", "set_headers: Host"),
        (
            "set_headers: {content-length: '3'}",
            "set_headers: \"content-length\"",
        ),
        (
            "set_headers: {Transfer-Encoding: chunked}",
            "Transfer-Encoding",
        ),
        ("set_headers: {Reprise-ID: x}", "Reprise-ID"),
        ("set_headers: {A: b, a: c}", "twice"),
        (
            "set_headers: {A: b}, remove_headers: [a]",
            "remove_headers: \"A\"",
        ),
        ("remove_headers: [Host]", "remove_headers: \"Host\""),
        (
            "remove_headers: [Content-Length]",
            "remove_headers: \"Content-Length\"",
        ),
        ("remove_headers: ['']", "remove_headers: \"\""),
        (
            "rewrite_headers: [{name: reprise-id, matches: a, replace: b}]",
            "rewrite_headers",
        ),
        (
            "rewrite_headers: [{name: Host, matches: a, replace: b}]",
            "original_host",
        ),
        (
            "rewrite_headers: [{name: A, matches: a, replace: \"\\n\"}]",
            "rewrite_headers: A",
        ),
        (
            "rewrite_headers: [{name: A, matches: '(', replace: b}]",
            "rewrite_headers: \"(\"",
        ),
        ("rewrite_headers: [{name: A, matches: a}]", "replace"),
        (
            "rewrite_urls: [{matches: a, replace: 'b c'}]",
            "rewrite_urls: \"b c\"",
        ),
        (
            "rewrite_urls: [{matches: a, replace: '$1'}]",
            "rewrite_urls: \"$1\"",
        ),
        ("rewrite_urls: [{match: a, replace: b}]", "match"),
        ("set_params: {'': x}", "set_params: \"\""),
        ("set_params: {'a=': x}", "set_params: \"a=\""),
        ("set_params: {a: 'x y'}", "set_params: a: \"x y\""),
        ("set_params: {a: 'x&b=c'}", "set_params: a"),
        ("set_params: {a: \"x\\r\\n\"}", "set_params: a"),
        (
            "basic_auth_file: /a, set_headers: {authorization: x}",
            "basic_auth_file",
        ),
        (
            "basic_auth_file: /a, remove_headers: [authorization]",
            "basic_auth_file",
        ),
    ] {
        let error = target(yaml).map(|_| ()).unwrap_err();
        assert!(error.contains(part), "{yaml}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn what_only_the_data_shows_is_refused_with_the_request() {
    // Control characters in values are kept as captured; moved into a Host they would not be one.
    let text = "GET /a HTTP/1.1\r\nHost: a\x01b\r\nA: 1\r\n\r\n";
    let yaml = "original_host: true, rewrite_headers: [{name: host, matches: a, replace: c}]";
    let refused = changes(yaml).apply(&head(text)).unwrap_err();
    assert!(matches!(refused, ChangeError::Host(_)), "{refused}");

    let lines = "A: 1\r\n".repeat(crate::head::MAX_HEADERS);
    let text = format!("GET / HTTP/1.1\r\n{lines}\r\n");
    let refused = changes("set_headers: {B: x}")
        .apply(&head(&text))
        .unwrap_err();
    assert_eq!(refused, ChangeError::Head(HeadError::TooManyHeaders));

    let yaml = "rewrite_headers: [{name: A, matches: '', replace: '----------'}]";
    let text = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(60_000));
    assert_eq!(
        changes(yaml).apply(&head(&text)).unwrap_err(),
        ChangeError::TooLong
    );
}

fn any_head() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "[A-Za-z-]{1,8}:[ \t]{0,2}[!-~\u{1}é]{0,12}[ \t]{0,2}",
        "(?i)host: [a-z.:0-9]{0,9}",
        "(?i)content-length: [0-9]{1,3}",
        "(?i)transfer-encoding: (chunked|gzip, chunked)",
        "(?i)connection: (close|keep-alive|x, close)",
        "(?i)authorization: [!-~]{0,9}",
    ];
    let target =
        "(/[!-~é]{0,20}|https?://[a-z.:0-9]{1,9}[/?]?[!-~]{0,9}|\\*|[a-z]{1,5}:[0-9]{1,3})";
    let lines = prop::collection::vec(line, 0..8);
    ("(GET|POST|X!)", target, 0..2_u8, lines).prop_map(|(method, target, minor, lines)| {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        format!("{method} {target} HTTP/1.{minor}\r\n{lines}\r\n")
    })
}

const RULES: [&str; 7] = [
    "set_headers: {A: b, Host: h}",
    "remove_headers: [A, Connection]",
    "set_params: {a: '%0d%0a'}",
    "rewrite_urls: [{matches: '.', replace: '$0$0'}]",
    "rewrite_urls: [{matches: '^/.', replace: ''}]",
    "original_host: true, rewrite_headers: [{name: host, matches: '', replace: '/'}, {name: Connection, matches: '.', replace: 'é'}]",
    "original_host: true",
];

proptest! {
    /// Whatever was captured and whatever rule there is: the same request of the same length, or none.
    #[test]
    fn what_leaves_is_one_request_of_the_same_length(text in any_head(), rule in prop::sample::select(RULES.to_vec())) {
        let Ok(captured) = Head::parse(Bytes::from(text)) else {
            return Ok(());
        };
        let target = target(rule).unwrap();
        if let Ok(changed) = target.changes.apply(&captured) {
            prop_assert_eq!(changed.method(), captured.method());
            prop_assert_eq!(changed.minor_version(), captured.minor_version());
            prop_assert_eq!(framing::of_request(&changed), framing::of_request(&captured));
            let ends = memchr::memmem::find_iter(changed.raw(), b"\r\n\r\n").count();
            prop_assert_eq!(ends, 1);
        }
    }

    #[test]
    fn without_rules_nothing_is_changed(text in any_head()) {
        let Ok(captured) = Head::parse(Bytes::from(text)) else {
            return Ok(());
        };
        let changed = changes("original_host: true").apply(&captured);
        prop_assert!(matches!(changed, Ok(Cow::Borrowed(_))));
    }

    /// A rule that touches nothing of a request changes no byte of it.
    #[test]
    fn rules_that_touch_nothing_change_nothing(text in any_head()) {
        let Ok(captured) = Head::parse(Bytes::from(text)) else {
            return Ok(());
        };
        let rules = changes(
            "remove_headers: [X-Never-There], rewrite_headers: [{name: X-Never-There, matches: '', replace: x}], \
             rewrite_urls: [{matches: ' ', replace: x}]",
        );
        match rules.apply(&captured) {
            Ok(changed) => prop_assert_eq!(changed.raw(), captured.raw()),
            // Unclear from the start.
            Err(error) => prop_assert!(matches!(error, ChangeError::Framing(_)), "{}", error),
        }
    }
}

#[test]
fn one_header_is_set_in_the_place_of_all_of_its_name() {
    let set = |text, value| set_header(&head(text), "X-Real-IP", value);
    for (text, expected) in [
        (
            "GET / HTTP/1.1\r\nx-real-ip:  1.2.3.4 \r\nA: b\r\nX-REAL-IP: 5\r\n\r\n",
            "GET / HTTP/1.1\r\nx-real-ip:  10.0.0.1\r\nA: b\r\n\r\n",
        ),
        (
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.0\r\nX-Real-IP: 10.0.0.1\r\n\r\n",
        ),
    ] {
        assert_eq!(set(text, b"10.0.0.1").unwrap().raw(), expected.as_bytes());
    }
    let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(MAX_HEAD - 30));
    assert_eq!(set(&long, b"10.0.0.1").unwrap_err(), ChangeError::TooLong);
    for name in ["X-Real-IP", "x-forwarded-for"] {
        check_settable("real_ip_header", name).unwrap();
    }
    for name in ["", "X Y", "content-length", "Reprise-Id", "Host"] {
        let error = check_settable("real_ip_header", name).unwrap_err();
        assert!(error.starts_with("real_ip_header: "), "{error}");
    }
}
