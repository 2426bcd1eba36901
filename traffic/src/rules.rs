//! What a target wants: methods, URL and header filters, and its share of sessions.
//!
//! What enters: an exchange. What leaves: a decision that is the same on every relay and at every repetition.
//! What may be lost: nothing is decided by chance or by a clock here; rate limits live in the relay.

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::exchange::Captured;
use crate::session::SessionKey;
use crate::target::TargetDocument;

/// A header's name and the expression that its value is held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderRule {
    /// In any case.
    pub name: String,
    /// A regular expression, not anchored.
    pub matches: String,
}

/// A share of sessions: `10%`, `0.5%`, `1/32`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Share(f64);

impl Default for Share {
    fn default() -> Share {
        Share(1.0)
    }
}

impl TryFrom<String> for Share {
    type Error = String;

    fn try_from(text: String) -> Result<Share, String> {
        let fraction = if let Some(percent) = text.strip_suffix('%') {
            percent.trim().parse::<f64>().ok().map(|p| p / 100.0)
        } else {
            text.split_once('/').and_then(|(a, b)| {
                let (a, b) = (a.trim().parse::<u32>().ok()?, b.trim().parse::<u32>().ok()?);
                (b > 0).then(|| f64::from(a) / f64::from(b))
            })
        };
        fraction
            .filter(|f| (0.0..=1.0).contains(f))
            .map(Share)
            .ok_or_else(|| format!("share {text:?} is not between 0% and 100%; write 10% or 1/32"))
    }
}

impl From<Share> for String {
    fn from(share: Share) -> String {
        format!("{}%", share.0 * 100.0)
    }
}

impl Share {
    /// Whether a session is in the share. Independent of where the ring puts the session.
    pub fn takes(self, session: u64) -> bool {
        // The ring uses the hash itself; mixing keeps a 10 % share spread over all replayers.
        let mixed = xxhash_rust::xxh3::xxh3_64(&session.to_le_bytes());
        self.0 >= 1.0 || (mixed as f64) < self.0 * (u64::MAX as f64)
    }
}

/// What becomes of an exchange at a target's door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is wanted; with the hash of its session key.
    Take(u64),
    /// A filter refused it.
    Filtered,
    /// Its session is not in the share.
    SampledOut,
}

/// A target's filters, compiled.
#[derive(Debug)]
pub struct Rules {
    /// `None`: any method.
    methods: Option<Vec<String>>,
    allow_urls: Vec<Regex>,
    deny_urls: Vec<Regex>,
    allow_headers: Vec<(String, Regex)>,
    deny_headers: Vec<(String, Regex)>,
    share: Share,
    session_key: SessionKey,
}

impl Rules {
    /// Compiles a document's filters.
    ///
    /// # Errors
    /// One line: the key and what is wrong with its value.
    pub fn compile(document: &TargetDocument) -> Result<Rules, String> {
        let any = document
            .methods
            .iter()
            .any(|m| m.eq_ignore_ascii_case("any"));
        if let Some(wrong) = document.methods.iter().find(|m| !is_token(m)) {
            return Err(format!("methods: {wrong:?} is not an HTTP method"));
        }
        if document.methods.is_empty() {
            return Err("methods: is empty, which would replay nothing".to_owned());
        }
        Ok(Rules {
            methods: (!any).then(|| document.methods.clone()),
            allow_urls: compile_all("allow_urls", &document.allow_urls)?,
            deny_urls: compile_all("deny_urls", &document.deny_urls)?,
            allow_headers: compile_headers("allow_headers", &document.allow_headers)?,
            deny_headers: compile_headers("deny_headers", &document.deny_headers)?,
            share: document.share,
            session_key: document.session_key.clone(),
        })
    }

    /// Decides on an exchange: filters first, then the share of sessions.
    pub fn decide(&self, request: &Captured) -> Decision {
        if !self.wants(request) {
            return Decision::Filtered;
        }
        let session = self.session_key.hash(request);
        if self.share.takes(session) {
            Decision::Take(session)
        } else {
            Decision::SampledOut
        }
    }

    fn wants(&self, request: &Captured) -> bool {
        let head = &request.head;
        if let Some(methods) = &self.methods
            && !methods.iter().any(|m| m == head.method())
        {
            return false;
        }
        let url = head.path_and_query();
        if !self.allow_urls.is_empty() && !self.allow_urls.iter().any(|re| re.is_match(url)) {
            return false;
        }
        if self.deny_urls.iter().any(|re| re.is_match(url)) {
            return false;
        }
        // A repeated header counts as allowed if one of its lines is, and as denied if one of its lines is.
        let matches = |(name, re): &(String, Regex)| {
            head.headers()
                .any(|(n, value)| n.eq_ignore_ascii_case(name) && re.is_match(value))
        };
        self.allow_headers.iter().all(matches) && !self.deny_headers.iter().any(matches)
    }
}

