//! A child process with a log, which doesn't outlive us.
//!
//! What enters: a command. What leaves: its log, its exit status. What may be lost: nothing survives a drop, and
//! the kernel ends the child when our process dies.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::wait::eventually;

/// A running child, leader of a process group of its own.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` (of [`Place::command`](crate::Place::command)), with what it prints appended to `log`.
    ///
    /// # Errors
    /// When the log or the program can't be opened.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Process> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        command.stdin(Stdio::null()).stderr(out.try_clone()?);
        command.stdout(out);
        let child = spawn(command).with_context(|| format!("start {name}"))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All that it printed.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn log(&self) -> Result<String> {
        let log = fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// How it ended; nothing while it runs.
    ///
    /// # Errors
    /// When the system can't say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        anyhow::ensure!(self.ended()?.is_none(), "{} has ended", self.name);
        kill_process(self.pid(), signal).with_context(|| format!("signal {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        eventually(&what, limit, || {
            self.ended()?.context("it is still running")
        })
    }

    /// Kills it and its children with SIGKILL.
    pub fn kill(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It can't be gone, as nobody else waits for it.
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a text, each behind a bar, for messages.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all[from..]
        .iter()
        .map(|line| format!("  | {line}\n"))
        .collect()
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it printed there.
    pub stderr: String,
}

/// Runs a command to its end.
///
/// # Errors
/// When it can't be started, or still runs after `limit`; then it is killed.
pub fn run(mut command: Command, limit: Duration) -> Result<Finished> {
    let what = describe(&command);
    let (out, err) = (
        tempfile::NamedTempFile::new()?,
        tempfile::NamedTempFile::new()?,
    );
    command.stdin(Stdio::null());
    command.stdout(out.reopen()?).stderr(err.reopen()?);
    let child = spawn(command).with_context(|| format!("start {what}"))?;
    let mut process = Process {
        name: what,
        child,
        log: err.path().to_owned(),
    };
    let status = process.wait(limit)?;
    Ok(Finished {
        status,
        stdout: String::from_utf8_lossy(&fs::read(out.path())?).into_owned(),
        stderr: process.log()?,
    })
}

/// Runs a command that is to succeed, for what it prints.
///
/// # Errors
/// When it fails, with what it printed, or as [`run`].
pub fn output(command: Command, limit: Duration) -> Result<String> {
    let what = describe(&command);
    let finished = run(command, limit)?;
    anyhow::ensure!(
        finished.status.success(),
        "{what}: {}: {}{}",
        finished.status,
        finished.stdout,
        finished.stderr.trim()
    );
    Ok(finished.stdout)
}

fn describe(command: &Command) -> String {
    let words = command.get_args().skip_while(|word| *word != "--").skip(1);
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    match words.is_empty() {
        true => command.get_program().to_string_lossy().into_owned(),
        false => words.join(" "),
    }
}

/// Starts a child from a thread that lives as long as we do: the signal at a parent's death, which
/// [`Place::command`](crate::Place::command) asks for, comes at the death of the *thread* that started the child.
fn spawn(mut command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Nobody waits any more only when the asking thread panicked.
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    command.process_group(0);
    let gone = || io::Error::other("the thread that starts processes is gone");
    let (answer, child) = channel();
    spawner.send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Place;

    const LIMIT: Duration = Duration::from_secs(10);

    fn sh(script: &str) -> Command {
        let mut command = Place::loopback().command("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_that_fails_says_what_it_printed() {
        assert_eq!(output(sh("echo ok"), LIMIT).unwrap(), "ok\n");
        let error = output(sh("echo alas >&2; exit 3"), LIMIT).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("alas") && error.contains("3"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let error = output(sh("sleep 60"), Duration::from_millis(50)).unwrap_err();
        assert!(format!("{error:#}").contains("still running"), "{error:#}");
    }

    #[test]
    fn a_dropped_process_takes_its_children_along() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let process = Process::start("sh", sh("sleep 60 & echo $!; wait"), &log).unwrap();
        let child = eventually("child's id", LIMIT, || {
            Ok(process.log()?.trim().parse::<i32>()?)
        });
        let child = Pid::from_raw(child.unwrap()).unwrap();
        drop(process);
        eventually("end of the child", LIMIT, || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.as_raw_pid()));
            anyhow::ensure!(stat.is_err() || stat?.contains(") Z "), "it lives");
            Ok(())
        })
        .unwrap();
    }
}
