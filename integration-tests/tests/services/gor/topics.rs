//! A topic as an output, as an input, and as a buffer between two processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use reprise_integration_tests::staging::Behaviour;
use reprise_integration_tests::{Kafka, Load, Place, Shape, Staging, eventually};
use reprise_listener::kafka::{Begin, Consumer, Settings};
use reprise_traffic::ByteSize;
use reprise_traffic::gor::Record;
use reprise_traffic::kafka::KafkaSettings;

use super::{Gor, LIMIT, Style};

/// The group in which `reprise gor` reads.
const GROUP: &str = "reprise";

const SEPARATOR: &str = "\n🐵🙈🙉\n";

/// What a group has committed in all partitions together; nothing before it has in each.
fn committed(kafka: &Kafka, topic: &str, partitions: i32) -> anyhow::Result<i64> {
    let mut sum = 0;
    for partition in 0..partitions {
        sum += kafka.committed(GROUP, topic, partition)?;
    }
    Ok(sum)
}

/// Waits until a topic's readers have a place in each partition, which they commit before anything is read.
fn until_read(kafka: &Kafka, topic: &str, partitions: i32) {
    let read = || committed(kafka, topic, partitions);
    eventually("a place in each partition", LIMIT, read).unwrap();
}

fn get(production: &Staging, requests: u64) -> Load {
    Load {
        connections: 4,
        rate: Some(400),
        ..Load::new(
            &Place::loopback(),
            production.address(),
            Shape::Get,
            requests,
        )
    }
}

/// Records as they stand in standard output: their ids by the ids of their load.
fn printed(gor: &Gor) -> BTreeMap<u64, usize> {
    let mut ids = BTreeMap::new();
    for record in gor.out().split_terminator(SEPARATOR) {
        let id = record.split_once("id=").map(|(_, rest)| {
            let end = rest.find(|c: char| !c.is_ascii_digit());
            rest[..end.unwrap_or(rest.len())].parse::<u64>().unwrap()
        });
        *ids.entry(id.unwrap()).or_default() += 1;
    }
    ids
}

/// Sends until what captures is awake, then so much, all of which has to arrive.
fn through(production: &Staging, printing: &Gor, requests: u64) {
    let mut first = BTreeSet::new();
    eventually("the first request", LIMIT, || {
        let sent = get(production, 1).run()?;
        first.extend(sent.iter().map(|sent| sent.id));
        anyhow::ensure!(!printed(printing).is_empty(), "{}", printing.process.log()?);
        Ok(())
    })
    .unwrap();
    let sent = get(production, requests).run().unwrap();
    eventually("all requests", LIMIT, || {
        let printed = printed(printing);
        for sent in &sent {
            let times = printed.get(&sent.id).copied().unwrap_or_default();
            anyhow::ensure!(times == 1, "{} came {times} times", sent.id);
        }
        Ok(())
    })
    .unwrap();
    let printed = printed(printing);
    let known: BTreeSet<_> = first.into_iter().chain(sent.iter().map(|s| s.id)).collect();
    assert!(printed.keys().all(|id| known.contains(id)));
}

#[test]
fn documented_lines_lead_through_a_topic() {
    let kafka = Kafka::start().unwrap();
    let production = Staging::start(&Place::loopback()).unwrap();
    for (style, topic) in [(Style::Two, "kafka-log"), (Style::Go, "kafka-log-2")] {
        kafka.topic(topic, 3).unwrap();
        let bootstrap = kafka.bootstrap();
        let printing = Gor::start(
            style,
            &[
                ("input-kafka-host", &bootstrap),
                ("input-kafka-topic", topic),
                ("output-stdout", ""),
            ],
        );
        until_read(&kafka, topic, 3);
        // Of two brokers one is away.
        let hosts = format!("127.0.0.1:1,{bootstrap}");
        let capturing = Gor::start(
            style,
            &[
                ("input-raw", &format!(":{}", production.address().port())),
                ("output-kafka-host", &hosts),
                ("output-kafka-topic", topic),
            ],
        );
        through(&production, &printing, 300);
        capturing.stop();
        let printed = printed(&printing).values().sum::<usize>();
        printing.stop();
        // What was read and has ended is committed, to the message.
        assert_eq!(committed(&kafka, topic, 3).unwrap(), printed as i64);
    }
}

