//! The task that sends documents.
//!
//! What enters: documents, as they come. What leaves: bulk requests, one at a time; how many documents were taken. What may
//! be lost: what the server refuses for good, counted. While it is away, or says that it has too much to do, they wait.

use std::sync::Arc;
use std::time::Duration;

use reprise_node::{Backoff, LogLimit};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::Shared;
use super::bulk::{Entry, lines, outcome};
use super::server::{Server, Template};

/// A batch leaves so long after its first document at the latest.
const BATCH_TIME: Duration = Duration::from_secs(1);

/// So many documents leave at once.
const BATCH_DOCUMENTS: usize = 1000;

/// So do so many bytes: what servers' makers recommend.
const BATCH_BYTES: usize = 5 << 20;

/// Between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Between two lines about the same.
const LINES: Duration = Duration::from_secs(30);

pub(super) struct Sender {
    server: Server,
    /// In the ids of documents: no other process's.
    life: String,
    shared: Arc<Shared>,
    backoff: Backoff,
    /// Whether the template is there has to be looked at.
    template_due: bool,
    away: bool,
    away_lines: LogLimit,
    refused_lines: LogLimit,
}

impl Sender {
    pub(super) fn new(server: Server, shared: Arc<Shared>) -> Sender {
        Sender {
            server,
            life: format!("{:016x}", fastrand::u64(..)),
            shared,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            template_due: true,
            away: false,
            away_lines: LogLimit::every(LINES),
            refused_lines: LogLimit::every(LINES),
        }
    }

    /// Sends until no more can come and all is sent.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Entry>) {
        self.prepare().await;
        while let Some(batch) = collect(&mut inbox).await {
            self.deliver(batch).await;
        }
    }

    async fn deliver(&mut self, mut rest: Vec<Entry>) {
        let mut most = rest.len();
        while !rest.is_empty() {
            self.prepare().await;
            let behind = rest.split_off(most.min(rest.len()));
            let batch = lines(&self.life, &rest);
            let (status, body) = match self.server.bulk(batch).await {
                Ok(answer) => answer,
                Err(error) => {
                    self.lost(&error.to_string()).await;
                    rest.extend(behind);
                    continue;
                }
            };
            let (sent, bytes) = (rest.len(), sum(&rest));
            let outcome = outcome(status, &body, rest);
            let left = sum(&outcome.again);
            self.shared
                .settle(outcome.indexed, outcome.refused, bytes - left);
            let reason = outcome.reason.unwrap_or_default();
            if outcome.refused > 0
                && let Some(suppressed) = self.refused_lines.allow()
            {
                let (server, refused) = (&self.shared.server, outcome.refused);
                warn!(server, refused, suppressed, "documents refused: {reason}");
            }
            rest = outcome.again;
            if outcome.too_large {
                most = sent / 2;
            } else if rest.is_empty() {
                self.found();
            } else {
                self.lost(&reason).await;
            }
            rest.extend(behind);
        }
    }

    /// Looks after the template, where that is due, until it is known what became of it.
    async fn prepare(&mut self) {
        while self.template_due {
            match self.server.template().await {
                Ok(became) => {
                    self.template_due = false;
                    let server = &self.shared.server;
                    match became {
                        Template::There => {}
                        Template::Made => info!(server, "index template made"),
                        Template::Refused(reason) => {
                            warn!(
                                server,
                                "no index template, fields get the server's types: {reason}"
                            );
                        }
                    }
                }
                Err(error) => self.lost(&error.to_string()).await,
            }
        }
    }

    /// Nothing was taken: says so, and waits.
    async fn lost(&mut self, reason: &str) {
        self.away = true;
        // Whoever comes back may have lost it.
        self.template_due = true;
        if let Some(suppressed) = self.away_lines.allow() {
            let (server, waiting) = (&self.shared.server, self.shared.waiting().documents);
            warn!(server, waiting, suppressed, "documents wait: {reason}");
        }
        self.backoff.wait().await;
    }

    fn found(&mut self) {
        self.backoff.reset();
        if std::mem::take(&mut self.away) {
            info!(server = self.shared.server, "documents are taken again");
        }
    }
}

fn sum(entries: &[Entry]) -> usize {
    entries.iter().map(Entry::size).sum()
}

/// What comes within a batch's time; nothing once no more can come.
async fn collect(inbox: &mut mpsc::Receiver<Entry>) -> Option<Vec<Entry>> {
    let first = inbox.recv().await?;
    let deadline = Instant::now() + BATCH_TIME;
    let mut bytes = first.size();
    let mut batch = vec![first];
    while batch.len() < BATCH_DOCUMENTS && bytes < BATCH_BYTES {
        let Ok(Some(entry)) = timeout_at(deadline, inbox.recv()).await else {
            break;
        };
        bytes += entry.size();
        batch.push(entry);
    }
    Some(batch)
}
