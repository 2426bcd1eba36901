//! Where a target's exchanges go: what its URL says.
//!
//! What enters: a document. What leaves: a [`Destination`]. What may be lost: nothing; a key that says nothing about that
//! kind of destination is refused, because somebody expects something of it.

use super::{Endpoint, TargetDocument, default_concurrency, default_timeout};
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
        let is_server = matches!(destination, Destination::Server(_));
        let is_recording = matches!(destination, Destination::Recording(_));
        // Defaults are filled in on the way, so a key that says the same as its default passes.
        let keys = [
            ("recording", document.recording.is_some(), is_recording),
            ("original_host", document.original_host, is_server),
            ("skip_verify", document.skip_verify, is_server),
            ("ca_file", document.ca_file.is_some(), is_server),
            ("timeout", document.timeout != default_timeout(), is_server),
            (
                "concurrency",
                document.concurrency != default_concurrency(),
                is_server,
            ),
        ];
        match keys.iter().find(|(_, is_set, fits)| *is_set && !fits) {
            Some((key, ..)) => Err(format!(
                "{key}: says nothing about url {:?}; take it out",
                document.url
            )),
            None => Ok(destination),
        }
    }
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