/// True for what may be a method or a header's name (RFC 9110 §5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A compiled expression may take this much memory, bytes; a document is not trusted to be small.
const MAX_REGEX: usize = 1 << 20;

/// Compiles an expression of the document's `key`.
pub(crate) fn compile(key: &str, expression: &str) -> Result<Regex, String> {
    RegexBuilder::new(expression)
        .size_limit(MAX_REGEX)
        .build()
        .map_err(|error| {
            let error = error.to_string();
            let last = error.lines().last().unwrap_or_default();
            format!(
                "{key}: {expression:?}: {}",
                last.trim_start_matches("error: ")
            )
        })
}

fn compile_all(key: &str, expressions: &[String]) -> Result<Vec<Regex>, String> {
    expressions.iter().map(|e| compile(key, e)).collect()
}

fn compile_headers(key: &str, rules: &[HeaderRule]) -> Result<Vec<(String, Regex)>, String> {
    rules
        .iter()
        .map(|rule| {
            if !is_token(&rule.name) {
                return Err(format!("{key}: {:?} is not a header's name", rule.name));
            }
            Ok((rule.name.clone(), compile(key, &rule.matches)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::body::Body;
    use crate::exchange::Source;
    use crate::head::Head;

    fn request(line: &str, headers: &str, port: u16) -> Captured {
        let raw = format!("{line} HTTP/1.1\r\n{headers}\r\n");
        Captured {
            captured_ns: 0,
            client: ([10, 0, 0, 9], port).into(),
            server: ([10, 0, 0, 1], 80).into(),
            source: Source::Wire,
            head: Head::parse(Bytes::from(raw)).unwrap(),
            body: Body::default(),
            trailers: Bytes::new(),
            answer: None,
            label: None,
        }
    }

    fn rules(yaml: &str) -> Rules {
        let text = format!("{{url: 'http://h', {yaml}}}");
        Rules::compile(&TargetDocument::parse("t", &text).unwrap()).unwrap()
    }

    fn takes(rules: &Rules, line: &str, headers: &str) -> bool {
        matches!(rules.decide(&request(line, headers, 1)), Decision::Take(_))
    }

    #[test]
    fn safe_methods_only_unless_asked_for() {
        let default = rules("");
        assert!(takes(&default, "GET /", ""));
        assert!(takes(&default, "TRACE /", ""));
        assert!(!takes(&default, "POST /", ""));
        assert!(!takes(&default, "get /", ""));
        assert!(!takes(&default, "PURGE /", ""));
        let any = rules("methods: [any]");
        assert!(takes(&any, "POST /", "") && takes(&any, "PURGE /", ""));
        let post = rules("methods: [POST]");
        assert!(takes(&post, "POST /", "") && !takes(&post, "GET /", ""));
    }

    #[test]
    fn url_and_header_filters() {
        let urls = rules("allow_urls: [^/api, ^/v1], deny_urls: [secret]");
        assert!(takes(&urls, "GET /api/x", ""));
        assert!(takes(&urls, "GET http://other/v1/x", ""));
        assert!(!takes(&urls, "GET /x/api", ""));
        assert!(!takes(&urls, "GET /api/secret", ""));
        let headers = rules(
            "allow_headers: [{name: V, matches: ^1}], deny_headers: [{name: Bot, matches: .}]",
        );
        assert!(takes(&headers, "GET /", "v: 1.2\r\n"));
        assert!(!takes(&headers, "GET /", ""));
        assert!(!takes(&headers, "GET /", "v: 2\r\n"));
        assert!(!takes(&headers, "GET /", "v: 1\r\nbot: y\r\n"));
    }

    #[test]
    fn a_share_takes_whole_sessions_and_about_its_part() {
        let tenth = rules("share: 10%");
        let taken = (1..10_000)
            .filter(|port| {
                let decide = || tenth.decide(&request("GET /", "", *port));
                assert_eq!(decide(), decide());
                matches!(decide(), Decision::Take(_))
            })
            .count();
        assert!((850..1150).contains(&taken), "{taken}");
        assert!(takes(&rules("share: 100%"), "GET /", ""));
        assert!(!takes(&rules("share: 0%"), "GET /", ""));
    }
}
