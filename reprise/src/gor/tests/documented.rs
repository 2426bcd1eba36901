//! The command lines that GoReplay's guides show, in both ways to write flags.

use std::num::NonZeroU32;

use super::{options, words};
use crate::gor::limit::Limit;
use crate::gor::options::{Input, Offset, Options, Output};
use crate::gor::place::Login;
use crate::gor::raw::RawAddress;
use crate::gor::rule::Share;
use crate::gor::{Asked, ask};

type Check = fn(&Options);

/// What a line needs besides, where it is a part of one.
const TO: &str = "--input-raw :80 --output-http http://staging.com";

/// The number of the line, the line, and what must come of it.
fn lines() -> Vec<(u32, String, Check)> {
    let all: Vec<(u32, &str, Check)> = vec![
        (
            1,
            "-input-raw ':80' -output-http 'https://the-other-server'",
            |o| {
                raw(o, ":80");
                http(o, 0, "https://the-other-server", None);
            },
        ),
        (2, "--input-raw :8000 --output-stdout", |o| {
            raw(o, ":8000");
            assert_eq!(o.outputs, [Output::Stdout]);
        }),
        (
            3,
            "--input-raw :8000 --output-http http://127.0.0.1:8080",
            |o| {
                http(o, 0, "http://127.0.0.1:8080", None);
            },
        ),
        (4, "--input-raw :8000 --output-file test.gor", |o| {
            file(o, "test.gor")
        }),
        (5, "--input-raw :8000 --output-file test.gor.gz", |o| {
            file(o, "test.gor.gz")
        }),
        (
            6,
            "--input-raw :8000 --output-file test.gor --output-file-append true",
            |o| {
                file(o, "test.gor");
                assert!(o.file_output.append);
            },
        ),
        (7, "--input-raw :8000 --output-file %Y%m%d.gor", |o| {
            file(o, "%Y%m%d.gor")
        }),
        (
            8,
            "--input-raw :8000 -input-raw-buffer-size 10485760 --output-stdout",
            |o| {
                assert_eq!(o.raw.ring.unwrap().0, 10 << 20);
                assert_eq!(o.outputs, [Output::Stdout]);
            },
        ),
        (
            9,
            "--input-http :28019 --output-http \"http://staging.com\"",
            |o| {
                assert!(
                    matches!(&o.inputs[..], [Input::Http { address, .. }] if address.port() == 28019)
                );
                http(o, 0, "http://staging.com", None);
            },
        ),
        (10, "--input-raw :80 --output-tcp replay.local:28020", |o| {
            tcp(o, 0, "replay.local:28020", None);
        }),
        (
            10,
            "--input-tcp replay.local:28020 --output-http http://staging.com",
            |o| {
                assert!(
                    matches!(&o.inputs[..], [Input::Tcp { address, .. }] if address.to_string() == "replay.local:28020")
                );
            },
        ),
        (
            11,
            "--input-raw :80 --output-tcp \"replay.local:28020|10%\"",
            |o| {
                tcp(o, 0, "replay.local:28020", Some(Limit::Percent(10.0)));
            },
        ),
        (
            12,
            "--input-raw :80 --split-output --output-tcp replay1.local:28020 --output-tcp replay2.local:28020",
            |o| {
                assert!(o.globals.split_output);
                tcp(o, 0, "replay1.local:28020", None);
                tcp(o, 1, "replay2.local:28020", None);
            },
        ),
        (
            13,
            "--input-tcp :28020 --output-http \"http://staging.com\" --output-http \"http://dev.com\"",
            |o| {
                http(o, 0, "http://staging.com", None);
                http(o, 1, "http://dev.com", None);
                assert!(!o.globals.split_output);
            },
        ),
        (
            14,
            "--input-tcp :28020 --output-http \"http://staging.com\" --output-http \"http://dev.com\" --split-output true",
            |o| {
                http(o, 1, "http://dev.com", None);
                assert!(o.globals.split_output);
            },
        ),
        (
            15,
            "--input-file requests.gor --output-http \"http://staging.com\"",
            |o| {
                files(o, &["requests.gor"], 1.0);
            },
        ),
        (
            16,
            "--input-file \"requests.gor|200%\" --output-http \"staging.com\"",
            |o| {
                files(o, &["requests.gor"], 2.0);
                http(o, 0, "http://staging.com", None);
            },
        ),
        (
            17,
            "--input-file '*.gor' --output-http http://127.0.0.1:8080",
            |o| {
                files(o, &["*.gor"], 1.0);
            },
        ),
        (
            17,
            "--input-file a.gor b.gor c.gor --output-http http://127.0.0.1:8080",
            |o| {
                files(o, &["a.gor", "b.gor", "c.gor"], 1.0);
            },
        ),
        (
            18,
            "--input-tcp :28020 --output-http \"http://staging.com|10\"",
            |o| {
                let limit = NonZeroU32::new(10).map(Limit::PerSecond);
                http(o, 0, "http://staging.com", limit);
            },
        ),
        (
            19,
            "--input-tcp :28020 --output-http \"http://staging.com|10%\"",
            |o| {
                http(o, 0, "http://staging.com", Some(Limit::Percent(10.0)));
            },
        ),
        (20, "TO --http-allow-url /api", |o| {
            assert_eq!(o.modifiers.allow_urls[0].0.as_str(), "/api");
        }),
        (21, "TO --http-disallow-url /api", |o| {
            assert_eq!(o.modifiers.disallow_urls[0].0.as_str(), "/api");
        }),
        (
            22,
            r"TO --http-allow-header 'api-version:^1\.0\d'",
            api_version,
        ),
        (
            23,
            "TO --http-disallow-header \"User-Agent: Replayed by Gor\"",
            |o| {
                let rule = &o.modifiers.disallow_headers[0];
                assert_eq!(
                    (&*rule.name, rule.pattern.0.as_str()),
                    ("User-Agent", "Replayed by Gor")
                );
            },
        ),
        (
            24,
            "TO --http-allow-method GET --http-allow-method OPTIONS",
            methods,
        ),
        (25, "TO --output-http-url-regexp ^www.", |o| {
            assert_eq!(o.modifiers.allow_urls[0].0.as_str(), "^www.");
        }),
        (
            26,
            r"TO --output-http-header-filter 'api-version:^1\.0\d'",
            api_version,
        ),
        (
            27,
            "TO --output-http-header-hash-filter user-id:1/32",
            |o| {
                let limit = &o.modifiers.header_limits[0];
                assert_eq!(
                    (&*limit.name, limit.share),
                    ("user-id", Share::Parts { take: 1, of: 32 })
                );
            },
        ),
        (
            28,
            "TO --output-http-method GET --output-http-method OPTIONS",
            methods,
        ),
        (
            29,
            r"TO --http-rewrite-url '/v1/user/([^\\/]+)/ping:/v2/user/$1/ping'",
            |o| {
                let rewrite = &o.modifiers.rewrite_urls[0];
                let with = rewrite.replacement.as_bytes();
                let there = rewrite.pattern.0.replace_all(b"/v1/user/joe/ping", with);
                assert_eq!(&*there, b"/v2/user/joe/ping");
            },
        ),
        (
            30,
            "TO --output-http-rewrite-url /xml_test/interface.php:/api/service.do",
            |o| {
                let rewrite = &o.modifiers.rewrite_urls[0];
                assert_eq!(rewrite.pattern.0.as_str(), "/xml_test/interface.php");
                assert_eq!(rewrite.replacement, "/api/service.do");
            },
        ),
        (31, "TO --http-set-param api_key=1", |o| {
            let param = &o.modifiers.set_params[0];
            assert_eq!((&*param.name, &*param.value), ("api_key", "1"));
        }),
        (
            32,
            "TO --http-header \"User-Agent: Replayed by Gor\" --http-header \"Enable-Feature-X: true\"",
            set_headers,
        ),
        (
            33,
            "TO --output-http-header \"User-Agent: Replayed by Gor\" --output-http-header \"Enable-Feature-X: true\"",
            set_headers,
        ),
        (34, "TO -http-original-host", |o| {
            assert!(o.http_output.original_host)
        }),
        (
            35,
            "--input-raw :80 --output-http \"http://user:pass@staging.com\"",
            |o| {
                http(o, 0, "http://staging.com", None);
                let Output::Http { server, .. } = &o.outputs[0] else {
                    panic!("no HTTP");
                };
                let Login { user, password } = server.login.as_ref().unwrap();
                assert_eq!((&**user, &*password.0), ("user", "pass"));
            },
        ),
        (
            36,
            "--input-raw :8000 --output-http http://staging.com --output-http-elasticsearch localhost:9200/gor",
            |o| {
                let es = o.http_output.elasticsearch.as_ref().unwrap();
                assert_eq!(
                    (&*es.server.url, &*es.index),
                    ("http://localhost:9200", "gor")
                );
            },
        ),
        (
            37,
            "--input-raw :8080 --output-kafka-host '192.168.0.1:9092,192.168.0.2:9092' --output-kafka-topic 'kafka-log'",
            |o| {
                let [Output::Kafka { client }] = &o.outputs[..] else {
                    panic!("{:?}", o.outputs);
                };
                assert_eq!(client.hosts, ["192.168.0.1:9092", "192.168.0.2:9092"]);
                assert_eq!(client.topic, "kafka-log");
            },
        ),
        (
            38,
            "--input-kafka-host '192.168.0.1:9092,192.168.0.2:9092' --input-kafka-topic 'kafka-log' --output-stdout",
            |o| {
                let [Input::Kafka { client, offset, .. }] = &o.inputs[..] else {
                    panic!("{:?}", o.inputs);
                };
                assert_eq!(client.hosts, ["192.168.0.1:9092", "192.168.0.2:9092"]);
                assert_eq!(*offset, Offset::Newest);
            },
        ),
        (39, "-input-dummy -output-dummy", |o| {
            assert_eq!(o.inputs, [Input::Dummy { limit: None }]);
            assert_eq!(o.outputs, [Output::Stdout]);
        }),
        (40, "TO -output-http-workers=-1", |o| {
            assert_eq!(o.http_output.workers, None)
        }),
        (
            41,
            "TO --output-tcp h:1 -output-http-stats -output-tcp-stats",
            |o| {
                assert!(o.http_output.stats && o.tcp_output.stats);
            },
        ),
        (42, "TO -cpuprofile cpu.out -memprofile mem.out", |o| {
            assert_eq!(o.notes.len(), 2);
            assert!(o.notes[0].starts_with("--cpuprofile: "));
            assert!(o.notes[1].starts_with("--memprofile: "));
        }),
    ];
    let all = all.into_iter();
    all.map(|(number, line, check)| (number, line.replace("TO", TO), check))
        .collect()
}

