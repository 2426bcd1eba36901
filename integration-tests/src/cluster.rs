//! A cluster of `reprise` processes.
//!
//! What enters: the binary's path, and which role runs where with what arguments. What leaves: their ledgers and
//! metrics; on a failure, the ends of their logs. What may be lost: nothing; all are killed when the cluster is
//! dropped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};
use reprise_traffic::ledger::{Account, EpochReport, LedgerReport};
use tempfile::TempDir;

use crate::http;
use crate::place::Place;
use crate::process::{Process, Signal, tail};
use crate::wait::eventually;

const READY_LIMIT: Duration = Duration::from_secs(15);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Lines of each log that a failure shows.
const TAIL: usize = 15;

/// A mode of the binary that runs until it is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything in one process.
    Run,
    /// Captures.
    Listener,
    /// Routes.
    Relay,
    /// Sends.
    Replayer,
}

impl Role {
    /// The mode's name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Run => "run",
            Role::Listener => "listener",
            Role::Relay => "relay",
            Role::Replayer => "replayer",
        }
    }

    /// True where the books of what was captured are kept.
    fn keeps_books(self) -> bool {
        matches!(self, Role::Run | Role::Listener)
    }
}

/// Running parts, by name.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    parts: BTreeMap<String, Part>,
    dir: TempDir,
}

#[derive(Debug)]
struct Part {
    role: Role,
    place: Place,
    admin: SocketAddr,
    /// Where a relay or a replayer takes streams.
    listen: Option<SocketAddr>,
    process: Process,
}

/// How a part that was told to stop ended.
#[derive(Debug)]
pub struct Stopped {
    /// Its exit status.
    pub status: ExitStatus,
    /// All that it printed in its life; its summary stands last.
    pub log: String,
}

impl Cluster {
    /// A cluster of that binary, with no parts yet.
    ///
    /// # Errors
    /// When there is no room for its logs.
    pub fn new(binary: &Path) -> Result<Cluster> {
        Ok(Cluster {
            binary: binary.to_owned(),
            parts: BTreeMap::new(),
            dir: tempfile::Builder::new()
                .prefix("reprise-cluster-")
                .tempdir()?,
        })
    }

    /// Starts a part and waits until it is ready. Its name, its admin port and, for a relay or a replayer, its port
    /// for streams are given to it; `arguments` say the rest.
    ///
    /// # Errors
    /// When it can't be started, ends, or doesn't become ready.
    pub fn start(
        &mut self,
        role: Role,
        name: &str,
        place: &Place,
        arguments: &[&str],
    ) -> Result<()> {
        self.launch(role, name, place, arguments)?;
        self.until_ready(name)
    }

