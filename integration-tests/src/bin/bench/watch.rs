//! Who looks at production's packets: nobody, tcpdump as the floor, or a listener in one of its ways.
//!
//! What enters: where production listens. What leaves: what the watcher saw and what it used. What may be lost: what
//! a listener lost is in its ledger, by reason; tcpdump tells its drops at its end.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use reprise_integration_tests::process::Signal;
use reprise_integration_tests::{Cluster, Nginx, Place, Process, Role, eventually};
use reprise_traffic::ledger::EpochReport;
use tempfile::TempDir;

use crate::meter::{self, Sampler};
use crate::seen::{Seen, is_whole};
use crate::{Context, stop};

/// A listener's own default (`--ring`), in KiB as tcpdump has it.
const TCPDUMP_BUFFER: &str = "131072";

/// After the last answer: what is in the ring and in the window comes out.
const SETTLE: Duration = Duration::from_millis(300);
/// A listener whose figures stand still for so long has no more to say.
const STILL: Duration = Duration::from_secs(2);
const START_LIMIT: Duration = Duration::from_secs(10);
const REST_LIMIT: Duration = Duration::from_secs(15);

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Nobody,
    /// `tcpdump -w /dev/null`.
    Tcpdump,
    /// `reprise listener --discard`.
    Discard,
    /// `reprise listener --relay`, to a relay without targets.
    Ship,
    /// The same, to a port of ours.
    ShipTo(SocketAddr),
}

impl Who {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Who::Nobody => "nobody",
            Who::Tcpdump => "tcpdump -w /dev/null",
            Who::Discard => "listener --discard",
            Who::Ship | Who::ShipTo(_) => "listener --relay",
        }
    }
}

/// One that looks.
#[derive(Debug)]
pub(crate) struct Watch {
    kind: Kind,
    /// Of what is measured: tcpdump or the listener. Nothing with nobody.
    pid: Option<u32>,
    before_ns: u64,
    sampler: Option<Sampler>,
    /// Logs and documents, for as long as it runs.
    _files: Option<TempDir>,
}

#[derive(Debug)]
enum Kind {
    Nobody,
    Tcpdump(Process),
    Listener(Box<Cluster>),
}

impl Watch {
    /// Begins to look at what reaches `to` on `place`.
    ///
    /// # Errors
    /// When it can't be started.
    pub(crate) fn start(
        context: &Context,
        who: Who,
        place: &Place,
        to: SocketAddr,
    ) -> Result<Watch> {
        let (kind, files) = match who {
            Who::Nobody => (Kind::Nobody, None),
            Who::Tcpdump => tcpdump(place, to)?,
            _ => listener(context, who, place, to)?,
        };
        let pid = match &kind {
            Kind::Nobody => None,
            Kind::Tcpdump(process) => Some(process.id()),
            Kind::Listener(cluster) => Some(cluster.id("web")?),
        };
        Ok(Watch {
            kind,
            pid,
            before_ns: pid.map_or(Ok(0), meter::cpu_ns)?,
            sampler: pid.map(Sampler::start),
            _files: files,
        })
    }

    /// Sends its relay a signal.
    pub(crate) fn signal_relay(&mut self, signal: Signal) -> Result<()> {
        match &mut self.kind {
            Kind::Listener(cluster) => cluster.signal("relay", signal),
            _ => anyhow::bail!("there is no relay"),
        }
    }

    /// The listener's books.
    pub(crate) fn books(&self) -> Result<EpochReport> {
        let Kind::Listener(cluster) = &self.kind else {
            anyhow::bail!("only listeners keep books");
        };
        let epoch = cluster.ledger("web")?.epochs.pop();
        epoch.context("the listener has no epoch")
    }

    /// Waits until all that was sent is accounted for, or nothing more comes, and ends it.
    ///
    /// # Errors
    /// When it has ended, or the user interrupts.
    pub(crate) fn finish(mut self, sent: u64) -> Result<Seen> {
        let (Some(pid), Some(sampler)) = (self.pid, &self.sampler) else {
            return Ok(Seen::default());
        };
        stop::pause(SETTLE)?;
        // Before anybody asks for the ledger, which costs something too.
        let mut cpu_ns = meter::cpu_ns(pid)?;
        let mut seen = match &self.kind {
            Kind::Listener(..) => {
                let (report, at_once) = self.rest(sent)?;
                if !at_once {
                    cpu_ns = meter::cpu_ns(pid)?;
                }
                Seen::of(report)
            }
            _ => Seen::default(),
        };
        seen.cpu_ns = cpu_ns.saturating_sub(self.before_ns);
        seen.memory = sampler.memory()?;
        match &mut self.kind {
            Kind::Nobody => {}
            Kind::Tcpdump(process) => {
                process.signal(Signal::INT)?;
                process.wait(START_LIMIT)?;
                let log = process.log()?;
                seen.captured = count(&log, "packets captured").context("tcpdump's count")?;
                seen.kernel_dropped =
                    count(&log, "packets dropped by kernel").context("tcpdump's drops")?;
            }
            Kind::Listener(cluster) => drop(cluster.stop("web")?),
        }
        Ok(seen)
    }