fn raw(options: &Options, spec: &str) {
    let [
        Input::Raw {
            address: RawAddress::Live(specs),
            limit: None,
        },
    ] = &options.inputs[..]
    else {
        panic!("{:?}", options.inputs);
    };
    assert_eq!(specs[..], [spec.parse().unwrap()]);
}

fn http(options: &Options, n: usize, url: &str, limit: Option<Limit>) {
    let Output::Http {
        server,
        limit: there,
    } = &options.outputs[n]
    else {
        panic!("{:?}", options.outputs);
    };
    assert_eq!((&*server.url, *there), (url, limit));
}

fn tcp(options: &Options, n: usize, address: &str, limit: Option<Limit>) {
    let address = address.to_owned();
    assert_eq!(options.outputs[n], Output::Tcp { address, limit });
}

fn file(options: &Options, path: &str) {
    raw(options, ":8000");
    let path = path.to_owned();
    assert_eq!(options.outputs, [Output::File { path, limit: None }]);
}

fn files(options: &Options, paths: &[&str], speed: f64) {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let at_most = None;
    assert_eq!(
        options.inputs,
        [Input::File {
            paths,
            speed,
            at_most
        }]
    );
}

fn api_version(options: &Options) {
    let rule = &options.modifiers.allow_headers[0];
    assert_eq!(
        (&*rule.name, rule.pattern.0.as_str()),
        ("api-version", r"^1\.0\d")
    );
}

