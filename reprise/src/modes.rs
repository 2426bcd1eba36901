//! The long-running modes: their flags, and from flags and file to a running service.
//!
//! What enters: flags, a configuration file. What leaves: a service run until SIGTERM or Ctrl-C, and its closing
//! summary. What may be lost: see each service.

mod sources;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use reprise_listener::capture::{self, CaptureSpec, NamePattern, Tunnel};
use reprise_listener::config::NO_SOURCE;
use reprise_listener::governor::CpuLimit;
use reprise_listener::kafka::Begin;
use reprise_listener::packet::VniRule;
use reprise_listener::reading::pace::{Rate, Repeat, Speed, Stage};
use reprise_listener::{Ended, SourceSettings, budget};
use reprise_node::ListenAddress;
use reprise_node::config::{self, ByteSize};
use reprise_node::membership::{Targets, fixed_targets, watch_targets_file};
use reprise_node::privileges::{self, Account};
use reprise_traffic::kafka::KafkaSettings;
use reprise_traffic::recording::RecordingSettings;
use reprise_traffic::{Target, TargetDocument, TargetName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::cli::{FileArgs, Threads, Work};
use crate::embedded::{Embedded, EmbeddedConfig};
use crate::table;
use sources::{SourceFlags, is_false};

const RUN_EXAMPLES: &str = "\
Examples:
  reprise run --capture lo:8080 --to http://127.0.0.1:8081
      replay GET, HEAD, OPTIONS and TRACE requests that reach port 8080 over loopback
  reprise run --capture eth0:80,8080 --to http://staging:8080 --methods any
      replay everything, POST included: the staging system gets production's writes
  reprise run --mirror :28019 --targets targets.yaml
      take copies that nginx, Envoy or HAProxy send to port 28019; targets from a watched file
  reprise run --capture eth0:80 --record /var/lib/shop/shop-%Y%m%d.gor.gz
      record everything, to be replayed later by Reprise or GoReplay
  tcpdump -i eth0 -U -w - port 80 | reprise run --read - --to http://staging:8080
      replay what tcpdump captures, as it comes; with a file in the place of - what it holds, and end";

/// All roles in one process, without etcd: capture here, replay to another server
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    flags: RunFlags,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, Args, Serialize)]
struct RunFlags {
    #[command(flatten)]
    #[serde(flatten)]
    sources: SourceFlags,
    /// Replay to this URL, http://HOST[:PORT][/PATH] or https://…; repeat for several. They are named default/1, default/2 …
    #[arg(long, value_name = "URL")]
    to: Vec<String>,
    /// Replay to the targets of this YAML file, which is watched for changes
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    targets: Option<PathBuf>,
    /// With --to: methods to replay, comma-separated, or any [default: GET,HEAD,OPTIONS,TRACE]
    #[arg(long, value_name = "METHODS", value_delimiter = ',')]
    methods: Vec<String>,
    /// With --to: live requests leave so long after they were captured, with production's pauses to a fraction of a
    /// millisecond; 4ms covers what capture takes. Without it they leave as they come
    #[arg(long, value_name = "TIME", requires = "to", value_parser = humantime::parse_duration)]
    #[serde(
        with = "config::duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    reorder_window: Option<Duration>,
    #[command(flatten)]
    #[serde(flatten)]
    recording: RecordFlags,
    /// Metrics, health and ledger [default: 127.0.0.1:28490]
    #[arg(long, value_name = "ADDR")]
    admin: Option<ListenAddress>,
    /// Resident memory of the whole process, but for connections to targets; past what it leaves for requests, sessions
    /// are left out and counted as shed_memory [default: 512MiB]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Kernel memory for packets that wait to be read, of all interfaces and threads; part of --memory [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    ring: Option<ByteSize>,
    /// How long a stop waits for what is under way [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(
        with = "config::duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    drain_timeout: Option<Duration>,
}

/// What a recording on the command line may say; a target's document can say more.
#[derive(Debug, Args, Serialize)]
struct RecordFlags {
    /// Record requests, and answers with --track-response, in GoReplay's format, whatever their method. %Y %m %d %H %M %S
    /// are filled in; .gz and .zst are packed; chunks are numbered, name_0.gor, name_1.gor … Repeat for several. They are
    /// named default/recording-1, default/recording-2 …
    #[arg(long, value_name = "FILE", conflicts_with = "targets")]
    record: Vec<String>,
    /// With --record: go on in the file of that name instead of numbering chunks [default: false]
    #[arg(long, requires = "record")]
    #[serde(skip_serializing_if = "is_false")]
    record_append: bool,
    /// With --record: the longest that a record waits before it is written, which is what a kill may cost [default: 1s]
    #[arg(long, requires = "record", value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(
        with = "config::duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    record_flush_interval: Option<Duration>,
    /// With --record: a chunk of this size is followed by the next; 0B for no bound [default: 32MiB]
    #[arg(long, requires = "record", value_name = "SIZE")]
    record_size_limit: Option<ByteSize>,
    /// With --record: so is one with so many records; 0 for no bound [default: 256]
    #[arg(long, requires = "record", value_name = "N")]
    record_queue_limit: Option<u64>,
}

