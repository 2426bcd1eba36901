//! Values to protobuf and back. Payloads are shared on the way out and sliced on the way in, not copied.
//!
//! What enters from a peer is not trusted: an index out of range, a missing field or a head that is none refuses
//! the message with a reason. What may be lost: nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reprise_traffic::exchange::Captured;
use reprise_traffic::{
    Disposition, Epoch, Exchange, ExchangeId, Head, Source, Target, TargetDocument, TargetName,
};

use tracing::warn;

use crate::message::{
    Batch, Delivery, Downstream, Hello, LinkError, Parcel, Settlement, Upstream, Welcome,
};
use crate::wire;
use crate::wire::downstream::Message as Down;
use crate::wire::upstream::Message as Up;

type Decoded<T> = Result<T, LinkError>;

fn protocol(what: impl Into<String>) -> LinkError {
    LinkError::Protocol(what.into())
}

/// Numbers the epochs and targets of a message in the order in which they appear.
#[derive(Default)]
struct Tables {
    epochs: Vec<wire::Epoch>,
    epoch_index: HashMap<Arc<Epoch>, u32>,
    targets: Vec<String>,
    target_index: HashMap<TargetName, u32>,
}

impl Tables {
    fn epoch(&mut self, epoch: &Arc<Epoch>) -> u32 {
        if let Some(index) = self.epoch_index.get(epoch) {
            return *index;
        }
        let index = self.epochs.len() as u32;
        self.epochs.push(wire::Epoch {
            listener: epoch.listener().to_owned(),
            started_ns: epoch.started_ns(),
            settled_below: 0,
        });
        self.epoch_index.insert(epoch.clone(), index);
        index
    }

    fn target(&mut self, target: &TargetName) -> u32 {
        if let Some(index) = self.target_index.get(target) {
            return *index;
        }
        let index = self.targets.len() as u32;
        self.targets.push(target.to_string());
        self.target_index.insert(target.clone(), index);
        index
    }
}

pub(crate) fn encode_hello(hello: &Hello) -> wire::Downstream {
    let Hello { node, version } = hello.clone();
    wire::Downstream {
        message: Some(Down::Hello(wire::Hello { node, version })),
    }
}

pub(crate) fn encode_down(message: Downstream) -> wire::Downstream {
    let message = match message {
        Downstream::Batch(batch) => Down::Batch(encode_batch(batch)),
        Downstream::Targets(targets) => Down::Targets(wire::Targets {
            documents: targets.iter().map(|target| encode_target(target)).collect(),
        }),
    };
    wire::Downstream {
        message: Some(message),
    }
}

fn encode_target(target: &Target) -> wire::TargetDocument {
    let document = serde_json::to_vec(&target.document).unwrap_or_default();
    wire::TargetDocument {
        name: target.name.to_string(),
        revision: target.revision,
        document: document.into(),
    }
}

fn encode_batch(batch: Batch) -> wire::Batch {
    let mut tables = Tables::default();
    for (epoch, below) in &batch.settled_below {
        let index = tables.epoch(epoch);
        tables.epochs[index as usize].settled_below = *below;
    }
    let parcels = batch.parcels.into_iter().map(|parcel| {
        let request = &parcel.exchange.request;
        wire::Parcel {
            epoch: tables.epoch(&parcel.exchange.id.epoch),
            sequence: parcel.exchange.id.sequence,
            target: parcel
                .target
                .as_ref()
                .map_or(0, |target| tables.target(target) + 1),
            resent: parcel.resent.is_some(),
            age_ms: parcel.resent.map_or(0, |age| age.as_millis() as u64),
            exchange: Some(wire::Exchange {
                head: request.head.raw().clone(),
                body: request.body.clone(),
                trailers: request.trailers.clone(),
                captured_ns: request.captured_ns,
                client: request.client.to_string(),
                server: request.server.to_string(),
                source: match request.source {
                    Source::Wire => wire::Source::Wire,
                    Source::Mirror => wire::Source::Mirror,
                } as i32,
            }),
        }
    });
    let parcels = parcels.collect();
    wire::Batch {
        id: batch.id,
        epochs: tables.epochs,
        targets: tables.targets,
        parcels,
    }
}

