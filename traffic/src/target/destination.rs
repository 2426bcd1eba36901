//! Where a target's exchanges go: what its URL says.
//!
//! What enters: a document. What leaves: a [`Destination`]. What may be lost: nothing; a key that says nothing about that
//! kind of destination is refused, because somebody expects something of it.

use super::{Endpoint, Stream, StreamKind, TargetDocument};
use crate::kafka::{Format, Kafka};
use crate::recording::Recording;
use crate::rules::Takes;

/// Where a target's exchanges go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To a web server.
    Server(Endpoint),
    /// Into files.
    Recording(Recording),
    /// To a server that takes a stream.
    Stream(Stream),
    /// Into a topic of Kafka's.
    Kafka(Kafka),
    /// To standard output, as records.
    Stdout,
    /// Nowhere: they are taken, and that is all. For measuring what comes before.
    Nowhere,
}

impl Destination {
    /// Reads a document's URL, with the keys that go with one kind of destination only.
    ///
    /// # Errors
    /// One line: what a URL should look like, or which key doesn't go with it.
    pub(super) fn of(document: &TargetDocument) -> Result<Destination, String> {
        let destination = match document.url.split_once(':') {
            Some(("null", "")) => Destination::Nowhere,
            Some(("stdout", "")) => Destination::Stdout,
            Some(("file", _)) => {
                let settings = document.recording.clone().unwrap_or_default();
                Destination::Recording(Recording::new(&document.url, settings)?)
            }
            Some(("kafka", _)) => {
                let settings = document.kafka.clone().unwrap_or_default();
                Destination::Kafka(Kafka::new(&document.url, settings)?)
            }
            Some((scheme, _)) if Stream::is_scheme(scheme) => {
                let settings = document.stream.clone().unwrap_or_default();
                Destination::Stream(Stream::parse(&document.url, settings)?)
            }
            _ => Destination::Server(Endpoint::parse(&document.url)?),
        };
        let is_recording = matches!(destination, Destination::Recording(_));
        let is_stream = matches!(destination, Destination::Stream(_));
        let is_kafka = matches!(destination, Destination::Kafka(_));
        let is_server = matches!(destination, Destination::Server(_));
        let useless = match is_server {
            true => None,
            false => key_of_servers(document, is_stream),
        };
        let recording = document.recording.as_ref().filter(|_| !is_recording);
        let stream = document.stream.as_ref().filter(|_| !is_stream);
        let kafka = document.kafka.as_ref().filter(|_| !is_kafka);
        let useless = useless
            .or(recording.map(|_| "recording".to_owned()))
            .or(stream.map(|_| "stream".to_owned()))
            .or(kafka.map(|_| "kafka".to_owned()));
        match useless {
            Some(key) => Err(format!(
                "{key}: says nothing about url {:?}; take it out",
                document.url
            )),
            None => Ok(destination),
        }
    }

    /// Of what kinds it takes messages.
    pub(super) fn takes(&self) -> Takes {
        match self {
            Destination::Server(_) => Takes::REQUESTS,
            Destination::Stream(stream) => match stream.kind {
                StreamKind::Records => Takes::ORIGINALS,
                StreamKind::WebSocket { .. } => Takes::ALL,
                StreamKind::Binary => Takes::ANY_REQUESTS,
            },
            Destination::Kafka(kafka) => match kafka.settings.format {
                Format::Record => Takes::ALL,
                Format::Json => Takes::REQUESTS,
            },
            Destination::Recording(_) | Destination::Stdout | Destination::Nowhere => Takes::ALL,
        }
    }

    /// True where a certificate is looked at.
    pub(super) fn is_tls(&self) -> bool {
        match self {
            Destination::Server(endpoint) => endpoint.tls,
            Destination::Stream(stream) => stream.tls,
            // Its certificates are named under `kafka`.
            Destination::Kafka(_)
            | Destination::Recording(_)
            | Destination::Stdout
            | Destination::Nowhere => false,
        }
    }
}

