//! The answers to one relay.
//!
//! What enters: how its parcels ended, from whichever task. What leaves: settlements and returns, as many at a time
//! as have come together. What may be lost: answers to a relay that is gone, whose successor asks again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reprise_proto::{Delivery, Pace, Settlement, Upstream};
use reprise_traffic::{Disposition, ExchangeId, TargetName};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Answers that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Parcels that were taken and have no answer yet.
    owed: usize,
    settled: Vec<Settlement>,
    returned: Vec<Delivery>,
}

/// An answer that is owed for one parcel.
#[derive(Debug)]
pub(crate) struct Reply(Option<Arc<Outbox>>);

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many parcels were taken: an answer is owed for each.
    pub(crate) fn owe(self: &Arc<Outbox>, parcels: usize) -> impl Iterator<Item = Reply> + use<> {
        self.lock().owed += parcels;
        std::iter::repeat_n(self.clone(), parcels).map(|outbox| Reply(Some(outbox)))
    }

    fn settled(&self, mut settled: Vec<Settlement>) {
        let mut inner = self.lock();
        inner.owed -= settled.len();
        inner.settled.append(&mut settled);
        drop(inner);
        self.changed.notify_one();
    }

    /// Sends answers until `input_ended` is cancelled and none is owed. `leaving` asks the relay to send no more.
    pub(crate) async fn send(
        self: Arc<Outbox>,
        up: mpsc::Sender<Upstream>,
        input_ended: CancellationToken,
        leaving: CancellationToken,
    ) {
        let mut told = false;
        let mut pace = Pace::default();
        loop {
            // First, or a busy relay would never hear of it.
            if !told && leaving.is_cancelled() {
                told = true;
                let reason = "the replayer is stopping".to_owned();
                if up.send(Upstream::GoAway(reason)).await.is_err() {
                    return;
                }
            }
            let (settled, returned, owed) = {
                let mut inner = self.lock();
                let settled = std::mem::take(&mut inner.settled);
                (settled, std::mem::take(&mut inner.returned), inner.owed)
            };
            if !(settled.is_empty() && returned.is_empty()) {
                pace.sent();
            }
            if !settled.is_empty() && up.send(Upstream::Settled(settled)).await.is_err() {
                return;
            }
            if !returned.is_empty() && up.send(Upstream::Returned(returned)).await.is_err() {
                return;
            }
            if owed == 0 && input_ended.is_cancelled() {
                return;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = input_ended.cancelled(), if !input_ended.is_cancelled() => {}
                () = leaving.cancelled(), if !told => {}
            }
            pace.turn().await;
        }
    }
}

impl Reply {
    /// The parcel ended.
    pub(crate) fn settle(mut self, id: &ExchangeId, target: TargetName, disposition: Disposition) {
        let settlement = Settlement {
            id: id.clone(),
            outcomes: [(target, disposition)].into(),
        };
        self.answer(|inner| inner.settled.push(settlement));
    }

    /// Parcels ended, each with its settlement: as [`Reply::settle`], at a time for neighbours with the same relay.
    pub(crate) fn settle_all(ended: impl Iterator<Item = (Reply, Settlement)>) {
        let mut together: Option<(Arc<Outbox>, Vec<Settlement>)> = None;
        for (mut reply, settlement) in ended {
            let Some(outbox) = reply.0.take() else {
                continue;
            };
            match &mut together {
                Some((same, settled)) if Arc::ptr_eq(same, &outbox) => settled.push(settlement),
                _ => {
                    if let Some((before, settled)) = together.replace((outbox, vec![settlement])) {
                        before.settled(settled);
                    }
                }
            }
        }
        if let Some((last, settled)) = together {
            last.settled(settled);
        }
    }

    /// The parcel was not attempted, and won't be.
    pub(crate) fn give_back(mut self, delivery: Delivery) {
        self.answer(|inner| inner.returned.push(delivery));
    }

    fn answer(&mut self, put: impl FnOnce(&mut Inner)) {
        if let Some(outbox) = self.0.take() {
            let mut inner = outbox.lock();
            inner.owed -= 1;
            put(&mut inner);
            drop(inner);
            outbox.changed.notify_one();
        }
    }
}

impl Drop for Reply {
    /// A reply is forgotten only with its stream, whose relay then takes the parcel for lost.
    fn drop(&mut self) {
        self.answer(|_| {});
    }
}

#[cfg(test)]
mod tests {
    use reprise_traffic::Epoch;

    use super::*;

    #[test]
    fn each_relay_is_answered_what_it_asked_and_nothing_is_owed_then() {
        let (first, second) = (Arc::new(Outbox::default()), Arc::new(Outbox::default()));
        let epoch = Arc::new(Epoch::new("web", 1));
        let target = TargetName::new("t/a").unwrap();
        let order = [&first, &first, &second, &first];
        let ended = order.iter().zip(0..).flat_map(|(outbox, sequence)| {
            let settlement = Settlement {
                id: ExchangeId {
                    epoch: epoch.clone(),
                    sequence,
                },
                outcomes: [(target.clone(), Disposition::Unknown)].into(),
            };
            outbox.owe(1).map(move |reply| (reply, settlement.clone()))
        });
        Reply::settle_all(ended);
        for (outbox, expected) in [(first, vec![0, 1, 3]), (second, vec![2])] {
            let inner = outbox.lock();
            let settled: Vec<u64> = inner.settled.iter().map(|end| end.id.sequence).collect();
            assert_eq!((inner.owed, settled), (0, expected));
        }
    }
}
