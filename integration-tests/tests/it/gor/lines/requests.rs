//! Lines 20 to 35: which requests arrive, and as what.

use std::collections::BTreeMap;

use reprise_integration_tests::staging::Received;

use super::{Line, ask, directory, staging};
use crate::gor::records;
use crate::gor::run::{Gor, Style};

pub(super) const LINES: &[Line] = &[
    (20, |style| urls(style, "--http-allow-url /api", true)),
    (21, |style| urls(style, "--http-disallow-url /api", false)),
    (22, |style| {
        versions(style, r"--http-allow-header 'api-version:^1\.0\d'")
    }),
    (23, replayed_by_gor),
    (24, |style| {
        methods(style, "--http-allow-method GET --http-allow-method OPTIONS")
    }),
    (25, hosts),
    (26, |style| {
        versions(style, r"--output-http-header-filter 'api-version:^1\.0\d'")
    }),
    (27, a_share_of_users),
    (28, |style| {
        methods(
            style,
            "--output-http-method GET --output-http-method OPTIONS",
        )
    }),
    (29, pings),
    (30, interfaces),
    (31, params),
    (32, |style| {
        headers(
            style,
            "--http-header \"User-Agent: Replayed by Gor\" --http-header \"Enable-Feature-X: true\"",
        );
    }),
    (33, |style| {
        headers(
            style,
            "--output-http-header \"User-Agent: Replayed by Gor\" --output-http-header \"Enable-Feature-X: true\"",
        );
    }),
    (34, original_host),
    (35, login),
];

/// Request line without its version, header lines.
pub(crate) type Asked<'a> = (&'a str, &'a [&'a str]);