/// A key of a document that only a web server has a use for, or only what is reached over the network. Defaults are filled
/// in on the way, so one that says the same as its default passes.
fn key_of_servers(document: &TargetDocument, is_remote: bool) -> Option<String> {
    let TargetDocument {
        url,
        pool,
        split,
        methods,
        allow_urls,
        deny_urls,
        allow_headers,
        deny_headers,
        allow_basic_auth,
        header_limits,
        param_limits,
        filters_see,
        share,
        share_by,
        part,
        session_key,
        rate_limit,
        remove_headers,
        set_headers,
        set_params,
        rewrite_urls,
        rewrite_headers,
        connect_timeout,
        skip_verify,
        ca_file,
        client_cert_file,
        client_key_file,
        server_name,
        max_age,
        recording,
        stream,
        kafka,
        ..
    } = document.clone();
    let default = TargetDocument::new(&url);
    let remote = TargetDocument {
        connect_timeout,
        skip_verify,
        ca_file,
        client_cert_file,
        client_key_file,
        server_name,
        ..default.clone()
    };
    let plain = TargetDocument {
        pool,
        split,
        methods,
        allow_urls,
        deny_urls,
        allow_headers,
        deny_headers,
        allow_basic_auth,
        header_limits,
        param_limits,
        filters_see,
        share,
        share_by,
        part,
        session_key,
        rate_limit,
        remove_headers,
        set_headers,
        set_params,
        rewrite_urls,
        rewrite_headers,
        max_age,
        recording,
        stream,
        kafka,
        ..if is_remote { remote } else { default }
    };
    let keys = |document: &TargetDocument| match serde_json::to_value(document) {
        Ok(serde_json::Value::Object(keys)) => keys,
        _ => serde_json::Map::new(),
    };
    let plain = keys(&plain);
    let changed = |(key, value): &(String, serde_json::Value)| plain.get(key) != Some(value);
    keys(document).into_iter().find(changed).map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Target, TargetName};

    #[test]
    fn destinations_and_the_keys_that_go_with_them() {
        let of = |text: &str| {
            let document = TargetDocument::parse("t/a", text)?;
            Target::new(TargetName::new("t/a")?, 1, document)
        };
        let target = of("url: 'null:'").unwrap();
        assert_eq!(target.destination, Destination::Nowhere);
        let target = of("{url: 'file:///r/a.gor', recording: {append: true}}").unwrap();
        let Destination::Recording(recording) = &target.destination else {
            panic!("{target:?}");
        };
        assert!(recording.settings.append && recording.settings.queue_limit == 256);
        let target = of("{url: 'stdout:', set_headers: {A: b}}").unwrap();
        assert_eq!(target.destination, Destination::Stdout);
        let target = of("{url: 'tls://h:1', skip_verify: true, stream: {sticky: true}}").unwrap();
        let Destination::Stream(stream) = &target.destination else {
            panic!("{target:?}");
        };
        assert!(stream.tls && stream.settings.sticky && stream.settings.connections.get() == 10);
        let json = serde_json::to_string(&target.document).unwrap();
        assert_eq!(TargetDocument::parse("x", &json).unwrap(), target.document);
        let target = of("{url: 'kafka://h,i/t', kafka: {format: json}, max_age: 5m}").unwrap();
        let Destination::Kafka(kafka) = &target.destination else {
            panic!("{target:?}");
        };
        assert_eq!(kafka.to_string(), "kafka://h:9092,i:9092/t");
        assert_eq!(target.destination.takes(), Takes::REQUESTS);
        assert_eq!(
            of("url: 'kafka://h/t'").unwrap().destination.takes(),
            Takes::ALL
        );
        for (text, part) in [
            (
                "{url: 'file:///r/a.gor', recording: {apend: true}}",
                "apend",
            ),
            ("{url: 'file:///r/a.gor', timeout: 1s}", "timeout"),
            ("{url: 'file:///r/a.gor', ca_file: x}", "ca_file"),
            ("{url: 'tcp://h:1', concurrency: 1}", "concurrency"),
            ("{url: 'tcp://h:1', server_name: s}", "server_name"),
            ("{url: 'http://h', stream: {}}", "stream"),
            ("{url: 'http://h', kafka: {}}", "kafka"),
            ("{url: 'http://h', documents: 'h:9200'}", "no index"),
            ("{url: 'null:', documents: 'h:9200/i'}", "documents"),
            ("{url: 'kafka://h'}", "no topic"),
            ("{url: 'kafka://h/t', skip_verify: true}", "skip_verify"),
            (
                "{url: 'kafka://h/t', kafka: {tls: {cert_file: a}}}",
                "key_file",
            ),
            ("{url: 'stdout:', skip_verify: true}", "skip_verify"),
            ("{url: 'tcp://h:1', stream: {connections: 2000}}", "2000"),
            ("{url: 'null:', breaker: off}", "breaker"),
            ("{url: 'null:', recording: {}}", "recording"),
            ("{url: 'null:', original_host: true}", "original_host"),
            ("{url: 'http://h', recording: {}}", "recording"),
            ("url: 'null:x'", "scheme"),
        ] {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
