//! Whole command lines.

mod documented;

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use reprise_node::config::{self, ByteSize};
use reprise_node::telemetry::LogFormat;

use super::flags::{self, Fate, Flag, Kind};
use super::limit::Limit;
use super::options::{Input, Mechanism, Offset, Options, Output};
use super::raw::RawAddress;
use super::syntax;
use super::{Asked, ask, assembly};

/// Words as a shell makes them of a line.
fn words(line: &str) -> Vec<String> {
    shlex::split(line).expect(line)
}

fn asked(words: &[String]) -> Result<Asked, String> {
    ask(words.iter().map(Into::into).collect()).map_err(|error| error.to_string())
}

fn options(line: &str) -> Options {
    match asked(&words(line)) {
        Ok(Asked::Replay(options)) => *options,
        other => panic!("{line}: {other:?}"),
    }
}

fn error(line: &str) -> String {
    let error = asked(&words(line)).unwrap_err();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// With an input and an output, which come last.
fn with(flags: &str) -> Options {
    options(&format!("{flags} --input-raw :80 --output-null"))
}

fn wrong(flags: &str) -> String {
    error(&format!("{flags} --input-raw :80 --output-null"))
}

#[test]
fn a_command_line_has_an_input_and_an_output() {
    assert!(error("--output-stdout").starts_with("there is no input"));
    assert!(error("--input-raw :80").starts_with("there is no output"));
    assert!(error("--input-raw :80 --output-stdout=false").starts_with("there is no output"));
    let dry = options("--input-file a.gor --input-file-dry-run");
    assert!(dry.outputs.is_empty() && dry.file_input.dry_run);
}

#[test]
fn outputs_keep_their_order() {
    let all = options(
        "--output-stdout --output-http a|5 --output-kafka-host k:1 --output-kafka-topic t \
         --output-tcp b:1|10% --output-file c.gor --output-ws ws://d/ --output-binary e:1 --output-null \
         --output-stdout --input-dummy '|3' --input-kafka-host k:1 --input-kafka-topic t --input-raw :80|7%",
    );
    let order: Vec<&str> = all
        .outputs
        .iter()
        .map(|output| match output {
            Output::Stdout => "stdout",
            Output::Http { limit, .. } => {
                assert_eq!(*limit, NonZeroU32::new(5).map(Limit::PerSecond));
                "http"
            }
            Output::Kafka { .. } => "kafka",
            Output::Tcp { address, limit } => {
                assert_eq!(
                    (address.as_str(), *limit),
                    ("b:1", Some(Limit::Percent(10.0)))
                );
                "tcp"
            }
            Output::File { path, .. } => path,
            Output::Ws { server, .. } => &server.url,
            Output::Binary { .. } => "binary",
            Output::Null => "null",
        })
        .collect();
    assert_eq!(
        order,
        [
            "stdout", "http", "kafka", "tcp", "c.gor", "ws://d", "binary", "null"
        ]
    );
    assert!(matches!(
        all.inputs[0],
        Input::Dummy {
            limit: Some(Limit::PerSecond(_))
        }
    ));
    assert!(matches!(all.inputs[1], Input::Kafka { .. }));
    assert!(matches!(all.inputs[2], Input::Raw { limit: Some(_), .. }));
    assert_eq!(all.notes, Vec::<String>::new());
}

#[test]
fn the_last_one_counts_where_only_one_can() {
    let all = with("--verbose 1 --verbose=3 --exit-after 1s --exit-after 2m --stats --stats=0");
    assert_eq!(all.globals.verbose, 3);
    assert_eq!(all.globals.exit_after, Some(Duration::from_secs(120)));
    assert!(!all.globals.stats);
}

#[test]
fn settings_are_read() {
    let all = with(
        "-split-output -recognize-tcp-sessions -copy-buffer-size 5mb -prettify-http \
         -middleware \"./rewrite 'a b' c\" -json -log debug -log-format json \
         -input-raw-track-response -input-raw-protocol http -input-raw-expire 5s \
         -input-raw-realip-header X-Real-IP -input-raw-bpf-filter 'tcp port 80' -input-raw-buffer-size 0x100kb \
         -input-raw-promisc -input-raw-stats -input-raw-ignore-interface docker* -input-raw-vlan-vid 7 \
         -input-raw-vlan-vid 8 -input-raw-engine vxlan -input-raw-vxlan-vni 5 -input-raw-vxlan-vni -6",
    );
    let globals = &all.globals;
    assert!(globals.split_output && globals.tcp_sessions && globals.prettify && globals.json);
    assert_eq!(globals.max_message, ByteSize::mib(5));
    assert_eq!(
        globals.middleware.as_ref().unwrap(),
        &["./rewrite", "a b", "c"]
    );
    assert_eq!(globals.log.as_deref(), Some("debug"));
    assert_eq!(globals.log_format, LogFormat::Json);
    let raw = &all.raw;
    assert!(raw.track_response && raw.promiscuous);
    assert_eq!(raw.expire, Duration::from_secs(5));
    assert_eq!(raw.realip_header.as_deref(), Some("X-Real-IP"));
    assert_eq!(raw.bpf_filter.as_deref(), Some("tcp port 80"));
    assert_eq!(raw.ring, Some(ByteSize(256 << 10)));
    assert_eq!(raw.vlans, [7, 8]);
    assert_eq!(raw.tunnel, Some("vxlan".parse().unwrap()));
    assert_eq!(raw.vnis, ["5".parse().unwrap(), "!6".parse().unwrap()]);
    assert!(raw.ignore[0].matches("docker0"));

    let all = options(
        "--input-file a.gor --input-file-loop --input-file-max-wait 1s --output-file b.gor \
         --output-file-append --output-file-flush-interval 100ms --output-file-size-limit 1gb \
         --output-file-queue-limit 0 --output-file-max-size-limit 2t \
         --input-tcp :1 --input-tcp-secure --input-tcp-certificate c --input-tcp-certificate-key k \
         --output-tcp h:1 --output-tcp-secure --output-tcp-skip-verify --output-tcp-sticky \
         --output-tcp-workers 3 --output-tcp-stats --output-ws wss://h/ --output-ws-workers 4 \
         --output-binary h:2 --output-binary-workers 2 --output-tcp-response-buffer 1kb \
         --output-http h --output-http-workers 9 --output-http-timeout 1.5s --output-http-redirects 3 \
         --output-http-skip-verify --output-http-track-response --output-http-response-buffer 1mb \
         --output-http-stats --output-http-stats-ms 100 --http-original-host",
    );
    assert!(all.file_input.repeat && all.file_output.append);
    assert_eq!(all.file_input.max_wait, Some(Duration::from_secs(1)));
    assert_eq!(all.file_output.flush_interval, Duration::from_millis(100));
    assert_eq!(all.file_output.size_limit, ByteSize(1 << 30));
    assert_eq!(all.file_output.queue_limit, 0);
    assert_eq!(all.file_output.max_size, ByteSize(2 << 40));
    assert!(all.tcp_input.tls.is_some());
    let tcp = &all.tcp_output;
    assert!(tcp.secure && tcp.skip_verify && tcp.sticky && tcp.stats);
    assert_eq!((tcp.workers.get(), all.ws_output.workers.get()), (3, 4));
    assert_eq!(all.binary_output.workers, NonZeroU32::new(2));
    let http = &all.http_output;
    assert!(http.skip_verify && http.track_response && http.stats && http.original_host);
    assert_eq!((http.workers, http.redirects), (NonZeroU32::new(9), 3));
    assert_eq!(http.timeout, Duration::from_millis(1500));
    assert_eq!(http.stats_interval, Duration::from_millis(100));
    assert_eq!(http.response_buffer, ByteSize::mib(1));
}

#[test]
fn kafka_is_read() {
    let all = options(
        "--input-kafka-host a:1,b:2 --input-kafka-topic t --input-kafka-offset '-2|50%' \
         --input-kafka-mechanism SCRAM-SHA-512 --input-kafka-username u --input-kafka-password p \
         --kafka-tls-ca-cert ca.pem --output-kafka-host c:3 --output-kafka-topic o --output-kafka-json-format",
    );
    let Input::Kafka {
        client,
        offset,
        speed,
        at_most,
    } = &all.inputs[0]
    else {
        panic!("{all:?}");
    };
    assert_eq!(
        (*offset, *speed, *at_most),
        (Offset::Oldest, Some(0.5), None)
    );
    assert_eq!(client.hosts, ["a:1", "b:2"]);
    let sasl = client.sasl.as_ref().unwrap();
    assert_eq!(sasl.mechanism, Mechanism::ScramSha512);
    assert_eq!((&*sasl.login.user, &*sasl.login.password.0), ("u", "p"));
    assert!(client.tls.as_ref().unwrap().identity.is_none());
    let Output::Kafka { client } = &all.outputs[0] else {
        panic!("{all:?}");
    };
    assert!(client.json && client.sasl.is_none() && client.tls.is_some());

    let head = "--output-null --input-kafka-host a:1";
    for (rest, what) in [
        ("", "needs --input-kafka-topic"),
        (
            "--input-kafka-topic t --input-kafka-use-sasl",
            "needs --input-kafka-username",
        ),
        (
            "--input-kafka-topic t --input-kafka-password p",
            "needs --input-kafka-username",
        ),
        (
            "--input-kafka-topic t --input-kafka-mechanism md5",
            "plain, scram-sha-256",
        ),
        (
            "--input-kafka-topic t --input-kafka-offset -3",
            "-2 for the oldest",
        ),
        (
            "--input-kafka-topic t --kafka-tls-client-key k",
            "need each other",
        ),
    ] {
        let error = error(&format!("{head} {rest}"));
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn files_behind_one_flag_are_one_stream() {
    let all =
        options("--output-null --input-file 'a.gor|200%' b.gor c.gor --input-file 'd*.gor|5'");
    let files = |paths: &[&str], speed, at_most| Input::File {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        speed,
        at_most: NonZeroU32::new(at_most),
    };
    assert_eq!(
        all.inputs,
        [
            files(&["a.gor", "b.gor", "c.gor"], 2.0, 0),
            files(&["d*.gor"], 1.0, 5)
        ]
    );
    assert!(error("--output-null --input-file a 'b|10%'").contains("write it at the first one"));
}

#[test]
fn engines_say_how_addresses_are_read() {
    let all = options("--output-null --input-raw dump:80 --input-raw-engine pcap_file");
    assert!(
        matches!(&all.inputs[0], Input::Raw { address: RawAddress::File { path, .. }, .. } if path == "dump")
    );
    let all = with("--input-raw-engine raw_socket");
    assert_eq!(
        all.notes,
        ["--input-raw-engine raw_socket: libpcap captures"]
    );
}

#[test]
fn what_has_no_effect_is_noted() {
    for (flags, note) in [
        ("--http-pprof :8181", "perf top"),
        ("--cpuprofile a --memprofile b", "no profile is written"),
        ("--input-raw-override-snaplen", "always captured whole"),
        (
            "--output-http-timeout 1s",
            "--output-http-timeout has no effect without --output-http",
        ),
        (
            "--output-http-header-filter a:b --output-file-append",
            "without --output-file",
        ),
        (
            "--input-raw-vxlan-port 1",
            "without --input-raw-engine vxlan",
        ),
        ("--input-tcp-certificate c", "without --input-tcp-secure"),
    ] {
        let notes = with(flags).notes;
        assert!(notes.iter().any(|n| n.contains(note)), "{flags}: {notes:?}");
        assert!(notes.iter().all(|n| !n.contains('\n')), "{notes:?}");
    }
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    for (flags, what) in [
        ("--stats=maybe", "--stats \"maybe\": write true or false"),
        (
            "--exit-after 5",
            "--exit-after \"5\": write a duration with its unit",
        ),
        (
            "--copy-buffer-size 5q",
            "--copy-buffer-size \"5q\": write bytes",
        ),
        (
            "--output-http-workers many",
            "--output-http-workers \"many\": write a whole number",
        ),
        ("--output-http-redirects 21", "from 0 to 20"),
        ("--verbose=10", "from 0 to 9"),
        (
            "--http-allow-url '('",
            "--http-allow-url \"(\": \"(\" is no regular expression: unclosed group",
        ),
        (
            "--output-http-url-regexp '('",
            "--output-http-url-regexp \"(\"",
        ),
        ("--http-set-header nothing", "write \"NAME: VALUE\""),
        ("--http-allow-method ''", "is empty; write METHOD"),
        ("--input-raw ':80|0'", "no limit is written \"0\""),
        ("--output-http 'a|b'", "no limit is written \"b\""),
        ("--output-http=", "is empty; write URL"),
        ("--output-http '|5'", "--output-http \"|5\""),
        ("--output-file s3://b/k", "S3 is not spoken here"),
        ("--input-file s3://b/k", "S3 is not spoken here"),
        ("--input-raw-monitor", "not supported: capture frames"),
        ("--input-raw-engine ebpf", "write libpcap, raw_socket"),
        ("--input-tcp 28020", "write :PORT"),
        ("--input-tcp-secure", "needs --input-tcp-certificate"),
        ("--input-raw-vlan-vid 4095", "from 0 to 4094"),
        ("--input-raw-vxlan-vni !5", "write a number up to"),
        ("--middleware \"a 'b\"", "a quote is not closed"),
        ("--http-pprof", "a value is missing"),
        ("--log info,=x", "write error, warn"),
        ("--log-format xml", "write text, json"),
        ("--output-http-queue-len x", "write a whole number"),
    ] {
        let error = wrong(flags);
        assert!(error.contains(what), "{flags}: {error}");
    }
}

#[test]
fn help_version_and_files_are_asked_for() {
    let asked = |line: &str| asked(&words(line));
    for line in [
        "-h",
        "--help",
        "-help",
        "--input-raw :80 -h",
        "file-server -h",
    ] {
        assert!(matches!(asked(line), Ok(Asked::Help)), "{line}");
    }
    assert!(matches!(asked("--version"), Ok(Asked::Version)));
    assert!(matches!(asked("file-server :0"), Ok(Asked::FileServer(_))));
    for (line, what) in [
        ("file-server", "the address is missing"),
        ("file-server 8000", "write :PORT"),
        ("file-server :1 :2", "too much"),
        ("files", "belongs to no flag"),
    ] {
        assert!(asked(line).unwrap_err().contains(what), "{line}");
    }
}

/// What goes with a flag that takes anything of its kind.
fn sample(flag: &Flag) -> String {
    if !flag.default.is_empty() {
        return flag.default.to_owned();
    }
    let value = match flag.kind {
        Kind::Switch => "true",
        Kind::Level | Kind::Count => "7",
        Kind::Size => "7kb",
        Kind::Time => "7s",
        Kind::OneOf(words) => words[0],
        Kind::Maybe(_) => "",
        Kind::Text(form) | Kind::Each(form) => match form {
            "ADDR[|LIMIT]" | "HOST:PORT[|LIMIT]" => "127.0.0.1:80",
            "URL[|LIMIT]" if flag.name == "output-ws" => "ws://h/",
            "URL" => "es:9200/gor",
            "\"NAME: VALUE\"" => "a: b",
            "NAME=VALUE" => "a=b",
            "NAME:REGEX" | "REGEX:REPLACEMENT" => "a:b",
            "NAME:N%|A/B" => "a:1/32",
            "\"NAME: REGEX,REPLACEMENT\"" => "a: b,c",
            "N" => "7",
            "HOST:PORT[,…]" => "a:1,b:2",
            _ => "name",
        },
    };
    value.to_owned()
}

#[test]
fn every_flag_of_the_table_has_a_meaning() {
    for flag in flags::all().filter(|flag| !matches!(flag.fate, Fate::Refused(_))) {
        let words = [format!("--{}={}", flag.name, sample(flag))];
        let given = syntax::read(&words).unwrap();
        match assembly::options(&given) {
            Ok(_) => {}
            Err(error) => {
                let error = error.to_string();
                let short = error.starts_with("there is no ") || error.contains(" needs ");
                let pair = error.contains("need each other");
                assert!(short || pair, "{}: {error}", flag.name);
            }
        }
    }
}

#[test]
fn defaults_are_those_of_the_table() {
    let flags = flags::all().filter(|flag| !flag.default.is_empty());
    for flag in flags {
        let lines = [String::new(), format!("'--{}={}'", flag.name, flag.default)];
        // What they belong to is there, so that nothing is said to be without effect.
        let [without, given] = lines.map(|line| {
            options(&format!(
                "{line} --input-raw :1 --input-file f --input-tcp :2 --input-kafka-host k:1 --input-kafka-topic t \
                 --output-file o --output-tcp h:1 --output-ws ws://h --output-http h --output-binary h:2 \
                 --input-raw-engine vxlan --output-kafka-host k:1 --output-kafka-topic t \
                 --input-kafka-username u --output-kafka-username u"
            ))
        });
        if flag.name != "input-raw-engine" {
            assert_eq!(without, given, "{}", flag.name);
        }
    }
}

#[test]
fn options_can_be_printed() {
    let all = options(
        "--input-raw :80 --input-raw k8s://pod/a:80 --input-raw a.pcap --input-file a|3 --input-dummy --output-stdout \
         --output-http http://user:hidden@h|5% --output-kafka-host k:1 --output-kafka-topic t --output-kafka-username u \
         --output-kafka-password hidden --http-allow-url a --http-header-limiter a:1/32 --http-param-limiter a:2% \
         --exit-after 5s --output-http-elasticsearch http://e:hidden@es/gor --input-raw : --cpuprofile x",
    );
    let text = config::to_toml(&all).unwrap();
    assert!(
        text.contains("exit_after = \"5s\"") && !text.contains("hidden"),
        "{text}"
    );
    text.parse::<toml::Table>().unwrap();
}

/// Words that look like what people write.
fn word() -> impl Strategy<Value = String> {
    let names: Vec<&str> = flags::all().map(|flag| flag.name).collect();
    let flag = (
        proptest::sample::select(names),
        "-{1,2}",
        "(=[ -~µ]{0,12})?",
    )
        .prop_map(|(name, dashes, value)| format!("{dashes}{name}{value}"));
    let value = "[-0-9a-z:|%/.,=*@\\[\\]()$ µé]{0,14}";
    prop_oneof![
        3 => flag,
        3 => value,
        1 => "\\PC{0,10}",
        1 => proptest::sample::select(vec!["true", "false", "--", "-", "", ":80", "a:1|10%", "k8s://pod/a:1"])
            .prop_map(str::to_owned),
    ]
}

proptest! {
    #[test]
    fn no_words_bring_it_down(words in proptest::collection::vec(word(), 0..8)) {
        match asked(&words) {
            Ok(Asked::Replay(options)) => { config::to_toml(&options).unwrap(); }
            Ok(_) => {}
            Err(error) => prop_assert!(!error.contains('\n') && !error.is_empty(), "{error}"),
        }
    }

    /// The same for each flag's value, alone: with others the first mistake hides the rest.
    #[test]
    fn no_value_brings_it_down(flag in 0..flags::all().count(), value in "\\PC{0,20}|[-0-9a-z:|%/.,=µ]{0,20}") {
        let name = flags::all().nth(flag).unwrap().name;
        let words = [format!("--{name}={value}"), "--input-dummy".to_owned(), "--output-null".to_owned()];
        if let Err(error) = asked(&words) {
            prop_assert!(!error.contains('\n') && !error.is_empty(), "{error}");
        }
    }
}
