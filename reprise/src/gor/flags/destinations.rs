//! Flags of web servers and Kafka.

use super::Kind::{Count, Each, OneOf, Size, Switch, Text, Time};
use super::{Flag, noted, on};

const MECHANISMS: super::Kind = OneOf(&["plain", "scram-sha-256", "scram-sha-512"]);

pub(super) const HTTP: &[Flag] = &[
    on(
        "output-http",
        Each("URL[|LIMIT]"),
        "",
        "Replay to this web server, [http://|https://][USER:PASSWORD@]HOST[:PORT][/PATH]; the path goes in front of each request's own",
    ),
    on(
        "http-original-host",
        Switch,
        "false",
        "Keep the request's Host instead of setting the server's",
    ),
    on(
        "output-http-workers",
        Count,
        "0",
        "Requests under way to each server; 0, or -1, for 500",
    ),
    on(
        "output-http-timeout",
        Time,
        "5s",
        "How long a response may take",
    ),
    on(
        "output-http-redirects",
        Count,
        "0",
        "Redirects to follow, 20 at most",
    ),
    on(
        "output-http-skip-verify",
        Switch,
        "false",
        "Take any certificate of https servers",
    ),
    on(
        "output-http-track-response",
        Switch,
        "false",
        "Give the responses to the other outputs and to the middleware",
    ),
    on(
        "output-http-response-buffer",
        Size,
        "100kb",
        "How much of a response's body is kept",
    ),
    on(
        "output-http-stats",
        Switch,
        "false",
        "Print this output's counters on stderr while running",
    ),
    on(
        "output-http-stats-ms",
        Count,
        "5000",
        "Milliseconds between two lines of counters",
    ),
    on(
        "output-http-elasticsearch",
        Text("URL"),
        "",
        "Put a document about each replayed request into an index, [http://|https://][USER:PASSWORD@]HOST[:PORT]/INDEX",
    ),
    noted(
        "output-http-workers-min",
        Count,
        "connections are opened as they are needed and kept",
    ),
    noted(
        "output-http-worker-timeout",
        Time,
        "there are no workers; idle connections are closed after a while",
    ),
    noted(
        "output-http-queue-len",
        Count,
        "what waits is bounded by memory and age, and counted where it is dropped",
    ),
    noted(
        "output-http-compatibility-mode",
        Switch,
        "there is one client for all servers",
    ),
    noted("output-http-debug", Switch, "--verbose 2 says as much"),
];

pub(super) const KAFKA: &[Flag] = &[
    on(
        "input-kafka-host",
        Text("HOST:PORT[,…]"),
        "",
        "Take messages from a topic of these brokers",
    ),
    on("input-kafka-topic", Text("NAME"), "", "The topic"),
    on(
        "input-kafka-json-format",
        Switch,
        "false",
        "Messages are JSON, not recorded requests as they stand",
    ),
    on(
        "input-kafka-offset",
        Text("N[|LIMIT]"),
        "-1",
        "Where to begin: -1 behind the newest, -2 at the oldest, or an offset; with |200% at twice production's pace",
    ),
    on("input-kafka-use-sasl", Switch, "false", "Log in by SASL"),
    on(
        "input-kafka-mechanism",
        MECHANISMS,
        "plain",
        "How to log in",
    ),
    on("input-kafka-username", Text("NAME"), "", "The user"),
    on("input-kafka-password", Text("TEXT"), "", "The password"),
    on(
        "output-kafka-host",
        Text("HOST:PORT[,…]"),
        "",
        "Give messages to a topic of these brokers",
    ),
    on("output-kafka-topic", Text("NAME"), "", "The topic"),
    on(
        "output-kafka-json-format",
        Switch,
        "false",
        "Messages are JSON, not recorded requests as they stand",
    ),
    on("output-kafka-use-sasl", Switch, "false", "Log in by SASL"),
    on(
        "output-kafka-mechanism",
        MECHANISMS,
        "plain",
        "How to log in",
    ),
    on("output-kafka-username", Text("NAME"), "", "The user"),
    on("output-kafka-password", Text("TEXT"), "", "The password"),
    on(
        "kafka-tls-ca-cert",
        Text("FILE"),
        "",
        "Over TLS; the brokers' authority, PEM",
    ),
    on(
        "kafka-tls-client-cert",
        Text("FILE"),
        "",
        "Over TLS; our certificate, PEM",
    ),
    on(
        "kafka-tls-client-key",
        Text("FILE"),
        "",
        "Over TLS; its key, PEM",
    ),
];
