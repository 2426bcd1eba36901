//! How far each listener epoch is settled, as its listener says with each batch.
//!
//! What enters: the lowest unsettled number of an epoch. What leaves: the same, to the replayers, which forget what
//! is below. What may be lost: nothing; an epoch that is not known has the mark 0, and replayers remember longer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use reprise_proto::Parcel;
use reprise_traffic::Epoch;

/// Epochs that are remembered whatever their age.
const MANY: usize = 1024;

/// An epoch that was silent for so long is forgotten when there are many.
const SILENT: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy)]
struct Mark {
    below: u64,
    raised: Instant,
}

/// The marks of the epochs that listeners speak of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watermarks(Arc<Mutex<HashMap<Arc<Epoch>, Mark>>>);

impl Watermarks {
    /// A listener said so. Marks only rise.
    pub(crate) fn raise(&self, marks: &[(Arc<Epoch>, u64)]) {
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (epoch, below) in marks {
            let mark = known.entry(epoch.clone()).or_insert(Mark {
                below: 0,
                raised: now,
            });
            *mark = Mark {
                below: mark.below.max(*below),
                raised: now,
            };
        }
        if known.len() > MANY {
            known.retain(|_, mark| now.duration_since(mark.raised) < SILENT);
        }
    }

    /// The marks of the epochs that these parcels belong to.
    pub(crate) fn of(&self, parcels: &[Parcel]) -> Vec<(Arc<Epoch>, u64)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut marks: Vec<(Arc<Epoch>, u64)> = Vec::new();
        for parcel in parcels {
            let epoch = &parcel.exchange.id.epoch;
            if !marks.iter().any(|(known, _)| known == epoch) {
                marks.push((epoch.clone(), known.get(epoch).map_or(0, |mark| mark.below)));
            }
        }
        marks
    }
}