/// The settings of `reprise run`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RunConfig {
    capture: Vec<CaptureSpec>,
    capture_ignore: Vec<NamePattern>,
    capture_threads: usize,
    bpf: Option<String>,
    tunnel: Vec<Tunnel>,
    vni: Vec<VniRule>,
    track_response: bool,
    track_response_body: ByteSize,
    #[serde(with = "config::duration")]
    track_response_wait: Duration,
    user: Option<Account>,
    nice: u8,
    mirror: Vec<ListenAddress>,
    kafka: Vec<String>,
    kafka_group: String,
    kafka_begin: Begin,
    kafka_speed: Option<Speed>,
    kafka_limit: Option<NonZeroU32>,
    kafka_client: Option<KafkaSettings>,
    read: Vec<PathBuf>,
    read_port: Vec<u16>,
    speed: Option<Speed>,
    rate: Option<Rate>,
    stages: Vec<Stage>,
    #[serde(rename = "loop")]
    repeat: Repeat,
    #[serde(with = "config::duration::option")]
    max_gap: Option<Duration>,
    ring: ByteSize,
    max_exchange: ByteSize,
    to: Vec<String>,
    targets: Option<PathBuf>,
    methods: Vec<String>,
    #[serde(with = "config::duration::option")]
    reorder_window: Option<Duration>,
    record: Vec<String>,
    record_append: bool,
    #[serde(with = "config::duration")]
    record_flush_interval: Duration,
    record_size_limit: ByteSize,
    record_queue_limit: u64,
    admin: ListenAddress,
    memory: ByteSize,
    cpu_limit: CpuLimit,
    #[serde(with = "config::duration")]
    drain_timeout: Duration,
}

