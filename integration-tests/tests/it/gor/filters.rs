//! Filters and changes: their order, shares of values, and that what can't be read passes none; an answer goes where its
//! request went.

use std::collections::BTreeSet;

use reprise_integration_tests::staging::Received;
use reprise_integration_tests::{Place, Staging};

use super::records::{self, Came};
use super::run::{Gor, Job, LIMIT, Style, beside_each_other};
use crate::rig;

/// Sends records to a run with these flags and waits until all have ended.
fn run(flags: &str, sent: &[Vec<u8>]) -> super::run::Said {
    let dir = tempfile::tempdir().unwrap();
    let here = Place::loopback().free().unwrap();
    let gor = Gor::start(
        Style::Written,
        &format!("--input-tcp {here} {flags}"),
        dir.path(),
    );
    records::send(here, &sent.concat());
    gor.settled(sent.len() as u64);
    gor.stop()
}

/// What arrives at a server.
fn served(flags: &str, sent: &[Vec<u8>]) -> Vec<Received> {
    let target = Staging::start(&Place::loopback()).unwrap();
    let said = run(&format!("--output-http {} {flags}", target.url()), sent);
    let received = target.received();
    let account = said.output(1);
    assert_eq!(
        account.replayed_total(),
        received.len() as u64,
        "{account:?}"
    );
    received
}

/// What is printed.
fn printed(flags: &str, sent: &[Vec<u8>]) -> Vec<Came> {
    records::read(&run(&format!("--output-stdout {flags}"), sent).stdout)
}

fn numbers(received: &[Received]) -> BTreeSet<u64> {
    let number = |r: &Received| r.header("x-number")[0].parse().unwrap();
    received.iter().map(number).collect()
}

fn lines(received: &[Received]) -> BTreeSet<String> {
    let line = |r: &Received| String::from_utf8(r.request_line().to_vec()).unwrap();
    received.iter().map(line).collect()
}

fn request(number: u64, line: &str, headers: &[&str]) -> Vec<u8> {
    records::request(number, number, line, headers)
}

