//! What a team writes to have traffic replayed: a target's document.
//!
//! What enters: YAML or JSON. What leaves: its keys, defaults filled in, checked as far as each says by itself and beside the
//! others whether it can be honoured. What may be lost: nothing; unknown keys are refused.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::file::parse_yaml;
use super::{StreamSettings, TargetError};
use crate::breaker::Breaker;
use crate::changes::{HeaderRewrite, UrlRewrite};
use crate::documents::Address;
use crate::kafka::KafkaSettings;
use crate::recording::RecordingSettings;
use crate::rules::{FiltersSee, HeaderRule, Part, Share, ShareBy, ValueLimit};
use crate::session::SessionKey;
use crate::size::ByteSize;

/// How a pool's replayers share a target's sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Each session stays with one replayer (Maglev over the session key).
    #[default]
    Hash,
    /// Each exchange goes to the next replayer; sessions are not kept together.
    RoundRobin,
}

/// What waits for its time is in a replayer's memory.
const MAX_REORDER_WINDOW: Duration = Duration::from_secs(5);

/// Over which connections a replayer sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connections {
    /// Over whichever is free.
    #[default]
    Shared,
    /// Each session over one of its own.
    PerSession,
}

/// Exchanges a second, written `500/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RateLimit(pub NonZeroU32);

impl TryFrom<String> for RateLimit {
    type Error = String;

    fn try_from(text: String) -> Result<RateLimit, String> {
        text.strip_suffix("/s")
            .and_then(|n| n.trim().parse().ok())
            .map(RateLimit)
            .ok_or_else(|| format!("rate {text:?} is not written like 500/s"))
    }
}

impl From<RateLimit> for String {
    fn from(rate: RateLimit) -> String {
        format!("{}/s", rate.0)
    }
}