#[test]
fn json_leads_through_a_topic_with_a_login_and_over_tls() {
    let kafka = Kafka::start().unwrap();
    kafka.topic("json", 2).unwrap();
    let production = Staging::start(&Place::loopback()).unwrap();
    let printing = Gor::start(
        Style::Two,
        &[
            ("input-kafka-host", &kafka.bootstrap_tls()),
            ("input-kafka-topic", "json"),
            ("input-kafka-json-format", "true"),
            ("input-kafka-offset", "-2"),
            ("kafka-tls-ca-cert", &kafka.ca_file()),
            ("kafka-tls-client-cert", &kafka.cert_file()),
            ("kafka-tls-client-key", &kafka.key_file()),
            ("output-stdout", ""),
        ],
    );
    let password = std::fs::read_to_string(kafka.password_file()).unwrap();
    let capturing = Gor::start(
        Style::Go,
        &[
            ("input-raw", &format!(":{}", production.address().port())),
            ("output-kafka-host", &kafka.bootstrap_sasl()),
            ("output-kafka-topic", "json"),
            ("output-kafka-json-format", ""),
            ("output-kafka-use-sasl", "true"),
            ("output-kafka-mechanism", "scram-sha-256"),
            (
                "output-kafka-username",
                reprise_integration_tests::kafka::USER,
            ),
            ("output-kafka-password", password.trim()),
        ],
    );
    through(&production, &printing, 100);
    capturing.stop();
    let out = printing.out();
    let record = out.split_terminator(SEPARATOR).next().unwrap();
    let parsed = Record::parse(record.as_bytes(), 1).unwrap();
    let payload = String::from_utf8_lossy(parsed.payload);
    assert!(payload.starts_with("GET /") && payload.contains("\r\nHost: "));
    printing.stop();
    // In the topic they are objects.
    let values = all_of(&kafka, "json", 1, "looking");
    let object: serde_json::Value = serde_json::from_slice(&values[0].2).unwrap();
    assert_eq!(object["Req_Method"], "GET");
}

/// So many messages, by partition, offset and value.
fn all_of(kafka: &Kafka, topic: &str, least: usize, group: &str) -> Vec<(i32, i64, Vec<u8>)> {
    let url = format!("kafka://{}/{topic}", kafka.bootstrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut consumer = Consumer::start(Settings {
            kafka: reprise_traffic::Kafka::new(&url, KafkaSettings::default()).unwrap(),
            group: group.to_owned(),
            begin: Begin::Oldest,
            prefetch: ByteSize::mib(16),
            unsettled: 16_384,
        })
        .unwrap();
        let ends = consumer.ends();
        let mut all = Vec::new();
        loop {
            let quiet = if all.len() < least {
                LIMIT
            } else {
                Duration::from_secs(2)
            };
            let Ok(message) = tokio::time::timeout(quiet, consumer.next()).await else {
                break;
            };
            let message = message.unwrap();
            let place = message.ticket;
            all.push((place.partition, place.offset, message.value.to_vec()));
            ends.end(place);
        }
        consumer.stop().await;
        all
    })
}

