//! Flags that are no addresses.
//!
//! What enters: flags, one by one. What leaves: fields of the options. What may be lost: nothing.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use reprise_listener::capture::NamePattern;
use reprise_listener::packet::VniRule;
use reprise_node::telemetry::LogFormat;
use tracing_subscriber::EnvFilter;

use super::Draft;
use crate::gor::flags::Kind;
use crate::gor::options::StreamOutput;
use crate::gor::place::Elasticsearch;
use crate::gor::rule::{self, ValueShare};
use crate::gor::syntax::{Given, UsageError};

/// The largest id of a VLAN; the two above have meanings of their own (IEEE 802.1Q).
const LARGEST_VLAN: i64 = 4094;

impl Given {
    /// Checks the value of a flag whose value nobody needs.
    pub(super) fn check(&self) -> Result<(), UsageError> {
        match self.flag.kind {
            Kind::Switch => self.switch().map(drop),
            Kind::Level => self.level().map(drop),
            Kind::Count => self.count(i64::MIN, i64::MAX).map(drop),
            Kind::Size => self.size().map(drop),
            Kind::Time => self.time().map(drop),
            Kind::OneOf(_) => self.word().map(drop),
            Kind::Text(_) | Kind::Each(_) | Kind::Maybe(_) => Ok(()),
        }
    }

