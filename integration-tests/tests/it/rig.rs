//! What every test stands on: the binary, the machine to itself, the rights that it needs.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use reprise_integration_tests::Hosts;

/// The machine to oneself, for as long as it is held: tests measure, and cores are few.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The binary under test.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match env::var_os("REPRISE_BIN") {
        Some(path) => path.into(),
        None => build(),
    })
}

/// Builds the binary where cargo would: `cargo test` builds it only for the tests of its own package, and a stale
/// one would be worse than none.
fn build() -> PathBuf {
    // target/PROFILE/deps/integration-HASH
    let directory = env::current_exe().unwrap();
    let directory = directory.ancestors().nth(2).unwrap();
    let profile = match directory.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        other => other,
    };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let built = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["build", "--quiet", "--bin", "reprise", "--profile", profile])
        .current_dir(workspace)
        .status()
        .expect("run cargo build --bin reprise");
    assert!(built.success(), "cargo build --bin reprise: {built}");
    let binary = directory.join("reprise");
    assert!(binary.exists(), "no {}; set REPRISE_BIN", binary.display());
    binary
}

/// Hosts with these names; nothing, and a word about it, where they can't be made.
pub(crate) fn hosts(names: &[&str]) -> Option<Hosts> {
    match Hosts::new(names) {
        Ok(hosts) => Some(hosts),
        Err(error) => {
            skip(&format!("{error:#}"));
            None
        }
    }
}

/// True with the right to capture; says so where it is missing.
pub(crate) fn may_capture() -> bool {
    const CAP_NET_RAW: u32 = 13;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.unwrap().trim(), 16).unwrap();
    let may = effective >> CAP_NET_RAW & 1 == 1;
    if !may {
        skip("no right to capture (CAP_NET_RAW)");
    }
    may
}

/// True where a program is installed; says so where it isn't.
pub(crate) fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !is_there {
        skip(&format!("no {program}"));
    }
    is_there
}

/// True when the acceptance's own sizes are asked for.
pub(crate) fn full() -> bool {
    env::var_os("REPRISE_FULL").is_some()
}

fn skip(why: &str) {
    assert!(
        env::var_os("CI").is_none(),
        "nothing is skipped in CI: {why}"
    );
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Past the test runner, which shows what a test prints only when it fails.
    let _ = writeln!(std::io::stderr(), "skipped {name}: {why}");
}
