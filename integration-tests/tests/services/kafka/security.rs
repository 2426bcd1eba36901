//! Every way to be let in, and what is said to those who are not.

use std::time::Duration;

use reprise_integration_tests::Kafka;
use reprise_integration_tests::kafka::USER;
use reprise_kafka::{CheckError, check};
use reprise_listener::kafka::{Begin, Consumer, Settings};
use reprise_traffic::ByteSize;
use reprise_traffic::kafka::{KafkaSettings, Mechanism, Sasl, Tls};

use super::{LIMIT, Sending, next, run, text};

const MECHANISMS: [Mechanism; 3] = [
    Mechanism::Plain,
    Mechanism::ScramSha256,
    Mechanism::ScramSha512,
];

fn login(mechanism: Mechanism, password_file: String) -> Option<Sasl> {
    Some(Sasl {
        mechanism,
        username: USER.to_owned(),
        password_file,
    })
}

fn trusting(kafka: &Kafka) -> Tls {
    Tls {
        ca_file: Some(kafka.ca_file()),
        ..Tls::default()
    }
}

fn certified(kafka: &Kafka) -> Tls {
    Tls {
        cert_file: Some(kafka.cert_file()),
        key_file: Some(kafka.key_file()),
        ..trusting(kafka)
    }
}

fn at(bootstrap: &str, topic: &str, settings: KafkaSettings) -> reprise_traffic::Kafka {
    reprise_traffic::Kafka::new(&format!("kafka://{bootstrap}/{topic}"), settings).unwrap()
}

#[test]
fn messages_pass_in_every_way_to_be_let_in() {
    let kafka = Kafka::start().unwrap();
    let mut ways = vec![
        (kafka.bootstrap(), KafkaSettings::default()),
        (
            kafka.bootstrap_tls(),
            KafkaSettings {
                tls: Some(certified(&kafka)),
                ..KafkaSettings::default()
            },
        ),
    ];
    for mechanism in MECHANISMS {
        let sasl = login(mechanism, kafka.password_file());
        let plain = KafkaSettings {
            sasl: sasl.clone(),
            ..KafkaSettings::default()
        };
        let both = KafkaSettings {
            sasl,
            tls: Some(trusting(&kafka)),
            ..KafkaSettings::default()
        };
        ways.extend([
            (kafka.bootstrap_sasl(), plain),
            (kafka.bootstrap_both(), both),
        ]);
    }
    for (number, (bootstrap, settings)) in ways.into_iter().enumerate() {
        let name = format!("way-{number}");
        kafka.topic(&name, 2).unwrap();
        let topic = at(&bootstrap, &name, settings);
        assert_eq!(check(&topic, LIMIT).unwrap(), 2, "{topic}");
        run(async {
            let sending = Sending::start(&topic, LIMIT);
            sending.send("key", name.as_bytes());
            assert_eq!(sending.done().await, 1, "{topic}");
            let mut consumer = Consumer::start(Settings {
                kafka: topic,
                group: name.clone(),
                begin: Begin::Oldest,
                prefetch: ByteSize::mib(1),
                unsettled: 10,
            })
            .unwrap();
            assert_eq!(text(&next(&mut consumer).await), name);
            consumer.stop().await;
        });
    }
}

#[test]
fn who_is_not_let_in_gets_one_line_that_says_why() {
    let kafka = Kafka::start().unwrap();
    kafka.topic("t", 1).unwrap();
    let refusal = |bootstrap: &str, topic: &str, settings: KafkaSettings| {
        let topic = at(bootstrap, topic, settings);
        let error = check(&topic, Duration::from_secs(3)).unwrap_err();
        let line = error.to_string();
        assert!(line.starts_with(&topic.to_string()), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(!line.contains("sesame"), "{line}");
        println!("{line}");
        error
    };
    for mechanism in MECHANISMS {
        let settings = KafkaSettings {
            sasl: login(mechanism, kafka.wrong_password_file()),
            ..KafkaSettings::default()
        };
        let error = refusal(&kafka.bootstrap_sasl(), "t", settings);
        let line = error.to_string();
        assert!(matches!(error, CheckError::Refused { .. }), "{line}");
        assert!(
            line.contains("\"alice\"") && line.contains(&mechanism.to_string()),
            "{line}"
        );
    }
    let error = refusal(&kafka.bootstrap(), "missing", KafkaSettings::default());
    assert!(matches!(error, CheckError::NoTopic { .. }), "{error}");
    // A certificate of an authority that is not this machine's.
    let strangers = KafkaSettings {
        tls: Some(Tls::default()),
        ..KafkaSettings::default()
    };
    let error = refusal(&kafka.bootstrap_tls(), "t", strangers);
    assert!(matches!(error, CheckError::Tls { .. }), "{error}");
    let without_certificate = KafkaSettings {
        tls: Some(trusting(&kafka)),
        ..KafkaSettings::default()
    };
    refusal(&kafka.bootstrap_tls(), "t", without_certificate);
    // No TLS where there is some.
    let error = refusal(&kafka.bootstrap_tls(), "t", KafkaSettings::default());
    assert!(error.may_pass(), "{error}");
}