pub(crate) fn encode_welcome(welcome: &Welcome) -> wire::Upstream {
    let Welcome {
        node,
        version,
        incarnation,
        window_exchanges,
        window_bytes,
    } = welcome.clone();
    let welcome = wire::Welcome {
        node,
        version,
        incarnation,
        window_exchanges,
        window_bytes,
    };
    wire::Upstream {
        message: Some(Up::Welcome(welcome)),
    }
}

pub(crate) fn encode_up(message: Upstream) -> wire::Upstream {
    let message = match message {
        Upstream::Accepted(batch) => Up::Accepted(wire::Accepted { batch }),
        Upstream::Settled(settlements) => Up::Settled(encode_settled(settlements)),
        Upstream::Returned(deliveries) => Up::Returned(encode_returned(deliveries)),
        Upstream::GoAway(reason) => Up::GoAway(wire::GoAway { reason }),
    };
    wire::Upstream {
        message: Some(message),
    }
}

fn encode_settled(settlements: Vec<Settlement>) -> wire::Settled {
    let mut tables = Tables::default();
    let mut runs: Vec<wire::SettledRun> = Vec::new();
    // Most exchanges end alike, so their numbers share one entry.
    let mut known: HashMap<(u32, Vec<(u32, Disposition)>), usize> = HashMap::new();
    for Settlement { id, outcomes } in settlements {
        let epoch = tables.epoch(&id.epoch);
        let outcomes: Vec<(u32, Disposition)> = outcomes
            .iter()
            .map(|(name, end)| (tables.target(name), *end))
            .collect();
        let run = *known
            .entry((epoch, outcomes))
            .or_insert_with_key(|(epoch, outcomes)| {
                runs.push(wire::SettledRun {
                    epoch: *epoch,
                    sequences: Vec::new(),
                    outcomes: outcomes
                        .iter()
                        .map(|(name, end)| encode_outcome(*name, *end))
                        .collect(),
                });
                runs.len() - 1
            });
        runs[run].sequences.push(id.sequence);
    }
    wire::Settled {
        epochs: tables.epochs,
        targets: tables.targets,
        runs,
    }
}

fn encode_returned(deliveries: Vec<Delivery>) -> wire::Returned {
    let mut tables = Tables::default();
    let parcels = deliveries
        .iter()
        .map(|delivery| wire::ReturnedParcel {
            epoch: tables.epoch(&delivery.id.epoch),
            sequence: delivery.id.sequence,
            target: tables.target(&delivery.target),
        })
        .collect();
    wire::Returned {
        epochs: tables.epochs,
        targets: tables.targets,
        parcels,
    }
}

fn encode_outcome(target: u32, disposition: Disposition) -> wire::Outcome {
    let (kind, status, reason) = match disposition {
        Disposition::Replayed(status) => (wire::Disposition::Replayed, status, ""),
        Disposition::Failed(fault) => (wire::Disposition::Failed, 0, fault.as_str()),
        Disposition::Unknown => (wire::Disposition::Unknown, 0, ""),
        Disposition::Filtered => (wire::Disposition::Filtered, 0, ""),
        Disposition::SampledOut => (wire::Disposition::SampledOut, 0, ""),
        Disposition::Dropped(reason) => (wire::Disposition::Dropped, 0, reason.as_str()),
    };
    wire::Outcome {
        target,
        disposition: kind as i32,
        status: u32::from(status),
        reason: reason.to_owned(),
    }
}

fn decode_outcome(outcome: &wire::Outcome) -> Decoded<Disposition> {
    let reason = || protocol(format!("unknown reason {:?}", outcome.reason));
    Ok(match outcome.disposition() {
        wire::Disposition::Replayed => Disposition::Replayed(
            u16::try_from(outcome.status).map_err(|_| protocol("status is no HTTP status"))?,
        ),
        wire::Disposition::Failed => {
            Disposition::Failed(outcome.reason.parse().map_err(|_| reason())?)
        }
        wire::Disposition::Unknown => Disposition::Unknown,
        wire::Disposition::Filtered => Disposition::Filtered,
        wire::Disposition::SampledOut => Disposition::SampledOut,
        wire::Disposition::Dropped => {
            Disposition::Dropped(outcome.reason.parse().map_err(|_| reason())?)
        }
        wire::Disposition::Unspecified => return Err(protocol("unknown disposition")),
    })
}