    fn parsed<T: std::str::FromStr<Err: ToString>>(&self) -> Result<T, UsageError> {
        self.read(|text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    fn time_or_none(&self) -> Result<Option<Duration>, UsageError> {
        Ok(Some(self.time()?).filter(|time| !time.is_zero()))
    }

    /// Without a bound for 0 and -1.
    fn bound(&self) -> Result<Option<NonZeroU32>, UsageError> {
        let number = self.count(-1, u32::MAX.into())?;
        Ok(u32::try_from(number).ok().and_then(NonZeroU32::new))
    }
}

impl Draft {
    /// Whether the flag is one of these.
    pub(super) fn setting(&mut self, given: &Given) -> Result<bool, UsageError> {
        Ok(self.global(given)?
            || self.raw(given)?
            || self.file(given)?
            || self.network(given)?
            || self.http(given)?
            || self.modifier(given)?)
    }

    fn global(&mut self, given: &Given) -> Result<bool, UsageError> {
        let globals = &mut self.options.globals;
        match given.flag.name {
            // Whoever calls looks for them first.
            "help" | "version" => drop(given.switch()?),
            "verbose" => globals.verbose = given.level()?,
            "stats" => globals.stats = given.switch()?,
            "exit-after" => globals.exit_after = given.time_or_none()?,
            "split-output" => globals.split_output = given.switch()?,
            "recognize-tcp-sessions" => globals.tcp_sessions = given.switch()?,
            "copy-buffer-size" => globals.max_message = given.size()?,
            "prettify-http" => globals.prettify = given.switch()?,
            "middleware" => globals.middleware = command(given)?,
            "json" => globals.json = given.switch()?,
            "print-config" => globals.print_config = given.switch()?,
            "admin" => globals.admin = given.read(super::listen)?,
            "log" => globals.log = directives(given)?,
            "log-format" => {
                globals.log_format = match given.word()? {
                    "json" => LogFormat::Json,
                    _ => LogFormat::Text,
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn raw(&mut self, given: &Given) -> Result<bool, UsageError> {
        let raw = &mut self.options.raw;
        match given.flag.name {
            // Taken before all others.
            "input-raw-engine" => drop(given.word()?),
            "input-raw-track-response" => raw.track_response = given.switch()?,
            "input-raw-protocol" => {
                if given.word()? == "binary" {
                    return Err(given.wrong(
                        "only HTTP is captured; what is not HTTP comes by --input-tcp, from a GoReplay that captures it",
                    ));
                }
            }
            "input-raw-expire" => raw.expire = given.time()?,
            "input-raw-realip-header" => {
                let name = given.some_text();
                let name = name.map(|name| rule::header_name(&name, "write NAME"));
                raw.realip_header = name.transpose().map_err(|error| given.wrong(&error))?;
            }
            "input-raw-bpf-filter" => raw.bpf_filter = given.some_text(),
            "input-raw-buffer-size" => raw.ring = Some(given.size()?).filter(|size| size.0 > 0),
            "input-raw-promisc" => raw.promiscuous = given.switch()?,
            "input-raw-ignore-interface" => raw.ignore.push(given.parsed::<NamePattern>()?),
            "input-raw-vlan-vid" => raw.vlans.push(given.count(0, LARGEST_VLAN)? as u16),
            "input-raw-vxlan-port" => {
                self.vxlan_port = Some(given.count(1, u16::MAX.into())? as u16);
            }
            "input-raw-vxlan-vni" => raw.vnis.push(vni(given)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn file(&mut self, given: &Given) -> Result<bool, UsageError> {
        let (input, output) = (&mut self.options.file_input, &mut self.options.file_output);
        match given.flag.name {
            "input-file-loop" => input.repeat = given.switch()?,
            "input-file-max-wait" => input.max_wait = given.time_or_none()?,
            "input-file-dry-run" => input.dry_run = given.switch()?,
            "output-file-append" => output.append = given.switch()?,
            "output-file-flush-interval" => output.flush_interval = given.time()?,
            "output-file-size-limit" => output.size_limit = given.size()?,
            "output-file-queue-limit" => {
                output.queue_limit = given.count(0, i64::MAX)?.unsigned_abs();
            }
            "output-file-max-size-limit" => output.max_size = given.size()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn network(&mut self, given: &Given) -> Result<bool, UsageError> {
        let path = || given.some_text().map(PathBuf::from);
        let name = given.flag.name;
        let options = &mut self.options;
        if let Some(name) = name.strip_prefix("output-tcp-") {
            return stream(&mut options.tcp_output, name, given);
        }
        if let Some(name) = name.strip_prefix("output-ws-") {
            return stream(&mut options.ws_output, name, given);
        }
        let binary = &mut options.binary_output;
        match name {
            "input-tcp-secure" => self.secure = given.switch()?,
            "input-tcp-certificate" => self.certificate = path(),
            "input-tcp-certificate-key" => self.key = path(),
            "output-binary-workers" => binary.workers = given.bound()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn http(&mut self, given: &Given) -> Result<bool, UsageError> {
        let http = &mut self.options.http_output;
        match given.flag.name {
            "output-http-workers" => http.workers = given.bound()?,
            "output-http-timeout" => http.timeout = given.time()?,
            "output-http-redirects" => http.redirects = given.count(0, 20)? as u32,
            "output-http-skip-verify" => http.skip_verify = given.switch()?,
            "http-original-host" => http.original_host = given.switch()?,
            "output-http-track-response" => http.track_response = given.switch()?,
            "output-http-response-buffer" => http.response_buffer = given.size()?,
            "output-http-stats" => http.stats = given.switch()?,
            "output-http-stats-ms" => {
                let ms = given.count(1, u32::MAX.into())?.unsigned_abs();
                http.stats_interval = Duration::from_millis(ms);
            }
            "output-http-elasticsearch" => {
                let url = given.some_text().map(|url| Elasticsearch::parse(&url));
                http.elasticsearch = url.transpose().map_err(|error| given.wrong(&error))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn modifier(&mut self, given: &Given) -> Result<bool, UsageError> {
        let rules = &mut self.options.modifiers;
        match given.flag.name {
            "http-allow-method" => rules.allow_methods.push(given.read(rule::method)?),
            "http-set-header" => rules.set_headers.push(given.parsed()?),
            "http-set-param" => rules.set_params.push(given.parsed()?),
            "http-allow-url" => rules.allow_urls.push(given.parsed()?),
            "http-disallow-url" => rules.disallow_urls.push(given.parsed()?),
            "http-allow-header" => rules.allow_headers.push(given.parsed()?),
            "http-disallow-header" => rules.disallow_headers.push(given.parsed()?),
            "http-basic-auth-filter" => rules.basic_auth.push(given.parsed()?),
            "http-header-limiter" => rules.header_limits.push(given.read(ValueShare::of_header)?),
            "http-param-limiter" => rules.param_limits.push(given.read(ValueShare::of_param)?),
            "http-rewrite-url" => rules.rewrite_urls.push(given.parsed()?),
            "http-rewrite-header" => rules.rewrite_headers.push(given.parsed()?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn stream(output: &mut StreamOutput, name: &str, given: &Given) -> Result<bool, UsageError> {
    match name {
        "secure" => output.secure = given.switch()?,
        "skip-verify" => output.skip_verify = given.switch()?,
        "sticky" => output.sticky = given.switch()?,
        "stats" => output.stats = given.switch()?,
        "workers" => {
            let workers = given.count(1, 1000)? as u32;
            output.workers = NonZeroU32::new(workers).unwrap_or(NonZeroU32::MIN);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// What the logger would refuse once it starts is refused before.
fn directives(given: &Given) -> Result<Option<String>, UsageError> {
    let text = given.some_text();
    if let Some(text) = &text
        && EnvFilter::builder().parse(text).is_err()
    {
        return Err(given.wrong(
            "write error, warn, info, debug or trace, or directives as info,reprise_relay=debug",
        ));
    }
    Ok(text)
}

/// A negative one is left out.
fn vni(given: &Given) -> Result<VniRule, UsageError> {
    let text = given.text();
    let rule = match text.strip_prefix('-') {
        Some(number) => format!("!{number}"),
        None => text.to_owned(),
    };
    // Zero has no sign, and a second sign no meaning.
    let plain = !text.starts_with(['!', '+']);
    let rule = rule.parse().ok().filter(|_| plain);
    rule.ok_or_else(|| {
        given.wrong("write a number up to 16777215, with - before it to leave it out")
    })
}

/// The words of a command, quotes understood as in a shell.
fn command(given: &Given) -> Result<Option<Vec<String>>, UsageError> {
    let Some(text) = given.some_text() else {
        return Ok(None);
    };
    match shlex::split(&text) {
        Some(words) if !words.is_empty() => Ok(Some(words)),
        Some(_) => Err(given.wrong("there is no command; write PROGRAM [ARGUMENT…]")),
        None => Err(given.wrong("a quote is not closed; write PROGRAM [ARGUMENT…]")),
    }
}