#[test]
fn what_is_set_is_seen_by_filters_and_what_is_rewritten_is_not() {
    let _alone = rig::alone();
    let jobs: Vec<Job<'_>> = vec![
        (
            "set headers are seen".to_owned(),
            Box::new(|| {
                let sent = [
                    request(0, "GET /", &[]),
                    request(1, "GET /", &["X-Env: live"]),
                ];
                let flags = "--http-allow-header X-Env:^test$ --http-set-header 'X-Env: test'";
                assert_eq!(numbers(&served(flags, &sent)), [0, 1].into());
                let flags = "--http-disallow-header X-Env:^test$ --http-set-header 'X-Env: test'";
                assert!(served(flags, &sent).is_empty());
            }),
        ),
        (
            "methods come first".to_owned(),
            Box::new(|| {
                let sent = [request(0, "GET /", &[]), request(1, "HEAD /", &[])];
                let flags = "--http-set-header 'X-Env: test' --http-allow-header X-Env:test --http-allow-method HEAD";
                assert_eq!(numbers(&served(flags, &sent)), [1].into());
            }),
        ),
        (
            "set parameters are seen".to_owned(),
            Box::new(|| {
                let sent = [request(0, "GET /a?key=2", &[]), request(1, "GET /b", &[])];
                let flags = "--http-allow-url 'a[?]key=1$' --http-set-param key=1";
                let came = served(flags, &sent);
                assert_eq!(lines(&came), ["GET /a?key=1 HTTP/1.1".to_owned()].into());
            }),
        ),
        (
            "URLs are rewritten behind filters".to_owned(),
            Box::new(|| {
                let sent = [request(0, "GET /old/1", &[]), request(1, "GET /new/1", &[])];
                let flags = "--http-rewrite-url ^/old:/new --http-allow-url ^/old";
                let came = served(flags, &sent);
                assert_eq!(lines(&came), ["GET /new/1 HTTP/1.1".to_owned()].into());
                assert_eq!(numbers(&came), [0].into());
                assert_eq!(
                    numbers(&served(
                        "--http-rewrite-url ^/old:/new --http-disallow-url ^/new",
                        &sent
                    )),
                    [0].into()
                );
            }),
        ),
        (
            "headers are rewritten behind filters".to_owned(),
            Box::new(|| {
                let sent = [
                    request(0, "GET /", &["X-Zone: eu-1"]),
                    request(1, "GET /", &["X-Zone: test-1"]),
                ];
                let flags = "--http-rewrite-header 'X-Zone: ^eu-(.*),test-$1' --http-allow-header X-Zone:^eu";
                let came = served(flags, &sent);
                assert_eq!(numbers(&came), [0].into());
                assert_eq!(came[0].header("x-zone"), ["test-1"]);
            }),
        ),
        (
            "all headers, any URL".to_owned(),
            Box::new(|| {
                let sent = [
                    request(0, "GET /a", &["X-A: 1", "X-B: 1"]),
                    request(1, "GET /b", &["X-A: 1", "X-B: 1"]),
                    request(2, "GET /c", &["X-A: 1", "X-B: 1"]),
                    request(3, "GET /a", &["X-A: 1"]),
                ];
                let flags = "--http-allow-url /a --http-allow-url /b --http-allow-header X-A:1 --http-allow-header X-B:1";
                assert_eq!(numbers(&served(flags, &sent)), [0, 1].into());
            }),
        ),
        (
            "users of Basic authentication".to_owned(),
            Box::new(|| {
                // joe:secret, ann:secret
                let sent = [
                    request(0, "GET /", &["Authorization: Basic am9lOnNlY3JldA=="]),
                    request(1, "GET /", &["Authorization: Basic YW5uOnNlY3JldA=="]),
                ];
                assert_eq!(
                    numbers(&served("--http-basic-auth-filter ^joe:", &sent)),
                    [0].into()
                );
            }),
        ),
    ];
    beside_each_other(jobs);
}

/// GoReplay's own buckets: one below passes, one at it doesn't.
#[test]
fn shares_of_values_are_those_of_goreplay() {
    const BUCKETS: [(&str, u32); 7] = [
        ("1", 44),
        ("2", 1),
        ("3", 82),
        ("42", 11),
        ("user-1", 0),
        ("user-2", 57),
        ("abc", 31),
    ];
    let _alone = rig::alone();
    let (mut flags, mut sent, mut expected) = (String::new(), Vec::new(), BTreeSet::new());
    for (n, (value, bucket)) in (0..).zip(BUCKETS) {
        for (number, percent) in [(2 * n, bucket), (2 * n + 1, bucket + 1)] {
            flags += &format!(" --http-header-limiter h{number}:{percent}%");
            flags += &format!(" --http-param-limiter p{number}:{percent}%");
            let header = format!("H{number}: {value}");
            sent.push(request(number, "GET /", &[&header]));
            sent.push(request(
                100 + number,
                &format!("GET /?p{number}={value}"),
                &[],
            ));
        }
        expected.extend([2 * n + 1, 100 + 2 * n + 1]);
    }
    // Without any of them.
    sent.push(request(1000, "GET /?q=1", &["H: 1"]));
    expected.insert(1000);
    assert_eq!(numbers(&served(&flags, &sent)), expected);
}

/// Records of requests that a parser may stumble over, each with one that must not be affected.
fn odd() -> Vec<Vec<u8>> {
    vec![
        request(0, "GET /good", &[]),
        request(1, "PURGE /good", &[]),
        request(2, "GET /good with blanks", &[]),
        records::record(
            1,
            3,
            3,
            b"\x16\x03\x01\x02\x00\xff\xfeGET /good HTTP/1.1\r\n\r\n",
        ),
        records::record(1, 4, 4, b""),
        records::record(1, 5, 5, b"GET /good"),
        request(6, "GET /good", &[]),
    ]
}

