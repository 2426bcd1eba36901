//! The services themselves: they start, keep what they have over a stop, and end.

use std::net::TcpStream;

use reprise_integration_tests::{Kafka, Search};

#[test]
fn a_broker_keeps_its_topics_over_a_stop() {
    let mut kafka = Kafka::start().unwrap();
    kafka.topic("a", 3).unwrap();
    kafka.stop();
    assert!(TcpStream::connect(kafka.bootstrap()).is_err());
    kafka.start_again().unwrap();
    let error = kafka.topic("a", 3).unwrap_err().to_string();
    assert!(error.contains("already exists"), "{error}");
}

#[test]
fn a_search_node_answers_again_after_a_stop() {
    let mut search = Search::start().unwrap();
    search.stop();
    assert!(TcpStream::connect(search.address()).is_err());
    search.start_again().unwrap();
    assert_eq!(search.get("/").unwrap()["cluster_name"], "reprise");
}