/// Of one message; a sequence number takes a byte on the wire and much more in memory.
const MAX_SETTLEMENTS: usize = 1 << 20;

/// Epochs and target names repeat from message to message; a decoder hands out the same ones again.
#[derive(Default)]
pub(crate) struct Decoder {
    epochs: HashMap<(String, u64), Arc<Epoch>>,
    targets: HashMap<String, TargetName>,
}

/// A peer that names more than this starts the table anew, so that it can't fill memory.
const MAX_KNOWN: usize = 10_000;

impl Decoder {
    fn epoch(&mut self, epoch: wire::Epoch) -> Arc<Epoch> {
        if self.epochs.len() > MAX_KNOWN {
            self.epochs.clear();
        }
        let key = (epoch.listener, epoch.started_ns);
        if let Some(known) = self.epochs.get(&key) {
            return known.clone();
        }
        let fresh = Arc::new(Epoch::new(&key.0, key.1));
        self.epochs.insert(key, fresh.clone());
        fresh
    }

    fn target(&mut self, name: &str) -> Decoded<TargetName> {
        if let Some(known) = self.targets.get(name) {
            return Ok(known.clone());
        }
        if self.targets.len() > MAX_KNOWN {
            self.targets.clear();
        }
        let fresh = TargetName::new(name).map_err(|error| protocol(error.to_string()))?;
        self.targets.insert(name.to_owned(), fresh.clone());
        Ok(fresh)
    }

    fn targets(&mut self, names: &[String]) -> Decoded<Vec<TargetName>> {
        names.iter().map(|name| self.target(name)).collect()
    }

    pub(crate) fn hello(&self, message: Option<wire::Downstream>) -> Decoded<Hello> {
        match message.and_then(|m| m.message) {
            Some(Down::Hello(wire::Hello { node, version })) => Ok(Hello { node, version }),
            _ => Err(protocol("the first message is not Hello")),
        }
    }

    pub(crate) fn welcome(&self, message: Option<wire::Upstream>) -> Decoded<Welcome> {
        let Some(Up::Welcome(welcome)) = message.and_then(|m| m.message) else {
            return Err(protocol("the first message is not Welcome"));
        };
        let wire::Welcome {
            node,
            version,
            incarnation,
            window_exchanges,
            window_bytes,
        } = welcome;
        Ok(Welcome {
            node,
            version,
            incarnation,
            window_exchanges,
            window_bytes,
        })
    }

    pub(crate) fn down(&mut self, message: wire::Downstream) -> Decoded<Option<Downstream>> {
        match message.message {
            Some(Down::Batch(batch)) => Ok(Some(Downstream::Batch(self.batch(batch)?))),
            Some(Down::Targets(targets)) => {
                // One that this version can't read must not cost the others anything.
                let targets = targets.documents.into_iter().filter_map(|document| {
                    decode_target(document)
                        .inspect_err(|error| warn!("a relay's target is left out: {error}"))
                        .ok()
                });
                Ok(Some(Downstream::Targets(targets.collect())))
            }
            Some(Down::Hello(_)) => Err(protocol("a second Hello")),
            // A neighbour of a newer version may say more than we know.
            None => Ok(None),
        }
    }

    fn batch(&mut self, batch: wire::Batch) -> Decoded<Batch> {
        let mut settled_below = Vec::with_capacity(batch.epochs.len());
        for epoch in batch.epochs {
            let below = epoch.settled_below;
            settled_below.push((self.epoch(epoch), below));
        }
        let targets = self.targets(&batch.targets)?;
        let mut parcels = Vec::with_capacity(batch.parcels.len());
        for parcel in batch.parcels {
            let (epoch, _) = settled_below
                .get(parcel.epoch as usize)
                .ok_or_else(|| protocol("a parcel's epoch is not in its batch"))?;
            let target = match (parcel.target as usize).checked_sub(1) {
                None => None,
                Some(index) => Some(
                    targets
                        .get(index)
                        .ok_or_else(|| protocol("a parcel's target is not in its batch"))?
                        .clone(),
                ),
            };
            let id = ExchangeId {
                epoch: epoch.clone(),
                sequence: parcel.sequence,
            };
            let exchange = parcel.exchange.ok_or_else(|| protocol("an empty parcel"))?;
            let request = decode_request(exchange)?;
            parcels.push(Parcel {
                exchange: Arc::new(Exchange { id, request }),
                target,
                resent: parcel.resent.then(|| Duration::from_millis(parcel.age_ms)),
            });
        }
        Ok(Batch {
            id: batch.id,
            settled_below,
            parcels,
        })
    }

