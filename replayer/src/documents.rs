//! Documents about replayed requests, in Elasticsearch or OpenSearch.
//!
//! What enters: a document for each request ([`document`]). What leaves: bulk requests to one index ([`sender`], [`bulk`],
//! [`server`]), and its template. What may be lost: what finds no room ([`Full`], the caller's to count), what the server
//! refuses for good, and what is left when [`Documents::close`] runs out of patience; [`Counts`] has both. Nothing waits
//! for the server but the documents.

mod bulk;
mod document;
mod sender;
mod server;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

pub use document::Document;
pub use reprise_traffic::documents::Address;

use crate::tls::TlsError;
use bulk::Entry;
use sender::Sender;
use server::Server;

/// Whom to trust, for https.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// PEM file of the authorities to trust, instead of this machine's.
    pub ca_file: Option<String>,
    /// Whoever answers is the server.
    pub skip_verify: bool,
}

/// What may wait for the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes, some for the keeping of each document included.
    pub bytes: usize,
    /// Documents.
    pub documents: usize,
}

/// Why nothing can be sent. One line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// User and password make no header.
    #[error("user and password can't stand in a header")]
    Authorization,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many documents wait for the server")]
pub struct Full;

/// What became of a target's documents.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter {
    /// The server has them.
    pub(crate) sent: Counter,
    /// It wouldn't have them.
    pub(crate) refused: Counter,
    /// There was no room for them, or no time at the end.
    pub(crate) dropped: Counter,
}

/// Where the documents went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The server has them.
    pub indexed: u64,
    /// It wouldn't have them.
    pub refused: u64,
    /// On their way; after the end: given up. The server may have some of these.
    pub waiting: u64,
}

/// Sends documents to one index, by a task of its own.
#[derive(Debug)]
pub struct Documents {
    queue: mpsc::Sender<Entry>,
    limits: Limits,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Documents {
    /// Starts to send, within a runtime. Whether the server is there shows later, in the log.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn start(address: Address, trust: &Trust, limits: Limits) -> Result<Documents, StartError> {
        Documents::counted(address, trust, limits, Meter::default())
    }

    /// The same, counted by those who show it.
    pub(crate) fn counted(
        address: Address,
        trust: &Trust,
        limits: Limits,
        meter: Meter,
    ) -> Result<Documents, StartError> {
        let shared = Arc::new(Shared {
            meter,
            server: address.to_string(),
            state: Mutex::default(),
        });
        let server = Server::new(address, trust)?;
        let (queue, inbox) = mpsc::channel(limits.documents.max(1));
        let task = tokio::spawn(Sender::new(server, shared.clone()).run(inbox));
        Ok(Documents {
            queue,
            limits,
            shared,
            task,
        })
    }

    /// Takes a document where there is room for it. Never blocks.
    ///
    /// # Errors
    /// When there is none: it is lost.
    pub fn put(&self, document: Document) -> Result<(), Full> {
        let mut entry = Entry {
            number: 0,
            document,
        };
        let size = entry.size();
        {
            let mut state = self.shared.state();
            let waiting = &mut state.waiting;
            let full = waiting.bytes + size > self.limits.bytes
                || waiting.documents >= self.limits.documents.max(1);
            if full && waiting.documents > 0 {
                self.shared.meter.dropped.inc();
                return Err(Full);
            }
            waiting.bytes += size;
            waiting.documents += 1;
            state.number += 1;
            entry.number = state.number;
        }
        self.queue.try_send(entry).map_err(|_| {
            // It holds as many as may wait, so that this is the end of the task, and so of the process.
            self.shared.settle(0, 1, size);
            Full
        })
    }

    /// Where all that was put is.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// Waits until all is sent, and gives up what is left then.
    pub async fn close(self, patience: Duration) -> Counts {
        let Documents {
            queue,
            shared,
            mut task,
            ..
        } = self;
        drop(queue);
        let server = &shared.server;
        if timeout(patience, &mut task).await.is_err() {
            task.abort();
        }
        let counts = shared.counts();
        shared.meter.dropped.inc_by(counts.waiting);
        let Counts {
            indexed,
            refused,
            waiting,
        } = counts;
        match waiting {
            0 => info!(server, indexed, refused, "documents closed"),
            left => warn!(
                server,
                indexed, refused, left, "not all documents were taken in time"
            ),
        }
        counts
    }
}

/// What is under way.
#[derive(Debug, Clone, Copy, Default)]
struct Waiting {
    bytes: usize,
    documents: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: Waiting,
    number: u64,
    indexed: u64,
    refused: u64,
}

/// What the task and those who put documents share.
struct Shared {
    /// For messages.
    server: String,
    meter: Meter,
    state: Mutex<State>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.server)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> Waiting {
        self.state().waiting
    }

    /// So many documents have ended, of so many bytes.
    fn settle(&self, indexed: usize, refused: usize, bytes: usize) {
        let mut state = self.state();
        self.meter.sent.inc_by(indexed as u64);
        self.meter.refused.inc_by(refused as u64);
        state.indexed += indexed as u64;
        state.refused += refused as u64;
        state.waiting.documents -= indexed + refused;
        state.waiting.bytes -= bytes;
    }

    fn counts(&self) -> Counts {
        let state = self.state();
        Counts {
            indexed: state.indexed,
            refused: state.refused,
            waiting: state.waiting.documents as u64,
        }
    }
}

#[cfg(test)]
mod tests;
