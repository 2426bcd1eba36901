//! A `reprise gor` as its users start it, and what it says at its end.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use reprise_integration_tests::process::{Process, Signal, tail};
use reprise_integration_tests::{Place, eventually, http};
use reprise_traffic::ledger::{Account, EpochReport, LedgerReport};

use crate::rig;

/// For what is bounded by nothing but the machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Runs beside each other: most of them wait.
const AT_ONCE: usize = 6;

/// How flags are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// As in the guides, read by a shell.
    Written,
    /// Two dashes, and `true` behind a blank where a flag stands alone.
    Spaced,
    /// One dash, `=` before values, `=true` where a flag stands alone.
    Go,
}

impl Style {
    pub(crate) const ALL: [Style; 3] = [Style::Written, Style::Spaced, Style::Go];

    /// What a shell is told.
    fn script(self, line: &str) -> String {
        let words = shlex::split(line).expect(line);
        let written = match self {
            Style::Written => return line.to_owned(),
            Style::Spaced => spaced(words),
            Style::Go => go(words),
        };
        let words = written.iter().map(String::as_str);
        shlex::try_join(words).expect(line)
    }
}

fn is_flag(word: &str) -> bool {
    word.starts_with('-') && word.contains(|c: char| c.is_ascii_alphabetic())
}

fn spaced(words: Vec<String>) -> Vec<String> {
    let mut out = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let alone = is_flag(&word) && words.peek().is_none_or(|next| is_flag(next));
        out.push(match is_flag(&word) {
            true => format!("--{}", word.trim_start_matches('-')),
            false => word,
        });
        if alone && !out.last().is_some_and(|word| word.contains('=')) {
            out.push("true".to_owned());
        }
    }
    out
}

fn go(words: Vec<String>) -> Vec<String> {
    let mut out = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        if !is_flag(&word) {
            out.push(word);
            continue;
        }
        let flag = word.trim_start_matches('-');
        out.push(match words.next_if(|next| !is_flag(next)) {
            Some(value) => format!("-{flag}={value}"),
            None if flag.contains('=') => format!("-{flag}"),
            None => format!("-{flag}=true"),
        });
    }
    out
}

/// A running one, in a directory of its test's.
#[derive(Debug)]
pub(crate) struct Gor {
    process: Process,
    admin: SocketAddr,
    stdout: PathBuf,
    line: String,
}

