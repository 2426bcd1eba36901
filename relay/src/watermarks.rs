//! How far each listener epoch is settled, as its listener says with each batch.
//!
//! What enters: the lowest unsettled number of an epoch. What leaves: the same, to the replayers, which forget what
//! is below. What may be lost: nothing; an epoch that is not known has the mark 0, and replayers remember longer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use reprise_proto::Parcel;
use reprise_traffic::Epoch;

/// The marks of the epochs whose listeners are connected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watermarks(Arc<Mutex<HashMap<Arc<Epoch>, u64>>>);

impl Watermarks {
    /// A listener said so. Marks only rise.
    pub(crate) fn raise(&self, marks: &[(Arc<Epoch>, u64)]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (epoch, below) in marks {
            let mark = known.entry(epoch.clone()).or_default();
            *mark = below.max(mark).to_owned();
        }
    }

    /// The marks of the epochs that these parcels belong to.
    pub(crate) fn of(&self, parcels: &[Parcel]) -> Vec<(Arc<Epoch>, u64)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut marks: Vec<(Arc<Epoch>, u64)> = Vec::new();
        for parcel in parcels {
            let epoch = &parcel.exchange.id.epoch;
            if !marks.iter().any(|(known, _)| known == epoch) {
                marks.push((epoch.clone(), known.get(epoch).copied().unwrap_or(0)));
            }
        }
        marks
    }

    /// The listener is gone.
    pub(crate) fn forget<'a>(&self, epochs: impl Iterator<Item = &'a Arc<Epoch>>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for epoch in epochs {
            known.remove(epoch);
        }
    }
}
