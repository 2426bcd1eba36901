//! From inputs to the sources of a listener.
//!
//! What enters: options. What leaves: settings. What may be lost: nothing; what the sources can't do is refused in one line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use reprise_listener::kafka::Begin;
use reprise_listener::limit::SourceLimit;
use reprise_listener::reading::pace::{Pacing, Repeat, Speed};
use reprise_listener::reading::{self, Records, WhenFull};
use reprise_listener::{SourceSettings, budget, middleware, mirror, record_port, topic};
use reprise_node::config::ByteSize;
use tempfile::NamedTempFile;

use super::kafka;
use super::limit::Limit;
use super::options::{Input, Offset, Options};
use super::raw::RawAddress;

/// As for `reprise run`: replaying on the same processors, capture waits longer for its turn.
const RING: ByteSize = ByteSize::mib(64);

/// The same: an unfinished request is worth waiting for, as servers do.
const INCOMPLETE: Duration = Duration::from_secs(60);

/// Bytes of messages that wait for a middleware, beside one that passes this.
const MIDDLEWARE_QUEUE: usize = 32 << 20;

/// What the options ask for. Files with logins go to the others, to be there as long as they are in use.
///
/// # Errors
/// One line, where the sources can't do it, or a pattern matches no file.
pub(super) fn of(
    options: &Options,
    logins: &mut Vec<NamedTempFile>,
) -> anyhow::Result<SourceSettings> {
    let raw = &options.raw;
    let config = reprise_listener::Config {
        track_response: raw.track_response,
        track_response_body: options.globals.max_message,
        track_response_wait: raw.expire,
        bpf: raw.bpf_filter.clone(),
        capture_ignore: raw.ignore.clone(),
        tunnel: raw.tunnel.into_iter().collect(),
        vni: raw.vnis.clone(),
        ring: raw.ring.unwrap_or(RING),
        max_exchange: options.globals.max_message,
        memory: ByteSize::mib(512),
        ..reprise_listener::Config::default()
    };
    let mut settings = SourceSettings {
        process: budget::RUN,
        mirror_status: mirror::Status::Ok,
        prettify: options.globals.prettify,
        ..config.sources()
    };
    settings.capture.limits.incomplete = INCOMPLETE.max(raw.expire);
    settings.capture.promiscuous = raw.promiscuous;
    settings.capture.vlans = raw.vlans.clone();
    settings.capture.real_ip_header = raw.realip_header.clone();
    settings.record_ports.tls = options
        .tcp_input
        .tls
        .as_ref()
        .map(|tls| record_port::TlsFiles {
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
        });
    // Each input reads on its own, from its own begin.
    let usual = settings.readings.pop().unwrap_or_default();
    for input in &options.inputs {
        add(&mut settings, &usual, options, input, logins)?;
    }
    settings.middleware = options
        .globals
        .middleware
        .as_ref()
        .map(|command| middleware::Settings {
            command: command.clone(),
            max_message: options.globals.max_message.as_usize(),
            queue: MIDDLEWARE_QUEUE,
        });
    Ok(settings)
}

fn add(
    settings: &mut SourceSettings,
    usual: &reading::Settings,
    options: &Options,
    input: &Input,
    logins: &mut Vec<NamedTempFile>,
) -> anyhow::Result<()> {
    match input {
        Input::Raw { address, limit } => {
            settings.limits.captures = limit.map(source_limit);
            match address {
                RawAddress::Live(specs) => settings.capture.specs.extend(specs.iter().cloned()),
                RawAddress::File { path, ports } => {
                    let captured = reading::Settings {
                        files: vec![path.into()],
                        ports: ports.clone(),
                        ..usual.clone()
                    };
                    settings.readings.push(captured);
                }
            }
        }
        Input::Tcp { address, limit } => {
            settings.limits.record_ports = limit.map(source_limit);
            settings.record_ports.addresses.push(address.clone());
        }
        Input::Http { address, limit } => {
            settings.limits.mirrors = limit.map(source_limit);
            settings.mirror.push(address.clone());
        }
        Input::Dummy { limit } => {
            settings.limits.dummy = limit.map(source_limit);
            settings.dummy = true;
        }
        Input::File {
            paths,
            speed,
            at_most,
        } => {
            let mut files = Vec::new();
            for path in paths {
                files.extend(found(path)?);
            }
            let recorded = reading::Settings {
                files,
                records: Records::Apart,
                when_full: WhenFull::Wait,
                pacing: Pacing {
                    speed: Some(Speed::Times(*speed)),
                    max_gap: options.file_input.max_wait,
                    repeat: match options.file_input.repeat {
                        true => Repeat::Forever,
                        false => Repeat::default(),
                    },
                    ..Pacing::default()
                },
                ..usual.clone()
            };
            recorded.check()?;
            settings.readings.push(recorded);
            settings.limits.files = at_most.map(SourceLimit::PerSecond);
        }
        Input::Kafka {
            client,
            offset,
            speed,
            at_most,
        } => {
            let (url, client) = kafka::topic(client, logins)?;
            let topic = topic::Settings {
                url,
                client,
                group: topic::GROUP.to_owned(),
                begin: match offset {
                    Offset::Newest => Begin::Newest,
                    Offset::Oldest => Begin::Oldest,
                    Offset::At(offset) => Begin::At(*offset),
                },
                speed: *speed,
            };
            topic.check().context("--input-kafka-host")?;
            settings.topics.push(topic);
            settings.limits.topics = at_most.map(SourceLimit::PerSecond);
        }
    }
    Ok(())
}

/// The files that a path or pattern names.
pub(super) fn found(path: &str) -> anyhow::Result<Vec<PathBuf>> {
    let as_it_is = PathBuf::from(path);
    if as_it_is.exists() || !path.contains(['*', '?', '[']) {
        return Ok(vec![as_it_is]);
    }
    let files = glob::glob(path).with_context(|| format!("--input-file {path:?}"))?;
    let files = files
        .collect::<Result<Vec<PathBuf>, _>>()
        .with_context(|| format!("--input-file {path:?}"))?;
    if files.is_empty() {
        bail!("--input-file {path:?}: no file matches");
    }
    Ok(files)
}

fn source_limit(limit: Limit) -> SourceLimit {
    match limit {
        Limit::PerSecond(most) => SourceLimit::PerSecond(most),
        Limit::Percent(percent) => SourceLimit::Share(percent / 100.0),
    }
}