    /// The books at rest, and whether the first look found them so.
    fn rest(&self, sent: u64) -> Result<(EpochReport, bool)> {
        let mut last = self.books()?;
        if is_whole(&last, sent) {
            return Ok((last, true));
        }
        let limit = Instant::now() + REST_LIMIT;
        let mut changed = Instant::now();
        loop {
            stop::pause(SETTLE)?;
            let now = self.books()?;
            let is_still = now.in_flight == 0 && changed.elapsed() > STILL;
            // What is still missing at the limit shows as a difference.
            if is_whole(&now, sent) || is_still || Instant::now() > limit {
                return Ok((now, false));
            }
            if (now.captured, now.settled) != (last.captured, last.settled) {
                changed = Instant::now();
            }
            last = now;
        }
    }
}

fn tcpdump(place: &Place, to: SocketAddr) -> Result<(Kind, Option<TempDir>)> {
    let dir = tempfile::Builder::new()
        .prefix("reprise-bench-")
        .tempdir()?;
    let filter = format!("tcp dst port {}", to.port());
    let process = start_tcpdump(place, dir.path(), &["-w", "/dev/null"], &filter)?;
    Ok((Kind::Tcpdump(process), Some(dir)))
}

/// tcpdump with a filter, which captures when this returns; its log is put into a directory.
pub(crate) fn start_tcpdump(
    place: &Place,
    directory: &Path,
    arguments: &[&str],
    filter: &str,
) -> Result<Process> {
    let mut command = place.command("tcpdump");
    command.args(["-i", place.interface(), "-n", "-Z", "root"]);
    command.args(["-B", TCPDUMP_BUFFER]).args(arguments);
    command.arg(filter);
    let process = Process::start("tcpdump", command, &directory.join("log"))?;
    eventually("start of tcpdump", START_LIMIT, || {
        let log = process.log()?;
        anyhow::ensure!(log.contains("listening on"), "it says {log}");
        Ok(())
    })?;
    Ok(process)
}

fn listener(
    context: &Context,
    who: Who,
    place: &Place,
    to: SocketAddr,
) -> Result<(Kind, Option<TempDir>)> {
    let mut cluster = Cluster::new(&context.binary)?;
    let mut files = None;
    let capture = format!("{}:{}", place.interface(), to.port());
    let mut arguments = vec!["--capture".to_owned(), capture];
    match who {
        Who::ShipTo(relay) => arguments.extend(["--relay".to_owned(), relay.to_string()]),
        Who::Ship => {
            let dir = tempfile::Builder::new()
                .prefix("reprise-bench-")
                .tempdir()?;
            let targets = dir.path().join("targets.yaml");
            fs::write(&targets, "targets: {}\n")?;
            let targets = targets.to_str().context("path of the targets")?;
            // Without a target nobody ever connects to the replayer; port 9 is `discard`.
            let relay = ["--targets", targets, "--replayer", "127.0.0.1:9"];
            cluster.start(Role::Relay, "relay", place, &relay)?;
            let address = cluster.listen("relay")?.to_string();
            arguments.extend(["--relay".to_owned(), address]);
            files = Some(dir);
        }
        _ => arguments.push("--discard".to_owned()),
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    cluster.start(Role::Listener, "web", place, &arguments)?;
    Ok((Kind::Listener(Box::new(cluster)), files))
}

/// A line of tcpdump's farewell: `1234 packets captured`.
pub(crate) fn count(log: &str, what: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.ends_with(what))?;
    line.split(' ').next()?.parse().ok()
}

/// Production: a nginx that answers all with a few bytes.
///
/// # Errors
/// When it can't be started.
pub(crate) fn production(place: &Place) -> Result<Nginx> {
    Nginx::start_plain(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcpdumps_farewell_is_read() {
        let log = "tcpdump: listening on lo\n12 packets captured\n24 packets received by filter\n\
                   3 packets dropped by kernel\n";
        assert_eq!(count(log, "packets captured"), Some(12));
        assert_eq!(count(log, "packets dropped by kernel"), Some(3));
        assert_eq!(count(log, "packets dropped by interface"), None);
    }
}
