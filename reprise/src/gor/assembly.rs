//! From flags to options.
//!
//! What enters: flags as they were given. What leaves: the options, with a note for each flag that has no effect; or one
//! line that says which flag to change. What may be lost: nothing; a flag is honoured, noted or refused.

mod kafka;
mod settings;

use std::path::PathBuf;

use reprise_listener::capture::{Tunnel, TunnelKind};
use reprise_node::ListenAddress;

use super::flags::Fate;
use super::limit::{self, Address, Limit, Meaning};
use super::options::{Identity, Input, Options, Output};
use super::place::{self, Server};
use super::raw::RawAddress;
use super::syntax::{Given, UsageError};
use kafka::Kafka;

/// Options, and what of them several flags say together.
#[derive(Debug, Default)]
struct Draft {
    options: Options,
    /// `--input-raw` is a file, whatever its name.
    raw_in_file: bool,
    vxlan: bool,
    vxlan_port: Option<u16>,
    secure: bool,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    kafka: Kafka,
    /// How many inputs, and outputs, stand before Kafka's.
    kafka_input_at: usize,
    kafka_output_at: usize,
}

/// Assembles the options.
///
/// # Errors
/// One line, for the first flag that makes no sense.
pub(super) fn options(all: &[Given]) -> Result<Options, UsageError> {
    let mut draft = Draft::default();
    // How addresses are read depends on it, wherever it stands.
    for given in all.iter().filter(|g| g.flag.name == "input-raw-engine") {
        draft.engine(given)?;
    }
    for given in all {
        draft.take(given)?;
    }
    draft.finish(all)
}

impl Draft {
    fn take(&mut self, given: &Given) -> Result<(), UsageError> {
        match given.flag.fate {
            Fate::Refused(instead) => Err(UsageError(format!(
                "--{} is not supported: {instead}",
                given.written
            ))),
            Fate::Noted(note) => {
                given.check()?;
                self.note(format!("--{}: {note}", given.written));
                Ok(())
            }
            Fate::Honoured | Fate::Old(_) => {
                let taken = self.input(given)?
                    || self.output(given)?
                    || self.kafka.take(given)?
                    || self.setting(given)?;
                match taken {
                    true => Ok(()),
                    // The table's own test finds it first.
                    false => Err(UsageError(format!("--{} has no meaning", given.written))),
                }
            }
        }
    }

    fn note(&mut self, note: String) {
        if !self.options.notes.contains(&note) {
            self.options.notes.push(note);
        }
    }

    fn engine(&mut self, given: &Given) -> Result<(), UsageError> {
        let engine = given.word()?;
        self.raw_in_file = engine == "pcap_file";
        self.vxlan = engine == "vxlan";
        if matches!(engine, "raw_socket" | "af_packet") {
            self.note(format!("--{} {engine}: libpcap captures", given.written));
        }
        Ok(())
    }

    fn input(&mut self, given: &Given) -> Result<bool, UsageError> {
        let input = match given.flag.name {
            "input-raw" => {
                let Address { address, limit } = given.read(shared)?;
                let in_file = self.raw_in_file;
                let address = given.read(|_| RawAddress::parse(&address, in_file))?;
                Input::Raw { address, limit }
            }
            "input-file" => files(given)?,
            "input-tcp" => {
                let (address, limit) = listening(given)?;
                Input::Tcp { address, limit }
            }
            "input-http" => {
                let (address, limit) = listening(given)?;
                Input::Http { address, limit }
            }
            "input-kafka-host" => {
                self.kafka_input_at = self.options.inputs.len();
                return Ok(false);
            }
            "input-dummy" if given.text() == "false" => return Ok(true),
            "input-dummy" => {
                let dummy = shared(given.text()).map_err(|problem| given.wrong(&problem))?;
                Input::Dummy { limit: dummy.limit }
            }
            _ => return Ok(false),
        };
        self.options.inputs.push(input);
        Ok(true)
    }

    fn output(&mut self, given: &Given) -> Result<bool, UsageError> {
        let output = match given.flag.name {
            "output-stdout" => return self.switched(given, Output::Stdout),
            "output-null" => return self.switched(given, Output::Null),
            "output-kafka-host" => {
                self.kafka_output_at = self.options.outputs.len();
                return Ok(false);
            }
            "output-http" => {
                let Address { address, limit } = given.read(shared)?;
                let server = given.read(|_| Server::http(&address))?;
                Output::Http { server, limit }
            }
            "output-ws" => {
                let Address { address, limit } = given.read(shared)?;
                let server = given.read(|_| Server::websocket(&address))?;
                Output::Ws { server, limit }
            }
            "output-tcp" => {
                let Address { address, limit } = given.read(shared)?;
                let address = given.read(|_| place::host_port(&address))?;
                Output::Tcp { address, limit }
            }
            "output-binary" => {
                let Address { address, limit } = given.read(shared)?;
                let address = given.read(|_| place::host_port(&address))?;
                Output::Binary { address, limit }
            }
            "output-file" => {
                let Address { address, limit } = given.read(shared)?;
                let path = given.read(|_| local(&address))?;
                Output::File { path, limit }
            }
            _ => return Ok(false),
        };
        self.options.outputs.push(output);
        Ok(true)
    }

    fn switched(&mut self, given: &Given, output: Output) -> Result<bool, UsageError> {
        let outputs = &mut self.options.outputs;
        match (given.switch()?, outputs.contains(&output)) {
            (true, false) => outputs.push(output),
            (false, true) => outputs.retain(|other| *other != output),
            _ => {}
        }
        Ok(true)
    }

