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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use reprise_traffic::exchange::Captured;
    use reprise_traffic::{Epoch, Exchange, ExchangeId, Head, Source};
    use tokio_stream::StreamExt as _;
    use tonic::Status;

    use super::*;
    use crate::codec::encode_down;
    use crate::frames::Chunks;
    use crate::message::Parcel;

    const BODY: usize = 1 << 20;

    /// A batch with one exchange, as it travels.
    fn chunks() -> Vec<Bytes> {
        let request = Captured {
            captured_ns: 0,
            client: "10.0.0.2:1".parse().unwrap(),
            server: "10.0.0.1:80".parse().unwrap(),
            source: Source::Wire,
            head: Head::parse(Bytes::from_static(b"POST / HTTP/1.1\r\n\r\n")).unwrap(),
            body: vec![b'x'; BODY].into(),
            trailers: Bytes::new(),
            answer: None,
            label: None,
        };
        let id = ExchangeId {
            epoch: Arc::new(Epoch::new("web", 1)),
            sequence: 0,
        };
        let parcel = Parcel {
            exchange: Arc::new(Exchange {
                id,
                due_ns: None,
                request,
            }),
            target: None,
            resent: None,
            claim: None,
        };
        let batch = Batch {
            parcels: vec![parcel],
            ..Batch::default()
        };
        let mut chunks = Chunks::default();
        encode_down(Downstream::Batch(batch), &mut chunks);
        std::iter::from_fn(|| chunks.next()).collect()
    }

    /// What comes of these chunks on a stream that then falls silent, or ends.
    fn receive(
        chunks: &[Bytes],
        ends: bool,
        budget: &Budget,
    ) -> mpsc::Receiver<Result<Downstream, LinkError>> {
        let frames: Vec<_> = chunks.iter().cloned().map(Frame::data).map(Ok).collect();
        let frames = tokio_stream::iter(frames);
        let body = match ends {
            true => tonic::body::Body::new(StreamBody::new(frames)),
            false => {
                let silence = tokio_stream::pending::<Result<Frame<Bytes>, Status>>();
                tonic::body::Body::new(StreamBody::new(frames.chain(silence)))
            }
        };
        let (to_taker, taken) = mpsc::channel(1);
        let inbound = Incoming::new(body);
        let receiver = Receiver::new(inbound, Decoder::default(), Some(budget.clone()));
        tokio::spawn(receiver.run(to_taker));
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn an_exchange_holds_its_room_until_it_is_dropped() {
        let budget = Budget::new(BODY + 4096);
        let mut taken = receive(&chunks(), false, &budget);
        let Some(Ok(Downstream::Batch(batch))) = taken.recv().await else {
            panic!("no batch");
        };
        assert_eq!(batch.parcels[0].exchange.request.body.len(), BODY);
        assert!(timeout(STALLED, budget.claim(BODY)).await.is_err());
        drop(batch);
        assert!(timeout(STALLED, budget.claim(BODY)).await.is_ok());
        // Between exchanges a stream may be silent for as long as it likes.
        assert!(timeout(10 * STALLED, taken.recv()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn half_an_exchange_is_given_up_and_its_room_comes_back() {
        let all = chunks();
        for (ends, reason) in [
            (false, "it stopped within an exchange"),
            (true, "it ended within an exchange"),
        ] {
            let budget = Budget::new(BODY);
            let mut taken = receive(&all[..all.len() / 2], ends, &budget);
            let lost = taken.recv().await.unwrap().unwrap_err();
            assert_eq!(lost, LinkError::Lost(reason.to_owned()));
            assert!(taken.recv().await.is_none());
            assert!(timeout(STALLED, budget.claim(BODY)).await.is_ok());
        }
    }
}
