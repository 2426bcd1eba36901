//! What a target wants: methods, filters of URLs, headers and users, shares of values, and its share of sessions.
//!
//! What enters: an exchange. What leaves: a decision that is the same on every relay and at every repetition.
//! What may be lost: nothing is decided by chance or by a clock here; rate limits live in the relay.

mod share;
mod url;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::changes::Changes;
use crate::exchange::{Captured, Exchange};
use crate::gor::Kind;
use crate::head::Head;
use crate::session::{self, SessionKey};
use crate::target::TargetDocument;

pub use share::{Part, Share, ShareBy, ValueShare};

use url::UrlPattern;

/// A header's name and the expression that its value is held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderRule {
    /// In any case.
    pub name: String,
    /// A regular expression, not anchored.
    pub matches: String,
}

/// A header or query parameter, and the share of its values that pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueLimit {
    /// Of a header in any case.
    pub name: String,
    /// By a hash of the value.
    pub share: ValueShare,
}

/// As what filters see a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FiltersSee {
    /// As it was captured.
    #[default]
    Captured,
    /// With the headers and parameters that the document sets, as GoReplay's do.
    Changed,
}

/// What becomes of an exchange at a target's door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is wanted; with the hash of its session key.
    Take(u64),
    /// It is an answer that came as a record of its own: wanted where its request was taken.
    Follow(u64),
    /// A filter refused it.
    Filtered,
    /// It is not in the share.
    SampledOut,
}

/// Of what kinds a target takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Takes {
    /// Requests that can't be read.
    opaque: bool,
    /// Answers on their own.
    answers: bool,
    /// Answers to replays.
    replayed: bool,
}

impl Takes {
    /// Requests that can be read.
    pub const REQUESTS: Takes = Takes {
        opaque: false,
        answers: false,
        replayed: false,
    };
    /// All requests.
    pub const ANY_REQUESTS: Takes = Takes {
        opaque: true,
        ..Takes::REQUESTS
    };
    /// All but what replays brought about.
    pub const ORIGINALS: Takes = Takes {
        answers: true,
        ..Takes::ANY_REQUESTS
    };
    /// All that comes.
    pub const ALL: Takes = Takes {
        replayed: true,
        ..Takes::ORIGINALS
    };

    fn takes(self, request: &Captured) -> bool {
        match request.kind() {
            Kind::Request => self.opaque || !request.head.is_opaque(),
            Kind::Answer => self.answers,
            Kind::Replayed => self.replayed,
        }
    }
}

/// A target's filters, compiled.
#[derive(Debug)]
pub struct Rules {
    takes: Takes,
    /// `None`: any method.
    methods: Option<Vec<String>>,
    allow_urls: Vec<UrlPattern>,
    deny_urls: Vec<UrlPattern>,
    allow_headers: Vec<(String, Regex)>,
    deny_headers: Vec<(String, Regex)>,
    allow_basic_auth: Vec<Regex>,
    header_limits: Vec<ValueLimit>,
    param_limits: Vec<ValueLimit>,
    /// What filters are to see of a request.
    seen: Option<Changes>,
    share: Share,
    share_by: ShareBy,
    part: Option<Part>,
    session_key: SessionKey,
    /// Not all requests are taken.
    selects: bool,
}

impl Rules {
    /// Compiles a document's filters.
    ///
    /// # Errors
    /// One line: the key and what is wrong with its value.
    pub fn compile(document: &TargetDocument, takes: Takes) -> Result<Rules, String> {
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
        let limits = document.header_limits.iter();
        if let Some(wrong) = limits.clone().find(|limit| !is_token(&limit.name)) {
            let name = &wrong.name;
            return Err(format!("header_limits: {name:?} is not a header's name"));
        }
        let urls = |key, expressions: &[String]| {
            let compile = |e: &String| UrlPattern::compile(key, e);
            expressions.iter().map(compile).collect::<Result<_, _>>()
        };
        let mut rules = Rules {
            takes,
            methods: (!any).then(|| document.methods.clone()),
            allow_urls: urls("allow_urls", &document.allow_urls)?,
            deny_urls: urls("deny_urls", &document.deny_urls)?,
            allow_headers: compile_headers("allow_headers", &document.allow_headers)?,
            deny_headers: compile_headers("deny_headers", &document.deny_headers)?,
            allow_basic_auth: compile_all("allow_basic_auth", &document.allow_basic_auth)?,
            header_limits: document.header_limits.clone(),
            param_limits: document.param_limits.clone(),
            seen: match document.filters_see {
                FiltersSee::Captured => None,
                FiltersSee::Changed => Changes::early(document)?,
            },
            share: document.share,
            share_by: document.share_by,
            part: document.part,
            session_key: document.session_key.clone(),
            selects: true,
        };
        rules.selects = rules.filters()
            || !rules.share.is_all()
            || rules.part.is_some()
            || document.rate_limit.is_some();
        Ok(rules)
    }

