//! A look at the running cluster: what its parts say of themselves on their admin ports.
//!
//! What enters: the addresses of admin ports. What leaves: ledgers and latencies at about one time. What may be lost:
//! the last words of a part that was killed; what it said before stays.

use std::collections::BTreeMap;

use anyhow::Context as _;
use reprise_traffic::ledger::{Account, EpochReport, LedgerReport};

use super::latency::{self, Histogram};
use crate::fetch;

/// Where a part of the cluster can be asked.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) name: String,
    /// What it does with exchanges.
    pub(crate) task: Task,
    /// `HOST:PORT` of its admin port; none for one that was killed.
    pub(crate) admin: Option<String>,
    /// What became of it, where it no longer runs.
    pub(crate) fate: Option<String>,
    /// What it said last.
    pub(crate) said: Said,
}

/// What a part does with exchanges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// All of it, in one process.
    Everything,
    /// Captures them.
    Capture,
    /// Decides where they go.
    Route,
    /// Sends them.
    Send,
}

/// What a part says of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// Its ledger.
    pub(crate) epochs: Vec<EpochReport>,
    /// Latencies by target, of those that send.
    pub(crate) latencies: BTreeMap<String, Histogram>,
}

impl Part {
    /// A part that runs.
    pub(crate) fn new(name: &str, task: Task, admin: impl ToString) -> Part {
        let admin = Some(admin.to_string());
        Part {
            name: name.to_owned(),
            task,
            admin,
            fate: None,
            said: Said::default(),
        }
    }

    /// Asks the part, where it still runs.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub(crate) async fn ask(&mut self) -> anyhow::Result<()> {
        let Some(admin) = &self.admin else {
            return Ok(());
        };
        let ledger = fetch::page(admin, "/ledger")
            .await
            .with_context(|| format!("look at {}", self.name))?;
        let ledger: LedgerReport = serde_json::from_slice(&ledger)
            .with_context(|| format!("read the ledger of {}", self.name))?;
        self.said.epochs = ledger.epochs;
        if matches!(self.task, Task::Everything | Task::Send) {
            let metrics = fetch::page(admin, "/metrics").await;
            let metrics = metrics.with_context(|| format!("look at {}", self.name))?;
            self.said.latencies = latency::by_target(&String::from_utf8_lossy(&metrics));
        }
        Ok(())
    }

    /// True where what was captured is booked.
    pub(crate) fn keeps_books(&self) -> bool {
        matches!(self.task, Task::Everything | Task::Capture)
    }

    /// Exchanges that it has done its task on: captured, routed to an end, or sent.
    pub(crate) fn done(&self) -> u64 {
        let accounts = self
            .said
            .epochs
            .iter()
            .flat_map(|epoch| epoch.targets.values());
        match self.task {
            Task::Everything | Task::Capture => self.said.epochs.iter().map(|e| e.captured).sum(),
            Task::Route => accounts.map(Account::total).sum(),
            Task::Send => accounts.map(Account::replayed_total).sum(),
        }
    }
}

/// The books of all that capture.
pub(crate) fn books(parts: &[Part]) -> Vec<EpochReport> {
    let keepers = parts.iter().filter(|part| part.keeps_books());
    keepers
        .flat_map(|part| part.said.epochs.iter().cloned())
        .collect()
}

/// How a target's exchanges ended, over all books.
pub(crate) fn account(books: &[EpochReport], target: &str) -> Account {
    let mut account = Account::default();
    for part in books.iter().filter_map(|epoch| epoch.targets.get(target)) {
        account.merge(part);
    }
    account
}

/// A target's latencies, over all that send.
pub(crate) fn latencies(parts: &[Part], target: &str) -> Histogram {
    let mut all = Histogram::default();
    for part in parts
        .iter()
        .filter_map(|part| part.said.latencies.get(target))
    {
        all.merge(part);
    }
    all
}
