//! What reading, pacing and accounting cost alone: a recording that is replayed to nobody.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::gor::{self, Recording};
use crate::report::{self, Aim, Section, mib, ratio, thousands};
use crate::run;
use crate::{Context, stop};

const ABOUT: &str = "\
A recording of small GETs, a record for each, through `reprise run --read --speed max --to null:`, which takes everything and \
does nothing: what it costs to read, route, account for and settle. Time and CPU time are the whole process's, its start \
included. A whole run does ten million too where the disk has more than 10 GB free and they take less than a minute: neither \
the cost of one nor the memory is to grow with the recording. Aims: at least 500,000 records for a second of CPU time, which is \
2 µs for one, and at most 128 MiB resident.";

const HEADER: [&str; 9] = [
    "records",
    "file",
    "written in s",
    "read in s",
    "records/s",
    "records/CPU-second",
    "µs CPU/record",
    "× aim (2)",
    "resident, × aim (128 MiB)",
];
const RECORDS: u64 = 1_000_000;
const MANY: u64 = 10_000_000;
/// Free on the disk, bytes, for [`MANY`].
const ROOM: u64 = 10_000_000_000;
/// And so long may they take.
const PATIENCE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(120);
/// For a second of CPU time.
const PER_CPU_SECOND: f64 = 500_000.0;
const RESIDENT_MIB: f64 = 128.0;

pub(crate) fn measure(context: &Context) -> Result<Section> {
    let mut section = Section {
        title: "To nobody".to_owned(),
        about: ABOUT.to_owned(),
        header: HEADER.to_vec(),
        ..Section::default()
    };
    let took = cell(context, RECORDS, &mut section)?;
    if context.quick {
        return Ok(section);
    }
    let expected = took * (MANY / RECORDS) as u32;
    let free = free()?;
    if free > ROOM && expected < PATIENCE {
        cell(context, MANY, &mut section)?;
    } else {
        section.notes.push(format!(
            "{} left out: {} GB are free on the disk, and they would take {:.0} s",
            thousands(MANY),
            free / 1_000_000_000,
            expected.as_secs_f64()
        ));
    }
    Ok(section)
}

/// One line of the table; and how long it took to get it.
fn cell(context: &Context, records: u64, section: &mut Section) -> Result<Duration> {
    stop::check()?;
    let started = Instant::now();
    // As from 10,000 requests a second.
    let recording = Recording::write((0..records).map(|number| number * 100_000))?;
    let written = started.elapsed();
    let size = recording.path().metadata()?.len();
    let (run, books) = run::replay(context, recording.path(), ("null:", "max"), LIMIT)?;
    anyhow::ensure!(books.balance, "the ledger does not balance: {books:?}");
    let per_cpu_second = run.per_cpu_second(records);
    report::progress(&format!(
        "{} records: {} a second of CPU time",
        thousands(records),
        thousands(per_cpu_second as u64)
    ));
    let resident = run.memory.resident as f64 / 1024.0;
    let what = |what: &str| format!("{} records to nobody: {what}", thousands(records));
    section.aims.extend([
        Aim::at_least(what("speed"), per_cpu_second, PER_CPU_SECOND, "/CPU-second"),
        Aim::at_most(what("resident"), resident, RESIDENT_MIB, "MiB"),
        Aim::all(what("accounted for"), books.replayed, records),
    ]);
    section.rows.push(vec![
        thousands(records),
        format!("{} MB", size / 1_000_000),
        format!("{:.1}", written.as_secs_f64()),
        format!("{:.1}", run.wall.as_secs_f64()),
        thousands(run.per_second(records) as u64),
        thousands(per_cpu_second as u64),
        format!("{:.2}", run.micros_per(records)),
        ratio(run.micros_per(records), Some(1e6 / PER_CPU_SECOND)),
        format!(
            "{}, {}",
            mib(run.memory.resident),
            ratio(resident, Some(RESIDENT_MIB))
        ),
    ]);
    Ok(started.elapsed())
}

/// Bytes that are free where recordings are written.
fn free() -> Result<u64> {
    let directory = gor::directory()?;
    let disk = rustix::fs::statvfs(directory.path()).context("ask for room on the disk")?;
    Ok(disk.f_bavail * disk.f_frsize)
}