/// What a team writes. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetDocument {
    /// Where requests go: `http://host[:port][/base/path]` or the same with https to be replayed, `file:///path` into
    /// recordings, `tcp://host:port` (`tls`, `ws`, `wss`, `binary`) as a stream, `kafka://host:port/topic` into a topic, `stdout:` and `null:` as they say.
    pub url: String,
    /// The pool of replayers that serves this target.
    #[serde(default = "default_pool")]
    pub pool: String,
    /// How the pool's replayers share the sessions.
    #[serde(default)]
    pub split: Split,
    /// Methods to replay; `[any]` for all. Without it only the safe ones: GET, HEAD, OPTIONS, TRACE.
    #[serde(default = "default_methods")]
    pub methods: Vec<String>,
    /// Regular expressions; where there are any, one must match the path and query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_urls: Vec<String>,
    /// Regular expressions; none may match the path and query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_urls: Vec<String>,
    /// All must match; a request without the header does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<HeaderRule>,
    /// None may match; a request without the header passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny_headers: Vec<HeaderRule>,
    /// Regular expressions that `user:password` of Basic authentication must match; a request without passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_basic_auth: Vec<String>,
    /// Shares of the values of headers; a request without the header passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub header_limits: Vec<ValueLimit>,
    /// The same of query parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub param_limits: Vec<ValueLimit>,
    /// Whether filters see a request as it was captured, or with `set_headers` and `set_params`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub filters_see: FiltersSee,
    /// The share of sessions to take: `10%`, `1/32`; all without it.
    #[serde(default)]
    pub share: Share,
    /// What `share` and `part` are shares of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub share_by: ShareBy,
    /// One of several equal parts to take: `2/3`; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// What keeps exchanges together and in order.
    #[serde(default)]
    pub session_key: SessionKey,
    /// Exchanges a second over all relays' traffic that each relay lets through; the excess is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Keep the captured Host header instead of the target's own host.
    #[serde(default)]
    pub original_host: bool,
    /// Over which connections requests go.
    #[serde(default, skip_serializing_if = "is_default")]
    pub connections: Connections,
    /// Live exchanges leave so long after they were captured, in the order in which they were: the pauses between them are
    /// production's, and those of several listeners are one stream.
    #[serde(
        default,
        with = "humantime_serde",
        skip_serializing_if = "Option::is_none"
    )]
    pub reorder_window: Option<Duration>,
    /// Header lines that go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_headers: Vec<String>,
    /// Values by name: in the place of the first line of that name instead of all of them, else behind the last header.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set_headers: BTreeMap<String, String>,
    /// Values by name, as on the wire: in the place of the first query parameter of that name, else behind the last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set_params: BTreeMap<String, String>,
    /// Changes of path and query, one after the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewrite_urls: Vec<UrlRewrite>,
    /// Changes of header values, one after the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewrite_headers: Vec<HeaderRewrite>,
    /// File, on the replayers, with `user:password` for Basic authentication, instead of the captured Authorization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth_file: Option<String>,
    /// Time for an answer, from the first byte sent to the last received.
    #[serde(default = "default_timeout", with = "humantime_serde")]
    pub timeout: Duration,
    /// Time for a new connection, TLS included; `timeout`, where that is shorter.
    #[serde(
        default = "default_connect_timeout",
        with = "humantime_serde",
        skip_serializing_if = "is_default_connect_timeout"
    )]
    pub connect_timeout: Duration,
    /// Redirects of safe requests that are followed, to the same host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub redirects: u32,
    /// How often a request that got no answer is sent again, where that does no harm.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retries: u32,
    /// When to stop trying for a while.
    #[serde(default, skip_serializing_if = "is_default")]
    pub breaker: Breaker,
    /// An exchange that waited longer than this before it was sent is dropped.
    #[serde(default = "default_max_age", with = "humantime_serde")]
    pub max_age: Duration,
    /// Requests in flight from one replayer at the same time.
    #[serde(default = "default_concurrency")]
    pub concurrency: NonZeroU32,
    /// Accept any certificate of an https target.
    #[serde(default)]
    pub skip_verify: bool,
    /// PEM file, on the replayers, of the authorities to trust for an https target, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// PEM file, on the replayers, of the certificate to show to an https target, with those that vouch for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cert_file: Option<String>,
    /// PEM file, on the replayers, of the certificate's private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<String>,
    /// Name to send as SNI and to look for in an https target's certificate, instead of the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Bytes of each answer's body that are kept for those who look at answers to replays; none are without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track_response: Option<ByteSize>,
    /// Where a document about each replay goes, `http[s]://[USER:PASSWORD@]HOST[:PORT]/INDEX`, in Elasticsearch or
    /// OpenSearch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<String>,
    /// How files are written, where the URL is one of a recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingSettings>,
    /// How a stream is sent, where the URL is one of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamSettings>,
    /// How a topic is written to, where the URL is one of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSettings>,
}

fn default_pool() -> String {
    "default".to_owned()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_methods() -> Vec<String> {
    ["GET", "HEAD", "OPTIONS", "TRACE"]
        .map(str::to_owned)
        .to_vec()
}

fn default_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(2)
}

// What has its default isn't sent along, so that a replayer of the version before takes the document.
fn is_default_connect_timeout(time: &Duration) -> bool {
    *time == default_connect_timeout()
}

/// More redirects than browsers follow are a mistake.
const MAX_REDIRECTS: u32 = 20;

/// More retries would only load a target that is down.
const MAX_RETRIES: u32 = 10;

fn default_max_age() -> Duration {
    Duration::from_secs(60)
}

fn default_concurrency() -> NonZeroU32 {
    const DEFAULT: NonZeroU32 = NonZeroU32::new(256).expect("not zero");
    DEFAULT
}