impl Default for RunConfig {
    fn default() -> RunConfig {
        let listener = reprise_listener::Config::default();
        let recording = RecordingSettings::default();
        RunConfig {
            capture: Vec::new(),
            capture_ignore: Vec::new(),
            capture_threads: listener.capture_threads,
            bpf: None,
            tunnel: Vec::new(),
            vni: Vec::new(),
            track_response: listener.track_response,
            track_response_body: listener.track_response_body,
            track_response_wait: listener.track_response_wait,
            user: None,
            nice: listener.nice,
            mirror: Vec::new(),
            kafka: Vec::new(),
            kafka_group: listener.kafka_group,
            kafka_begin: listener.kafka_begin,
            kafka_speed: None,
            kafka_limit: None,
            kafka_client: None,
            read: Vec::new(),
            read_port: Vec::new(),
            speed: None,
            rate: None,
            stages: Vec::new(),
            repeat: Repeat::default(),
            max_gap: None,
            // Replaying on the same processors, capture waits longer for its turn.
            ring: ByteSize::mib(64),
            max_exchange: listener.max_exchange,
            to: Vec::new(),
            targets: None,
            methods: Vec::new(),
            reorder_window: None,
            record: Vec::new(),
            record_append: recording.append,
            record_flush_interval: recording.flush_interval,
            record_size_limit: recording.size_limit,
            record_queue_limit: recording.queue_limit,
            admin: ListenAddress::loopback(28490),
            memory: ByteSize::mib(512),
            cpu_limit: listener.cpu_limit,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl RunConfig {
    /// Its first half.
    fn listener(&self) -> reprise_listener::Config {
        reprise_listener::Config {
            capture: self.capture.clone(),
            capture_ignore: self.capture_ignore.clone(),
            capture_threads: self.capture_threads,
            bpf: self.bpf.clone(),
            tunnel: self.tunnel.clone(),
            vni: self.vni.clone(),
            track_response: self.track_response,
            track_response_body: self.track_response_body,
            track_response_wait: self.track_response_wait,
            mirror: self.mirror.clone(),
            kafka: self.kafka.clone(),
            kafka_group: self.kafka_group.clone(),
            kafka_begin: self.kafka_begin,
            kafka_speed: self.kafka_speed,
            kafka_limit: self.kafka_limit,
            kafka_client: self.kafka_client.clone(),
            read: self.read.clone(),
            read_port: self.read_port.clone(),
            speed: self.speed,
            rate: self.rate,
            stages: self.stages.clone(),
            repeat: self.repeat,
            max_gap: self.max_gap,
            ring: self.ring,
            max_exchange: self.max_exchange,
            memory: self.memory,
            ..reprise_listener::Config::default()
        }
    }

    fn sources(&self) -> SourceSettings {
        SourceSettings {
            process: budget::RUN,
            ..self.listener().sources()
        }
    }

    fn targets(&self) -> anyhow::Result<watch::Receiver<Targets>> {
        match (&self.targets, self.to.is_empty(), self.record.is_empty()) {
            (Some(_), false, _) => bail!("--to and --targets exclude each other"),
            (Some(_), true, false) => {
                bail!(
                    "--record and --targets exclude each other; a target of the file can record, with url: file:///PATH"
                )
            }
            (Some(_), true, true) if !self.methods.is_empty() => {
                bail!("--methods goes with --to; with --targets the file says which methods")
            }
            (Some(file), true, true) => watch_targets_file(file),
            (None, true, true) => {
                bail!("nowhere to replay to: give --to URL, --record FILE or --targets FILE")
            }
            (None, ..) => {
                let to = self.to.iter().zip(1..);
                let to = to.map(|(url, number)| self.target(number, url));
                let record = self.record.iter().zip(1..);
                let record = record.map(|(path, number)| self.recording(number, path));
                let targets = to.chain(record).collect::<anyhow::Result<Vec<Target>>>();
                Ok(fixed_targets(targets?))
            }
        }
    }

    fn target(&self, number: usize, url: &str) -> anyhow::Result<Target> {
        // Documents name files from the root; here there is a directory to start from.
        let url = match url.strip_prefix("file:") {
            Some(path) if !path.starts_with('/') => file_url(path)?,
            _ => url.to_owned(),
        };
        let mut document = TargetDocument::new(&url);
        if !self.methods.is_empty() {
            document.methods.clone_from(&self.methods);
        }
        document.reorder_window = self.reorder_window;
        let name = TargetName::new(&format!("default/{number}"))?;
        Target::new(name, 1, document).context("--to")
    }

    /// Recording a request does no harm, whatever its method.
    fn recording(&self, number: usize, path: &str) -> anyhow::Result<Target> {
        let mut document = TargetDocument::new(&file_url(path)?);
        document.methods = vec!["any".to_owned()];
        document.recording = Some(RecordingSettings {
            append: self.record_append,
            flush_interval: self.record_flush_interval,
            size_limit: self.record_size_limit,
            queue_limit: self.record_queue_limit,
            ..RecordingSettings::default()
        });
        let name = TargetName::new(&format!("default/recording-{number}"))?;
        Target::new(name, 1, document).context("--record")
    }
}

fn file_url(path: &str) -> anyhow::Result<String> {
    let path = std::path::absolute(path).with_context(|| format!("find {path:?}"))?;
    Ok(format!("file://{}", path.display()))
}

pub(crate) fn run(args: RunArgs) -> anyhow::Result<Work> {
    let Some(config) = settings::<RunConfig>(&args.file, &args.flags)? else {
        return Ok(done());
    };
    let sources = config.sources();
    sources.plan().budget()?;
    capture::check(&sources.capture)?;
    for reading in &sources.readings {
        reading.check()?;
    }
    for topic in &sources.topics {
        topic.check()?;
    }
    if !args.file.check {
        confine(config.user.as_ref(), config.nice)?;
    }
    Ok(Work::new(replay_here(config, sources, args.file.check)))
}

async fn replay_here(
    config: RunConfig,
    sources: SourceSettings,
    check: bool,
) -> anyhow::Result<ExitCode> {
    let targets = config.targets()?;
    if config.listener().has_no_source() {
        bail!("{NO_SOURCE}");
    }
    // Later it would only fail what comes.
    for target in targets.borrow().values() {
        reprise_replayer::check_recording(target)?;
    }
    if check {
        return checked();
    }
    let stop = reprise_node::lifecycle::shutdown_signal()?;
    let embedded = Embedded::start(EmbeddedConfig {
        sources,
        targets,
        admin: config.admin,
        cpu_limit: config.cpu_limit,
        drain_timeout: config.drain_timeout,
        replayers: None,
        observer: None,
        tap: None,
    })
    .await?;
    tokio::select! {
        () = stop.cancelled() => {}
        () = embedded.exhausted() => {}
    }
    Ok(close(&embedded.drain().await))
}

/// Prints the closing summary. The status is 1 where a file could not be read, of which the log has the reason.
fn close(ended: &Ended) -> ExitCode {
    eprint!("{}", table::closing(&ended.books));
    match ended.unreadable {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

const LISTENER_EXAMPLES: &str = "\
Examples:
  reprise listener --capture eth0:80,8080 --etcd http://etcd-1:2379 --etcd http://etcd-2:2379
      capture two ports and ship to whichever relays are members of the cluster
  reprise listener --mirror :28019 --relay relay-1:28400
      take copies from a proxy on this host and ship to a fixed relay
  reprise listener --read shop.pcap.gz --relay relay-1:28400
      ship the requests in a capture file, and end
  reprise listener --capture eth0:80 --discard
      capture and count only, to see what that costs on this host; Ctrl-C shows the count";

/// Capture requests on a web host and ship them to a relay
#[derive(Debug, Args)]
#[command(after_help = LISTENER_EXAMPLES)]
pub(crate) struct ListenerArgs {
    #[command(flatten)]
    flags: ListenerFlags,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, Args, Serialize)]
struct ListenerFlags {
    #[command(flatten)]
    #[serde(flatten)]
    sources: SourceFlags,
    /// Find relays in etcd at this endpoint, http://HOST:PORT; repeatable [default: none]
    #[arg(long, value_name = "URL")]
    etcd: Vec<String>,
    /// Ship to this relay; repeatable; instead of --etcd [default: none]
    #[arg(long, value_name = "HOST:PORT")]
    relay: Vec<String>,
    /// Ship nothing: count what is captured, to see what a listener would cost on this host
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    discard: bool,
    /// Member name [default: HOSTNAME-listener-ADMINPORT]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// Metrics, health and ledger [default: 127.0.0.1:28493]
    #[arg(long, value_name = "ADDR")]
    admin: Option<ListenAddress>,
    /// Resident memory of the whole process; past what it leaves for requests, sessions are left out and counted as
    /// shed_memory [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Kernel memory for packets that wait to be read, of all interfaces and threads; part of --memory [default: 16MiB]
    #[arg(long, value_name = "SIZE")]
    ring: Option<ByteSize>,
    /// How long a stop waits for what is under way [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(
        with = "config::duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    drain_timeout: Option<Duration>,
}

pub(crate) fn listener(args: ListenerArgs) -> anyhow::Result<Work> {
    let Some(config) = settings::<reprise_listener::Config>(&args.file, &args.flags)? else {
        return Ok(done());
    };
    config.validate()?;
    if args.file.check {
        return Ok(Work::new(async { checked() }));
    }
    confine(config.user.as_ref(), config.nice)?;
    // A web host with 64 cores has them for production. What isn't done by the threads of the captures is one stream to a
    // relay, whose tasks would wake each other up across threads, and the mirror endpoint.
    let threads = if config.mirror.is_empty() { 1 } else { 2 };
    let work = Work::new(async move {
        let stop = reprise_node::lifecycle::shutdown_signal()?;
        Ok(close(&reprise_listener::run(config, stop).await?))
    });
    Ok(work.on(Threads::Few(threads)))
}

/// Gives up what a listener doesn't need: before there are threads, and before anything else is opened.
fn confine(user: Option<&Account>, nice: u8) -> anyhow::Result<()> {
    privileges::set_nice(nice)?;
    if nice == 0 {
        privileges::allow_ahead();
    }
    user.map_or(Ok(()), privileges::drop_to)
}

const RELAY_EXAMPLES: &str = "\
Examples:
  reprise relay --etcd http://etcd-1:2379
      replayers and targets come from etcd; listeners find this relay there
  reprise relay --replayer replayer-1:28410 --replayer replayer-2:28410 --targets targets.yaml
      a fixed list of replayers and a watched file of targets";

/// Apply the targets' rules and route each exchange to its replayer
#[derive(Debug, Args)]
#[command(after_help = RELAY_EXAMPLES)]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    flags: RelayFlags,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, Args, Serialize)]
struct RelayFlags {
    /// Where listeners connect [default: :28400]
    #[arg(long, value_name = "ADDR")]
    listen: Option<ListenAddress>,
    /// The address that listeners should use [default: the one bound, with this host's name for all addresses]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Members and targets are in etcd at this endpoint, http://HOST:PORT; repeatable [default: none]
    #[arg(long, value_name = "URL")]
    etcd: Vec<String>,
    /// A replayer; repeatable; instead of --etcd [default: none]
    #[arg(long, value_name = "HOST:PORT")]
    replayer: Vec<String>,
    /// YAML file of targets, watched for changes; instead of --etcd [default: none]
    #[arg(long, value_name = "FILE")]
    targets: Option<PathBuf>,
    /// Member name [default: HOSTNAME-relay-PORT]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// Metrics, health and ledger [default: 127.0.0.1:28491]
    #[arg(long, value_name = "ADDR")]
    admin: Option<ListenAddress>,
    /// Memory for exchanges in custody; when it is full, listeners wait and shed [default: 512MiB]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Unsettled bytes that one listener may have here [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    listener_window: Option<ByteSize>,
    /// How long a stop waits for what is under way [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(
        with = "config::duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    drain_timeout: Option<Duration>,
}

pub(crate) async fn relay(args: RelayArgs) -> anyhow::Result<ExitCode> {
    let Some(config) = settings::<reprise_relay::Config>(&args.file, &args.flags)? else {
        return Ok(ExitCode::SUCCESS);
    };
    config.validate()?;
    if args.file.check {
        return checked();
    }
    let stop = reprise_node::lifecycle::shutdown_signal()?;
    reprise_relay::run(config, stop).await?;
    Ok(ExitCode::SUCCESS)
}

const REPLAYER_EXAMPLES: &str = "\
Examples:
  reprise replayer --etcd http://etcd-1:2379 --pool checkout
      serve a pool; relays find this replayer in etcd
  reprise replayer --listen 10.0.0.7:28410
      without etcd: name it to the relays with --replayer 10.0.0.7:28410";

/// Take a share of a pool's traffic and send it to the targets
#[derive(Debug, Args)]
#[command(after_help = REPLAYER_EXAMPLES)]
pub(crate) struct ReplayerArgs {
    #[command(flatten)]
    flags: ReplayerFlags,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, Args, Serialize)]
struct ReplayerFlags {
    /// Where relays connect [default: :28410]
    #[arg(long, value_name = "ADDR")]
    listen: Option<ListenAddress>,
    /// The address that relays should use [default: the one bound, with this host's name for all addresses]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// A pool to serve; repeatable [default: default]
    #[arg(long, value_name = "NAME")]
    pool: Vec<String>,
    /// Share of a pool, relative to the other replayers' [default: 1]
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Register in etcd at this endpoint, http://HOST:PORT; repeatable [default: none]
    #[arg(long, value_name = "URL")]
    etcd: Vec<String>,
    /// Member name [default: HOSTNAME-replayer-PORT]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// Metrics, health and ledger [default: 127.0.0.1:28492]
    #[arg(long, value_name = "ADDR")]
    admin: Option<ListenAddress>,
    /// Bytes that one relay may have here unsettled, and that may wait for one target [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// How long a stop waits for what is under way [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(
        with = "config::duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    drain_timeout: Option<Duration>,
}

pub(crate) async fn replayer(args: ReplayerArgs) -> anyhow::Result<ExitCode> {
    let Some(config) = settings::<reprise_replayer::Config>(&args.file, &args.flags)? else {
        return Ok(ExitCode::SUCCESS);
    };
    if args.file.check {
        return checked();
    }
    let stop = reprise_node::lifecycle::shutdown_signal()?;
    reprise_replayer::run(config, stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// The mode's settings; `None` where only its defaults were asked for, which are printed.
fn settings<C>(file: &FileArgs, flags: &impl Serialize) -> anyhow::Result<Option<C>>
where
    C: Default + Serialize + DeserializeOwned,
{
    if file.print_default {
        print!("{}", config::to_toml(&C::default())?);
        return Ok(None);
    }
    config::load(file.config.as_deref(), flags).map(Some)
}

fn done() -> Work {
    Work::new(async { Ok(ExitCode::SUCCESS) })
}

fn checked() -> anyhow::Result<ExitCode> {
    println!("settings are good");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    /// Every default that `--help` names is the one that the settings have.
    #[test]
    fn help_names_the_real_defaults() {
        check::<RunArgs, RunConfig>("run");
        check::<ListenerArgs, reprise_listener::Config>("listener");
        check::<RelayArgs, reprise_relay::Config>("relay");
        check::<ReplayerArgs, reprise_replayer::Config>("replayer");
    }

    fn check<A: Args + FromArgMatches, C: Default + Serialize>(name: &'static str) {
        let command = A::augment_args(Command::new(name));
        let defaults = toml::Table::try_from(C::default()).unwrap();
        for argument in command.get_arguments() {
            let key = argument.get_id().as_str();
            let Some(toml::Value::String(default)) = defaults.get(key) else {
                continue;
            };
            let help = argument.get_help().unwrap().to_string();
            assert!(
                help.contains(&format!("[default: {default}]")),
                "{name} --{key}: {help}"
            );
        }
    }
}