/// What one has said in its life.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Gor {
    /// Starts one in `dir` and waits until it is ready.
    pub(crate) fn start(style: Style, line: &str, dir: &Path) -> Gor {
        Gor::launch(style, line, dir).ready()
    }

    /// The same with authorities of servers in a file.
    pub(crate) fn start_trusting(file: &Path, style: Style, line: &str, dir: &Path) -> Gor {
        Gor::launch_with(Some(file), style, line, dir).ready()
    }

    fn ready(mut self) -> Gor {
        let ready = eventually("readiness of gor", LIMIT, || {
            if let Some(status) = self.process.ended()? {
                return Ok(Err(format!("{status}")));
            }
            let (status, page) = http::get(&Place::loopback(), self.admin, "/readyz")?;
            anyhow::ensure!(status == 200, "{page}");
            Ok(Ok(()))
        });
        if let Err(why) = ready.unwrap() {
            panic!("{}: {why}\n{}", self.line, self.stderr());
        }
        self
    }

    /// Starts one that may be over before anybody looks.
    pub(crate) fn launch(style: Style, line: &str, dir: &Path) -> Gor {
        Gor::launch_with(None, style, line, dir)
    }

    fn launch_with(authorities: Option<&Path>, style: Style, line: &str, dir: &Path) -> Gor {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let place = Place::loopback();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = |suffix: &str| dir.join(format!(".gor-{number}.{suffix}"));
        let (stdout, stderr) = (file("out"), file("err"));
        let admin = place.free().unwrap();
        let line = format!("{line} --admin {admin} --json");
        let line = style.script(&line);
        let script = format!("exec \"$0\" gor {line} > {}", stdout.display());
        let mut command = place.command("sh");
        command.arg("-c").arg(script).arg(rig::binary());
        command.current_dir(dir);
        if let Some(file) = authorities {
            command.env("SSL_CERT_FILE", file);
        }
        Gor {
            process: Process::start("gor", command, &stderr).unwrap(),
            admin,
            stdout,
            line,
        }
    }

    /// The books as they stand.
    pub(crate) fn books(&self) -> anyhow::Result<EpochReport> {
        let (_, page) = http::get(&Place::loopback(), self.admin, "/ledger")?;
        let mut report: LedgerReport = serde_json::from_str(&page)?;
        report.epochs.pop().context("no books yet")
    }

    /// Waits until so many messages came in and have all ended.
    pub(crate) fn settled(&self, messages: u64) -> EpochReport {
        let settled = eventually("settled messages", LIMIT, || {
            let books = self.books()?;
            let done = books.captured >= messages && books.in_flight == 0;
            anyhow::ensure!(done, "{books:?}");
            Ok(books)
        });
        let books = settled.unwrap_or_else(|error| {
            let log = self.process.log().unwrap_or_default();
            panic!("{}: {error:#}\n{}", self.line, tail(&log, 10))
        });
        assert_eq!(books.captured, messages, "{}: {books:?}", self.line);
        books
    }

    /// A metric's value, 0 where there is none.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (_, page) = http::get(&Place::loopback(), self.admin, "/metrics").unwrap();
        let values = page.lines().filter(|line| line.starts_with(name));
        let value = |line: &str| line.rsplit_once(' ')?.1.parse::<f64>().ok();
        values.filter_map(value).sum::<f64>() as u64
    }

    pub(crate) fn stdout(&self) -> Vec<u8> {
        fs::read(&self.stdout).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        self.process.log().unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.process.signal(signal).unwrap();
    }

    /// Sends it SIGTERM and waits for its end.
    pub(crate) fn stop(mut self) -> Said {
        self.signal(Signal::TERM);
        self.end()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Said {
        let status = self.process.wait(LIMIT).unwrap_or_else(|error| {
            panic!("{}: {error:#}\n{}", self.line, self.stderr());
        });
        Said {
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

impl Said {
    /// The summary's books, of a run that ended well; they balance.
    pub(crate) fn books(&self) -> EpochReport {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        let summary = self.stderr.lines().rfind(|line| line.starts_with('{'));
        let summary = summary.unwrap_or_else(|| panic!("no summary: {}", self.stderr));
        let books: EpochReport = serde_json::from_str(summary).unwrap();
        assert_eq!((books.residue(), books.in_flight), (0, 0), "{books:?}");
        books
    }

    /// What the summary says of the output of that number, counted from 1.
    pub(crate) fn output(&self, number: usize) -> Account {
        output(&self.books(), number)
    }
}

/// What books say of the output of that number, counted from 1.
pub(crate) fn output(books: &EpochReport, number: usize) -> Account {
    let prefix = format!("gor/{number}-");
    let mut targets = books.targets.iter();
    let account = targets.find(|(name, _)| name.starts_with(&prefix));
    account
        .map(|(_, account)| account.clone())
        .unwrap_or_default()
}

/// `reprise gor WORDS` without anything added, to its end.
pub(crate) fn bare(words: &[&str], dir: &Path) -> Said {
    let (out, err) = (dir.join(".bare.out"), dir.join(".bare.err"));
    let mut command: Command = Place::loopback().command("sh");
    let script = format!("exec \"$0\" gor \"$@\" > {}", out.display());
    command.args(["-c", &script]).arg(rig::binary()).args(words);
    command.current_dir(dir);
    drop(File::create(&err).unwrap());
    let mut process = Process::start("gor", command, &err).unwrap();
    Said {
        status: process.wait(LIMIT).unwrap(),
        stdout: fs::read(&out).unwrap(),
        stderr: process.log().unwrap(),
    }
}

/// A test that is run beside others.
pub(crate) type Job<'a> = (String, Box<dyn FnOnce() + Send + 'a>);

/// Runs jobs beside each other, a few at a time; fails with the names of those that failed.
pub(crate) fn beside_each_other(jobs: Vec<Job<'_>>) {
    let queue = Mutex::new(jobs.into_iter());
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some((name, job)) = next else {
                        return;
                    };
                    let thread = thread::Builder::new().name(name.clone());
                    let job = thread.spawn_scoped(scope, job).unwrap();
                    if job.join().is_err() {
                        failed.lock().unwrap().push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

#[test]
fn each_style_is_one_of_its_own() {
    let line = "-input-raw ':80' --output-http \"a|10%\" --split-output true -output-http-workers=-1 --stats";
    assert_eq!(Style::Written.script(line), line);
    for (style, expected) in [
        (
            Style::Spaced,
            "--input-raw :80 --output-http a|10% --split-output true --output-http-workers=-1 --stats true",
        ),
        (
            Style::Go,
            "-input-raw=:80 -output-http=a|10% -split-output=true -output-http-workers=-1 -stats=true",
        ),
    ] {
        let words = shlex::split(&style.script(line)).unwrap();
        assert_eq!(words.join(" "), expected);
    }
}