impl TargetDocument {
    /// A document with all defaults for that URL.
    pub fn new(url: &str) -> TargetDocument {
        TargetDocument {
            url: url.to_owned(),
            pool: default_pool(),
            split: Split::default(),
            methods: default_methods(),
            allow_urls: Vec::new(),
            deny_urls: Vec::new(),
            allow_headers: Vec::new(),
            deny_headers: Vec::new(),
            allow_basic_auth: Vec::new(),
            header_limits: Vec::new(),
            param_limits: Vec::new(),
            filters_see: FiltersSee::default(),
            share: Share::default(),
            share_by: ShareBy::default(),
            part: None,
            session_key: SessionKey::default(),
            rate_limit: None,
            original_host: false,
            connections: Connections::default(),
            reorder_window: None,
            remove_headers: Vec::new(),
            set_headers: BTreeMap::new(),
            set_params: BTreeMap::new(),
            rewrite_urls: Vec::new(),
            rewrite_headers: Vec::new(),
            basic_auth_file: None,
            timeout: default_timeout(),
            connect_timeout: default_connect_timeout(),
            redirects: 0,
            retries: 0,
            breaker: Breaker::default(),
            max_age: default_max_age(),
            concurrency: default_concurrency(),
            skip_verify: false,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            server_name: None,
            track_response: None,
            documents: None,
            recording: None,
            stream: None,
            kafka: None,
        }
    }

    /// What no key shows by itself.
    pub(super) fn check(&self, is_tls: bool) -> Result<(), String> {
        if self.pool.is_empty() {
            return Err("pool: is empty".to_owned());
        }
        for (key, time) in [
            ("timeout", self.timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            if time.is_zero() {
                return Err(format!("{key}: 0s would let nothing through"));
            }
        }
        for (key, number, most) in [
            ("redirects", self.redirects, MAX_REDIRECTS),
            ("retries", self.retries, MAX_RETRIES),
        ] {
            if number > most {
                return Err(format!("{key}: {number} is more than {most}"));
            }
        }
        if self
            .reorder_window
            .is_some_and(|window| window > MAX_REORDER_WINDOW)
        {
            return Err(format!(
                "reorder_window: is more than {MAX_REORDER_WINDOW:?}"
            ));
        }
        self.breaker.check()?;
        if let Some(url) = &self.documents {
            Address::parse(url).map_err(|error| format!("documents: {error}"))?;
        }
        let names = self.set_headers.keys().chain(&self.remove_headers);
        let authorization = |name: &String| name.eq_ignore_ascii_case("authorization");
        if self.basic_auth_file.is_some() && names.clone().any(authorization) {
            let reason = "set_headers or remove_headers has Authorization too";
            return Err(format!("basic_auth_file: {reason}"));
        }
        match (&self.client_cert_file, &self.client_key_file) {
            (Some(_), None) => {
                return Err("client_cert_file: client_key_file is missing".to_owned());
            }
            (None, Some(_)) => {
                return Err("client_key_file: client_cert_file is missing".to_owned());
            }
            _ => {}
        }
        let https_only = [
            ("client_cert_file", &self.client_cert_file),
            ("server_name", &self.server_name),
        ];
        let useless = https_only.iter().find(|(_, value)| value.is_some());
        match useless.filter(|_| !is_tls) {
            Some((key, _)) => Err(format!("{key}: the url {:?} is not over TLS", self.url)),
            None => Ok(()),
        }
    }

    /// Bytes of an answer's body that are kept, if answers are: documents need the head alone.
    pub fn keeps_of_answers(&self) -> Option<usize> {
        let for_documents = self.documents.as_ref().map(|_| 0);
        self.track_response
            .map(ByteSize::as_usize)
            .or(for_documents)
    }

    /// True where both ask for the same changes of requests.
    pub fn changes_as(&self, other: &TargetDocument) -> bool {
        self.remove_headers == other.remove_headers
            && self.set_headers == other.set_headers
            && self.set_params == other.set_params
            && self.rewrite_urls == other.rewrite_urls
            && self.rewrite_headers == other.rewrite_headers
    }

    /// Reads one document, YAML or JSON.
    ///
    /// # Errors
    /// One line with the place in the text.
    pub fn parse(name: &str, text: &str) -> Result<TargetDocument, TargetError> {
        parse_yaml(text).map_err(|reason| TargetError {
            place: format!("target {name}"),
            reason,
        })
    }
}
