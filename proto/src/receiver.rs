//! Reads what a sender sends, within the taker's budget.
//!
//! What enters: messages of one stream. What leaves: batches and documents, each parcel with its claim on the budget
//! where there is one. Claims are made here and in the order of the stream, so that a parcel which has room never
//! stands behind one that waits for it. What may be lost: an exchange whose pieces stop coming, with its stream; its
//! sender has it still.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::budget::{Budget, Claim};
use crate::codec::Decoder;
use crate::frames::Incoming;
use crate::message::{Batch, Downstream, LinkError};

/// A sender has all of an exchange when it begins to send it: one that stops for so long is not going on, and holds
/// memory that others wait for.
const STALLED: Duration = Duration::from_secs(10);

/// The reading half of a stream.
pub(crate) struct Receiver {
    inbound: Incoming,
    decoder: Decoder,
    budget: Option<Budget>,
    /// For payloads whose batch is still to come.
    claim: Claim,
}

impl Receiver {
    pub(crate) fn new(inbound: Incoming, decoder: Decoder, budget: Option<Budget>) -> Receiver {
        Receiver {
            inbound,
            decoder,
            budget,
            claim: Claim::default(),
        }
    }

    /// Hands on what comes until the stream ends, breaks, or nobody takes it any more.
    pub(crate) async fn run(mut self, to_taker: mpsc::Sender<Result<Downstream, LinkError>>) {
        loop {
            let message = tokio::select! {
                message = self.next() => message,
                () = to_taker.closed() => return,
            };
            let Some(message) = message.transpose() else {
                return;
            };
            let broken = message.is_err();
            if to_taker.send(message).await.is_err() || broken {
                return;
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Downstream>, LinkError> {
        loop {
            let within = self.decoder.waiting() > 0;
            let message = match within {
                false => self.inbound.next().await,
                true => timeout(STALLED, self.inbound.next())
                    .await
                    .map_err(|_| LinkError::Lost("it stopped within an exchange".to_owned()))?,
            };
            let message = message.map_err(|s| LinkError::Lost(s.message().to_owned()))?;
            let Some(message) = message else {
                return match within {
                    false => Ok(None),
                    true => Err(LinkError::Lost("it ended within an exchange".to_owned())),
                };
            };
            match self.decoder.down(message)? {
                Some(Downstream::Batch(batch)) => {
                    return Ok(Some(Downstream::Batch(self.paid(batch).await)));
                }
                Some(message) => return Ok(Some(message)),
                None => self.pay().await,
            }
        }
    }

    /// Waits until there is room for the pieces that came.
    async fn pay(&mut self) {
        if let Some(budget) = &self.budget {
            budget.extend(&mut self.claim, self.decoder.waiting()).await;
        }
    }

    /// Waits until there is room for a batch, and gives each parcel its claim.
    async fn paid(&mut self, mut batch: Batch) -> Batch {
        if let Some(budget) = &self.budget {
            let sizes = batch.parcels.iter().map(|p| p.exchange.request.size());
            let claims = budget.share(std::mem::take(&mut self.claim), sizes.collect());
            let claims = claims.await;
            for (parcel, claim) in batch.parcels.iter_mut().zip(claims) {
                parcel.claim = Some(claim);
            }
        }
        batch
    }
}
