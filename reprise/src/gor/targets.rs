//! From outputs and modifiers to the targets that the cluster has.
//!
//! What enters: options. What leaves: a document for each output, in their order, named `gor/N-KIND`. What may be lost:
//! nothing; what a document can't say is refused in one line.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::Context as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reprise_traffic::breaker::{Breaker, BreakerSettings};
use reprise_traffic::changes::{HeaderRewrite, UrlRewrite};
use reprise_traffic::recording::RecordingSettings;
use reprise_traffic::rules::{FiltersSee, HeaderRule, Part, ShareBy, ValueLimit};
use reprise_traffic::target::{RateLimit, StreamSettings};
use reprise_traffic::{SessionKey, Target, TargetDocument, TargetName};
use tempfile::NamedTempFile;

use super::kafka;
use super::limit::Limit;
use super::options::{HttpOutput, Modifiers, Options, Output, StreamOutput};
use super::place::{Elasticsearch, Login, Server};
use super::rule::{self, Share};

/// Documents in the outputs' order, and what they need as long as they are in use.
pub(super) struct Made {
    pub(super) documents: Vec<(TargetName, TargetDocument)>,
    /// Files with the logins of outputs: documents don't hold any.
    pub(super) logins: Vec<NamedTempFile>,
}

impl Made {
    /// The targets that these are.
    ///
    /// # Errors
    /// One line for the first that can't be honoured.
    pub(super) fn targets(&self) -> anyhow::Result<Vec<Target>> {
        let targets = self.documents.iter().map(|(name, document)| {
            let target = Target::new(name.clone(), 1, document.clone());
            target.map_err(anyhow::Error::from)
        });
        targets.collect()
    }
}

/// `--output-http-workers 0` is no bound in GoReplay. This many connections a small server takes: nginx has 512 in all unless told
/// otherwise, Debian's 768.
const CONCURRENCY: NonZeroU32 = const { NonZeroU32::new(500).expect("not zero") };

/// GoReplay has no breaker. One that closes soon costs little when a server is back.
const BREAKER: BreakerSettings = BreakerSettings {
    failures: const { NonZeroU32::new(20).expect("not zero") },
    open_for: Duration::from_millis(250),
    max_open: Duration::from_secs(1),
    probes: NonZeroU32::MIN,
};

/// Messages wait so long for brokers: as long as a cluster of them takes to begin anew.
const BROKERS_AWAY: Duration = Duration::from_secs(300);

/// What the options ask for.
///
/// # Errors
/// One line, where a login can't be put into a file or a path is none.
pub(super) fn of(options: &Options) -> anyhow::Result<Made> {
    let mut made = Made {
        documents: Vec::new(),
        logins: Vec::new(),
    };
    for (output, number) in options.outputs.iter().zip(1..) {
        let (kind, limit, document) = document(options, output, &mut made.logins)?;
        let name = TargetName::new(&format!("gor/{number}-{kind}"))?;
        let mut document = limited(document, limit)?;
        shared(options, number, &mut document);
        modified(&options.modifiers, &mut document);
        made.documents.push((name, document));
    }
    Ok(made)
}

type Kind = &'static str;

fn document(
    options: &Options,
    output: &Output,
    logins: &mut Vec<NamedTempFile>,
) -> anyhow::Result<(Kind, Option<Limit>, TargetDocument)> {
    Ok(match output {
        Output::Http { server, limit } => {
            let document = http(&options.http_output, server, logins)?;
            ("http", *limit, document)
        }
        Output::Tcp { address, limit } => {
            let scheme = match options.tcp_output.secure {
                true => "tls",
                false => "tcp",
            };
            let url = format!("{scheme}://{address}");
            ("tcp", *limit, stream(&url, &options.tcp_output))
        }
        Output::Ws { server, limit } => {
            let url = with_login(&server.url, server.login.as_ref());
            ("ws", *limit, stream(&url, &options.ws_output))
        }
        Output::Binary { address, limit } => {
            let mut document = TargetDocument::new(&format!("binary://{address}"));
            document.stream = options
                .binary_output
                .workers
                .map(|connections| StreamSettings {
                    connections,
                    ..StreamSettings::default()
                });
            ("binary", *limit, document)
        }
        Output::File { path, limit } => {
            let absolute = std::path::absolute(path).with_context(|| format!("find {path:?}"))?;
            let mut document = TargetDocument::new(&format!("file://{}", absolute.display()));
            let settings = &options.file_output;
            document.recording = Some(RecordingSettings {
                flush_interval: settings.flush_interval,
                append: settings.append,
                size_limit: settings.size_limit,
                queue_limit: settings.queue_limit,
                max_size: settings.max_size,
            });
            ("file", *limit, document)
        }
        Output::Stdout => ("stdout", None, TargetDocument::new("stdout:")),
        Output::Null => ("null", None, TargetDocument::new("null:")),
        Output::Kafka { client } => {
            let (url, settings) = kafka::topic(client, logins)?;
            let mut document = TargetDocument::new(&url);
            document.kafka = Some(settings);
            document.max_age = BROKERS_AWAY;
            ("kafka", None, document)
        }
    })
}

