//! A load test while it goes on.
//!
//! What enters: the books and what was measured. What leaves: a line on standard error, redrawn a few times a second on
//! a terminal, and now and then elsewhere. What may be lost: nothing but lines.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use reprise_traffic::ledger::EpochReport;

use super::collect::Collector;

/// Between two lines where nobody redraws them.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    began: Instant,
    last: Instant,
}

impl Progress {
    /// On a terminal a line that moves; elsewhere lines, unless `quiet`.
    pub(super) fn new(quiet: bool) -> Progress {
        let bar = (io::stderr().is_terminal() && !quiet).then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        Progress {
            bar,
            quiet,
            began: Instant::now(),
            last: Instant::now(),
        }
    }

    pub(super) fn show(&mut self, books: &EpochReport, collector: &Collector) {
        let now = Instant::now();
        // What is recent is five seconds old at most, as is a test that has just begun.
        let seconds = now.duration_since(self.began).as_secs().clamp(1, 5);
        let line = || {
            let mut collected = collector.lock();
            let recent = collected.recent(now);
            let errors = recent.error_rate() * 100.0;
            let quantile = |share| recent.latency.quantile(share);
            format!(
                "{} sent of {} read, {}/s, {errors:.1} % errors, p50 {:.1?}, p99 {:.1?}, {} in flight",
                collected.total.sent,
                books.captured,
                recent.sent / seconds,
                quantile(0.5),
                quantile(0.99),
                books.in_flight,
            )
        };
        match &self.bar {
            Some(bar) => {
                bar.set_message(line());
                bar.tick();
            }
            None if !self.quiet && now - self.last >= LINE_EVERY => {
                self.last = now;
                eprintln!("{}", line());
            }
            None => {}
        }
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
