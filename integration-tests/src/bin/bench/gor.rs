//! Recordings that are made here: small GETs at known times.
//!
//! What enters: when each request was captured. What leaves: a file in GoReplay's format, numbered requests of 50 clients
//! who take turns. What may be lost: nothing; the file goes when it is dropped.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use reprise_traffic::gor::SEPARATOR;
use tempfile::TempDir;

use crate::client::CONNECTIONS;
use crate::numbered::Numbered;
use crate::stop;

/// Bytes of a recorded head.
pub(crate) const SIZE: usize = 200;

/// When all of them begin: 2026-01-01, unix nanoseconds.
const BEGIN_NS: u64 = 1_767_225_600_000_000_000;
const BUFFER: usize = 1 << 20;
/// Records between two looks at whether the user wants no more.
const LOOK_EVERY: usize = 1 << 16;

/// A file, for as long as it is needed.
#[derive(Debug)]
pub(crate) struct Recording {
    path: PathBuf,
    _directory: TempDir,
}

impl Recording {
    /// Requests that were captured so many nanoseconds after the first.
    ///
    /// # Errors
    /// When the disk doesn't take them, or the user interrupts.
    pub(crate) fn write(times_ns: impl IntoIterator<Item = u64>) -> Result<Recording> {
        let directory = directory()?;
        let path = directory.path().join("bench.gor");
        let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
        let out = BufWriter::with_capacity(BUFFER, file);
        records(out, times_ns).with_context(|| format!("write {}", path.display()))?;
        Ok(Recording {
            path,
            _directory: directory,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A directory for what is written here.
pub(crate) fn directory() -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    Ok(builder.prefix("reprise-bench-").tempdir()?)
}

fn records(mut out: impl Write, times_ns: impl IntoIterator<Item = u64>) -> Result<()> {
    let mut request = Numbered::new("shop.example", SIZE);
    for (number, time_ns) in times_ns.into_iter().enumerate() {
        if number % LOOK_EVERY == 0 {
            stop::check()?;
        }
        let (client, at) = (number % CONNECTIONS, BEGIN_NS + time_ns);
        writeln!(out, "1 {client:012x}{number:012x} {at} -1")?;
        out.write_all(request.with(number as u32))?;
        out.write_all(SEPARATOR)?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use reprise_traffic::gor::{Kind, Reader};

    use super::*;
    use crate::numbered::numbers;

    #[test]
    fn what_is_written_is_a_recording() {
        let mut file = Vec::new();
        records(&mut file, [0, 7, 9]).unwrap();
        let mut reader = Reader::new(&file[..]);
        for (number, time) in [(0, 0), (1, 7), (2, 9)] {
            let record = reader.next_record().unwrap().unwrap().unwrap();
            assert_eq!(record.kind, Kind::Request);
            assert_eq!(record.timestamp_ns, BEGIN_NS + time);
            assert_eq!(record.payload.len(), SIZE);
            assert_eq!(numbers(record.payload), [number]);
            assert_eq!(record.id.len(), 24);
        }
        assert!(reader.next_record().unwrap().is_none());
    }
}
