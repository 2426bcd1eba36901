//! GoReplay's command lines with a real broker and a real search server between real processes.

mod documents;
mod topics;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use reprise_integration_tests::process::{Signal, tail};
use reprise_integration_tests::{Place, Process};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// The binary under test; the one of this workspace and profile is built first, where none is named.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("REPRISE_BIN") {
            return path.into();
        }
        // target/PROFILE/deps/services-HASH
        let directory = std::env::current_exe().unwrap();
        let directory = directory.ancestors().nth(2).unwrap();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let built = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
            .args(["build", "--quiet", "--bin", "reprise"])
            .current_dir(workspace)
            .status()
            .unwrap();
        assert!(built.success(), "cargo build --bin reprise: {built}");
        directory.join("reprise")
    })
}

/// How a command line is written.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Style {
    /// `--flag value`
    Two,
    /// `-flag=value`
    Go,
}

/// A `reprise gor` that runs.
struct Gor {
    process: Process,
    dir: TempDir,
}

impl Gor {
    /// Starts one with these flags and values; a flag without a value has an empty one.
    fn start(style: Style, flags: &[(&str, &str)]) -> Gor {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Place::loopback().command("sh");
        command.args(["-c", "exec \"$@\" >\"$0\""]);
        command.arg(dir.path().join("out")).arg(binary()).arg("gor");
        for (flag, value) in flags {
            match (style, value.is_empty()) {
                (Style::Two, true) => command.arg(format!("--{flag}")),
                (Style::Two, false) => command.arg(format!("--{flag}")).arg(value),
                (Style::Go, true) => command.arg(format!("-{flag}")),
                (Style::Go, false) => command.arg(format!("-{flag}={value}")),
            };
        }
        let process = Process::start("gor", command, &dir.path().join("log")).unwrap();
        Gor { process, dir }
    }

    /// What it wrote to standard output.
    fn out(&self) -> String {
        let out = std::fs::read(self.dir.path().join("out")).unwrap_or_default();
        String::from_utf8(out).unwrap()
    }

    /// Waits until it ends by itself, and returns its log.
    fn ended(mut self) -> String {
        let status = self.process.wait(LIMIT).unwrap();
        let log = self.process.log().unwrap();
        assert!(status.success(), "{status}\n{}", tail(&log, 30));
        log
    }

    /// Asks it to stop, and waits for that.
    fn stop(mut self) -> String {
        self.process.signal(Signal::TERM).unwrap();
        self.ended()
    }

    /// Ends it at once.
    fn kill(mut self) {
        self.process.kill();
    }
}