fn methods(options: &Options) {
    assert_eq!(options.modifiers.allow_methods, ["GET", "OPTIONS"]);
}

fn set_headers(options: &Options) {
    let headers = options.modifiers.set_headers.iter();
    let headers: Vec<_> = headers.map(|h| (&*h.name, &*h.value)).collect();
    assert_eq!(
        headers,
        [
            ("User-Agent", "Replayed by Gor"),
            ("Enable-Feature-X", "true")
        ]
    );
}

/// A line with one dash for each flag, values behind `=`, and `=true` behind what stands alone.
fn go_style(line: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut waiting = false;
    for word in words(line) {
        if word.starts_with('-') {
            if waiting {
                out.last_mut().unwrap().push_str("=true");
            }
            waiting = !word.contains('=');
            out.push(format!("-{}", word.trim_start_matches('-')));
        } else if waiting {
            let last = out.last_mut().unwrap();
            last.push('=');
            last.push_str(&word);
            waiting = false;
        } else {
            out.push(word);
        }
    }
    if waiting {
        out.last_mut().unwrap().push_str("=true");
    }
    out
}

/// With two dashes.
fn gnu_style(line: &str) -> Vec<String> {
    let words = words(line).into_iter();
    words
        .map(|word| match word.strip_prefix('-') {
            Some(rest) if !rest.starts_with('-') && !rest.starts_with(char::is_numeric) => {
                format!("--{rest}")
            }
            _ => word,
        })
        .collect()
}

#[test]
fn every_line_of_the_guides_is_understood() {
    for (number, line, check) in lines() {
        check(&options(&line));
        for words in [gnu_style(&line), go_style(&line)] {
            println!("{number}: {words:?}");
            match ask(words.iter().map(Into::into).collect()) {
                Ok(Asked::Replay(options)) => {
                    check(&options);
                    assert_eq!(
                        options.notes.is_empty(),
                        number != 42,
                        "{:?}",
                        options.notes
                    );
                }
                other => panic!("{number}: {other:?}"),
            }
        }
    }
    for help in ["-h", "--h", "-help", "--help", "-h=true"] {
        assert!(
            matches!(ask(vec![help.into()]), Ok(Asked::Help)),
            "43: {help}"
        );
    }
    let mut numbers: Vec<u32> = lines().iter().map(|(number, ..)| *number).collect();
    numbers.dedup();
    assert_eq!(numbers, (1..=42).collect::<Vec<u32>>());
}
