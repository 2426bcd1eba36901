//! `--input-file-dry-run`: what is in recordings and how long a replay takes, without one.
//!
//! What enters: the file inputs. What leaves: their figures on standard output, as text or as JSON, one object an input. What
//! may be lost: what can't be read, which is counted; files that are no recordings end it with an error.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufRead, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use reprise_listener::capture_file;
use reprise_traffic::gor::{self, Reader};
use serde::Serialize;

use super::options::{Input, Options};
use super::sources::found;

/// What was found in one input's files. Pauses are those of the replay: with its speed and its longest pause.
#[derive(Debug, Default, Serialize)]
struct Figures {
    files: usize,
    records: u64,
    /// Of records, unpacked.
    bytes: u64,
    /// Records that can't be read.
    skipped: u64,
    /// Records that are older than the one before them in their file.
    out_of_order: u64,
    first_wait_ms: f64,
    min_wait_ms: f64,
    max_wait_ms: f64,
    duration_s: f64,
}

/// A file that is read record by record.
struct Source {
    reader: Reader<Box<dyn BufRead>>,
    path: PathBuf,
    last_ns: u64,
}

/// Prints the figures of all file inputs.
///
/// # Errors
/// One line, when a file can't be read or is no recording.
pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for input in &options.inputs {
        let Input::File { paths, speed, .. } = input else {
            continue;
        };
        let mut files = Vec::new();
        for path in paths {
            files.extend(found(path)?);
        }
        let figures = figures(&files, *speed, options.file_input.max_wait)?;
        match options.globals.json {
            true => serde_json::to_writer(&mut out, &figures).context("print the figures")?,
            false => write!(out, "{}", text(&figures)).context("print the figures")?,
        }
        writeln!(out).context("print the figures")?;
    }
    Ok(())
}

fn text(figures: &Figures) -> String {
    let Figures {
        files,
        records,
        bytes,
        skipped,
        out_of_order,
        first_wait_ms,
        min_wait_ms,
        max_wait_ms,
        duration_s,
    } = figures;
    format!(
        "records processed: {records}\nfiles processed: {files}\nbytes processed: {bytes}\nmax wait: {max_wait_ms} ms\n\
         min wait: {min_wait_ms} ms\nfirst wait: {first_wait_ms} ms\nit will take {duration_s} s to replay\n\
         out of order: {out_of_order}\nnot readable: {skipped}\n"
    )
}

fn figures(files: &[PathBuf], speed: f64, max_wait: Option<Duration>) -> anyhow::Result<Figures> {
    let mut figures = Figures {
        files: files.len(),
        ..Figures::default()
    };
    let mut sources = Vec::new();
    // By time; files that begin alike, in the order in which they were named.
    let mut next = BinaryHeap::new();
    for (path, number) in files.iter().zip(0_usize..) {
        let mut source = Source::open(path)?;
        if let Some(at) = source.step(&mut figures)? {
            next.push(Reverse((at, number)));
        }
        sources.push(source);
    }
    let mut waits = Waits::default();
    let mut before: Option<u64> = None;
    while let Some(Reverse((at, number))) = next.pop() {
        if let Some(before) = before {
            let pause = Duration::from_nanos(at.saturating_sub(before)).div_f64(speed);
            waits.add(max_wait.map_or(pause, |most| pause.min(most)));
        }
        before = Some(before.unwrap_or(0).max(at));
        if let Some(at) = sources[number].step(&mut figures)? {
            next.push(Reverse((at, number)));
        }
    }
    figures.first_wait_ms = ms(waits.first.unwrap_or_default());
    figures.min_wait_ms = ms(waits.min.unwrap_or_default());
    figures.max_wait_ms = ms(waits.max);
    figures.duration_s = ms(waits.all) / 1e3;
    Ok(figures)
}

fn ms(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
}

/// Pauses between records.
#[derive(Debug, Default)]
struct Waits {
    first: Option<Duration>,
    min: Option<Duration>,
    max: Duration,
    all: Duration,
}

impl Waits {
    fn add(&mut self, pause: Duration) {
        self.first.get_or_insert(pause);
        self.min = Some(self.min.map_or(pause, |min| min.min(pause)));
        self.max = self.max.max(pause);
        self.all += pause;
    }
}

impl Source {
    fn open(path: &Path) -> anyhow::Result<Source> {
        let what = || format!("read {}", path.display());
        let unpacked = capture_file::unpack(File::open(path).with_context(what)?);
        let mut input: Box<dyn BufRead> = unpacked.with_context(what)?;
        let first = input.fill_buf().with_context(what)?;
        if !first.is_empty() && !gor::is_recording(first) {
            bail!("read {}: no recording (.gor)", path.display());
        }
        Ok(Source {
            reader: Reader::new(input),
            path: path.to_owned(),
            last_ns: 0,
        })
    }

    /// When the next record was captured; nothing at the end.
    fn step(&mut self, figures: &mut Figures) -> anyhow::Result<Option<u64>> {
        loop {
            let (_, before) = self.reader.position();
            let record = self.reader.next_record();
            match record.with_context(|| format!("read {}", self.path.display()))? {
                None => return Ok(None),
                Some(Err(_)) => figures.skipped += 1,
                Some(Ok(record)) => {
                    let at = record.timestamp_ns;
                    figures.records += 1;
                    figures.out_of_order += u64::from(at < self.last_ns);
                    self.last_ns = self.last_ns.max(at);
                    let (_, after) = self.reader.position();
                    figures.bytes += after - before;
                    return Ok(Some(at));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_replay() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, times: &[u64]| {
            let path = dir.path().join(name);
            let record =
                |ms: &u64| format!("1 a {}000000 -1\nGET / HTTP/1.1\r\n\r\n\n🐵🙈🙉\n", ms);
            std::fs::write(&path, times.iter().map(record).collect::<String>()).unwrap();
            path
        };
        let files = [
            file("a.gor", &[1000, 1300, 1200]),
            file("b.gor", &[1100, 5100]),
        ];
        let found = figures(&files, 2.0, Some(Duration::from_secs(1))).unwrap();
        assert_eq!((found.files, found.records, found.out_of_order), (2, 5, 1));
        let one = std::fs::metadata(&files[1]).unwrap().len() / 2;
        assert_eq!(found.bytes, 5 * one);
        assert_eq!((found.first_wait_ms, found.min_wait_ms), (50.0, 0.0));
        assert_eq!((found.max_wait_ms, found.duration_s), (1000.0, 1.15));
        let other = dir.path().join("c");
        std::fs::write(&other, "hello").unwrap();
        let error = figures(&[other], 1.0, None).unwrap_err();
        assert!(format!("{error:#}").contains("no recording"));
    }
}