/// What arrived of these requests, by their place among them; `to` is the output, with `STAGING` for its server. The
/// summary must call all others filtered.
fn arrived(style: Style, to: &str, requests: &[Asked<'_>]) -> BTreeMap<usize, Received> {
    let (dir, production, target) = (directory(), staging(), staging());
    let port = production.address().port();
    let to = to.replace("STAGING", &target.address().to_string());
    let line = format!("--input-raw :{port} {to}");
    let gor = Gor::start(style, &line, dir.path());
    let numbered = (0..).zip(requests);
    let heads: Vec<Vec<u8>> = numbered
        .map(|(n, (line, headers))| records::head(n, line, headers))
        .collect();
    ask(&production, &heads);
    gor.settled(requests.len() as u64);
    let account = gor.stop().output(1);
    let received = target.received();
    let count = received.len() as u64;
    assert_eq!(account.replayed.get(&200).copied().unwrap_or(0), count);
    assert_eq!(account.filtered, requests.len() as u64 - count);
    let number = |r: Received| (r.header("x-number")[0].parse().unwrap(), r);
    let by_number: BTreeMap<usize, Received> = received.into_iter().map(number).collect();
    assert_eq!(by_number.len() as u64, count, "one arrived twice");
    by_number
}

/// Exactly these pass, with flags behind the usual output.
fn pass(style: Style, flags: &str, requests: &[(Asked<'_>, bool)]) {
    let asked: Vec<Asked<'_>> = requests.iter().map(|(asked, _)| *asked).collect();
    let arrived = arrived(
        style,
        &format!("--output-http http://STAGING {flags}"),
        &asked,
    );
    for (n, (asked, passes)) in requests.iter().enumerate() {
        assert_eq!(arrived.contains_key(&n), *passes, "{asked:?}");
    }
}

fn line(received: &Received) -> String {
    let line = String::from_utf8(received.request_line().to_vec()).unwrap();
    line.strip_suffix(" HTTP/1.1").unwrap().to_owned()
}

/// Request lines become others.
fn becomes(style: Style, flags: &str, lines: &[(&str, &str)]) {
    let asked: Vec<Asked<'_>> = lines.iter().map(|(line, _)| (*line, &[][..])).collect();
    let arrived = arrived(
        style,
        &format!("--output-http http://STAGING {flags}"),
        &asked,
    );
    for (n, (_, expected)) in lines.iter().enumerate() {
        assert_eq!(line(&arrived[&n]), *expected);
    }
}

fn urls(style: Style, flags: &str, with_api: bool) {
    let requests = [
        (("GET /api", &[][..]), with_api),
        (("GET /v1/api/users?id=1", &[]), with_api),
        (("GET /search?at=/api", &[]), with_api),
        (("GET /", &[]), !with_api),
        (("GET /ap?i", &[]), !with_api),
        (("GET /API", &["Referer: /api"]), !with_api),
    ];
    pass(style, flags, &requests);
}

fn versions(style: Style, flags: &str) {
    let requests = [
        (("GET /", &["api-version: 1.01"][..]), true),
        (("GET /", &["Api-Version:1.09-beta"]), true),
        (("GET /", &["api-version: 1.0"]), false),
        (("GET /", &["api-version: 1x01"]), false),
        (("GET /", &["api-version: 21.01"]), false),
        (("GET /", &[]), false),
    ];
    pass(style, flags, &requests);
}

fn replayed_by_gor(style: Style) {
    let requests = [
        (("GET /", &["User-Agent: Replayed by Gor"][..]), false),
        (("GET /", &["user-agent: curl, Replayed by Gor/2"]), false),
        (("GET /", &["User-Agent: curl"]), true),
        (("GET /", &["X-Agent: Replayed by Gor"]), true),
        (("GET /", &[]), true),
    ];
    pass(
        style,
        "--http-disallow-header \"User-Agent: Replayed by Gor\"",
        &requests,
    );
}

fn methods(style: Style, flags: &str) {
    const NO_BODY: &[&str] = &["Content-Length: 0"];
    let requests = [
        (("GET /", &[][..]), true),
        (("OPTIONS /", &[]), true),
        (("OPTIONS *", &[]), true),
        (("POST /", NO_BODY), false),
        (("PUT /", NO_BODY), false),
        (("DELETE /", &[]), false),
        (("PURGE /", &[]), false),
        (("GETS /", &[]), false),
    ];
    pass(style, flags, &requests);
}

fn hosts(style: Style) {
    let requests = [
        (("GET /", &["Host: www.shop.example"][..]), true),
        (("GET /cart?a=1", &["Host: www2.shop.example:8080"]), true),
        (("GET /", &["Host: shop.example"]), false),
        (
            ("GET /www.shop.example", &["Host: api.www.shop.example"]),
            false,
        ),
    ];
    pass(style, "--output-http-url-regexp ^www.", &requests);
}

/// The published FNV-1a of 32 bits.
fn fnv1a(value: &str) -> u32 {
    let step = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    value.bytes().fold(2_166_136_261, step)
}

fn a_share_of_users(style: Style) {
    let headers: Vec<String> = (0..320)
        .map(|n| format!("user-id: user-{}", n / 2))
        .collect();
    let headers: Vec<[&str; 1]> = headers.iter().map(|header| [&**header]).collect();
    let of_the_share = |n: usize| fnv1a(&format!("user-{}", n / 2)).is_multiple_of(32);
    let mut requests: Vec<(Asked<'_>, bool)> = headers
        .iter()
        .enumerate()
        .map(|(n, header)| (("GET /", &header[..]), of_the_share(n)))
        .collect();
    let few = requests.iter().filter(|(_, passes)| *passes).count();
    assert!((2..=24).contains(&few), "{few} of 320 can show anything");
    requests.push((("GET /", &[]), true));
    pass(
        style,
        "--output-http-header-hash-filter user-id:1/32",
        &requests,
    );
}

fn pings(style: Style) {
    let flags = r"--http-rewrite-url '/v1/user/([^\\/]+)/ping:/v2/user/$1/ping'";
    let lines = [
        ("GET /v1/user/joe/ping", "GET /v2/user/joe/ping"),
        ("GET /v1/user/a%2Fb/ping?t=1", "GET /v2/user/a%2Fb/ping?t=1"),
        ("GET /v1/user/joe/pong", "GET /v1/user/joe/pong"),
        ("GET /v1/user/joe/x/ping", "GET /v1/user/joe/x/ping"),
    ];
    becomes(style, flags, &lines);
}

fn interfaces(style: Style) {
    let flags = "--output-http-rewrite-url /xml_test/interface.php:/api/service.do";
    let lines = [
        ("GET /xml_test/interface.php?a=1", "GET /api/service.do?a=1"),
        ("GET /xml_test/other.php", "GET /xml_test/other.php"),
    ];
    becomes(style, flags, &lines);
}

fn params(style: Style) {
    let lines = [
        ("GET /a", "GET /a?api_key=1"),
        ("GET /a?b=2", "GET /a?b=2&api_key=1"),
        ("GET /a?api_key=9&b=2", "GET /a?api_key=1&b=2"),
    ];
    becomes(style, "--http-set-param api_key=1", &lines);
}

fn headers(style: Style, flags: &str) {
    let asked: [Asked<'_>; 2] = [
        ("GET /a", &["user-agent: curl", "X-Other: kept"]),
        ("GET /b", &[]),
    ];
    let arrived = arrived(
        style,
        &format!("--output-http http://STAGING {flags}"),
        &asked,
    );
    for received in arrived.values() {
        assert_eq!(received.header("user-agent"), ["Replayed by Gor"]);
        assert_eq!(received.header("enable-feature-x"), ["true"]);
    }
    assert_eq!(arrived[&0].header("x-other"), ["kept"]);
    assert_eq!(arrived.len(), 2);
}

fn original_host(style: Style) {
    let asked: [Asked<'_>; 2] = [
        ("GET /", &["Host: shop.example"]),
        ("GET /", &["Host: a:1"]),
    ];
    let kept = arrived(
        style,
        "--output-http http://STAGING -http-original-host",
        &asked,
    );
    assert_eq!(kept[&0].header("host"), ["shop.example"]);
    assert_eq!(kept[&1].header("host"), ["a:1"]);
}

fn login(style: Style) {
    let asked: [Asked<'_>; 2] = [
        ("GET /", &[]),
        ("GET /", &["authorization: Bearer of-a-customer"]),
    ];
    let arrived = arrived(style, "--output-http \"http://user:pass@STAGING\"", &asked);
    for received in arrived.values() {
        // user:pass
        assert_eq!(received.header("authorization"), ["Basic dXNlcjpwYXNz"]);
    }
    assert_eq!(arrived.len(), 2);
}
