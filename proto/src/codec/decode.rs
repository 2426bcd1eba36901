//! Protobuf to values. Nothing that a peer says is trusted.
//!
//! What enters: messages. What leaves: values, or the reason why a message is none. What may be lost: the names of
//! ends that only a newer version knows; they are counted as `other`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reprise_node::LogLimit;
use reprise_traffic::answer::AnswerHead;
use reprise_traffic::exchange::Captured;
use reprise_traffic::{
    Answer, Body, Closed, Disposition, DropReason, Epoch, Exchange, ExchangeId, Fault, Head,
    HeadError, Label, Source, Target, TargetDocument, TargetName,
};
use tracing::warn;

use super::measured;
use crate::message::{
    Batch, Delivery, Downstream, Hello, LinkError, Notice, Outcomes, Parcel, Settlement, Upstream,
    Welcome,
};
use crate::pieces::Pieces;
use crate::wire;
use crate::wire::downstream::Message as Down;
use crate::wire::upstream::Message as Up;

pub(super) type Decoded<T> = Result<T, LinkError>;

pub(super) fn protocol(what: impl Into<String>) -> LinkError {
    LinkError::Protocol(what.into())
}

/// Of one message; a sequence number takes a byte on the wire and much more in memory.
const MAX_SETTLEMENTS: usize = 1 << 20;

/// Of one batch; senders put a sixteenth of it into one.
const MAX_CLOSED: usize = 1 << 14;

/// Epochs and target names repeat from message to message; a decoder hands out the same ones again.
pub(crate) struct Decoder {
    epochs: HashMap<(String, u64), Arc<Epoch>>,
    targets: HashMap<String, TargetName>,
    pieces: Pieces,
    /// Ends that this version has no name for.
    strange: LogLimit,
}