/// A recording of requests, each with its answer, so many a second.
fn recording(path: &std::path::Path, requests: u64, per_second: u64) {
    let mut text = String::new();
    for id in 0..requests {
        let at = 1_500_000_000_000_000_000 + id * 1_000_000_000 / per_second;
        let (answer_at, ns) = (at + 1000, 1000);
        write!(
            text,
            "1 {id:024x} {at} -1\nGET /?id={id} HTTP/1.1\r\nHost: h\r\n\r\n{SEPARATOR}\
             2 {id:024x} {answer_at} {ns}\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{SEPARATOR}"
        )
        .unwrap();
    }
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_hundred_thousand_messages_arrive_and_those_of_an_id_in_one_partition() {
    const REQUESTS: u64 = 50_000;
    let kafka = Kafka::start().unwrap();
    kafka.topic("t", 6).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.gor");
    recording(&file, REQUESTS, 5000);
    let gor = Gor::start(
        Style::Two,
        &[
            ("input-file", file.to_str().unwrap()),
            ("output-kafka-host", &kafka.bootstrap()),
            ("output-kafka-topic", "t"),
        ],
    );
    // It ends with its file, once all is acknowledged.
    gor.ended();
    let all = all_of(&kafka, "t", 2 * REQUESTS as usize, "looking");
    assert_eq!(all.len(), 2 * REQUESTS as usize);
    let written = std::fs::read_to_string(&file).unwrap();
    let written: BTreeSet<&str> = written.split_terminator(SEPARATOR).collect();
    let mut partitions: BTreeMap<Vec<u8>, i32> = BTreeMap::new();
    for (partition, _, value) in &all {
        let record = Record::parse(value, 1).unwrap();
        assert!(
            written.contains(std::str::from_utf8(value).unwrap()),
            "{record:?}"
        );
        let is_request = value[0] == b'1';
        let before = partitions.insert(record.id.to_vec(), *partition);
        assert_eq!(
            before,
            (!is_request).then_some(*partition),
            "in one partition, in order"
        );
    }
    let used: BTreeSet<_> = partitions.values().collect();
    assert_eq!((partitions.len(), used.len()), (REQUESTS as usize, 6));
}

#[test]
fn a_reader_that_is_ended_goes_on_where_all_had_ended() {
    const REQUESTS: usize = 12_000;
    let kafka = Kafka::start().unwrap();
    kafka.topic("t", 4).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.gor");
    recording(&file, REQUESTS as u64, 6000);
    let bootstrap = kafka.bootstrap();
    Gor::start(
        Style::Go,
        &[
            ("input-file", file.to_str().unwrap()),
            ("output-kafka-host", &bootstrap),
            ("output-kafka-topic", "t"),
        ],
    )
    .ended();
    let staging = Staging::start(&Place::loopback()).unwrap();
    staging.behave(Behaviour::Slow(Duration::from_millis(100)));
    let reading = || {
        Gor::start(
            Style::Two,
            &[
                ("input-kafka-host", &bootstrap),
                ("input-kafka-topic", "t"),
                ("input-kafka-offset", "-2"),
                ("output-http-workers", "200"),
                ("output-http", &staging.url()),
            ],
        )
    };
    // Requests are half of the messages, as answers go to no web server and end at once.
    let messages = 2 * REQUESTS;
    let first = reading();
    staging.until(REQUESTS / 3, LIMIT).unwrap();
    first.stop();
    let after_stop = staging.count();
    assert!(after_stop < REQUESTS * 9 / 10, "it was not half-way");
    let ids = staging.ids();
    assert!(ids.len() == after_stop && ids.values().all(|times| *times == 1));
    let stopped_at = committed(&kafka, "t", 4).unwrap() as usize;

    let second = reading();
    staging.until(after_stop + REQUESTS / 4, LIMIT).unwrap();
    // What it had taken from the first, it sent again: nothing, since all that was sent had ended and was committed.
    second.kill();
    std::thread::sleep(Duration::from_millis(500));
    let sent = staging.ids();
    assert!(
        sent.values().all(|times| *times == 1),
        "a stop makes no doubles"
    );
    let killed_at = committed(&kafka, "t", 4).unwrap() as usize;
    assert!(stopped_at < killed_at && killed_at < messages);

    // Which requests are not committed, by their place.
    let mut open = BTreeSet::new();
    let places: Vec<i64> = (0..4)
        .map(|p| kafka.committed(GROUP, "t", p).unwrap())
        .collect();
    for (partition, offset, value) in all_of(&kafka, "t", messages, "looking") {
        let record = Record::parse(&value, 1).unwrap();
        if value[0] == b'1' && offset >= places[partition as usize] {
            let id = std::str::from_utf8(record.id).unwrap();
            open.insert(u64::from_str_radix(id, 16).unwrap());
        }
    }
    let third = reading();
    let done = || {
        let now = committed(&kafka, "t", 4)? as usize;
        anyhow::ensure!(now == messages, "{now} of {messages} are committed");
        Ok(())
    };
    eventually("all commits", LIMIT, done).unwrap();
    third.stop();
    let ids = staging.ids();
    assert_eq!(ids.len(), REQUESTS, "none is lost");
    for (id, times) in &ids {
        let expected = usize::from(sent.contains_key(id)) + usize::from(open.contains(id));
        assert_eq!(
            *times, expected,
            "{id}: sent, and again where not committed"
        );
    }
    let doubles = ids.values().filter(|times| **times == 2).count();
    assert!(doubles < REQUESTS / 2, "{doubles}");
}

#[test]
fn a_topic_is_read_at_production_s_pace_or_up_to_a_limit() {
    const REQUESTS: u64 = 400;
    let kafka = Kafka::start().unwrap();
    kafka.topic("t", 3).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.gor");
    // Four seconds of production's.
    recording(&file, REQUESTS, 100);
    let bootstrap = kafka.bootstrap();
    let fast = format!("{}|1000%", file.display());
    let writing = [
        ("input-file", fast.as_str()),
        ("output-kafka-host", &bootstrap),
        ("output-kafka-topic", "t"),
    ];
    Gor::start(Style::Two, &writing).ended();
    let read = |offset| {
        let staging = Staging::start(&Place::loopback()).unwrap();
        let url = staging.url();
        let reading = [
            ("input-kafka-host", bootstrap.as_str()),
            ("input-kafka-topic", "t"),
            ("input-kafka-offset", offset),
            ("output-http", &url),
        ];
        (Gor::start(Style::Go, &reading), staging)
    };
    let (gor, staging) = read("0|200%");
    staging.until(REQUESTS as usize, LIMIT).unwrap();
    let received = staging.received();
    let span = received[received.len() - 1].at - received[0].at;
    assert!((1.8..2.6).contains(&span.as_secs_f64()), "{span:?}");
    // Of all partitions together, in the order in which production got them.
    let ids: Vec<_> = received.iter().map(|r| r.id().unwrap()).collect();
    let late = ids.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(late < ids.len() / 10, "{late}");
    gor.stop();
    let (gor, staging) = read("0|50");
    staging.until(50, LIMIT).unwrap();
    let done = || {
        let now = committed(&kafka, "t", 3)?;
        anyhow::ensure!(now == 2 * REQUESTS as i64, "{now}");
        Ok(())
    };
    eventually("all commits", LIMIT, done).unwrap();
    let log = gor.stop();
    assert!((50..=100).contains(&staging.count()), "{}", staging.count());
    assert!(log.contains("input_limited"), "{log}");
}

#[test]
fn nothing_is_lost_while_the_broker_is_away() {
    let mut kafka = Kafka::start().unwrap();
    kafka.topic("t", 3).unwrap();
    let production = Staging::start(&Place::loopback()).unwrap();
    let staging = Staging::start(&Place::loopback()).unwrap();
    let bootstrap = kafka.bootstrap();
    let reading = Gor::start(
        Style::Two,
        &[
            ("input-kafka-host", &bootstrap),
            ("input-kafka-topic", "t"),
            ("output-http", &staging.url()),
        ],
    );
    until_read(&kafka, "t", 3);
    let capturing = Gor::start(
        Style::Two,
        &[
            ("input-raw", &format!(":{}", production.address().port())),
            ("output-kafka-host", &bootstrap),
            ("output-kafka-topic", "t"),
        ],
    );
    eventually("the first request", LIMIT, || {
        get(&production, 1).run()?;
        anyhow::ensure!(staging.count() > 0, "{}", capturing.process.log()?);
        Ok(())
    })
    .unwrap();
    let traffic = Load {
        rate: Some(200),
        ..get(&production, 200 * 26)
    };
    let running = traffic.start().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    kafka.stop();
    let away = Instant::now();
    std::thread::sleep(Duration::from_secs(20));
    kafka.start_again().unwrap();
    assert!(away.elapsed() > Duration::from_secs(20));
    let sent = running.join().unwrap();
    eventually("all requests", LIMIT, || {
        let ids = staging.ids();
        let missing = sent.iter().filter(|sent| !ids.contains_key(&sent.id));
        let missing = missing.count();
        anyhow::ensure!(missing == 0, "{missing} of {} are missing", sent.len());
        Ok(())
    })
    .unwrap();
    capturing.stop();
    reading.stop();
    // Each is in the topic once, whatever the connection did.
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for (_, _, value) in all_of(&kafka, "t", sent.len(), "looking") {
        let value = String::from_utf8(value).unwrap();
        let line = value.lines().nth(1).unwrap().to_owned();
        *times.entry(line).or_default() += 1;
    }
    assert!(times.len() >= sent.len() && times.values().all(|times| *times == 1));
}
