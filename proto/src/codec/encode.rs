//! Values to protobuf. Large payloads leave as slices of the exchange, not copied; names stand once in a message.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use reprise_traffic::exchange::Captured;
use reprise_traffic::{Answer, Body, Disposition, Epoch, Source, Target, TargetName};

use super::measured;
use crate::frames::Chunks;
use crate::message::{Batch, Delivery, Downstream, Hello, Parcel, Settlement, Upstream, Welcome};
use crate::pieces::{MAX_ANSWER, PIECE, SMALL};
use crate::wire;
use crate::wire::downstream::Message as Down;
use crate::wire::upstream::Message as Up;

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
    let Hello {
        node,
        version,
        measures,
    } = hello.clone();
    wire::Downstream {
        message: Some(Down::Hello(wire::Hello {
            node,
            version,
            measures,
        })),
    }
}

pub(crate) fn encode_down(message: Downstream, out: &mut Chunks) {
    let message = match message {
        Downstream::Batch(batch) => {
            for parcel in &batch.parcels {
                encode_pieces(parcel, out);
            }
            Down::Batch(encode_batch(batch))
        }
        Downstream::Targets(targets) => Down::Targets(wire::Targets {
            documents: targets.iter().map(|target| encode_target(target)).collect(),
        }),
    };
    out.message(&wire::Downstream {
        message: Some(message),
    });
}

/// The payloads of an exchange that are too large for its batch.
fn encode_pieces(parcel: &Parcel, out: &mut Chunks) {
    let request = &parcel.exchange.request;
    let answer = request.answer.as_deref().map(answer_body);
    for payload in std::iter::once(request.body.clone()).chain(answer) {
        if payload.len() <= SMALL {
            continue;
        }
        for chunk in payload.chunks() {
            let mut rest = chunk.clone();
            while !rest.is_empty() {
                let data = rest.split_to(rest.len().min(PIECE));
                let begin = begin_piece(payload.len(), data.len());
                out.message_with(&begin, data);
            }
        }
    }
}

/// A `Downstream` with a `Piece`, up to where its data stands.
pub(super) fn begin_piece(length: usize, data: usize) -> Vec<u8> {
    let piece = wire::Piece {
        length: length as u64,
        data: Bytes::new(),
    };
    // The key of a field of bytes: its number and wire type 2 (protobuf's encoding, "LEN").
    let key = |number: u8| (number << 3) | 2;
    let mut inner = piece.encode_to_vec();
    inner.push(key(2));
    varint(data, &mut inner);
    let mut begin = vec![key(4)];
    varint(inner.len() + data, &mut begin);
    begin.extend_from_slice(&inner);
    begin
}

fn varint(number: usize, out: &mut Vec<u8>) {
    let mut rest = number;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
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
            exchange: Some(encode_request(request)),
            due_ns: parcel.exchange.due_ns.unwrap_or(0),
        }
    });
    let parcels = parcels.collect();
    let closed = batch.closed.iter().map(|notice| wire::Closed {
        behind: notice.behind as u32,
        target: notice
            .target
            .as_ref()
            .map_or(0, |target| tables.target(target) + 1),
        client: notice.closed.client.to_string(),
        server: notice.closed.server.to_string(),
        closed_ns: notice.closed.closed_ns,
        due_ns: notice.closed.due_ns.unwrap_or(0),
    });
    let closed = closed.collect();
    wire::Batch {
        id: batch.id,
        epochs: tables.epochs,
        targets: tables.targets,
        parcels,
        closed,
    }
}

fn encode_request(request: &Captured) -> wire::Exchange {
    let (body, pieced_body) = within(request.body.clone());
    wire::Exchange {
        head: request.head.raw().clone(),
        body,
        trailers: request.trailers.clone(),
        captured_ns: request.captured_ns,
        client: request.client.to_string(),
        server: request.server.to_string(),
        source: match request.source {
            Source::Wire => wire::Source::Wire,
            Source::Mirror => wire::Source::Mirror,
        } as i32,
        pieced_body,
        answer: request.answer.as_deref().map(encode_answer),
        label: request.label.as_deref().map(|label| wire::Label {
            line: Bytes::copy_from_slice(label.line()),
            turn: label.turn(),
        }),
    }
}

fn encode_answer(answer: &Answer) -> wire::Answer {
    let (body, pieced_body) = within(answer_body(answer));
    wire::Answer {
        first_byte_ns: answer.first_byte_ns,
        last_byte_ns: answer.last_byte_ns,
        head: answer.head.raw().clone(),
        body,
        body_length: answer.body_len,
        complete: answer.complete,
        pieced_body,
    }
}

/// A payload that stays within its message, or the length of one that travels in pieces.
fn within(payload: Body) -> (Bytes, u64) {
    match payload.len() {
        0..=SMALL => (payload.to_bytes(), 0),
        large => (Bytes::new(), large as u64),
    }
}

/// As much of an answer's body as travels.
fn answer_body(answer: &Answer) -> Body {
    answer.body.beginning(MAX_ANSWER)
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

/// Settlements in one message: as many as a taker may owe could be more than a message holds.
const MOST_SETTLEMENTS: usize = 8192;

pub(crate) fn encode_up(message: Upstream, out: &mut Chunks) {
    let mut send = |message| {
        out.message(&wire::Upstream {
            message: Some(message),
        });
    };
    match message {
        Upstream::Accepted(batch) => send(Up::Accepted(wire::Accepted { batch })),
        Upstream::Settled(settlements) => {
            for settlements in settlements.chunks(MOST_SETTLEMENTS) {
                send(Up::Settled(encode_settled(settlements)));
            }
        }
        Upstream::Returned(deliveries) => send(Up::Returned(encode_returned(deliveries))),
        Upstream::Measured(targets) => send(Up::Measured(measured::encode(&targets))),
        Upstream::GoAway(reason) => send(Up::GoAway(wire::GoAway { reason })),
    }
}

pub(super) fn encode_settled(settlements: &[Settlement]) -> wire::Settled {
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
