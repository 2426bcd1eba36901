//! The machine that the figures are of, and the rights that it must grant.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use reprise_integration_tests::{Place, process};

const LIMIT: Duration = Duration::from_secs(10);

/// Capabilities that are needed, by their number (linux/capability.h).
const RIGHTS: [(u32, &str); 3] = [
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (21, "CAP_SYS_ADMIN"),
];

/// # Errors
/// One line that says which rights are missing.
pub(crate) fn require_rights() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.unwrap_or("0").trim(), 16)?;
    let missing: Vec<&str> = RIGHTS
        .iter()
        .filter(|(number, _)| effective >> number & 1 == 0)
        .map(|(_, name)| *name)
        .collect();
    anyhow::ensure!(
        missing.is_empty(),
        "the bench captures and makes network namespaces: run it as root (missing: {})",
        missing.join(", ")
    );
    Ok(())
}

/// What stands above the figures.
pub(crate) fn heading(quick: bool, note: Option<&str>) -> String {
    let mut text = "# Results of `make bench`\n\n".to_owned();
    if quick {
        text.push_str("A quick run: short rounds, so the figures vary more.\n\n");
    }
    if let Some(note) = note {
        text.push_str(&format!("{note}\n\n"));
    }
    text.push_str(
        "All figures are of one run on one machine, on which production, its clients and Reprise share the cores. \
         Each stands beside its yardstick: the aim, or the same without Reprise, and the ratio to it. `×` below 1 is \
         better than the yardstick. The clients measure from the instant at which a request was meant to be sent.\n\n",
    );
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let facts = [
        ("date", now),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("CPU", format!("{cores} × {}", cpu_model())),
        ("load before the run (1, 5, 15 minutes)", load()),
        ("commit", said("git", &["describe", "--always", "--dirty"])),
        ("nginx", said("nginx", &["-v"])),
        ("tcpdump", said("tcpdump", &["--version"])),
        ("wrk", wrk()),
    ];
    for (name, fact) in facts {
        text.push_str(&format!("- {name}: {fact}\n"));
    }
    text.push('\n');
    text
}

/// wrk says which it is, and ends with 1.
fn wrk() -> String {
    let mut command = Place::loopback().command("wrk");
    command.arg("-v");
    let said = process::run(command, LIMIT).map(|finished| finished.stdout);
    let version = said.ok().and_then(|said| {
        let line = said.lines().next()?.split_once(" Copyright")?.0;
        Some(line.trim().to_owned())
    });
    version.unwrap_or("unknown".to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or("unknown".to_owned(), |text| text.trim().to_owned())
}

fn cpu_model() -> String {
    let text = read("/proc/cpuinfo");
    let model = text.lines().find_map(|l| l.strip_prefix("model name"));
    let model = model.and_then(|rest| rest.split_once(": "));
    model.map_or("unknown".to_owned(), |(_, model)| model.to_owned())
}

fn load() -> String {
    let text = read("/proc/loadavg");
    let figures: Vec<&str> = text.split(' ').take(3).collect();
    figures.join(" ")
}

/// The first line that a program prints of itself.
fn said(program: &str, arguments: &[&str]) -> String {
    let mut command = Place::loopback().command(program);
    command.args(arguments);
    let line = |text: &str| text.lines().next().map(str::to_owned);
    process::run(command, LIMIT)
        .ok()
        .filter(|finished| finished.status.success())
        .and_then(|finished| line(&finished.stdout).or_else(|| line(&finished.stderr)))
        .unwrap_or("unknown".to_owned())
}
