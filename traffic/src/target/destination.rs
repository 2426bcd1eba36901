//! Where a target's exchanges go: what its URL says.
//!
//! What enters: a document. What leaves: a [`Destination`]. What may be lost: nothing; a key that says nothing about that
//! kind of destination is refused, because somebody expects something of it.

use super::{Endpoint, TargetDocument};
use crate::recording::Recording;

/// Where a target's exchanges go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To a web server.
    Server(Endpoint),
    /// Into files.
    Recording(Recording),
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
            Some(("file", _)) => {
                let settings = document.recording.clone().unwrap_or_default();
                Destination::Recording(Recording::new(&document.url, settings)?)
            }
            _ => Destination::Server(Endpoint::parse(&document.url)?),
        };
        let is_recording = matches!(destination, Destination::Recording(_));
        let useless = match &destination {
            Destination::Server(_) => None,
            Destination::Recording(_) | Destination::Nowhere => key_of_servers(document),
        };
        let recording = document.recording.as_ref().filter(|_| !is_recording);
        match useless.or(recording.map(|_| "recording".to_owned())) {
            Some(key) => Err(format!(
                "{key}: says nothing about url {:?}; take it out",
                document.url
            )),
            None => Ok(destination),
        }
    }
}

/// A key of a document that only a web server has a use for. Defaults are filled in on the way, so one that says the same
/// as its default passes.
fn key_of_servers(document: &TargetDocument) -> Option<String> {
    let TargetDocument {
        url,
        pool,
        split,
        methods,
        allow_urls,
        deny_urls,
        allow_headers,
        deny_headers,
        share,
        session_key,
        rate_limit,
        max_age,
        recording,
        ..
    } = document.clone();
    let plain = TargetDocument {
        pool,
        split,
        methods,
        allow_urls,
        deny_urls,
        allow_headers,
        deny_headers,
        share,
        session_key,
        rate_limit,
        max_age,
        recording,
        ..TargetDocument::new(&url)
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
        let json = serde_json::to_string(&target.document).unwrap();
        assert_eq!(TargetDocument::parse("x", &json).unwrap(), target.document);
        for (text, part) in [
            (
                "{url: 'file:///r/a.gor', recording: {apend: true}}",
                "apend",
            ),
            ("{url: 'file:///r/a.gor', timeout: 1s}", "timeout"),
            ("{url: 'file:///r/a.gor', ca_file: x}", "ca_file"),
            (
                "{url: 'file:///r/a.gor', set_headers: {A: b}}",
                "set_headers",
            ),
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
