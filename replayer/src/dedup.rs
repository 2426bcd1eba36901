//! Recognises exchanges that came before: a dense window for each listener epoch and target.
//!
//! What enters: identities of parcels, and how their deliveries ended. What leaves: whether a parcel is new, and if
//! not, how its first copy ended. What may be lost: what the listener has settled is forgotten, on its word
//! (`settled_below`); a copy that comes later still is refused. An epoch that was silent for [`FORGOTTEN_AFTER`] is
//! forgotten whole. No I/O, no clock: time is handed in.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use reprise_proto::Delivery;
use reprise_traffic::{Disposition, Epoch, Fault, TargetName};

/// A window reaches so far beyond what is settled; no listener holds that many exchanges (4 bytes each here).
const SPAN: u64 = 1 << 22;

/// A listener that sent nothing for so long is gone, or has settled everything.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// What is known of a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Never seen: now it counts as in flight.
    Never,
    /// Its first copy is on its way.
    InFlight,
    /// Its first copy ended so.
    Ended(Disposition),
    /// Its listener knows the end already; the copy was under way too long.
    Settled,
    /// So far ahead of what is settled that the sender must be mad.
    OutOfReach,
}

/// All windows of a replayer.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    windows: HashMap<(Arc<Epoch>, TargetName), Window>,
}

#[derive(Debug)]
struct Window {
    base: u64,
    /// From `base` on.
    states: VecDeque<State>,
    used: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unseen,
    InFlight,
    Ended(Disposition),
}

// Windows are as long as listeners' windows, so a state must stay small.
const _: () = assert!(size_of::<State>() <= 4);

impl Windows {
    /// A parcel arrived.
    pub(crate) fn begin(&mut self, delivery: &Delivery, settled_below: u64, now: Instant) -> Seen {
        let key = (delivery.id.epoch.clone(), delivery.target.clone());
        let window = self.windows.entry(key).or_insert_with(|| Window {
            base: settled_below,
            states: VecDeque::new(),
            used: now,
        });
        window.used = now;
        window.forget_below(settled_below);
        let Some(ahead) = delivery.id.sequence.checked_sub(window.base) else {
            return Seen::Settled;
        };
        if ahead >= SPAN {
            return Seen::OutOfReach;
        }
        let index = ahead as usize;
        if index >= window.states.len() {
            window.states.resize(index + 1, State::Unseen);
        }
        match window.states[index] {
            State::Unseen => {
                window.states[index] = State::InFlight;
                Seen::Never
            }
            State::InFlight => Seen::InFlight,
            State::Ended(disposition) => Seen::Ended(disposition),
        }
    }

    /// A delivery ended. `None`: it was not attempted and may come again.
    pub(crate) fn end(&mut self, delivery: &Delivery, disposition: Option<Disposition>) {
        let key = (delivery.id.epoch.clone(), delivery.target.clone());
        let Some(window) = self.windows.get_mut(&key) else {
            return;
        };
        let index = delivery.id.sequence.checked_sub(window.base);
        if let Some(state) = index.and_then(|index| window.states.get_mut(index as usize)) {
            *state = disposition.map_or(State::Unseen, State::Ended);
        }
    }

    /// Forgets the epochs that have been silent. To be called now and then.
    pub(crate) fn forget_silent(&mut self, now: Instant) {
        self.windows.retain(|_, window| {
            let in_flight = window.states.contains(&State::InFlight);
            in_flight || now.duration_since(window.used) < FORGOTTEN_AFTER
        });
    }
}

impl Window {
    fn forget_below(&mut self, mark: u64) {
        let Some(gone) = mark.checked_sub(self.base) else {
            return;
        };
        let gone = usize::try_from(gone)
            .unwrap_or(usize::MAX)
            .min(self.states.len());
        self.states.drain(..gone);
        self.base = mark;
    }
}

/// What a copy is told whose first copy's end is no longer known: the listener has settled it, so nobody counts it.
pub(crate) const SETTLED_BEFORE: Disposition = Disposition::Unknown;

/// What an exchange out of reach ends as.
pub(crate) const OUT_OF_REACH: Disposition = Disposition::Failed(Fault::Ours);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reprise_traffic::ExchangeId;

    use super::*;

    fn delivery(sequence: u64, target: &str) -> Delivery {
        Delivery {
            id: ExchangeId {
                epoch: Arc::new(Epoch::new("web", 1)),
                sequence,
            },
            target: TargetName::new(target).unwrap(),
        }
    }

    const OK: Disposition = Disposition::Replayed(200);

    #[test]
    fn a_copy_learns_how_the_first_ended() {
        let (mut windows, now) = (Windows::default(), Instant::now());
        let first = delivery(5, "t/a");
        assert_eq!(windows.begin(&first, 0, now), Seen::Never);
        assert_eq!(windows.begin(&first, 0, now), Seen::InFlight);
        assert_eq!(windows.begin(&delivery(5, "t/b"), 0, now), Seen::Never);
        windows.end(&first, Some(OK));
        assert_eq!(windows.begin(&first, 0, now), Seen::Ended(OK));
        assert_eq!(windows.begin(&delivery(6, "t/a"), 6, now), Seen::Never);
        assert_eq!(windows.begin(&first, 0, now), Seen::Settled);
    }

    #[test]
    fn what_was_not_attempted_may_come_again() {
        let (mut windows, now) = (Windows::default(), Instant::now());
        let parcel = delivery(1, "t/a");
        assert_eq!(windows.begin(&parcel, 0, now), Seen::Never);
        windows.end(&parcel, None);
        assert_eq!(windows.begin(&parcel, 0, now), Seen::Never);
    }

    #[test]
    fn madness_does_not_fill_memory() {
        let (mut windows, now) = (Windows::default(), Instant::now());
        assert_eq!(
            windows.begin(&delivery(u64::MAX, "t/a"), 0, now),
            Seen::OutOfReach
        );
        assert_eq!(
            windows.begin(&delivery(3, "t/a"), u64::MAX, now),
            Seen::Settled
        );
    }

    #[test]
    fn silent_epochs_are_forgotten_but_not_what_is_in_flight() {
        let (mut windows, now) = (Windows::default(), Instant::now());
        windows.begin(&delivery(1, "t/a"), 0, now);
        windows.begin(&delivery(1, "t/b"), 0, now);
        windows.end(&delivery(1, "t/b"), Some(OK));
        windows.forget_silent(now + FORGOTTEN_AFTER);
        assert_eq!(windows.windows.len(), 1);
    }

    proptest! {
        /// However copies and marks come: each delivery is begun once.
        #[test]
        fn each_begins_once(steps in prop::collection::vec((0_u64..50, 0_u64..50), 1..200)) {
            let (mut windows, now) = (Windows::default(), Instant::now());
            let mut begun = std::collections::HashSet::new();
            for (sequence, mark) in steps {
                // A mark never passes what is in flight: only settled exchanges are below it.
                let mark = (0..mark).take_while(|s| begun.contains(s)).count() as u64;
                let parcel = delivery(sequence, "t/a");
                if windows.begin(&parcel, mark, now) == Seen::Never {
                    prop_assert!(begun.insert(sequence), "{sequence} began twice");
                    windows.end(&parcel, Some(OK));
                }
            }
        }
    }
}
