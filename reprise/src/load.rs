//! `reprise load`: replays a recording as a load test, from this process or from all replayers of a pool.
//!
//! What enters: recordings, a target, a pace, a number of users. What leaves: requests, a line that shows how it goes, and
//! a report at the end. What may be lost: see [`crate::embedded`]; what was intended and not sent is in the report.
//!
//! Requests are read, multiplied, timed and routed here, and sent by the replayers, which keep them until they are due:
//! all start at the same instant, as far as their hosts' clocks agree.

mod collect;
mod page;
mod progress;
mod report;
mod stop;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use reprise_listener::governor::CpuLimit;
use reprise_listener::reading::crowd::{Times, Users};
use reprise_listener::reading::pace::{Pacing, Rate, Repeat, Speed, Stage};
use reprise_listener::{SourceSettings, budget, reading};
use reprise_node::config::ByteSize;
use reprise_node::membership::{
    Etcd, EtcdSettings, Member, Members, Role, Targets, fixed_members, fixed_targets,
};
use reprise_node::{Health, ListenAddress, identity};
use reprise_relay::Observer;
use reprise_traffic::target::Connections;
use reprise_traffic::{SessionKey, Target, TargetDocument, TargetName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::embedded::{Embedded, EmbeddedConfig};
use collect::Collector;
use progress::Progress;
use report::{Report, Test};
use stop::StopRule;

const EXAMPLES: &str = "\
Examples:
  reprise load --from shop.gor.gz --target http://staging:8080 --speed 5
      five times production's pace, from this host
  reprise load --from shop.gor.gz --target shop/staging --etcd http://etcd-1:2379 --users 10x --unique cookie:sid
      ten users for each recorded one, each with a session cookie of its own, sent by all replayers of the target's pool
  reprise load --from shop.gor.gz --target http://staging:8080 --stages 100/s:1m,1000/s:5m --stop-if 'error_rate>5%'
      a ramp that ends as soon as staging can't follow, with --html report.html as a page with plots";

/// Load-test a target with a recording, from here or from all replayers of its pool
///
/// Requests leave when they are due, whether the target keeps up or not; latency counts from that instant. Ctrl-C ends the
/// test, waits for what is under way and reports. Exits with 1 where a rule of --stop-if ended it, nothing was answered, or
/// the books don't balance.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LoadArgs {
    /// Recording (.gor) or capture file (pcap, pcapng), packed or not; repeatable: all are one stream, in order of time
    #[arg(long, value_name = "FILE", required = true)]
    from: Vec<PathBuf>,
    /// A URL; or with --etcd the name of a target there, TEAM/NAME, whose rules then count
    #[arg(long, value_name = "TARGET", required = true)]
    target: String,
    /// Send by the replayers that are members in etcd at this endpoint, http://HOST:PORT; repeatable [default: from this
    /// process]
    #[arg(long, value_name = "URL")]
    etcd: Vec<String>,
    /// With --etcd: all replayers of the target's pool, so many of them, or these, comma-separated
    #[arg(long, value_name = "WHICH", default_value = "all", requires = "etcd")]
    workers: String,
    /// With a URL and --etcd: the pool that sends
    #[arg(long, value_name = "NAME", default_value = "default")]
    pool: String,
    /// Methods to replay, comma-separated, or any [default: the target's; of a URL GET,HEAD,OPTIONS,TRACE]
    #[arg(long, value_name = "METHODS", value_delimiter = ',')]
    methods: Vec<String>,
    /// What keeps requests together and in order: connection, client, header:NAME, cookie:NAME, query:NAME [default: the
    /// target's; of a URL connection]
    #[arg(long, value_name = "KEY")]
    session_key: Option<SessionKey>,
    /// Requests under way at a time, from each replayer [default: the target's; of a URL 256]
    #[arg(long, value_name = "N")]
    concurrency: Option<std::num::NonZeroU32>,
    /// Over which connections each replayer sends: shared, or per-session, a connection for each session [default: the
    /// target's; of a URL shared]
    #[arg(long, value_name = "HOW", value_parser = connections)]
    connections: Option<Connections>,
    /// Production's pace times this factor: 0.5, 2, 10; or max, as fast as possible [default: 1]
    #[arg(long, value_name = "FACTOR")]
    speed: Option<Speed>,
    /// Evenly at this rate instead of production's pace: 500/s, 30/m; of recorded users, so that --users multiplies it
    /// [default: none]
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// At a rate that goes evenly from one to the next, from 0 on: 100/s:1m,1000/s:5m; multiplied by --users, too. The
    /// recording is read again and again until the last stage is over [default: none]
    #[arg(long, value_name = "RATE:TIME", value_delimiter = ',')]
    stages: Vec<Stage>,
    /// Replay so many times, or for so long, as 10m, or forever [default: 1]
    #[arg(long = "loop", value_name = "N")]
    repeat: Option<Repeat>,
    /// Shorten pauses that are longer than this, after --speed [default: none]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_gap: Option<Duration>,
    /// Users for each recorded one: each session is replayed so many times
    #[arg(long, value_name = "N", default_value = "1x")]
    users: Times,
    /// With --users: where clones have values of their own, made unique by ~N behind them: cookie:NAME, header:NAME,
    /// query:NAME; repeatable [default: the session key, if it is one of these]
    #[arg(long, value_name = "KEY")]
    unique: Vec<SessionKey>,
    /// With --users: clones begin up to so much later than their original
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1s")]
    jitter: Duration,
    /// End the test once this holds for the last five seconds: error_rate>5%, p99>500ms, lateness>100ms; repeatable
    /// [default: none]
    #[arg(long, value_name = "RULE")]
    stop_if: Vec<StopRule>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Write the report as a page with plots into this file [default: none]
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Resident memory of the process
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    memory: ByteSize,
}

