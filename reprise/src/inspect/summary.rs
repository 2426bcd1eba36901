//! What was read of a file, and why what is not listed is not.
//!
//! What enters: counts. What leaves: a few lines for people. What may be lost: warnings beyond the first few of a
//! file; their number is told.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};
use std::sync::Arc;

use indicatif::ProgressBar;
use reprise_listener::capture_file::FileError;
use reprise_listener::edge::{Edge, EdgeEvent};
use reprise_traffic::gor::Skipped;

use super::reasons::{self, Oddity};

/// Warnings of one file that are shown one by one.
const MAX_WARNINGS: u64 = 10;

/// The counts of one file.
pub(super) struct Summary {
    name: String,
    pub(super) edge: Arc<Edge>,
    progress: ProgressBar,
    requests: u64,
    answers: u64,
    /// Some, for a recording.
    records: Option<u64>,
    /// Packets by the number of their link type.
    unknown_links: BTreeMap<u16, u64>,
    skipped_records: u64,
    oddities: BTreeMap<Oddity, u64>,
    /// The system couldn't read on.
    failed: bool,
}

impl Summary {
    pub(super) fn new(name: &str, progress: ProgressBar) -> Summary {
        Summary {
            name: name.to_owned(),
            edge: Arc::new(Edge::default()),
            progress,
            requests: 0,
            answers: 0,
            records: None,
            unknown_links: BTreeMap::new(),
            skipped_records: 0,
            oddities: BTreeMap::new(),
            failed: false,
        }
    }

    pub(super) fn is_recording(&mut self) {
        self.records = Some(0);
    }

    pub(super) fn record(&mut self) {
        self.records = self.records.map(|n| n + 1);
    }

    pub(super) fn packet(&self, wire_len: usize) {
        self.edge.count(EdgeEvent::Packets, 1);
        self.edge.count(EdgeEvent::Bytes, wire_len as u64);
    }

    pub(super) fn unknown_link(&mut self, number: u16) {
        *self.unknown_links.entry(number).or_default() += 1;
    }

    pub(super) fn request(&mut self, answered: bool) {
        self.requests += 1;
        self.answers += u64::from(answered);
    }

    pub(super) fn oddity(&mut self, oddity: Oddity) {
        *self.oddities.entry(oddity).or_default() += 1;
    }

    pub(super) fn skipped_record(&mut self, skipped: Skipped) {
        self.skipped_records += 1;
        let Skipped { line, at, flaw } = skipped;
        if self.skipped_records <= MAX_WARNINGS {
            let name = &self.name;
            self.say(&format!(
                "{name}:{line}: a record is skipped, at byte {at}: {flaw}"
            ));
        }
        if self.skipped_records == MAX_WARNINGS {
            self.warn("further skipped records are only counted");
        }
    }

    /// Reading ended before the end.
    pub(super) fn stopped(&mut self, error: &FileError) {
        self.failed |= matches!(error, FileError::Io { .. });
        self.warn(&error.to_string());
    }

    /// The same, in a recording.
    pub(super) fn stopped_in_recording(&mut self, error: &io::Error) {
        let of_the_file = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
        );
        self.failed |= !of_the_file;
        let records = self.records.unwrap_or_default();
        self.warn(&format!("read no further after {records} records: {error}"));
    }

    /// Tells what concerns the whole file.
    pub(super) fn warn(&self, text: &str) {
        self.say(&format!("{}: {text}", self.name));
    }

    fn say(&self, text: &str) {
        self.progress.suspend(|| say(&format!("reprise: {text}\n")));
    }

    /// All was read; the bar goes.
    pub(super) fn end(&self) {
        self.progress.finish_and_clear();
    }

    /// Number and words of each reason that occurred.
    fn reasons(&self) -> Vec<(u64, String)> {
        let links = self.unknown_links.iter().map(|(link, n)| {
            let words = format!("packets of link type {link}, which is not understood");
            (*n, words)
        });
        let events = EdgeEvent::ALL.into_iter().filter_map(|event| {
            let words = reasons::words(event, self.records.is_some())?;
            Some((self.edge.get(event), words))
        });
        let records = [(
            self.skipped_records,
            "records without a header that makes sense".to_owned(),
        )];
        let oddities = self
            .oddities
            .iter()
            .map(|(oddity, n)| (*n, oddity.words().to_owned()));
        let all = links.chain(events).chain(records).chain(oddities);
        all.filter(|(n, _)| *n > 0).collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { name, requests, .. } = self;
        write!(f, "{name}: ")?;
        match self.records {
            Some(records) => write!(f, "{}", counted(records, "record"))?,
            None => {
                let packets = counted(self.edge.get(EdgeEvent::Packets), "packet");
                let connections = self.edge.get(EdgeEvent::Connections);
                write!(f, "{packets}, {}", counted(connections, "connection"))?;
            }
        }
        write!(f, ", {}", counted(*requests, "request"))?;
        match self.answers {
            0 => writeln!(f)?,
            answers => writeln!(f, ", {answers} with their answers")?,
        }
        for (n, words) in self.reasons() {
            writeln!(f, "  {n:>9} {words}")?;
        }
        Ok(())
    }
}

/// The counts of all files.
#[derive(Debug, Default)]
pub(super) struct Totals {
    files: u64,
    pub(super) unreadable: u64,
    packets: u64,
    records: u64,
    connections: u64,
    requests: u64,
}

impl Totals {
    pub(super) fn add(&mut self, summary: &Summary) {
        self.files += 1;
        self.unreadable += u64::from(summary.failed);
        self.packets += summary.edge.get(EdgeEvent::Packets);
        self.records += summary.records.unwrap_or_default();
        self.connections += summary.edge.get(EdgeEvent::Connections);
        self.requests += summary.requests;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", counted(self.files, "file"))?;
        write!(f, "{}, ", counted(self.packets, "packet"))?;
        write!(f, "{}, ", counted(self.connections, "connection"))?;
        if self.records > 0 {
            write!(f, "{}, ", counted(self.records, "record"))?;
        }
        write!(f, "{}", counted(self.requests, "request"))?;
        match self.unreadable {
            0 => writeln!(f),
            n => writeln!(f, "; {} could not be read", counted(n, "file")),
        }
    }
}

/// Writes to standard error. Where nobody reads it, that is no reason to stop.
pub(super) fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn counted(n: u64, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_in_words_and_only_where_they_occurred() {
        let mut summary = Summary::new("a.pcap", ProgressBar::hidden());
        summary.packet(60);
        summary.packet(60);
        summary.unknown_link(147);
        summary.edge.count(EdgeEvent::Connections, 1);
        summary.edge.count(EdgeEvent::IncompleteGap, 2);
        summary.request(false);
        let expected = "\
a.pcap: 2 packets, 1 connection, 1 request
          1 packets of link type 147, which is not understood
          2 requests that lack bytes
";
        assert_eq!(summary.to_string(), expected);
    }
}
