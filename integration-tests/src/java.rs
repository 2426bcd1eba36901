//! Services that are Java programs, as `deploy/setup.sh services` fetched them.
//!
//! What enters: which service, and its arguments. What leaves: a command that runs it. What may be lost: nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::place::Place;

/// `java` with a heap of `megabytes`, everything of `service` to be found, and quick to start rather than to run.
///
/// # Errors
/// When the service was not fetched.
pub(crate) fn java(place: &Place, service: &str, megabytes: u32) -> Result<Command> {
    let fetched = fetched(service);
    anyhow::ensure!(
        fetched.join("fetched").exists(),
        "{service} is not there; run: make test-services"
    );
    let mut command = place.command("java");
    command.arg(format!("-Xmx{megabytes}m"));
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    let (classes, jars) = (fetched.join("classes"), fetched.join("dependency"));
    let path = format!("{}:{}/*", classes.display(), jars.display());
    command.args(["-cp", &path]);
    Ok(command)
}

fn fetched(service: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("target/services").join(service)
}