    /// True where answers that come as records of their own have to follow their requests.
    pub fn are_followed(&self) -> bool {
        self.selects && self.takes.answers
    }

    /// Decides on an exchange: filters first, then the share.
    pub fn decide(&self, exchange: &Exchange) -> Decision {
        let request = &exchange.request;
        if !self.takes.takes(request) {
            return Decision::Filtered;
        }
        if request.is_request() && self.filters() && !self.wants(request) {
            return Decision::Filtered;
        }
        let session = self.session_key.hash(request);
        if !request.is_request() {
            return match self.selects {
                true => Decision::Follow(session),
                false => Decision::Take(session),
            };
        }
        if self.is_in_share(exchange, session) {
            Decision::Take(session)
        } else {
            Decision::SampledOut
        }
    }

    fn is_in_share(&self, exchange: &Exchange, session: u64) -> bool {
        let by_session = self.share_by == ShareBy::Sessions;
        let in_share = self.share.is_all()
            || self.share.takes(match by_session {
                true => session,
                false => exchange.id.hash64(),
            });
        let in_part = |part: Part| match (by_session, &exchange.request.label) {
            (true, _) => part.takes_session(session),
            (false, Some(label)) => part.takes(label.turn()),
            (false, None) => part.takes(exchange.id.sequence),
        };
        in_share && self.part.is_none_or(in_part)
    }

    /// Whether a session may have requests here.
    pub(crate) fn may_take_session(&self, session: u64) -> bool {
        self.share_by == ShareBy::Requests
            || (self.share.takes(session)
                && self.part.is_none_or(|part| part.takes_session(session)))
    }

    /// True where there is any filter.
    fn filters(&self) -> bool {
        self.methods.is_some()
            || !(self.allow_urls.is_empty()
                && self.deny_urls.is_empty()
                && self.allow_headers.is_empty()
                && self.deny_headers.is_empty()
                && self.allow_basic_auth.is_empty()
                && self.header_limits.is_empty()
                && self.param_limits.is_empty())
    }

    fn wants(&self, request: &Captured) -> bool {
        // What can't be read passes no filter, nor does what can't be changed as asked for.
        if request.head.is_opaque() {
            return false;
        }
        match self.seen.as_ref().map(|seen| seen.apply(&request.head)) {
            None => self.wants_head(&request.head),
            Some(Ok(head)) => self.wants_head(&head),
            Some(Err(_)) => false,
        }
    }

    fn wants_head(&self, head: &Head) -> bool {
        if let Some(methods) = &self.methods
            && !methods.iter().any(|m| m == head.method())
        {
            return false;
        }
        let matches = |url: &UrlPattern| url.matches(head);
        if !self.allow_urls.is_empty() && !self.allow_urls.iter().any(matches) {
            return false;
        }
        if self.deny_urls.iter().any(matches) {
            return false;
        }
        // A repeated header counts as allowed if one of its lines is, and as denied if one of its lines is.
        let matches = |(name, re): &(String, Regex)| {
            head.headers()
                .any(|(n, value)| n.eq_ignore_ascii_case(name) && re.is_match(value))
        };
        if !self.allow_headers.iter().all(matches) || self.deny_headers.iter().any(matches) {
            return false;
        }
        self.wants_user(head) && self.wants_values(head)
    }

    /// Who has no name of Basic authentication passes; one that can't be decoded doesn't.
    fn wants_user(&self, head: &Head) -> bool {
        if self.allow_basic_auth.is_empty() {
            return true;
        }
        let Some(encoded) = head.header("authorization").and_then(basic) else {
            return true;
        };
        let Ok(user) = BASE64_STANDARD.decode(encoded.trim_ascii()) else {
            return false;
        };
        self.allow_basic_auth.iter().all(|re| re.is_match(&user))
    }

    fn wants_values(&self, head: &Head) -> bool {
        let header = |limit: &ValueLimit| {
            let value = head.header(&limit.name);
            value.is_none_or(|value| limit.share.takes(value))
        };
        let param = |limit: &ValueLimit| {
            let value = session::query_parameters(head, &limit.name).next();
            value.is_none_or(|value| limit.share.takes(value))
        };
        self.header_limits.iter().all(header) && self.param_limits.iter().all(param)
    }
}

/// What stands behind the scheme (RFC 7617 §2), in any case (RFC 9110 §11.1).
fn basic(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    scheme.eq_ignore_ascii_case(b"basic ").then_some(rest)
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
mod tests;