fn connections(text: &str) -> Result<Connections, String> {
    match text {
        "shared" => Ok(Connections::Shared),
        "per-session" => Ok(Connections::PerSession),
        _ => Err("write shared or per-session".to_owned()),
    }
}

/// The file that the report is drawn into.
struct Page {
    path: PathBuf,
    file: std::fs::File,
}

impl Page {
    fn create(path: &Path) -> anyhow::Result<Page> {
        // An earlier report stays until there is a new one.
        let file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        Ok(Page {
            path: path.to_owned(),
            file: file.with_context(|| format!("write {}", path.display()))?,
        })
    }

    fn write(mut self, report: &Report) -> anyhow::Result<()> {
        let page = page::render(report).context("draw the report")?;
        let empty = self.file.set_len(0);
        let written = empty.and_then(|()| self.file.write_all(page.as_bytes()));
        written.with_context(|| format!("write {}", self.path.display()))
    }
}

/// How long the end waits for what is under way, when asked to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// Between two looks at how it goes.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs a load test.
pub(crate) async fn run(args: LoadArgs) -> anyhow::Result<ExitCode> {
    let signal = reprise_node::lifecycle::shutdown_signal()?;
    // A test may take hours; that its report can't be written is to be known before.
    let page = args.html.as_deref().map(Page::create).transpose()?;
    let cluster = Cluster::join(&args).await?;
    let sources = sources(&args, &cluster.target)?;
    let collector = Collector::default();
    let observed = collector.clone();
    let observer = Observer(Arc::new(move |replayer, measured| {
        observed.take(replayer, measured);
    }));
    let embedded = Embedded::start(EmbeddedConfig {
        sources,
        targets: cluster.targets,
        admin: ListenAddress::loopback(0),
        cpu_limit: CpuLimit::default(),
        drain_timeout: DRAIN,
        replayers: cluster.replayers,
        observer: Some(observer),
        tap: None,
    })
    .await?;
    let started = Instant::now();
    let mut progress = Progress::new(args.json);
    let stopped_by = watch_over(&embedded, &args.stop_if, &collector, &mut progress, &signal).await;
    let ended = embedded.drain().await;
    progress.end();
    let test = Test {
        recording: args
            .from
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        target: args.target.clone(),
        how: how(&args),
        lasted: started.elapsed(),
        stopped_by: stopped_by.clone(),
    };
    let report = Report::new(test, &ended.books, &collector.lock());
    match args.json {
        true => println!(
            "{}",
            serde_json::to_string_pretty(&report).context("render the report")?
        ),
        false => print!("{report}"),
    }
    if let Some(page) = page {
        page.write(&report)?;
    }
    if let Some(silence) = report.silence() {
        bail!(silence);
    }
    let by_rule = stopped_by.is_some_and(|why| why != BY_SIGNAL);
    Ok(match by_rule || ended.unreadable > 0 || !report.balances {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

const BY_SIGNAL: &str = "by a signal";

/// A target that takes everything and does nothing.
const NOWHERE: &str = "null:";

/// Shows how it goes until the recording is replayed, a rule is broken or somebody asks for the end. Returns why it ended
/// early.
async fn watch_over(
    embedded: &Embedded,
    rules: &[StopRule],
    collector: &Collector,
    progress: &mut Progress,
    signal: &CancellationToken,
) -> Option<String> {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let exhausted = embedded.exhausted();
    tokio::pin!(exhausted);
    loop {
        tokio::select! {
            () = &mut exhausted => return None,
            () = signal.cancelled() => return Some(BY_SIGNAL.to_owned()),
            _ = looks.tick() => {}
        }
        progress.show(&embedded.books(), collector);
        let recent = match rules.is_empty() {
            true => continue,
            false => collector.lock().recent(Instant::now()),
        };
        let broken = rules.iter().find_map(|rule| {
            let value = rule.broken_by(&recent)?;
            Some(format!(
                "{rule} holds: it was {value} in the last five seconds"
            ))
        });
        if broken.is_some() {
            return broken;
        }
    }
}

/// What was asked for, as it is written.
fn how(args: &LoadArgs) -> String {
    let mut how = String::new();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let space = if how.is_empty() { "" } else { " " };
            how.push_str(&format!("{space}--{name} {value}"));
        }
    };
    add("speed", args.speed.map(|speed| speed.to_string()));
    add("rate", args.rate.map(|rate| rate.to_string()));
    let stages: Vec<String> = args.stages.iter().map(Stage::to_string).collect();
    add("stages", (!stages.is_empty()).then(|| stages.join(",")));
    add("loop", args.repeat.map(|repeat| repeat.to_string()));
    add(
        "users",
        (args.users != Times::default()).then(|| args.users.to_string()),
    );
    add(
        "max-gap",
        args.max_gap
            .map(|gap| humantime::format_duration(gap).to_string()),
    );
    how
}

fn sources(args: &LoadArgs, target: &TargetDocument) -> anyhow::Result<SourceSettings> {
    let key = &target.session_key;
    let is_unnamed = |key: &SessionKey| {
        matches!(
            key,
            SessionKey::Connection | SessionKey::Client | SessionKey::Exchange
        )
    };
    let is_named = !is_unnamed(key);
    let unique = match args.unique.is_empty() {
        true if is_named => vec![key.clone()],
        _ => args.unique.clone(),
    };
    if let Some(key) = unique.iter().find(|key| is_unnamed(key)) {
        bail!(
            "--unique {key}: clones differ in that anyway; name a cookie, a header or a query parameter"
        );
    }
    let config = reprise_listener::Config {
        memory: args.memory,
        ..reprise_listener::Config::default()
    };
    let mut sources = SourceSettings {
        process: budget::RUN,
        ..config.sources()
    };
    let evenly = args.rate.is_some() || !args.stages.is_empty();
    let usual = sources.readings.pop().unwrap_or_default();
    let reading = reading::Settings {
        files: args.from.clone(),
        pacing: Pacing {
            // Also of what comes through a pipe.
            speed: args.speed.or((!evenly).then_some(Speed::Times(1.0))),
            rate: args.rate,
            stages: args.stages.clone(),
            max_gap: args.max_gap,
            repeat: args.repeat.unwrap_or_default(),
        },
        users: Users {
            times: args.users,
            session: key.clone(),
            unique,
            jitter: args.jitter,
        },
        ..usual
    };
    reading.check()?;
    sources.readings.push(reading);
    Ok(sources)
}

/// Where the test goes, and who sends it.
struct Cluster {
    target: TargetDocument,
    targets: watch::Receiver<Targets>,
    replayers: Option<watch::Receiver<Members>>,
}

impl Cluster {
    async fn join(args: &LoadArgs) -> anyhow::Result<Cluster> {
        let is_url = args.target.contains("://") || args.target == NOWHERE;
        if args.etcd.is_empty() {
            if !is_url {
                bail!(
                    "--target {}: give a URL, or --etcd URL where the target of that name is",
                    args.target
                );
            }
            return Cluster::new(args, TargetDocument::new(&args.target), "here", None);
        }
        let settings = EtcdSettings {
            endpoints: args.etcd.clone(),
        };
        let etcd = Etcd::connect(&settings, Health::new()).await?;
        let (document, name) = if is_url {
            let document = TargetDocument {
                pool: args.pool.clone(),
                ..TargetDocument::new(&args.target)
            };
            (document, "url".to_owned())
        } else {
            let name = TargetName::new(&args.target)?;
            let targets = etcd.watch_targets().await?;
            let found = targets.borrow().get(&name).cloned();
            let Some(target) = found else {
                let known: Vec<String> =
                    targets.borrow().keys().map(TargetName::to_string).collect();
                bail!(
                    "--target {name}: there is none in etcd; there are: {}",
                    known.join(", ")
                );
            };
            (target.document.clone(), name.as_str().replace('/', "."))
        };
        let members = etcd.watch_members(Role::Replayer).await?;
        let workers = workers(&args.workers, &document.pool, &members.borrow())?;
        Cluster::new(args, document, &name, Some(workers))
    }

    fn new(
        args: &LoadArgs,
        mut document: TargetDocument,
        name: &str,
        workers: Option<Vec<(String, Member)>>,
    ) -> anyhow::Result<Cluster> {
        if !args.methods.is_empty() {
            document.methods.clone_from(&args.methods);
        }
        if let Some(key) = &args.session_key {
            document.session_key = key.clone();
        }
        if let Some(connections) = args.connections {
            document.connections = connections;
        }
        if let Some(concurrency) = args.concurrency {
            document.concurrency = concurrency;
        }
        // A name of its own: what others send to the same target has its own queue and is not measured here.
        let name = TargetName::new(&format!("load/{name}-{:x}", identity::incarnation()))?;
        let target = Target::new(name, 1, document.clone()).context("--target")?;
        Ok(Cluster {
            target: document,
            targets: fixed_targets([target]),
            replayers: workers.map(fixed_members),
        })
    }
}

/// The replayers that are asked for, of those that serve the pool.
fn workers(which: &str, pool: &str, members: &Members) -> anyhow::Result<Vec<(String, Member)>> {
    let serves = |member: &Member| member.pools.iter().any(|p| p == pool);
    let all = members.iter().filter(|(_, member)| serves(member));
    let all: Vec<(String, Member)> = all
        .map(|(id, member)| (id.clone(), member.clone()))
        .collect();
    if all.is_empty() {
        bail!(
            "no replayer serves the pool {pool:?}; start one with: reprise replayer --etcd … --pool {pool}"
        );
    }
    if which == "all" {
        return Ok(all);
    }
    if let Ok(number) = which.parse::<usize>() {
        if number == 0 || number > all.len() {
            bail!(
                "--workers {number}: the pool {pool:?} has {} replayers",
                all.len()
            );
        }
        return Ok(all.into_iter().take(number).collect());
    }
    let wanted: BTreeSet<&str> = which.split(',').map(str::trim).collect();
    let known: BTreeSet<&str> = all.iter().map(|(id, _)| id.as_str()).collect();
    if let Some(unknown) = wanted.difference(&known).next() {
        let known: Vec<&str> = known.iter().copied().collect();
        bail!(
            "--workers {unknown}: the pool {pool:?} has no such replayer; it has {}",
            known.join(", ")
        );
    }
    let chosen = all.iter().filter(|(id, _)| wanted.contains(id.as_str()));
    Ok(chosen.cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_those_of_the_pool_that_were_asked_for() {
        let member = |pool: &str| Member {
            pools: vec![pool.to_owned()],
            ..Member::new("h:1".to_owned())
        };
        let members =
            [("a", "p"), ("b", "p"), ("c", "q")].map(|(id, pool)| (id.to_owned(), member(pool)));
        let members: Members = Arc::new(members.into_iter().collect());
        let ids = |which: &str| -> Vec<String> {
            workers(which, "p", &members)
                .unwrap()
                .into_iter()
                .map(|(id, _)| id)
                .collect()
        };
        assert_eq!(
            (ids("all"), ids("1"), ids("b, a")),
            (
                vec!["a".into(), "b".into()],
                vec!["a".into()],
                vec!["a".into(), "b".into()]
            )
        );
        for (which, pool, said) in [
            ("3", "p", "has 2"),
            ("c", "p", "has a, b"),
            ("all", "x", "no replayer"),
        ] {
            let error = workers(which, pool, &members).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
