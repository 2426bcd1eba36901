//! Documents about a target's replays, where it asks for them.
//!
//! What enters: replays, with their answers or without. What leaves: a document for each ([`crate::documents`]). What may be
//! lost: documents for which there is no room, since no replay waits for one, and what is left at an end; both counted
//! (`reprise_documents_dropped_total`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reprise_node::LogLimit;
use reprise_traffic::documents::Address;
use reprise_traffic::{AnswerHead, Changes, Exchange, Target, TargetName};
use tokio::runtime::Handle;
use tracing::warn;

use crate::client::Delivery;
use crate::documents::{Document, Documents, Limits, Meter, Trust};
use crate::sessions::Room;

/// The part of a target's room that documents may take besides …
const PART: usize = 8;
/// … and no less and no more than this.
const BYTES: (usize, usize) = (1 << 20, 64 << 20);

const DOCUMENTS: usize = 1 << 16;

/// What documents have that go elsewhere now.
const LAST: Duration = Duration::from_secs(10);

const LOG_EVERY: Duration = Duration::from_secs(30);

/// Tells of one target.
#[derive(Debug)]
pub(crate) struct Teller {
    target: TargetName,
    /// As requests are sent.
    changes: Changes,
    documents: Mutex<Option<Documents>>,
    meter: Meter,
    runtime: Handle,
    log: LogLimit,
}

impl Teller {
    /// What a target's document asks for.
    ///
    /// # Errors
    /// One line, when it can't be had.
    pub(crate) fn start(
        target: &Target,
        room: Room,
        meter: &Meter,
    ) -> Result<Option<Teller>, String> {
        let Some(url) = &target.document.documents else {
            return Ok(None);
        };
        let failed = |error: String| format!("target {}: documents: {error}", target.name);
        let runtime = Handle::try_current().map_err(|error| failed(error.to_string()))?;
        let address = Address::parse(url).map_err(failed)?;
        let limits = Limits {
            bytes: (room.bytes / PART).clamp(BYTES.0, BYTES.1),
            documents: DOCUMENTS,
        };
        let started = Documents::counted(address, &Trust::default(), limits, meter.clone());
        Ok(Some(Teller {
            target: target.name.clone(),
            changes: target.changes.clone(),
            documents: Mutex::new(Some(started.map_err(|error| failed(error.to_string()))?)),
            meter: meter.clone(),
            runtime,
            log: LogLimit::every(LOG_EVERY),
        }))
    }

    /// Tells of a replay that began at `began_ns`, unix nanoseconds.
    pub(crate) fn tell(&self, exchange: &Exchange, sent: &Delivery, began_ns: u64) {
        let captured = &exchange.request.head;
        let head = self.changes.apply(captured);
        // What no change can be made of was not sent, and it is told so.
        let head = head.as_deref().unwrap_or(captured);
        let answer = sent.answer.as_ref();
        let answer = answer.and_then(|kept| {
            let head = kept.bytes.slice(..kept.head_end);
            AnswerHead::parse(head).ok()
        });
        let document = Document::new(head, answer.as_ref(), sent.latency, began_ns);
        let put = match &*self.documents() {
            Some(documents) => documents.put(document),
            // Too late.
            None => {
                self.meter.dropped.inc();
                return;
            }
        };
        if let Err(full) = put
            && let Some(suppressed) = self.log.allow()
        {
            warn!(target = %self.target, suppressed, "a document is dropped: {full}");
        }
    }

    /// Waits until all is sent, and gives up what is left then.
    pub(crate) async fn close(&self, patience: Duration) {
        let documents = self.documents().take();
        if let Some(documents) = documents {
            documents.close(patience).await;
        }
    }

    fn documents(&self) -> MutexGuard<'_, Option<Documents>> {
        self.documents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if let Some(documents) = self.documents().take() {
            self.runtime.spawn(documents.close(LAST));
        }
    }
}
