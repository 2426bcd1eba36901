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
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::body::Body;
    use crate::exchange::{Epoch, ExchangeId, Source};
    use crate::label::Label;

    fn request(line: &str, headers: &str, port: u16) -> Exchange {
        let raw = format!("{line} HTTP/1.1\r\n{headers}\r\n");
        of(Head::parse(Bytes::from(raw)).unwrap(), port)
    }

    fn of(head: Head, port: u16) -> Exchange {
        let request = Captured {
            captured_ns: 0,
            client: ([10, 0, 0, 9], port).into(),
            server: ([10, 0, 0, 1], 80).into(),
            source: Source::Wire,
            head,
            body: Body::default(),
            trailers: Bytes::new(),
            answer: None,
            label: None,
        };
        let epoch = Arc::new(Epoch::new("l", 1));
        let id = ExchangeId {
            epoch,
            sequence: u64::from(port),
        };
        Exchange {
            id,
            due_ns: None,
            request,
        }
    }

    fn labelled(line: &str, turn: u64) -> Exchange {
        let mut exchange = request("GET /api", "", 1);
        let label = Label::new(line.as_bytes(), turn).unwrap();
        if label.kind() != Kind::Request {
            exchange.request.head = Head::opaque();
        }
        exchange.request.label = Some(Box::new(label));
        exchange
    }

    fn rules(yaml: &str) -> Rules {
        rules_of(yaml, Takes::REQUESTS)
    }

    fn rules_of(yaml: &str, takes: Takes) -> Rules {
        let text = format!("{{url: 'http://h', {yaml}}}");
        Rules::compile(&TargetDocument::parse("t", &text).unwrap(), takes).unwrap()
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

    #[test]
    fn shares_and_parts_of_requests() {
        let tenth = rules("share: 10%, share_by: requests");
        let taken = (1..10_000)
            .filter(|port| {
                matches!(
                    tenth.decide(&request("GET /", "", *port)),
                    Decision::Take(_)
                )
            })
            .count();
        assert!((900..1100).contains(&taken), "{taken}");
        let third = rules("part: 2/3, share_by: requests, methods: [any]");
        for turn in 0..9 {
            let taken = matches!(third.decide(&labelled("1 a 1 1", turn)), Decision::Take(_));
            assert_eq!(taken, turn % 3 == 1);
        }
    }

    /// The values of the limiters are tested beside their hash.
    #[test]
    fn users_and_values() {
        let users = rules("allow_basic_auth: ['^joe:'], methods: [any]");
        let auth = |text: &str| {
            let encoded = BASE64_STANDARD.encode(text);
            format!("Authorization: basic {encoded}\r\n")
        };
        assert!(takes(&users, "GET /", &auth("joe:x")) && takes(&users, "GET /", ""));
        assert!(!takes(&users, "GET /", &auth("jim:x")));
        assert!(!takes(&users, "GET /", "Authorization: Basic %%%\r\n"));
        assert!(takes(&users, "GET /", "Authorization: Bearer %%%\r\n"));
        let values = rules(
            "header_limits: [{name: User-Id, share: 32%}], param_limits: [{name: id, share: 12%}]",
        );
        assert!(takes(&values, "GET /?id=42", "user-id: abc\r\n"));
        assert!(takes(&values, "GET /", ""));
        assert!(!takes(&values, "GET /?id=1", "user-id: abc\r\n"));
        assert!(!takes(&values, "GET /?id=42", "user-id: user-2\r\n"));
    }

    #[test]
    fn filters_may_see_what_is_set() {
        let set = "set_headers: {V: '1'}, set_params: {k: '2'}, allow_urls: ['k=2'], \
            allow_headers: [{name: V, matches: '1'}]";
        assert!(!takes(&rules(set), "GET /", ""));
        let changed = rules(&format!("{set}, filters_see: changed"));
        assert!(takes(&changed, "GET /", ""));
    }

    #[test]
    fn what_can_not_be_read_passes_no_filter() {
        let opaque = of(Head::opaque(), 1);
        for (yaml, taken) in [
            ("methods: [any]", true),
            ("methods: [any], allow_urls: [.*]", false),
            ("methods: [any], deny_urls: [x]", false),
            (
                "methods: [any], deny_headers: [{name: A, matches: x}]",
                false,
            ),
            (
                "methods: [any], header_limits: [{name: A, share: 1%}]",
                false,
            ),
            (
                "methods: [any], param_limits: [{name: A, share: 1%}]",
                false,
            ),
            ("methods: [any], allow_basic_auth: [x]", false),
            ("", false),
        ] {
            let is_taken =
                |takes| matches!(rules_of(yaml, takes).decide(&opaque), Decision::Take(_));
            assert_eq!(is_taken(Takes::ALL), taken, "{yaml}");
            assert!(!is_taken(Takes::REQUESTS));
        }
    }

    #[test]
    fn answers_on_their_own_follow_their_requests() {
        let answer = labelled("2 a 1 1", 0);
        let replayed = labelled("3 a 1 1", 0);
        let decide = |yaml, takes, exchange| rules_of(yaml, takes).decide(exchange);
        for (yaml, follows) in [
            ("methods: [any]", false),
            ("", true),
            ("methods: [any], share: 10%", true),
            ("methods: [any], part: 1/2", true),
            ("methods: [any], rate_limit: 1/s", true),
        ] {
            let decision = decide(yaml, Takes::ALL, &answer);
            assert_eq!(matches!(decision, Decision::Follow(_)), follows, "{yaml}");
            assert_eq!(rules_of(yaml, Takes::ALL).are_followed(), follows);
            assert_eq!(decide(yaml, Takes::REQUESTS, &answer), Decision::Filtered);
        }
        let any = "methods: [any]";
        assert_eq!(decide(any, Takes::ORIGINALS, &replayed), Decision::Filtered);
        assert!(matches!(
            decide(any, Takes::ORIGINALS, &answer),
            Decision::Take(_)
        ));
        assert!(matches!(
            decide(any, Takes::ALL, &replayed),
            Decision::Take(_)
        ));
    }
}