    /// As [`Cluster::start`], without waiting.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn launch(
        &mut self,
        role: Role,
        name: &str,
        place: &Place,
        arguments: &[&str],
    ) -> Result<()> {
        let admin = place.free()?;
        let mut command = place.command(&self.binary);
        command.arg(role.as_str());
        command.args(["--admin", &admin.to_string()]);
        if role != Role::Run {
            command.args(["--id", name]);
        }
        let listen = match role {
            Role::Relay | Role::Replayer => Some(place.free()?),
            Role::Run | Role::Listener => None,
        };
        if let Some(listen) = listen {
            command.args(["--listen", &listen.to_string()]);
        }
        command.args(arguments);
        let process = Process::start(name, command, &self.log_path(name))?;
        let part = Part {
            role,
            place: place.clone(),
            admin,
            listen,
            process,
        };
        self.parts.insert(name.to_owned(), part);
        Ok(())
    }

    /// Waits until a part's `/readyz` says so.
    ///
    /// # Errors
    /// When it ends, or isn't ready in time.
    pub fn until_ready(&mut self, name: &str) -> Result<()> {
        let part = self.part_mut(name)?;
        let ready = eventually(&format!("readiness of {name}"), READY_LIMIT, || {
            // Waiting for one that has ended would only hide why.
            if let Some(status) = part.process.ended()? {
                return Ok(Err(anyhow::anyhow!("{name} has ended: {status}")));
            }
            let (status, body) = http::get(&part.place, part.admin, "/readyz")?;
            anyhow::ensure!(status == 200, "/readyz says {status} {}", body.trim());
            Ok(Ok(()))
        });
        let log = self.log(name)?;
        ready
            .and_then(|ended| ended)
            .with_context(|| format!("its log ends\n{}", tail(&log, TAIL)))
    }

    /// Where a relay or a replayer takes streams.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn listen(&self, name: &str) -> Result<SocketAddr> {
        let listen = self.part(name)?.listen;
        listen.with_context(|| format!("{name} takes no streams"))
    }

    /// A part's admin port.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn admin(&self, name: &str) -> Result<SocketAddr> {
        Ok(self.part(name)?.admin)
    }

    /// All that a part, or the ones before it under that name, printed.
    ///
    /// # Errors
    /// When nothing of that name was started.
    pub fn log(&self, name: &str) -> Result<String> {
        let path = self.log_path(name);
        let log = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// True while the part's process lives.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn is_running(&mut self, name: &str) -> Result<bool> {
        Ok(self.part_mut(name)?.process.ended()?.is_none())
    }

    /// The id of a part's process.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn id(&self, name: &str) -> Result<u32> {
        Ok(self.part(name)?.process.id())
    }

    /// Sends a part a signal.
    ///
    /// # Errors
    /// When there is no such part, or it has ended.
    pub fn signal(&mut self, name: &str, signal: Signal) -> Result<()> {
        self.part_mut(name)?.process.signal(signal)
    }

    /// Kills a part with SIGKILL.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.part_mut(name)?.process.kill();
        self.parts.remove(name);
        Ok(())
    }

    /// Holds a part's process still (SIGSTOP), or lets it go on (SIGCONT). Its peers get no word of it.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn hold(&mut self, name: &str, still: bool) -> Result<()> {
        let signal = if still { Signal::STOP } else { Signal::CONT };
        self.part_mut(name)?.process.signal(signal)
    }

    /// The most bytes that a part's process had in memory so far (`VmHWM`).
    ///
    /// # Errors
    /// When there is no such part, or the system can't say.
    pub fn peak_memory(&self, name: &str) -> Result<u64> {
        let status = format!("/proc/{}/status", self.part(name)?.process.id());
        let status = std::fs::read_to_string(&status).with_context(|| format!("read {status}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.context("no VmHWM")?.parse().context("read VmHWM")?;
        Ok(kib << 10)
    }

    /// Tells a part to stop (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When there is no such part, or it doesn't end in time.
    pub fn stop(&mut self, name: &str) -> Result<Stopped> {
        let process = &mut self.part_mut(name)?.process;
        process.signal(Signal::TERM)?;
        let status = process.wait(STOP_LIMIT)?;
        self.parts.remove(name);
        Ok(Stopped {
            status,
            log: self.log(name)?,
        })
    }

    /// What a part answers at a path of its admin port.
    ///
    /// # Errors
    /// When it doesn't answer 200.
    pub fn page(&self, name: &str, path: &str) -> Result<String> {
        let part = self.part(name)?;
        let (status, body) = http::get(&part.place, part.admin, path)?;
        anyhow::ensure!(status == 200, "{path} of {name} says {status} {body}");
        Ok(body)
    }

    /// A part's ledger.
    ///
    /// # Errors
    /// When it can't be had.
    pub fn ledger(&self, name: &str) -> Result<LedgerReport> {
        let ledger = self.page(name, "/ledger")?;
        serde_json::from_str(&ledger).with_context(|| format!("ledger of {name}: {ledger}"))
    }

    /// The books of all listeners that run.
    ///
    /// # Errors
    /// When one can't be had.
    pub fn books(&self) -> Result<Books> {
        let keepers = self.parts.iter().filter(|(_, p)| p.role.keeps_books());
        let mut epochs = Vec::new();
        for (name, _) in keepers {
            epochs.append(&mut self.ledger(name)?.epochs);
        }
        Ok(Books { epochs })
    }

    /// Waits until so many requests were captured and the end of each is known.
    ///
    /// # Errors
    /// When that isn't so within `limit`, with the books and the ends of all logs.
    pub fn at_rest(&self, captured: u64, limit: Duration) -> Result<Books> {
        let what = format!("rest of the cluster with {captured} captured");
        let books = eventually(&what, limit, || {
            let books = self.books()?;
            anyhow::ensure!(
                books.captured() == captured && books.balance(),
                "{books:#?}"
            );
            Ok(books)
        });
        books.with_context(|| self.log_tails())
    }

    /// The ends of all logs, also of parts that are gone.
    pub fn log_tails(&self) -> String {
        let Ok(entries) = std::fs::read_dir(self.dir.path()) else {
            return String::new();
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let tail_of = |path: &PathBuf| {
            let log = std::fs::read(path).unwrap_or_default();
            let log = tail(&String::from_utf8_lossy(&log), TAIL);
            format!("{} ends\n{log}", path.display())
        };
        paths.iter().map(tail_of).collect()
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    fn part(&self, name: &str) -> Result<&Part> {
        self.parts
            .get(name)
            .with_context(|| format!("no part {name}"))
    }

    fn part_mut(&mut self, name: &str) -> Result<&mut Part> {
        let part = self.parts.get_mut(name);
        part.with_context(|| format!("no part {name}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tails());
        }
    }
}

/// The books of some listeners.
#[derive(Debug, Clone)]
pub struct Books {
    /// A report for each.
    pub epochs: Vec<EpochReport>,
}

impl Books {
    /// Requests captured by all of them.
    pub fn captured(&self) -> u64 {
        self.epochs.iter().map(|epoch| epoch.captured).sum()
    }

    /// True when nothing is in flight and nothing unaccounted for.
    pub fn balance(&self) -> bool {
        self.epochs.iter().all(EpochReport::balances_at_rest)
    }

    /// How often something happened at the edge of the capture, over all listeners.
    pub fn edge(&self, event: &str) -> u64 {
        let counts = self.epochs.iter().filter_map(|epoch| epoch.edge.get(event));
        counts.sum()
    }

    /// How a target's exchanges ended, over all listeners.
    pub fn account(&self, target: &str) -> Account {
        let mut account = Account::default();
        for epoch in &self.epochs {
            if let Some(part) = epoch.targets.get(target) {
                account.merge(part);
            }
        }
        account
    }
}