    pub(crate) fn up(&mut self, message: wire::Upstream) -> Decoded<Option<Upstream>> {
        match message.message {
            Some(Up::Accepted(accepted)) => Ok(Some(Upstream::Accepted(accepted.batch))),
            Some(Up::Settled(settled)) => Ok(Some(Upstream::Settled(self.settled(settled)?))),
            Some(Up::Returned(returned)) => Ok(Some(Upstream::Returned(self.returned(returned)?))),
            Some(Up::GoAway(go_away)) => Ok(Some(Upstream::GoAway(go_away.reason))),
            Some(Up::Welcome(_)) => Err(protocol("a second Welcome")),
            None => Ok(None),
        }
    }

    fn settled(&mut self, settled: wire::Settled) -> Decoded<Vec<Settlement>> {
        let epochs: Vec<Arc<Epoch>> = settled.epochs.into_iter().map(|e| self.epoch(e)).collect();
        let targets = self.targets(&settled.targets)?;
        let mut settlements = Vec::new();
        for run in settled.runs {
            let epoch = epochs
                .get(run.epoch as usize)
                .ok_or_else(|| protocol("a settlement's epoch is not in its message"))?;
            let mut outcomes = Vec::with_capacity(run.outcomes.len());
            for outcome in &run.outcomes {
                let target = targets
                    .get(outcome.target as usize)
                    .ok_or_else(|| protocol("an outcome's target is not in its message"))?;
                outcomes.push((target.clone(), decode_outcome(outcome)?));
            }
            if settlements.len() + run.sequences.len() > MAX_SETTLEMENTS {
                return Err(protocol("more settlements than any window holds"));
            }
            settlements.extend(run.sequences.into_iter().map(|sequence| Settlement {
                id: ExchangeId {
                    epoch: epoch.clone(),
                    sequence,
                },
                outcomes: outcomes.clone(),
            }));
        }
        Ok(settlements)
    }

    fn returned(&mut self, returned: wire::Returned) -> Decoded<Vec<Delivery>> {
        let epochs: Vec<Arc<Epoch>> = returned.epochs.into_iter().map(|e| self.epoch(e)).collect();
        let targets = self.targets(&returned.targets)?;
        returned
            .parcels
            .into_iter()
            .map(|parcel| {
                let epoch = epochs.get(parcel.epoch as usize);
                let target = targets.get(parcel.target as usize);
                let (Some(epoch), Some(target)) = (epoch, target) else {
                    return Err(protocol("a returned parcel's index is not in its message"));
                };
                let id = ExchangeId {
                    epoch: epoch.clone(),
                    sequence: parcel.sequence,
                };
                Ok(Delivery {
                    id,
                    target: target.clone(),
                })
            })
            .collect()
    }
}

/// Parts up to this size, bytes, are copied out of their message: as slices, one that waits would keep a whole batch in
/// memory, of which nobody's books know. Larger ones are most of their message and stay slices.
const SMALL: usize = 32 << 10;

fn own(part: Bytes) -> Bytes {
    match part.len() {
        0 => Bytes::new(),
        1..=SMALL => Bytes::copy_from_slice(&part),
        _ => part,
    }
}

fn decode_request(exchange: wire::Exchange) -> Decoded<Captured> {
    let address = |text: &str| {
        text.parse::<SocketAddr>()
            .map_err(|_| protocol(format!("{text:?} is no address")))
    };
    let source = match exchange.source() {
        wire::Source::Mirror => Source::Mirror,
        wire::Source::Wire | wire::Source::Unspecified => Source::Wire,
    };
    Ok(Captured {
        captured_ns: exchange.captured_ns,
        client: address(&exchange.client)?,
        server: address(&exchange.server)?,
        source,
        head: Head::parse(own(exchange.head)).map_err(|error| protocol(error.to_string()))?,
        body: own(exchange.body),
        trailers: own(exchange.trailers),
    })
}

