//! Recordings as tests write them, in GoReplay's format, and what a replay of them says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use reprise_integration_tests::Place;
use reprise_integration_tests::process::{Finished, output, run};
use reprise_traffic::gor::SEPARATOR;

use crate::rig;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// When what is recorded here began, unix nanoseconds.
pub(crate) const BEGIN: u64 = 1_700_000_000_000_000_000;

pub(crate) const MS: u64 = 1_000_000;

/// A record with a request that came `at` nanoseconds after the begin on the connection of that number.
pub(crate) fn record(connection: u64, number: u64, at: u64, request: &[u8]) -> Vec<u8> {
    let at = BEGIN + at;
    let header = format!("1 {connection:012x}{number:012x} {at} -1\n");
    [header.as_bytes(), request, SEPARATOR].concat()
}

/// A GET whose number is in its query, of a user whose session is in a cookie.
pub(crate) fn get(number: u64, user: u64) -> Vec<u8> {
    let head = format!(
        "GET /items?id={number} HTTP/1.1\r\nHost: shop.example\r\nX-Twice: 1\r\nx-twice:  2 \r\nCookie: sid=u{user}\r\n\r\n"
    );
    head.into_bytes()
}

/// So many GETs of one connection, one every `gap` nanoseconds.
pub(crate) fn evenly(requests: u64, gap: u64) -> Vec<u8> {
    let record = |n| record(1, n, n * gap, &get(n, 1));
    (0..requests).flat_map(record).collect()
}

pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// The file packed by a tool; what it is then called.
pub(crate) fn pack(tool: &str, path: &Path) -> PathBuf {
    let suffix = match tool {
        "gzip" => "gz",
        _ => "zst",
    };
    let mut command = Command::new(tool);
    command.arg("-q").arg(path);
    output(command, LIMIT).unwrap();
    PathBuf::from(format!("{}.{suffix}", path.display()))
}

/// `reprise run --read …`, to its end.
pub(crate) fn replay(files: &[&Path], to: &str, more: &[&str]) -> Finished {
    let place = Place::loopback();
    let mut command = place.command(rig::binary());
    let admin = place.free().unwrap().to_string();
    command.args(["run", "--admin", &admin, "--to", to]);
    for file in files {
        command.arg("--read").arg(file);
    }
    command.args(more);
    run(command, LIMIT).unwrap()
}

/// It ended well, and says that it replayed so many requests, and all of them.
pub(crate) fn assert_all(finished: &Finished, requests: u64) {
    let said = &finished.stderr;
    assert!(finished.status.success(), "{said}");
    assert!(
        said.contains(&format!("flushed: {requests} of {requests} ")),
        "{said}"
    );
    let balances = format!("The ledger balances: {requests} captured");
    assert!(said.contains(&balances), "{said}");
}
