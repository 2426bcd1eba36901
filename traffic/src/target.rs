//! A target's document: what a team writes to have traffic replayed.
//!
//! What enters: YAML or JSON from etcd, from a watched file or from the command line.
//! What leaves: a checked [`Target`] with compiled rules. What may be lost: nothing; a document that can't be
//! honoured to the letter is refused with one line that says what and where.

mod destination;
mod document;
mod endpoint;
mod file;
mod stream;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::Serialize;

use crate::changes::Changes;
use crate::exchange::Closed;
use crate::rules::Rules;

pub use destination::Destination;
pub use document::{Connections, RateLimit, Split, TargetDocument};
pub use endpoint::Endpoint;
pub use file::TargetsFile;
pub use stream::{Stream, StreamKind, StreamSettings};

/// `TEAM/NAME`, each of letters, digits, `.`, `_` and `-`.
#[derive(Debug, Clone, Eq, PartialOrd, Ord, Serialize)]
pub struct TargetName(Arc<str>);

impl PartialEq for TargetName {
    // Nearly all names that are compared are clones of one.
    fn eq(&self, other: &TargetName) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Hash for TargetName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl TargetName {
    /// Checks a name.
    ///
    /// # Errors
    /// When it isn't `TEAM/NAME`.
    pub fn new(name: &str) -> Result<TargetName, TargetError> {
        let part = |part: &str| {
            !part.is_empty()
                && part.len() <= 100
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        match name.split_once('/') {
            Some((team, rest)) if part(team) && part(rest) => Ok(TargetName(name.into())),
            _ => Err(TargetError {
                place: format!("target {name:?}"),
                reason: "a target's name is TEAM/NAME, each of letters, digits, '.', '_' and '-'"
                    .to_owned(),
            }),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a target's document was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct TargetError {
    /// `target TEAM/NAME`, `file NAME`, or both.
    pub place: String,
    /// One line: what and where.
    pub reason: String,
}

/// A checked document: ready to route by and to send to.
#[derive(Debug)]
pub struct Target {
    /// `TEAM/NAME`.
    pub name: TargetName,
    /// Rises with each change; the newest counts.
    pub revision: u64,
    /// As its owner wrote it, defaults filled in.
    pub document: TargetDocument,
    /// From its URL.
    pub destination: Destination,
    /// From its filters and its share.
    pub rules: Rules,
    /// What its requests are changed to.
    pub changes: Changes,
}

impl Target {
    /// Checks a document and compiles its rules.
    ///
    /// # Errors
    /// One line: which key is wrong, and how.
    pub fn new(
        name: TargetName,
        revision: u64,
        document: TargetDocument,
    ) -> Result<Target, TargetError> {
        let refuse = |reason: String| TargetError {
            place: format!("target {name}"),
            reason,
        };
        let destination = Destination::of(&document).map_err(refuse)?;
        let rules = Rules::compile(&document, destination.takes()).map_err(refuse)?;
        let base = match &destination {
            Destination::Server(endpoint) => Some(endpoint.base.as_str()),
            _ => None,
        };
        let changes = Changes::compile(&document, base).map_err(refuse)?;
        document.check(destination.is_tls()).map_err(refuse)?;
        Ok(Target {
            name,
            revision,
            document,
            destination,
            rules,
            changes,
        })
    }

    /// The session whose connection ends with a captured one, where that may be one of this target's.
    pub fn session_closed_by(&self, closed: &Closed) -> Option<u64> {
        let own = self.document.connections == Connections::PerSession;
        let key = own.then_some(&self.document.session_key)?;
        let session = key.hash_of_connection(closed)?;
        self.rules.may_take_session(session).then_some(session)
    }

    /// The web server that it is, where it is one.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match &self.destination {
            Destination::Server(endpoint) => Some(endpoint),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FILE: &str = "targets:
  shop/checkout:
    url: https://staging.example:8443
    methods: [any]
    share: 1/32
    session_key: cookie:sid
    rate_limit: 500/s
    timeout: 250ms
    allow_headers: [{name: X-Version, matches: ^1\\.}]
";

    #[test]
    fn a_file_of_targets() {
        let targets = TargetsFile::parse("t.yaml", FILE, 3).unwrap();
        let target = &targets[0];
        assert_eq!(target.name.as_str(), "shop/checkout");
        let endpoint = target.endpoint().unwrap();
        assert_eq!(endpoint.host_header(), "staging.example:8443");
        assert_eq!(target.document.timeout, Duration::from_millis(250));
        assert_eq!(target.document.pool, "default");
        assert_eq!(target.revision, 3);
        let json = serde_json::to_string(&target.document).unwrap();
        assert_eq!(TargetDocument::parse("x", &json).unwrap(), target.document);
    }

    #[test]
    fn mistakes_are_named_in_one_line() {
        for (text, part) in [
            ("targets:\n  a/b: {url: 'http://h', colour: red}", "colour"),
            ("targets:\n  a/b: {url: 'ftp://h'}", "scheme"),
            ("targets:\n  a/b: {url: 'http://h', share: 200%}", "200%"),
            (
                "targets:\n  a/b: {url: 'http://h', allow_urls: ['(']}",
                "allow_urls",
            ),
            (
                "targets:\n  a/b: {url: 'http://h', rate_limit: fast}",
                "fast",
            ),
            ("targets:\n  a/b: {url: 'http://h', redirects: 21}", "21"),
            ("targets:\n  a/b: {url: 'http://h', retries: 11}", "11"),
            (
                "targets:\n  a/b: {url: 'http://h', connect_timeout: 0s}",
                "0s",
            ),
            (
                "targets:\n  a/b: {url: 'https://h', client_key_file: /k}",
                "client_cert_file is missing",
            ),
            (
                "targets:\n  a/b: {url: 'http://h', server_name: s}",
                "server_name: the url",
            ),
            (
                "targets:\n  a/b: {url: 'http://h', redirects: -1}",
                "redirects: -1",
            ),
            (
                "targets:\n  a/b:\n    url: http://h\n    timeout: soon\n",
                "timeout: soon",
            ),
            (
                "targets:\n  a/b: {url: 'http://h', breaker: {probes: 0}}",
                "probes: 0",
            ),
            ("targets:\n  b: {url: 'http://h'}", "TEAM/NAME"),
            ("targets:\n  a/b: {}", "url"),
            ("targets: [", "line"),
            ("", "line 1"),
        ] {
            let error = TargetsFile::parse("t.yaml", text, 0)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_replayer_of_the_version_before_takes_a_document_without_new_keys() {
        let json = serde_json::to_string(&TargetDocument::new("http://h")).unwrap();
        for key in [
            "documents",
            "kafka",
            "breaker",
            "redirects",
            "retries",
            "connect_timeout",
            "set_",
            "rewrite",
            "client",
        ] {
            assert!(!json.contains(key), "{key}: {json}");
        }
    }

    #[test]
    fn the_sample_is_good_and_shows_every_key() {
        let text = include_str!("../../deploy/targets.yaml");
        let targets = TargetsFile::parse("targets.yaml", text, 1).unwrap();
        let full = targets
            .iter()
            .find(|t| t.name.as_str() == "shop/checkout-v2");
        let full = serde_json::to_value(&full.unwrap().document).unwrap();
        let default = serde_json::to_value(TargetDocument::new("http://h")).unwrap();
        let refused = serde_json::from_str::<TargetDocument>("{\"nonsense\": 1}").unwrap_err();
        let refused = refused.to_string();
        let keys: Vec<&str> = refused.split('`').skip(3).step_by(2).collect();
        assert!(keys.contains(&"url") && keys.len() > 20, "{keys:?}");
        let elsewhere = ["recording", "stream", "kafka"];
        for key in elsewhere {
            assert!(text.contains(&format!("\n    {key}:")), "{key}");
        }
        for key in keys.into_iter().filter(|key| !elsewhere.contains(key)) {
            assert!(full.get(key).is_some(), "{key}");
        }
        for (key, value) in full.as_object().unwrap() {
            assert!(text.contains(&format!("\n    {key}: ")), "{key}");
            assert_ne!(default.get(key), Some(value), "{key}");
        }
    }
}
