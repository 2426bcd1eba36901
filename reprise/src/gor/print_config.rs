//! `--print-config`: what a command line is in a cluster.
//!
//! What enters: options. What leaves: a file of targets, as `reprise relay --targets` and etcd take them, with the commands for
//! each role as comments. What may be lost: passwords, which belong into files on the replayers; what a cluster has no flag
//! for is named.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context as _;
use reprise_traffic::TargetDocument;
use serde::Serialize;
use serde_json::{Map, Value};

use super::limit::Limit;
use super::options::{Input, Options};
use super::raw::RawAddress;
use super::targets;

#[derive(Serialize)]
struct File {
    targets: BTreeMap<String, Map<String, Value>>,
}

/// The text.
///
/// # Errors
/// One line, where the options make no targets.
pub(super) fn text(options: &Options) -> anyhow::Result<String> {
    let made = targets::of(options)?;
    // What is refused there is refused here.
    made.targets()?;
    let mut file = File {
        targets: BTreeMap::new(),
    };
    let mut logins = Vec::new();
    for (name, document) in made.documents {
        let mut document = document;
        if document.basic_auth_file.is_some() {
            let path = format!("/etc/reprise/{}.auth", name.as_str().replace('/', "-"));
            logins.push(path.clone());
            document.basic_auth_file = Some(path);
        }
        file.targets.insert(name.to_string(), given(&document)?);
    }
    let mut text = String::from(
        "# What this command line is in a cluster. First the targets, for `reprise relay --targets FILE`, or each under its\n\
         # name in etcd (docs/targets.md):\n",
    );
    text.push_str(&serde_saphyr::to_string(&file).context("write the targets")?);
    let mut line = |words: &str| {
        // A String takes every character.
        let _ = writeln!(text, "# {words}");
    };
    for path in logins {
        line(&format!(
            "{path}, on the replayers, holds the output's USER:PASSWORD; only their user may read it."
        ));
    }
    line(
        "Then the roles, here without etcd; with it, --etcd URL takes the place of --relay, --replayer and --targets:",
    );
    let (flags, rest) = listener(options);
    if !flags.is_empty() {
        line(&format!(
            "  reprise listener {flags} --relay RELAY-HOST:28400"
        ));
    }
    line("  reprise relay --targets targets.yaml --replayer REPLAYER-HOST:28410");
    line("  reprise replayer");
    if !rest.is_empty() {
        line("What a listener has no flag for, and `reprise gor` goes on doing:");
        rest.iter().for_each(|what| line(&format!("  {what}")));
    }
    Ok(text)
}

/// What differs from a document that says nothing but its URL.
fn given(document: &TargetDocument) -> anyhow::Result<Map<String, Value>> {
    let keys = |document: &TargetDocument| match serde_json::to_value(document) {
        Ok(Value::Object(keys)) => Ok(keys),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(error),
    };
    let mut usual = keys(&TargetDocument::new(&document.url)).context("write a target")?;
    usual.remove("url");
    let mut given = keys(document).context("write a target")?;
    given.retain(|key, value| usual.get(key) != Some(value));
    Ok(given)
}

/// The flags of a listener, and what there are none for.
fn listener(options: &Options) -> (String, Vec<String>) {
    let mut flags = Vec::new();
    let mut rest = Vec::new();
    let mut flag = |name: &str, value: &str| flags.push(format!("--{name} {}", quoted(value)));
    let limited = |limit: &Option<Limit>| limit.is_some();
    for input in &options.inputs {
        match input {
            Input::Raw { address, limit } => {
                match address {
                    RawAddress::Live(specs) => {
                        specs
                            .iter()
                            .for_each(|spec| flag("capture", &spec.to_string()));
                    }
                    RawAddress::File { path, ports } => {
                        flag("read", path);
                        ports
                            .iter()
                            .for_each(|port| flag("read-port", &port.to_string()));
                    }
                }
                if limited(limit) {
                    rest.push(
                        "the limit of --input-raw; rate_limit and share of a target are alike"
                            .to_owned(),
                    );
                }
            }
            Input::Http { address, .. } => flag("mirror", &address.to_string()),
            Input::File { paths, speed, .. } => {
                paths.iter().for_each(|path| flag("read", path));
                flag("speed", &speed.to_string());
            }
            Input::Tcp { address, .. } => rest.push(format!("--input-tcp {address}")),
            Input::Kafka { client, .. } => {
                rest.push(format!("--input-kafka-topic {}", client.topic))
            }
            Input::Dummy { .. } => rest.push("--input-dummy".to_owned()),
        }
    }
    let raw = &options.raw;
    if let Some(filter) = &raw.bpf_filter {
        flag("bpf", filter);
    }
    raw.ignore
        .iter()
        .for_each(|name| flag("capture-ignore", &name.to_string()));
    if let Some(tunnel) = &raw.tunnel {
        flag("tunnel", &tunnel.to_string());
    }
    raw.vnis
        .iter()
        .for_each(|vni| flag("vni", &vni.to_string()));
    if let Some(most) = options.file_input.max_wait {
        flag("max-gap", &humantime::format_duration(most).to_string());
    }
    if options.file_input.repeat {
        flag("loop", "forever");
    }
    if raw.track_response {
        flags.push("--track-response".to_owned());
    }
    if options.globals.middleware.is_some() {
        rest.push("--middleware".to_owned());
    }
    if options.http_output.track_response {
        rest.push("--output-http-track-response".to_owned());
    }
    (flags.join(" "), rest)
}

/// As a shell takes it.
fn quoted(value: &str) -> String {
    shlex::try_quote(value).map_or_else(|_| value.to_owned(), |quoted| quoted.into_owned())
}

#[cfg(test)]
mod tests {
    use reprise_traffic::target::TargetsFile;

    use super::*;
    use crate::gor::{Asked, ask};

    fn printed(line: &str) -> String {
        let words = shlex::split(line).unwrap();
        let Asked::Replay(options) = ask(words.into_iter().map(Into::into).collect()).unwrap()
        else {
            panic!("{line}");
        };
        text(&options).unwrap()
    }

    #[test]
    fn what_is_printed_is_what_a_cluster_takes() {
        let text = printed(
            "--input-raw :80 --input-raw-track-response --output-http 'http://u:secret@h|10%' --output-file /r/a.gor \
             --output-tcp h:1 --split-output --http-allow-method GET --http-allow-url ^/api --http-set-header 'A: b' \
             --http-header-limiter user:1/32 --http-rewrite-url '/a:/b' --middleware cat",
        );
        let targets = TargetsFile::parse("t.yaml", &text, 1).unwrap();
        let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        assert_eq!(names, ["gor/1-http", "gor/2-file", "gor/3-tcp"]);
        let document = &targets[0].document;
        assert_eq!(document.methods, ["GET"]);
        assert_eq!(document.allow_urls, ["^/api"]);
        assert_eq!(document.set_headers["A"], "b");
        assert_eq!(String::from(document.share), "10%");
        assert!(document.part.is_some() && document.header_limits.len() == 1);
        assert!(
            !text.contains("secret") && text.contains("gor-1-http.auth"),
            "{text}"
        );
        let command = "reprise listener --capture :80 --track-response --relay RELAY-HOST:28400";
        assert!(
            text.contains(command) && text.contains("--middleware"),
            "{text}"
        );
    }
}
