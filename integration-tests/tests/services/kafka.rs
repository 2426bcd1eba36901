//! Kafka: what is promised of [`Producer`] and [`Consumer`], against a real broker.

mod security;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reprise_integration_tests::{Kafka, eventually};
use reprise_listener::kafka::{Begin, Consumer, Ends, Message, Settings};
use reprise_replayer::kafka::{Limits, Producer, Refusal};
use reprise_traffic::ByteSize;
use reprise_traffic::kafka::KafkaSettings;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

fn topic(kafka: &Kafka, name: &str) -> reprise_traffic::Kafka {
    let url = format!("kafka://{}/{name}", kafka.bootstrap());
    reprise_traffic::Kafka::new(&url, KafkaSettings::default()).unwrap()
}

fn with_topic(partitions: i32) -> (Kafka, reprise_traffic::Kafka) {
    let kafka = Kafka::start().unwrap();
    kafka.topic("t", partitions).unwrap();
    let topic = topic(&kafka, "t");
    (kafka, topic)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    // What was logged is shown where a test fails; of several tests the first one's logger is everybody's.
    let _ = tracing_subscriber::fmt()
        .with_test_writer()
        .with_env_filter(std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()))
        .try_init();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(work)
}

/// A producer that counts how its messages ended.
struct Sending {
    producer: Producer,
    good: Arc<AtomicUsize>,
    bad: Arc<AtomicUsize>,
}

impl Sending {
    fn start(topic: &reprise_traffic::Kafka, patience: Duration) -> Sending {
        let limits = Limits {
            bytes: 64 << 20,
            messages: 50_000,
            patience,
        };
        Sending {
            producer: Producer::start(topic, limits).unwrap(),
            good: Arc::default(),
            bad: Arc::default(),
        }
    }