fn decode_target(document: wire::TargetDocument) -> Decoded<Arc<Target>> {
    let refuse = |reason: String| protocol(format!("target {}: {reason}", document.name));
    let text = std::str::from_utf8(&document.document).map_err(|e| refuse(e.to_string()))?;
    let name = TargetName::new(&document.name).map_err(|e| protocol(e.to_string()))?;
    let parsed = TargetDocument::parse(&document.name, text);
    let target = parsed.and_then(|parsed| Target::new(name, document.revision, parsed));
    target.map(Arc::new).map_err(|e| protocol(e.to_string()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;
    use reprise_traffic::{DropReason, Fault};

    use super::*;

    fn exchange(epoch: &Arc<Epoch>, sequence: u64) -> Arc<Exchange> {
        Arc::new(Exchange {
            id: ExchangeId {
                epoch: epoch.clone(),
                sequence,
            },
            request: Captured {
                captured_ns: 7,
                client: "[::1]:5".parse().unwrap(),
                server: "10.0.0.1:80".parse().unwrap(),
                source: Source::Mirror,
                head: Head::parse(Bytes::from_static(b"POST /x HTTP/1.1\r\nA: b\r\n\r\n")).unwrap(),
                body: Bytes::from_static(b"body"),
                trailers: Bytes::from_static(b"T: 1\r\n"),
            },
        })
    }

    #[test]
    fn batches_survive_the_wire() {
        let epoch = Arc::new(Epoch::new("web1", 99));
        let target = TargetName::new("shop/a").unwrap();
        let batch = Batch {
            id: 3,
            settled_below: vec![(epoch.clone(), 40)],
            parcels: vec![
                Parcel {
                    exchange: exchange(&epoch, 41),
                    target: None,
                    resent: None,
                },
                Parcel {
                    exchange: exchange(&epoch, 42),
                    target: Some(target.clone()),
                    resent: Some(Duration::from_millis(5)),
                },
            ],
        };
        let bytes = encode_down(Downstream::Batch(batch)).encode_to_vec();
        let wire = wire::Downstream::decode(Bytes::from(bytes)).unwrap();
        let Some(Downstream::Batch(batch)) = Decoder::default().down(wire).unwrap() else {
            panic!("not a batch");
        };
        assert_eq!(batch.id, 3);
        assert_eq!(batch.settled_below, vec![(epoch.clone(), 40)]);
        assert_eq!(batch.parcels[0].target, None);
        assert_eq!(batch.parcels[1].target, Some(target));
        assert_eq!(batch.parcels[1].resent, Some(Duration::from_millis(5)));
        let (sent, got) = (exchange(&epoch, 42), &batch.parcels[1].exchange);
        assert_eq!(format!("{sent:?}"), format!("{got:?}"));
    }

    #[test]
    fn settlements_survive_the_wire_and_share_entries() {
        let epoch = Arc::new(Epoch::new("web1", 99));
        let name = TargetName::new("shop/a").unwrap();
        let ends = [
            Disposition::Replayed(200),
            Disposition::Replayed(200),
            Disposition::Failed(Fault::Network),
            Disposition::Unknown,
            Disposition::Filtered,
            Disposition::SampledOut,
            Disposition::Dropped(DropReason::RateLimited),
        ];
        let settlements: Vec<Settlement> = ends
            .iter()
            .enumerate()
            .map(|(sequence, end)| Settlement {
                id: ExchangeId {
                    epoch: epoch.clone(),
                    sequence: sequence as u64,
                },
                outcomes: vec![(name.clone(), *end)],
            })
            .collect();
        let wire = encode_settled(settlements.clone());
        assert_eq!(wire.runs.len(), ends.len() - 1);
        assert_eq!(Decoder::default().settled(wire).unwrap(), settlements);
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        let parcel = wire::Parcel {
            epoch: 9,
            ..Default::default()
        };
        let batch = wire::Batch {
            parcels: vec![parcel],
            ..Default::default()
        };
        let refused = Decoder::default().batch(batch).unwrap_err();
        assert_eq!(refused, protocol("a parcel's epoch is not in its batch"));
        assert!(Decoder::default().hello(None).is_err());
        let newer = wire::Downstream { message: None };
        assert!(Decoder::default().down(newer).unwrap().is_none());
    }
}