fn http(
    settings: &HttpOutput,
    server: &Server,
    logins: &mut Vec<NamedTempFile>,
) -> anyhow::Result<TargetDocument> {
    let mut document = TargetDocument::new(&server.url);
    document.concurrency = settings.workers.unwrap_or(CONCURRENCY);
    document.timeout = settings.timeout;
    document.redirects = settings.redirects;
    document.skip_verify = settings.skip_verify;
    document.original_host = settings.original_host;
    document.breaker = Breaker::On(BREAKER);
    document.documents = settings.elasticsearch.as_ref().map(index);
    document.track_response = settings.track_response.then_some(settings.response_buffer);
    if let Some(login) = &server.login {
        // Only its owner may read it, and it is gone with the process.
        let mut file = NamedTempFile::with_prefix("reprise-login-").context("keep a login")?;
        write!(file, "{}:{}", login.user, login.password.0).context("keep a login")?;
        document.basic_auth_file = Some(file.path().display().to_string());
        logins.push(file);
    }
    Ok(document)
}

/// The URL of an index, the login's own characters written so that they are no part of it.
fn index(elasticsearch: &Elasticsearch) -> String {
    let Elasticsearch { server, index } = elasticsearch;
    let login = server.login.as_ref().map(|login| {
        let part = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
        format!("{}:{}@", part(&login.user), part(&login.password.0))
    });
    let login = login.unwrap_or_default();
    match server.url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{login}{rest}/{index}"),
        None => format!("{}/{index}", server.url),
    }
}

fn stream(url: &str, settings: &StreamOutput) -> TargetDocument {
    let mut document = TargetDocument::new(url);
    document.skip_verify = settings.skip_verify;
    document.stream = Some(StreamSettings {
        connections: settings.workers,
        sticky: settings.sticky,
    });
    document
}

fn with_login(url: &str, login: Option<&Login>) -> String {
    match (url.split_once("://"), login) {
        (Some((scheme, rest)), Some(login)) => {
            let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let (user, password) = (encoded(&login.user), encoded(&login.password.0));
            format!("{scheme}://{user}:{password}@{rest}")
        }
        _ => url.to_owned(),
    }
}

fn limited(mut document: TargetDocument, limit: Option<Limit>) -> anyhow::Result<TargetDocument> {
    match limit {
        None => {}
        Some(Limit::PerSecond(most)) => document.rate_limit = Some(RateLimit(most)),
        Some(Limit::Percent(percent)) => {
            let share = format!("{percent}%").try_into();
            document.share = share.map_err(anyhow::Error::msg)?;
        }
    }
    Ok(document)
}

/// What an output gets of all messages.
fn shared(options: &Options, number: u32, document: &mut TargetDocument) {
    let globals = &options.globals;
    let outputs = options.outputs.len() as u32;
    if globals.split_output && outputs > 1 {
        document.part = Part::new(number, outputs);
    }
    (document.share_by, document.session_key) = match globals.tcp_sessions {
        true => (ShareBy::Sessions, SessionKey::Connection),
        false => (ShareBy::Requests, SessionKey::Exchange),
    };
}

fn modified(modifiers: &Modifiers, document: &mut TargetDocument) {
    let texts = |patterns: &[rule::Pattern]| {
        let text = |pattern: &rule::Pattern| pattern.0.as_str().to_owned();
        patterns.iter().map(text).collect()
    };
    let headers = |rules: &[rule::HeaderRule]| {
        let rule = |rule: &rule::HeaderRule| HeaderRule {
            name: rule.name.clone(),
            matches: rule.pattern.0.as_str().to_owned(),
        };
        rules.iter().map(rule).collect()
    };
    document.methods = match modifiers.allow_methods.is_empty() {
        true => vec!["any".to_owned()],
        false => modifiers.allow_methods.clone(),
    };
    document.allow_urls = texts(&modifiers.allow_urls);
    document.deny_urls = texts(&modifiers.disallow_urls);
    document.allow_headers = headers(&modifiers.allow_headers);
    document.deny_headers = headers(&modifiers.disallow_headers);
    document.allow_basic_auth = texts(&modifiers.basic_auth);
    document.header_limits = modifiers.header_limits.iter().map(value_limit).collect();
    document.param_limits = modifiers.param_limits.iter().map(value_limit).collect();
    document.set_headers = BTreeMap::new();
    for rule::Header { name, value } in &modifiers.set_headers {
        // The login of the output's URL counts more.
        if document.basic_auth_file.is_some() && name.eq_ignore_ascii_case("authorization") {
            continue;
        }
        // One that is set twice has the last value.
        document
            .set_headers
            .retain(|other, _| !other.eq_ignore_ascii_case(name));
        document.set_headers.insert(name.clone(), value.clone());
    }
    let params = modifiers.set_params.iter();
    document.set_params = params.map(|p| (p.name.clone(), p.value.clone())).collect();
    let sets = !(document.set_headers.is_empty() && document.set_params.is_empty());
    if sets {
        document.filters_see = FiltersSee::Changed;
    }
    let url = |rewrite: &rule::Rewrite| UrlRewrite {
        matches: rewrite.pattern.0.as_str().to_owned(),
        replace: rewrite.replacement.clone(),
    };
    document.rewrite_urls = modifiers.rewrite_urls.iter().map(url).collect();
    let header = |rewrite: &rule::HeaderRewrite| HeaderRewrite {
        name: rewrite.name.clone(),
        matches: rewrite.rewrite.pattern.0.as_str().to_owned(),
        replace: rewrite.rewrite.replacement.clone(),
    };
    document.rewrite_headers = modifiers.rewrite_headers.iter().map(header).collect();
}

fn value_limit(limit: &rule::ValueShare) -> ValueLimit {
    let share = match limit.share {
        Share::Percent(percent) => format!("{percent}%"),
        Share::Parts { take, of } => format!("{take}/{of}"),
    };
    ValueLimit {
        name: limit.name.clone(),
        share: share
            .try_into()
            .expect("shares are checked where flags are read"),
    }
}
