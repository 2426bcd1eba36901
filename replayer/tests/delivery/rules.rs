//! What a target's document asks for arrives, and nothing else changes; what would be malformed isn't sent.

use std::io::Write;

use reprise_traffic::target::TargetDocument;
use reprise_traffic::{Disposition, Fault};

use crate::server::{GET, OK, Server, captured, client_of, outcome};

/// A document with these keys besides the URL.
fn document(url: &str, yaml: &str) -> TargetDocument {
    TargetDocument::parse("t", &format!("{{url: '{url}', {yaml}}}")).unwrap()
}

/// What arrives for a captured request, the mark's value replaced.
async fn arrives(path: &str, yaml: &str, raw: &str) -> String {
    let server = Server::answering(OK).await;
    let url = format!("http://127.0.0.1:{}{path}", server.port);
    let client = client_of(&url, |d| *d = document(&url, yaml));
    let exchange = captured(raw.as_bytes());
    let delivery = client.send(&exchange, 0).await;
    assert_eq!(delivery.disposition, Disposition::Replayed(200), "{yaml}");
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    requests[0]
        .replace(&format!("127.0.0.1:{}", server.port), "TARGET")
        .replace(&format!("Reprise-Id: {}\r\n", exchange.id), "MARK\r\n")
}

#[tokio::test]
async fn rules_change_what_they_name_and_nothing_else() {
    let post = "POST /v1/a%2Fb?q=1&&q=2 HTTP/1.1\r\nhOsT:  shop \r\nX-A: 1\r\nCookie: sid=7;  b\r\nx-a:2\t\r\n\
                Content-Length: 2\r\nEmpty:\r\n\r\nhi";
    for (path, yaml, expected) in [
        (
            "",
            "set_headers: {x-a: new, X-Env: staging}",
            "POST /v1/a%2Fb?q=1&&q=2 HTTP/1.1\r\nhOsT:  TARGET\r\nX-A: new\r\nCookie: sid=7;  b\r\n\
             Content-Length: 2\r\nEmpty:\r\nX-Env: staging\r\nMARK\r\n\r\nhi",
        ),
        (
            "/base/",
            "set_params: {q: '9', env: s%20t}, rewrite_urls: [{matches: '^/v1/', replace: /v2/}, {matches: '%2[fF]', replace: '-'}]",
            "POST /base/v2/a-b?q=9&&env=s%20t HTTP/1.1\r\nhOsT:  TARGET\r\nX-A: 1\r\nCookie: sid=7;  b\r\nx-a:2\t\r\n\
             Content-Length: 2\r\nEmpty:\r\nMARK\r\n\r\nhi",
        ),
        (
            "",
            "remove_headers: [x-a, empty], rewrite_headers: [{name: cookie, matches: 'sid=(\\d)', replace: 'sid=${1}s'}]",
            "POST /v1/a%2Fb?q=1&&q=2 HTTP/1.1\r\nhOsT:  TARGET\r\nCookie: sid=7s;  b\r\n\
             Content-Length: 2\r\nMARK\r\n\r\nhi",
        ),
    ] {
        assert_eq!(arrives(path, yaml, post).await, expected, "{yaml}");
    }
}

#[tokio::test]
async fn a_host_that_is_set_wins() {
    let get = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
    for (yaml, host) in [
        ("original_host: false", "TARGET"),
        ("original_host: true", "shop"),
        ("set_headers: {host: h:81}", "h:81"),
        ("set_headers: {Host: h}, original_host: true", "h"),
        (
            "original_host: true, rewrite_headers: [{name: Host, matches: ^shop, replace: $0.staging}]",
            "shop.staging",
        ),
    ] {
        let expected = format!("GET / HTTP/1.1\r\nHost: {host}\r\nMARK\r\n\r\n");
        assert_eq!(arrives("", yaml, get).await, expected, "{yaml}");
    }
    // HTTP/1.0 has none unless it is asked for.
    let old = "GET / HTTP/1.0\r\n\r\n";
    let expected = "GET / HTTP/1.0\r\nHost: h\r\nMARK\r\n\r\n";
    assert_eq!(arrives("", "set_headers: {Host: h}", old).await, expected);
}

#[tokio::test]
async fn the_base_path_is_put_in_front_in_each_form() {
    for (target, expected) in [
        ("/a?b", "/base/path/a?b"),
        ("http://shop/a?b", "http://shop/base/path/a?b"),
        ("*", "*"),
    ] {
        let raw = format!("OPTIONS {target} HTTP/1.1\r\nHost: s\r\n\r\n");
        let expected = format!("OPTIONS {expected} HTTP/1.1\r\nHost: TARGET\r\nMARK\r\n\r\n");
        assert_eq!(arrives("/base/path", "", &raw).await, expected);
    }
}

#[tokio::test]
async fn credentials_of_a_file_take_the_place_of_captured_ones() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"Aladdin:open sesame\n").unwrap();
    let yaml = format!("basic_auth_file: {}", file.path().display());
    let raw = "GET / HTTP/1.1\r\nauthorization: Bearer production\r\nHost: s\r\n\r\n";
    let value = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
    assert_eq!(
        arrives("", &yaml, raw).await,
        format!("GET / HTTP/1.1\r\nauthorization: {value}\r\nHost: TARGET\r\nMARK\r\n\r\n")
    );
    drop(file);
    let target = reprise_traffic::Target::new(
        reprise_traffic::TargetName::new("a/b").unwrap(),
        1,
        document("http://h", &yaml),
    );
    let target = target.unwrap();
    let endpoint = target.endpoint().unwrap();
    let error = reprise_replayer::TargetClient::new(&target, endpoint).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("target a/b: read basic_auth_file /"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1);
}

#[tokio::test]
async fn what_rules_make_malformed_is_not_sent() {
    let server = Server::answering(OK).await;
    let url = format!("http://127.0.0.1:{}", server.port);
    let yaml = "rewrite_urls: [{matches: '^/get', replace: ''}]";
    let client = client_of(&url, |d| *d = document(&url, yaml));
    let ours = Disposition::Failed(Fault::Ours);
    assert_eq!(outcome(&client, GET).await, ours);
    assert_eq!(server.connections(), 0);
    // Others of the same target go their way.
    let other = b"GET /other HTTP/1.1\r\nHost: s\r\n\r\n";
    assert_eq!(outcome(&client, other).await, Disposition::Replayed(200));
}

#[tokio::test]
async fn a_connection_that_is_asked_to_close_is_not_kept() {
    let server = Server::answering(OK).await;
    let client = server.client_with(|document| {
        let close = ("Connection".to_owned(), "close".to_owned());
        document.set_headers = [close].into();
    });
    for _ in 0..2 {
        assert_eq!(outcome(&client, GET).await, Disposition::Replayed(200));
    }
    assert_eq!(server.connections(), 2);
    assert!(server.requests()[0].contains("\r\nConnection: close\r\n"));
}
