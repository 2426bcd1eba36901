//! Files and standard input, opened, unpacked, and told apart.
//!
//! What enters: a path. What leaves: packets or records to be read, and a progress bar where it helps.
//! What may be lost: nothing; what is neither is refused with one line.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal as _, Read};
use std::path::Path;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use reprise_listener::capture_file::{self, CaptureFile, Peeked};
use reprise_traffic::gor;

/// Files from this size take long enough for somebody to wonder.
const LONG: u64 = 64 << 20;

pub(super) type Stream = Peeked<Box<dyn BufRead>>;

/// An open file.
pub(super) struct Source {
    pub(super) content: Content,
    pub(super) progress: ProgressBar,
}

/// What is in it.
pub(super) enum Content {
    Capture(CaptureFile<Stream>),
    Recording(Box<gor::Reader<Stream>>),
}

/// Opens a file, or standard input for `-`.
///
/// # Errors
/// One line, when it can't be read or holds something else.
pub(super) fn open(path: &Path) -> anyhow::Result<Source> {
    let (input, progress): (Box<dyn Read>, ProgressBar) = if path == Path::new("-") {
        (Box::new(io::stdin().lock()), ProgressBar::hidden())
    } else {
        let file = File::open(path)?;
        let progress = progress(&file);
        (Box::new(progress.wrap_read(file)), progress)
    };
    let unpacked = capture_file::unpack(input)?;
    let (magic, stream) = capture_file::peek(unpacked).context("unpack it")?;
    let content = if capture_file::is_capture(magic) {
        Content::Capture(CaptureFile::open(stream)?)
    } else if gor::is_recording(&magic) {
        Content::Recording(Box::new(gor::Reader::new(stream)))
    } else {
        bail!("neither a capture (pcap, pcapng) nor a recording (.gor)");
    };
    Ok(Source { content, progress })
}

/// A bar on standard error, unless it is short work, or would be drawn into the requests, or nobody looks.
fn progress(file: &File) -> ProgressBar {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if length < LONG || !io::stderr().is_terminal() || io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bytes} of {total_bytes} {wide_bar} {eta}");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
