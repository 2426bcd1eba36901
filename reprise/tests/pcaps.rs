//! Captures with known contents (`../shared/pcaps`), through `reprise inspect --json`, with `--port` and without.
//!
//! Whatever isn't listed must not be reported, in any file, and what must be reported has to be.
#![expect(
    clippy::unwrap_used,
    reason = "a test that can't read its input has to fail"
)]

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcaps");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: {} is not there", folder.display());
    None
}

fn lines(text: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap();
    text.lines().map(parse).collect()
}

/// What `reprise inspect` reports of `files`, in one process.
fn inspect(folder: &Path, files: &[&str], ports: &[u64]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_reprise"))
        .current_dir(folder)
        .args(["inspect", "--json"])
        .args(ports.iter().map(|port| format!("--port={port}")))
        .args(files)
        .output()
        .unwrap();
    let summary = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{summary}");
    for file in files {
        let counted = summary.contains(&format!("{file}: "));
        assert!(counted, "{file} is missing:\n{summary}");
    }
    lines(&String::from_utf8(output.stdout).unwrap())
}

/// What has to agree of a row.
const FIELDS: [&str; 7] = [
    "server",
    "method",
    "target",
    "version",
    "headers",
    "body_len",
    "body_sha256",
];

fn shown(row: &Value) -> String {
    FIELDS.map(|field| row[field].to_string()).join(" ")
}

/// Rows by file and client, in order; whether each must be reported.
type Listed = BTreeMap<(String, String), VecDeque<(bool, String)>>;

fn key(row: &Value) -> (String, String) {
    let text = |name: &str| row[name].as_str().unwrap().to_owned();
    (text("file"), text("client"))
}

/// What was reported and isn't listed, and how many rows of each file that must be reported weren't.
fn compare(reported: &[Value], mut listed: Listed) -> (Vec<String>, BTreeMap<String, usize>) {
    let (mut unlisted, mut missed) = (Vec::new(), BTreeMap::<String, usize>::new());
    for row in reported {
        let (key, row) = (key(row), shown(row));
        let rows = listed.entry(key.clone()).or_default();
        // In order within its connection: what was passed over is missing.
        match rows.iter().position(|(_, listed)| *listed == row) {
            Some(at) => {
                let passed = rows.drain(..=at).take(at).filter(|(must, _)| *must);
                *missed.entry(key.0).or_default() += passed.count();
            }
            None => unlisted.push(format!("{}: {} {row}", key.0, key.1)),
        }
    }
    for ((file, _), rows) in listed {
        *missed.entry(file).or_default() += rows.iter().filter(|(must, _)| *must).count();
    }
    missed.retain(|_, n| *n > 0);
    (unlisted, missed)
}

/// Files by the ports to look at; those with the same go through one process.
fn groups(files: &[Value], any_port: bool) -> BTreeMap<Vec<u64>, Vec<&str>> {
    let mut groups: BTreeMap<Vec<u64>, Vec<&str>> = BTreeMap::new();
    for file in files {
        let ports = match any_port {
            true => Vec::new(),
            false => serde_json::from_value(file["ports"].clone()).unwrap(),
        };
        let name = file["file"].as_str().unwrap();
        groups.entry(ports).or_default().push(name);
    }
    groups
}

fn check(any_port: bool) {
    let Some(folder) = folder() else { return };
    let read = |name| lines(&std::fs::read_to_string(folder.join(name)).unwrap());
    let (files, expected) = (read("files.jsonl"), read("expected.jsonl"));
    let mut listed = Listed::new();
    for row in &expected {
        let row_and_level = (row["level"] == "must", shown(row));
        listed.entry(key(row)).or_default().push_back(row_and_level);
    }
    let reported: Vec<Value> = groups(&files, any_port)
        .iter()
        .flat_map(|(ports, files)| inspect(&folder, files, ports))
        .collect();
    let (unlisted, missed) = compare(&reported, listed);
    let mut short = Vec::new();
    for file in &files {
        let name = file["file"].as_str().unwrap();
        let Some(n) = missed.get(name) else { continue };
        println!("{name}: {n} of {} missed", file["must"]);
        short.push(name);
    }
    let musts = expected.iter().filter(|row| row["level"] == "must");
    let missed: usize = missed.values().sum();
    println!(
        "{missed} of {} that must be reported were not",
        musts.count()
    );
    assert_eq!(unlisted, Vec::<String>::new());
    assert_eq!(short, Vec::<&str>::new());
}

#[test]
fn every_capture_gives_what_is_listed_and_nothing_else() {
    check(false);
}

#[test]
fn on_any_port_and_in_both_directions_the_same_is_found() {
    check(true);
}
