//! Values to protobuf. Payloads are shared, not copied; names stand once in a message.

use std::collections::HashMap;
use std::sync::Arc;

use reprise_traffic::{Disposition, Epoch, Source, Target, TargetName};

use crate::message::{Batch, Delivery, Downstream, Hello, Settlement, Upstream, Welcome};
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

pub(super) fn encode_settled(settlements: Vec<Settlement>) -> wire::Settled {
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