#[test]
fn what_cannot_be_read_passes_no_filter() {
    let _alone = rig::alone();
    let ids = |came: &[Came]| -> Vec<u64> {
        let id = |came: &Came| u64::from_str_radix(&came.id, 16).unwrap();
        came.iter().map(id).collect()
    };
    // Without any filter records are printed as they came.
    let all = printed("", &odd());
    assert_eq!(ids(&all), [0, 1, 2, 3, 4, 5, 6]);
    for (flags, pass) in [
        ("--http-allow-method GET", &[0, 6][..]),
        ("--http-allow-method PURGE", &[1]),
        ("--http-allow-url /good", &[0, 1, 6]),
        ("--http-disallow-url /bad", &[0, 1, 6]),
        ("--http-disallow-header X-None:.", &[0, 1, 6]),
        ("--http-header-limiter X-None:50%", &[0, 1, 6]),
        ("--http-param-limiter none:50%", &[0, 1, 6]),
        ("--http-basic-auth-filter ^joe:", &[0, 1, 6]),
    ] {
        assert_eq!(ids(&printed(flags, &odd())), pass, "{flags}");
        let mut served: Vec<u64> = numbers(&served(flags, &odd())).into_iter().collect();
        served.sort_unstable();
        assert_eq!(served, pass, "{flags}");
    }
}

/// Answers of requests that a filter, a share or a rate leaves out are left out with them.
#[test]
fn answers_go_where_their_requests_went() {
    const EXCHANGES: u64 = 200;
    let _alone = rig::alone();
    let answer = |n: u64| {
        records::record(
            2,
            n,
            n,
            format!("HTTP/1.1 200 OK\r\nX-Number: {n}\r\n\r\n").as_bytes(),
        )
    };
    let line = |n: u64| format!("GET /{}", if n.is_multiple_of(3) { "api" } else { "other" });
    // Right behind its request, and further behind.
    let sent: Vec<Vec<u8>> = (0..EXCHANGES)
        .step_by(4)
        .flat_map(|n| {
            let requests = (n..n + 4).map(|n| request(n, &line(n), &[]));
            [
                requests.collect::<Vec<_>>(),
                (n..n + 4).rev().map(answer).collect(),
            ]
            .concat()
        })
        .collect();
    for (flags, bounds) in [
        ("--output-stdout --http-allow-url /api", 67..=67),
        ("--output-stdout --http-disallow-url /api", 133..=133),
        (
            "--output-file 'a.gor|50%' --output-file-append --output-file-flush-interval 50ms",
            60..=140,
        ),
        (
            "--output-file 'a.gor|20' --output-file-append --output-file-flush-interval 50ms",
            20..=60,
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let here = Place::loopback().free().unwrap();
        let gor = Gor::start(
            Style::Written,
            &format!("--input-tcp {here} {flags}"),
            dir.path(),
        );
        records::send(here, &sent.concat());
        gor.settled(2 * EXCHANGES);
        let said = gor.stop();
        said.books();
        let bytes = match flags.contains("stdout") {
            true => said.stdout,
            false => std::fs::read(dir.path().join("a.gor")).unwrap(),
        };
        let came = records::read(&bytes);
        let of = |kind| -> Vec<u64> {
            let mut of: Vec<u64> = came
                .iter()
                .filter(|c| c.kind == kind)
                .map(Came::number)
                .collect();
            of.sort_unstable();
            of
        };
        let (requests, answers) = (of(1), of(2));
        assert!(
            bounds.contains(&requests.len()),
            "{flags}: {}",
            requests.len()
        );
        assert_eq!(requests, answers, "{flags}");
    }
    // A web server gets no answers.
    let target = Staging::start(&Place::loopback()).unwrap();
    run(&format!("--output-http {}", target.url()), &sent);
    target.until(EXCHANGES as usize, LIMIT).unwrap();
    assert_eq!(target.count() as u64, EXCHANGES);
}