/// Between two words about a peer's ends that have no name here.
const STRANGE_EVERY: Duration = Duration::from_secs(3600);

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder {
            epochs: HashMap::new(),
            targets: HashMap::new(),
            pieces: Pieces::default(),
            strange: LogLimit::every(STRANGE_EVERY),
        }
    }
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
            Some(Down::Hello(hello)) => Ok(Hello {
                node: hello.node,
                version: hello.version,
                measures: hello.measures,
            }),
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

    /// Bytes of payloads that came ahead of their batch.
    pub(crate) fn waiting(&self) -> usize {
        self.pieces.waiting()
    }

    /// `None` where a message says nothing by itself.
    pub(crate) fn down(&mut self, message: wire::Downstream) -> Decoded<Option<Downstream>> {
        match message.message {
            Some(Down::Piece(piece)) => {
                self.pieces.push(piece.length, &piece.data)?;
                Ok(None)
            }
            Some(Down::Batch(batch)) => {
                let batch = self.batch(batch)?;
                match self.waiting() {
                    0 => Ok(Some(Downstream::Batch(batch))),
                    _ => Err(protocol("pieces that no exchange of their batch has")),
                }
            }
            Some(_) if self.waiting() > 0 => Err(protocol("pieces without their batch")),
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

    pub(super) fn batch(&mut self, batch: wire::Batch) -> Decoded<Batch> {
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
            let target = named(&targets, parcel.target)
                .map_err(|()| protocol("a parcel's target is not in its batch"))?;
            let id = ExchangeId {
                epoch: epoch.clone(),
                sequence: parcel.sequence,
            };
            let exchange = parcel.exchange.ok_or_else(|| protocol("an empty parcel"))?;
            let exchange = Exchange {
                id,
                due_ns: (parcel.due_ns > 0).then_some(parcel.due_ns),
                request: self.request(exchange)?,
            };
            parcels.push(Parcel {
                exchange: Arc::new(exchange),
                target,
                resent: parcel.resent.then(|| Duration::from_millis(parcel.age_ms)),
                claim: None,
            });
        }
        if batch.closed.len() > MAX_CLOSED {
            return Err(protocol("more closed connections than a batch holds"));
        }
        let closed = batch.closed.into_iter().map(|closed| {
            let target = named(&targets, closed.target)
                .map_err(|()| protocol("a closed connection's target is not in its batch"))?;
            Ok(Notice {
                behind: closed.behind as usize,
                target,
                closed: Closed {
                    closed_ns: closed.closed_ns,
                    client: decode_address(&closed.client)?,
                    server: decode_address(&closed.server)?,
                    due_ns: (closed.due_ns > 0).then_some(closed.due_ns),
                },
            })
        });
        Ok(Batch {
            id: batch.id,
            settled_below,
            closed: closed.collect::<Decoded<_>>()?,
            parcels,
        })
    }

    fn request(&mut self, exchange: wire::Exchange) -> Decoded<Captured> {
        let source = match exchange.source() {
            wire::Source::Mirror => Source::Mirror,
            wire::Source::Wire | wire::Source::Unspecified => Source::Wire,
        };
        let malformed = |error: HeadError| protocol(error.to_string());
        let label = exchange.label.map(|label| {
            Label::new(&label.line, label.turn)
                .map(Box::new)
                .map_err(|flaw| protocol(format!("a label: {flaw}")))
        });
        let label = label.transpose()?;
        Ok(Captured {
            captured_ns: exchange.captured_ns,
            client: decode_address(&exchange.client)?,
            server: decode_address(&exchange.server)?,
            source,
            head: match exchange.head.is_empty() {
                true => Head::opaque(),
                false => Head::parse(own(&exchange.head)).map_err(malformed)?,
            },
            body: self.payload(&exchange.body, exchange.pieced_body)?,
            trailers: own(&exchange.trailers),
            answer: match exchange.answer {
                Some(answer) => Some(Box::new(self.answer(answer)?)),
                None => None,
            },
            label,
        })
    }

    fn answer(&mut self, answer: wire::Answer) -> Decoded<Answer> {
        let malformed = |error: HeadError| protocol(format!("an answer: {error}"));
        Ok(Answer {
            first_byte_ns: answer.first_byte_ns,
            last_byte_ns: answer.last_byte_ns,
            head: AnswerHead::parse(own(&answer.head)).map_err(malformed)?,
            body: self.payload(&answer.body, answer.pieced_body)?,
            body_len: answer.body_length,
            complete: answer.complete,
        })
    }

    fn payload(&mut self, within: &Bytes, pieced: u64) -> Decoded<Body> {
        match (within.is_empty(), pieced) {
            (_, 0) => Ok(own(within).into()),
            (true, length) => self.pieces.pop(length),
            (false, _) => Err(protocol("a payload within its batch and in pieces")),
        }
    }

    pub(crate) fn up(&mut self, message: wire::Upstream) -> Decoded<Option<Upstream>> {
        match message.message {
            Some(Up::Accepted(accepted)) => Ok(Some(Upstream::Accepted(accepted.batch))),
            Some(Up::Settled(settled)) => Ok(Some(Upstream::Settled(self.settled(settled)?))),
            Some(Up::Returned(returned)) => Ok(Some(Upstream::Returned(self.returned(returned)?))),
            Some(Up::GoAway(go_away)) => Ok(Some(Upstream::GoAway(go_away.reason))),
            Some(Up::Measured(measured)) => {
                let named = |targets: &[String]| self.targets(targets);
                Ok(Some(Upstream::Measured(measured::decode(measured, named)?)))
            }
            Some(Up::Welcome(_)) => Err(protocol("a second Welcome")),
            None => Ok(None),
        }
    }

    pub(super) fn settled(&mut self, settled: wire::Settled) -> Decoded<Vec<Settlement>> {
        let epochs: Vec<Arc<Epoch>> = settled.epochs.into_iter().map(|e| self.epoch(e)).collect();
        let targets = self.targets(&settled.targets)?;
        let mut settlements = Vec::new();
        for run in settled.runs {
            let epoch = epochs
                .get(run.epoch as usize)
                .ok_or_else(|| protocol("a settlement's epoch is not in its message"))?;
            let mut outcomes = Outcomes::with_capacity(run.outcomes.len());
            for outcome in &run.outcomes {
                let target = targets
                    .get(outcome.target as usize)
                    .ok_or_else(|| protocol("an outcome's target is not in its message"))?;
                outcomes.push((target.clone(), self.outcome(outcome)?));
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

    /// An end that this version has no name for comes from a neighbour of a newer one, and is counted as the nearest that
    /// has one.
    fn outcome(&self, outcome: &wire::Outcome) -> Decoded<Disposition> {
        let Ok(disposition) = wire::Disposition::try_from(outcome.disposition) else {
            self.is_strange(outcome);
            // Nobody here can say whether it arrived.
            return Ok(Disposition::Unknown);
        };
        Ok(match disposition {
            wire::Disposition::Replayed => Disposition::Replayed(
                u16::try_from(outcome.status).map_err(|_| protocol("status is no HTTP status"))?,
            ),
            wire::Disposition::Failed => {
                let fault = outcome.reason.parse();
                Disposition::Failed(fault.unwrap_or_else(|_| {
                    self.is_strange(outcome);
                    Fault::Other
                }))
            }
            wire::Disposition::Unknown => Disposition::Unknown,
            wire::Disposition::Filtered => Disposition::Filtered,
            wire::Disposition::SampledOut => Disposition::SampledOut,
            wire::Disposition::Dropped => {
                let reason = outcome.reason.parse();
                Disposition::Dropped(reason.unwrap_or_else(|_| {
                    self.is_strange(outcome);
                    DropReason::Other
                }))
            }
            wire::Disposition::Unspecified => return Err(protocol("no disposition")),
        })
    }

    fn is_strange(&self, outcome: &wire::Outcome) {
        if let Some(suppressed) = self.strange.allow() {
            let (disposition, reason) = (outcome.disposition, &outcome.reason);
            warn!(
                disposition,
                reason,
                suppressed,
                "a neighbour of a newer version says of an exchange what this one has no name for: counted as other, or unknown"
            );
        }
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

/// Copies a part out of its message: as a slice, one that waits would keep a whole batch in memory, of which nobody's
/// books know. What is too large to be copied lightly travels in pieces.
fn own(part: &Bytes) -> Bytes {
    match part.is_empty() {
        true => Bytes::new(),
        false => Bytes::copy_from_slice(part),
    }
}

/// What an index plus 1 points at, or 0 at nothing.
fn named(targets: &[TargetName], index: u32) -> Result<Option<TargetName>, ()> {
    match (index as usize).checked_sub(1) {
        None => Ok(None),
        Some(index) => targets.get(index).cloned().map(Some).ok_or(()),
    }
}

fn decode_address(text: &str) -> Decoded<SocketAddr> {
    text.parse()
        .map_err(|_| protocol(format!("{text:?} is no address")))
}

fn decode_target(document: wire::TargetDocument) -> Decoded<Arc<Target>> {
    let refuse = |reason: String| protocol(format!("target {}: {reason}", document.name));
    let text = std::str::from_utf8(&document.document).map_err(|e| refuse(e.to_string()))?;
    let name = TargetName::new(&document.name).map_err(|e| protocol(e.to_string()))?;
    let parsed = TargetDocument::parse(&document.name, text);
    let target = parsed.and_then(|parsed| Target::new(name, document.revision, parsed));
    target.map(Arc::new).map_err(|e| protocol(e.to_string()))
}