    fn finish(mut self, all: &[Given]) -> Result<Options, UsageError> {
        let (input, output) = std::mem::take(&mut self.kafka).finish()?;
        if let Some(input) = input {
            let inputs = &mut self.options.inputs;
            inputs.insert(self.kafka_input_at.min(inputs.len()), input);
        }
        if let Some(output) = output {
            let outputs = &mut self.options.outputs;
            outputs.insert(self.kafka_output_at.min(outputs.len()), output);
        }
        self.certificate()?;
        self.tunnel();
        self.without_effect(all);
        let options = self.options;
        if options.inputs.is_empty() {
            return Err(UsageError(
                "there is no input: give --input-raw, --input-file, --input-tcp, --input-http, --input-kafka-host or --input-dummy"
                    .to_owned(),
            ));
        }
        if options.outputs.is_empty() && !options.file_input.dry_run {
            return Err(UsageError(
                "there is no output: give --output-http, --output-file, --output-tcp, --output-ws, --output-kafka-host, --output-binary, --output-stdout or --output-null"
                    .to_owned(),
            ));
        }
        Ok(options)
    }

    fn certificate(&mut self) -> Result<(), UsageError> {
        let tls = match (self.secure, self.certificate.take(), self.key.take()) {
            (true, Some(certificate), Some(key)) => Some(Identity { certificate, key }),
            (true, ..) => {
                return Err(UsageError(
                    "--input-tcp-secure needs --input-tcp-certificate and --input-tcp-certificate-key"
                        .to_owned(),
                ));
            }
            (false, None, None) => None,
            (false, ..) => {
                self.note(
                    "--input-tcp-certificate and its key have no effect without --input-tcp-secure"
                        .to_owned(),
                );
                None
            }
        };
        self.options.tcp_input.tls = tls;
        Ok(())
    }

    fn tunnel(&mut self) {
        let asked = self.vxlan_port.is_some() || !self.options.raw.vnis.is_empty();
        if self.vxlan {
            self.options.raw.tunnel = Some(Tunnel {
                kind: TunnelKind::Vxlan,
                // Assigned by IANA (RFC 7348 §8).
                port: self.vxlan_port.unwrap_or(4789),
            });
        } else if asked {
            self.note(
                "--input-raw-vxlan-… has no effect without --input-raw-engine vxlan".to_owned(),
            );
        }
    }

    /// Settings of inputs and outputs that there are none of.
    fn without_effect(&mut self, all: &[Given]) {
        for (prefix, owner) in [
            ("input-raw-", "input-raw"),
            ("input-file-", "input-file"),
            ("input-tcp-", "input-tcp"),
            ("input-kafka-", "input-kafka-host"),
            ("output-file-", "output-file"),
            ("output-tcp-", "output-tcp"),
            ("output-ws-", "output-ws"),
            ("output-http-", "output-http"),
            ("http-original-", "output-http"),
            ("output-binary-", "output-binary"),
            ("output-kafka-", "output-kafka-host"),
        ] {
            if all.iter().any(|g| g.flag.name == owner) {
                continue;
            }
            let idle = all.iter().filter(|g| {
                g.flag.name.starts_with(prefix) && matches!(g.flag.fate, Fate::Honoured)
            });
            for given in idle {
                let note = format!("--{} has no effect without --{owner}", given.written);
                self.note(note);
            }
        }
    }
}

/// An address whose limit in percent is a share.
fn shared(text: &str) -> Result<Address, String> {
    limit::split(text, Meaning::Share)
}

fn listening(given: &Given) -> Result<(ListenAddress, Option<Limit>), UsageError> {
    let Address { address, limit } = given.read(shared)?;
    Ok((given.read(|_| listen(&address))?, limit))
}

fn listen(text: &str) -> Result<ListenAddress, String> {
    text.parse()
        .map_err(|_| "write :PORT, HOST:PORT or [IPV6]:PORT".to_owned())
}

/// A path, which S3's are not.
fn local(path: &str) -> Result<String, String> {
    if path.is_empty() {
        return Err("the path is missing; write PATH or PATH|LIMIT".to_owned());
    }
    match path.starts_with("s3://") {
        true => Err(
            "S3 is not spoken here; write to and read from a directory, and copy with a tool for S3"
                .to_owned(),
        ),
        false => Ok(path.to_owned()),
    }
}

fn files(given: &Given) -> Result<Input, UsageError> {
    let speedy = |text: &str| limit::split(text, Meaning::Speed);
    let first = given.read(speedy)?;
    let mut paths = vec![given.read(|_| local(&first.address))?];
    for word in &given.more {
        let wrong = |problem| UsageError(format!("--{} {word:?}: {problem}", given.written));
        let further = speedy(word).map_err(wrong)?;
        if further.limit.is_some() && further.limit != first.limit {
            return Err(wrong(
                "all files behind one flag have its limit; write it at the first one".to_owned(),
            ));
        }
        paths.push(local(&further.address).map_err(wrong)?);
    }
    let (speed, at_most) = match first.limit {
        None => (1.0, None),
        Some(Limit::PerSecond(most)) => (1.0, Some(most)),
        Some(Limit::Percent(percent)) => (percent / 100.0, None),
    };
    Ok(Input::File {
        paths,
        speed,
        at_most,
    })
}
