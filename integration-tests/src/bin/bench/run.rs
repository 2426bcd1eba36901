//! A program that runs to its end by itself, and what it took.
//!
//! What enters: a command; or a recording that `reprise run` is to replay. What leaves: time, CPU time of all its threads,
//! memory, and the books at its end. What may be lost: nothing but the memory of its last 20 ms.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use reprise_integration_tests::Process;
use reprise_integration_tests::process::tail;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::meter::{self, Memory};
use crate::{Context, gor, stop};

const LOOK_EVERY: Duration = Duration::from_millis(20);
const BURIAL: Duration = Duration::from_secs(5);

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Run {
    /// From its start to its end.
    pub(crate) wall: Duration,
    /// Of all threads, also of those that ended before; in steps of 10 ms.
    pub(crate) cpu_ns: u64,
    pub(crate) memory: Memory,
    /// What it printed.
    pub(crate) log: String,
}

impl Run {
    /// So many of them for each second of CPU time.
    pub(crate) fn per_cpu_second(&self, count: u64) -> f64 {
        count as f64 / (self.cpu_ns.max(1) as f64 / 1e9)
    }

    /// Microseconds of CPU time for each.
    pub(crate) fn micros_per(&self, count: u64) -> f64 {
        self.cpu_ns as f64 / 1e3 / count.max(1) as f64
    }

    /// So many of them a second.
    pub(crate) fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.wall.as_secs_f64()
    }
}

/// What a replay's ledger says at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) captured: u64,
    pub(crate) replayed: u64,
    pub(crate) balance: bool,
}

/// Runs a program until it ends by itself.
///
/// # Errors
/// When it fails, takes longer than `limit`, or the user interrupts.
pub(crate) fn to_its_end(
    name: &str,
    command: std::process::Command,
    limit: Duration,
) -> Result<Run> {
    let directory = gor::directory()?;
    let started = Instant::now();
    let mut process = Process::start(name, command, &directory.path().join("log"))?;
    let id = Pid::from_raw(process.id() as i32).context("its id")?;
    let handle = pidfd_open(id, PidfdFlags::empty()).with_context(|| format!("watch {name}"))?;
    let mut memory = Memory::default();
    let pause = Timespec::try_from(LOOK_EVERY)?;
    // Readable once it has ended; it is there, to be asked for its times, until it is waited for.
    while poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&pause)) != Ok(1) {
        stop::check()?;
        anyhow::ensure!(started.elapsed() < limit, "{name}: not within {limit:?}");
        memory = memory.max(meter::memory(process.id()).unwrap_or_default());
    }
    let wall = started.elapsed();
    let cpu_ns = meter::whole_cpu_ns(process.id())?;
    let status = process.wait(BURIAL)?;
    let log = process.log()?;
    anyhow::ensure!(
        status.success(),
        "{name}: {status}; its log ends\n{}",
        tail(&log, 15)
    );
    Ok(Run {
        wall,
        cpu_ns,
        memory,
        log,
    })
}

/// Replays a recording to `to` at a speed, by `reprise run`.
///
/// # Errors
/// As [`to_its_end`].
pub(crate) fn replay(
    context: &Context,
    recording: &Path,
    (to, speed): (&str, &str),
    limit: Duration,
) -> Result<(Run, Books)> {
    let mut command = context.place.command(&context.binary);
    let admin = context.place.free()?.to_string();
    command.args(["run", "--admin", &admin, "--to", to, "--speed", speed]);
    command.arg("--read").arg(recording);
    let run = to_its_end("reprise run", command, limit)?;
    let books = books(&run.log).with_context(|| format!("books in\n{}", tail(&run.log, 15)))?;
    Ok((run, books))
}

/// The row of the summary's table: target, captured, replayed …
fn books(log: &str) -> Option<Books> {
    let row = log
        .lines()
        .find(|line| line.trim_start().starts_with("default/1 "))?;
    let mut figures = row.split_whitespace().skip(1).map(str::parse);
    Some(Books {
        captured: figures.next()?.ok()?,
        replayed: figures.next()?.ok()?,
        balance: log.contains("The ledger balances"),
    })
}

#[cfg(test)]
mod tests {
    use reprise_integration_tests::Place;

    use super::*;

    fn sh(script: &str) -> std::process::Command {
        let mut command = Place::loopback().command("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn the_time_of_a_program_that_has_ended_is_known() {
        let busy = "n=0; while [ $n -lt 100000 ]; do n=$((n + 1)); done; echo $n";
        let run = to_its_end("sh", sh(busy), Duration::from_secs(60)).unwrap();
        assert_eq!(run.log, "100000\n");
        assert!(run.cpu_ns >= 10_000_000, "{run:?}");
        assert!(run.memory.resident > 0 && run.wall >= Duration::from_millis(10));
        let failed = to_its_end("sh", sh("echo alas; exit 3"), Duration::from_secs(9));
        let failed = failed.unwrap_err().to_string();
        assert!(failed.contains("alas") && failed.contains('3'), "{failed}");
        let endless = to_its_end("sh", sh("sleep 60"), Duration::from_millis(50));
        assert!(endless.unwrap_err().to_string().contains("not within"));
    }

    #[test]
    fn figures_are_for_one() {
        let run = Run {
            wall: Duration::from_secs(2),
            cpu_ns: 500_000_000,
            memory: Memory::default(),
            log: String::new(),
        };
        let figures = (run.per_cpu_second(1000), run.micros_per(1000));
        assert_eq!((figures, run.per_second(1000)), ((2000.0, 500.0), 500.0));
    }

    #[test]
    fn the_summary_is_read() {
        let log = "INFO ready\nflushed: 10 of 10 captured exchanges are settled\n\
                   ─────\n target      captured   replayed   failed\n═════\n \
                   default/1       10          9        1 \n─────\n\
                   The ledger balances: 10 captured, each accounted for.\n";
        let expected = Books {
            captured: 10,
            replayed: 9,
            balance: true,
        };
        assert_eq!(books(log), Some(expected));
        assert_eq!(books("INFO ready\n"), None);
    }
}