    /// Sends, as soon as there is room.
    fn send(&self, key: &str, value: &[u8]) {
        let (good, bad) = (self.good.clone(), self.bad.clone());
        let mut end: reprise_replayer::kafka::End = Box::new(move |result| {
            let counter = if result.is_ok() { &good } else { &bad };
            counter.fetch_add(1, Ordering::Relaxed);
        });
        while let Err(refused) = self.producer.send(Some(key.as_bytes()), value, 1, end) {
            assert_eq!(refused.reason, Refusal::Full);
            end = refused.end;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Closes it, and says how many were acknowledged.
    async fn done(self) -> usize {
        assert_eq!(self.producer.close(LIMIT).await, 0);
        assert_eq!(self.bad.load(Ordering::Relaxed), 0);
        self.good.load(Ordering::Relaxed)
    }
}

fn settings(topic: &reprise_traffic::Kafka, begin: Begin) -> Settings {
    Settings {
        kafka: topic.clone(),
        group: "reprise".to_owned(),
        begin,
        prefetch: ByteSize::mib(16),
        unsettled: 16_384,
    }
}

fn reading(topic: &reprise_traffic::Kafka, begin: Begin) -> Consumer {
    Consumer::start(settings(topic, begin)).unwrap()
}

async fn next(consumer: &mut Consumer) -> Message {
    let next = timeout(LIMIT, consumer.next()).await;
    next.expect("a message in time").expect("no end")
}

/// What comes within a while.
async fn soon(consumer: &mut Consumer) -> Option<Message> {
    let wait = Duration::from_millis(1500);
    let next = timeout(wait, consumer.next()).await;
    next.ok().map(|message| message.expect("no end"))
}

/// Nothing comes for a while.
async fn silent(consumer: &mut Consumer) -> bool {
    soon(consumer).await.is_none()
}

/// What [`settings`]' group has committed in all partitions together.
fn committed(kafka: &Kafka, partitions: i32) -> i64 {
    let committed = (0..partitions).map(|p| kafka.committed("reprise", "t", p));
    committed.map(|offset| offset.unwrap_or(0)).sum()
}

fn text(message: &Message) -> String {
    String::from_utf8(message.value.to_vec()).unwrap()
}

fn number(message: &Message) -> usize {
    text(message).parse().unwrap()
}

#[test]
fn a_hundred_thousand_messages_arrive_in_order_of_their_keys() {
    const MESSAGES: usize = 100_000;
    let (kafka, topic) = with_topic(6);
    run(async {
        let sending = Sending::start(&topic, LIMIT);
        for n in 0..MESSAGES {
            sending.send(&format!("user-{}", n % 997), n.to_string().as_bytes());
        }
        assert_eq!(sending.done().await, MESSAGES);
        let mut consumer = reading(&topic, Begin::Oldest);
        let ends = consumer.ends();
        let mut partitions: BTreeMap<usize, i32> = BTreeMap::new();
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        for _ in 0..MESSAGES {
            let message = next(&mut consumer).await;
            let (n, partition) = (number(&message), message.ticket.partition);
            let user = n % 997;
            assert_eq!(*partitions.entry(user).or_insert(partition), partition);
            let before = last.insert(user, n);
            assert_eq!(
                before,
                n.checked_sub(997),
                "in order, none lost, none double"
            );
            ends.end(message.ticket);
        }
        assert_eq!(partitions.values().collect::<BTreeSet<_>>().len(), 6);
        consumer.stop().await;
        assert_eq!(committed(&kafka, 6), MESSAGES as i64);
    });
}

#[test]
fn keys_lead_where_javas_clients_put_them() {
    // Kafka's own test of murmur2 has these.
    let known = [
        ("21", -973_932_308_i32),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        (
            "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
            -58_897_971,
        ),
    ];
    let (_kafka, topic) = with_topic(7);
    run(async {
        let sending = Sending::start(&topic, LIMIT);
        for (key, _) in known {
            sending.send(key, key.as_bytes());
        }
        sending.done().await;
        let mut consumer = reading(&topic, Begin::Oldest);
        let known: HashMap<_, _> = known.into();
        for _ in 0..known.len() {
            let message = next(&mut consumer).await;
            let hash = known[text(&message).as_str()] & i32::MAX;
            assert_eq!(message.ticket.partition, hash % 7);
        }
        consumer.stop().await;
    });
}

#[test]
fn nothing_is_lost_while_the_broker_is_away() {
    let (mut kafka, topic) = with_topic(3);
    run(async {
        let mut consumer = reading(&topic, Begin::Oldest);
        let sending = Sending::start(&topic, LIMIT * 2);
        let mut sent = 0;
        let mut send_for = |length: Duration| {
            let start = Instant::now();
            while start.elapsed() < length {
                sending.send(&(sent % 50).to_string(), sent.to_string().as_bytes());
                sent += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        send_for(Duration::from_secs(1));
        let mut seen = BTreeMap::new();
        let mut see = |message: Message, ends: &Ends| {
            let place = (message.ticket.partition, message.ticket.offset);
            // The group may have to begin anew where it had committed, but each message is in the topic once.
            assert_eq!(*seen.entry(number(&message)).or_insert(place), place);
            ends.end(message.ticket);
            seen.len()
        };
        let ends = consumer.ends();
        see(next(&mut consumer).await, &ends);
        kafka.stop();
        send_for(Duration::from_secs(4));
        kafka.start_again().unwrap();
        send_for(Duration::from_secs(1));
        assert_eq!(sending.done().await, sent);
        while see(next(&mut consumer).await, &ends) < sent {}
        // What ended over the loss is committed as well.
        let start = Instant::now();
        while committed(&kafka, 3) < sent as i64 {
            assert!(
                start.elapsed() < LIMIT,
                "{} of {sent}",
                committed(&kafka, 3)
            );
            if let Some(message) = soon(&mut consumer).await {
                see(message, &ends);
            }
        }
        consumer.stop().await;
        assert_eq!(committed(&kafka, 3), sent as i64);
        let mut consumer = reading(&topic, Begin::Oldest);
        assert!(silent(&mut consumer).await);
        kafka.stop();
        let start = Instant::now();
        consumer.stop().await;
        assert!(
            start.elapsed() < Duration::from_millis(1200),
            "a stop without a broker"
        );
    });
}

#[test]
fn a_restarted_consumer_goes_on_where_all_had_ended() {
    const MESSAGES: usize = 10_000;
    let (_kafka, topic) = with_topic(4);
    run(async {
        let sending = Sending::start(&topic, LIMIT);
        for n in 0..MESSAGES {
            sending.send(&n.to_string(), n.to_string().as_bytes());
        }
        sending.done().await;
        let mut consumer = reading(&topic, Begin::Oldest);
        let ends = consumer.ends();
        let mut first = BTreeMap::new();
        // The oldest that has not ended, by partition.
        let mut open: BTreeMap<i32, i64> = BTreeMap::new();
        for _ in 0..MESSAGES * 6 / 10 {
            let message = next(&mut consumer).await;
            let (n, ticket) = (number(&message), message.ticket);
            first.insert(n, ticket);
            // Of those with such a number none ends, from some time on.
            if n % 1000 == 999 && n > 2000 {
                let oldest = open.entry(ticket.partition).or_insert(ticket.offset);
                *oldest = ticket.offset.min(*oldest);
            } else {
                ends.end(ticket);
            }
        }
        let start = Instant::now();
        consumer.stop().await;
        assert!(
            start.elapsed() < Duration::from_millis(1200),
            "a stop takes a second at most"
        );
        let mut consumer = reading(&topic, Begin::Oldest);
        let mut second = BTreeSet::new();
        let expected: BTreeSet<_> = (0..MESSAGES)
            .filter(|n| match first.get(n) {
                None => true,
                Some(ticket) => open
                    .get(&ticket.partition)
                    .is_some_and(|o| ticket.offset >= *o),
            })
            .collect();
        assert!(expected.len() > MESSAGES * 4 / 10 && !open.is_empty());
        while second.len() < expected.len() {
            let message = next(&mut consumer).await;
            assert!(second.insert(number(&message)), "double");
        }
        assert_eq!(
            second, expected,
            "no less, and no more than was not committed"
        );
        assert!(silent(&mut consumer).await);
        consumer.stop().await;
    });
}

#[test]
fn a_consumer_begins_where_it_is_told() {
    let (kafka, topic) = with_topic(1);
    let kafka = &kafka;
    let of = |group: &str, begin| {
        let settings = Settings {
            group: group.to_owned(),
            ..settings(&topic, begin)
        };
        Consumer::start(settings).unwrap()
    };
    run(async {
        let sending = Sending::start(&topic, LIMIT);
        let send = |range: std::ops::Range<usize>| {
            for n in range {
                sending.send("", n.to_string().as_bytes());
            }
            eventually("acknowledgements", LIMIT, || {
                anyhow::ensure!(sending.producer.load() == 0);
                Ok(())
            })
            .unwrap();
        };
        send(0..10);
        // The place of a group that has read nothing is committed as well.
        let newest = of("newest", Begin::Newest);
        let place = |group| move || kafka.committed(group, "t", 0);
        assert_eq!(eventually("a commit", LIMIT, place("newest")).unwrap(), 10);
        newest.stop().await;
        send(10..12);
        let mut newest = of("newest", Begin::Newest);
        let mut oldest = of("oldest", Begin::Oldest);
        let mut at = of("at", Begin::At(7));
        let mut beyond = of("beyond", Begin::At(1000));
        assert_eq!(number(&next(&mut newest).await), 10);
        assert_eq!(number(&next(&mut oldest).await), 0);
        let message = next(&mut at).await;
        assert_eq!((number(&message), message.ticket.offset), (7, 7));
        assert_eq!(message.timestamp_ms, Some(1));
        for n in 8..12 {
            let message = next(&mut at).await;
            at.ends().end(message.ticket);
            assert_eq!(number(&message), n);
        }
        at.ends().end(message.ticket);
        at.stop().await;
        // An offset counts, whatever is committed.
        let mut at = of("at", Begin::At(3));
        assert_eq!(number(&next(&mut at).await), 3);
        assert_eq!(eventually("a commit", LIMIT, place("beyond")).unwrap(), 12);
        send(12..13);
        assert_eq!(number(&next(&mut beyond).await), 12);
        for consumer in [newest, oldest, at, beyond] {
            consumer.stop().await;
        }
    });
}

#[test]
fn who_takes_no_more_gets_no_more() {
    let (_kafka, topic) = with_topic(2);
    run(async {
        let sending = Sending::start(&topic, LIMIT);
        for n in 0..5000 {
            sending.send(&n.to_string(), n.to_string().as_bytes());
        }
        sending.done().await;
        let mut consumer = Consumer::start(Settings {
            unsettled: 100,
            prefetch: ByteSize::kib(1),
            ..settings(&topic, Begin::Oldest)
        })
        .unwrap();
        let mut seen = BTreeSet::new();
        let mut open = Vec::new();
        for _ in 0..100 {
            let message = next(&mut consumer).await;
            seen.insert(number(&message));
            open.push(message.ticket);
        }
        // Longer than until the partitions are paused.
        assert!(silent(&mut consumer).await, "the bound holds");
        assert!(silent(&mut consumer).await, "while paused, too");
        for ticket in open {
            consumer.ends().end(ticket);
        }
        while seen.len() < 5000 {
            let message = next(&mut consumer).await;
            assert!(seen.insert(number(&message)), "double");
            consumer.ends().end(message.ticket);
        }
        consumer.stop().await;
    });
}

#[test]
fn listeners_of_a_group_share_and_take_over() {
    let (_kafka, topic) = with_topic(6);
    run(async {
        let mut consumers = [
            reading(&topic, Begin::Oldest),
            reading(&topic, Begin::Oldest),
        ];
        let sending = Sending::start(&topic, LIMIT);
        let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
        let mut sent = 0;
        let mut by = [0, 0];
        let start = Instant::now();
        // Until each has had a share.
        while by.contains(&0) {
            assert!(start.elapsed() < LIMIT, "{by:?}");
            for _ in 0..100 {
                sending.send(&sent.to_string(), sent.to_string().as_bytes());
                sent += 1;
            }
            for (consumer, by) in consumers.iter_mut().zip(&mut by) {
                while let Ok(message) = timeout(Duration::from_millis(50), consumer.next()).await {
                    let message = message.unwrap();
                    *by += 1;
                    *seen.entry(number(&message)).or_default() += 1;
                    consumer.ends().end(message.ticket);
                }
            }
        }
        let [gone, mut left] = consumers;
        gone.stop().await;
        for _ in 0..1000 {
            sending.send(&sent.to_string(), sent.to_string().as_bytes());
            sent += 1;
        }
        assert_eq!(sending.done().await, sent);
        while seen.len() < sent {
            let message = next(&mut left).await;
            *seen.entry(number(&message)).or_default() += 1;
            left.ends().end(message.ticket);
        }
        assert!(
            seen.values().all(|times| *times == 1),
            "all had ended in time"
        );
        left.stop().await;
    });
}

#[test]
fn a_message_may_have_ten_megabytes() {
    let (_kafka, topic) = with_topic(1);
    let value: Vec<u8> = (0..10 << 20).map(|n: u32| (n % 251) as u8).collect();
    run(async {
        let sending = Sending::start(&topic, LIMIT);
        for _ in 0..3 {
            sending.send("key", &value);
        }
        sending.done().await;
        let mut consumer = reading(&topic, Begin::Oldest);
        for _ in 0..3 {
            assert!(next(&mut consumer).await.value == value);
        }
        consumer.stop().await;
        // A topic has a bound of its own: what is beyond is refused, and the next is not.
        let sending = Sending::start(&topic, LIMIT);
        sending.send("key", &value.repeat(2));
        sending.send("key", b"small");
        let (good, bad) = (sending.good.clone(), sending.bad.clone());
        sending.producer.close(LIMIT).await;
        assert_eq!(
            (good.load(Ordering::Relaxed), bad.load(Ordering::Relaxed)),
            (1, 1)
        );
    });
}
