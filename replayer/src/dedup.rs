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
use reprise_traffic::{Disposition, Epoch, ExchangeId, Fault, TargetName};

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
    windows: HashMap<Arc<Epoch>, HashMap<TargetName, Window>>,
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
    /// A parcel for a target arrived.
    pub(crate) fn begin(
        &mut self,
        id: &ExchangeId,
        target: &TargetName,
        settled_below: u64,
        now: Instant,
    ) -> Seen {
        if self.window(id, target).is_none() {
            let windows = self.windows.entry(id.epoch.clone()).or_default();
            windows.insert(target.clone(), Window::new(settled_below, now));
        }
        let Some(window) = self.window(id, target) else {
            return Seen::OutOfReach;
        };
        window.begin(id.sequence, settled_below, now)
    }

    // `entry` would count up the references to a key that is there already, which all threads share.
    fn window(&mut self, id: &ExchangeId, target: &TargetName) -> Option<&mut Window> {
        self.windows.get_mut(&id.epoch)?.get_mut(target)
    }

    /// A delivery ended. `None`: it was not attempted and may come again.
    pub(crate) fn end(
        &mut self,
        id: &ExchangeId,
        target: &TargetName,
        disposition: Option<Disposition>,
    ) {
        let Some(window) = self.window(id, target) else {
            return;
        };
        let index = id.sequence.checked_sub(window.base);
        if let Some(state) = index.and_then(|index| window.states.get_mut(index as usize)) {
            *state = disposition.map_or(State::Unseen, State::Ended);
        }
    }

    /// Forgets the epochs that have been silent. To be called now and then.
    pub(crate) fn forget_silent(&mut self, now: Instant) {
        self.windows.retain(|_, windows| {
            windows.retain(|_, window| !window.is_silent(now));
            !windows.is_empty()
        });
    }
}

impl Window {
    fn new(base: u64, now: Instant) -> Window {
        Window {
            base,
            states: VecDeque::new(),
            used: now,
        }
    }

    fn begin(&mut self, sequence: u64, settled_below: u64, now: Instant) -> Seen {
        self.used = now;
        self.forget_below(settled_below);
        let Some(ahead) = sequence.checked_sub(self.base) else {
            return Seen::Settled;
        };
        if ahead >= SPAN {
            return Seen::OutOfReach;
        }
        let index = ahead as usize;
        if index >= self.states.len() {
            self.states.resize(index + 1, State::Unseen);
        }
        match self.states[index] {
            State::Unseen => {
                self.states[index] = State::InFlight;
                Seen::Never
            }
            State::InFlight => Seen::InFlight,
            State::Ended(disposition) => Seen::Ended(disposition),
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        let in_flight = self.states.contains(&State::InFlight);
        !in_flight && now.duration_since(self.used) >= FORGOTTEN_AFTER
    }

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
    use super::*;
    use proptest::prelude::*;

    fn id(sequence: u64) -> ExchangeId {
        ExchangeId {
            epoch: Arc::new(Epoch::new("web", 1)),
            sequence,
        }
    }

    /// Windows at one instant.
    struct Replayer(Windows, Instant);

    impl Replayer {
        fn new() -> Replayer {
            Replayer(Windows::default(), Instant::now())
        }

        fn begin(&mut self, sequence: u64, target: &str, settled_below: u64) -> Seen {
            let target = TargetName::new(target).unwrap();
            self.0.begin(&id(sequence), &target, settled_below, self.1)
        }

        fn end(&mut self, sequence: u64, target: &str, disposition: Option<Disposition>) {
            let target = TargetName::new(target).unwrap();
            self.0.end(&id(sequence), &target, disposition);
        }
    }

    const OK: Disposition = Disposition::Replayed(200);

    #[test]
    fn a_copy_learns_how_the_first_ended() {
        let mut replayer = Replayer::new();
        assert_eq!(replayer.begin(5, "t/a", 0), Seen::Never);
        assert_eq!(replayer.begin(5, "t/a", 0), Seen::InFlight);
        assert_eq!(replayer.begin(5, "t/b", 0), Seen::Never);
        replayer.end(5, "t/a", Some(OK));
        assert_eq!(replayer.begin(5, "t/a", 0), Seen::Ended(OK));
        assert_eq!(replayer.begin(6, "t/a", 6), Seen::Never);
        assert_eq!(replayer.begin(5, "t/a", 0), Seen::Settled);
    }

    #[test]
    fn what_was_not_attempted_may_come_again() {
        let mut replayer = Replayer::new();
        assert_eq!(replayer.begin(1, "t/a", 0), Seen::Never);
        replayer.end(1, "t/a", None);
        assert_eq!(replayer.begin(1, "t/a", 0), Seen::Never);
    }

    #[test]
    fn madness_does_not_fill_memory() {
        let mut replayer = Replayer::new();
        assert_eq!(replayer.begin(u64::MAX, "t/a", 0), Seen::OutOfReach);
        assert_eq!(replayer.begin(3, "t/a", u64::MAX), Seen::Settled);
    }

    #[test]
    fn silent_epochs_are_forgotten_but_not_what_is_in_flight() {
        let mut replayer = Replayer::new();
        replayer.begin(1, "t/a", 0);
        replayer.begin(1, "t/b", 0);
        replayer.end(1, "t/b", Some(OK));
        let Replayer(mut windows, now) = replayer;
        windows.forget_silent(now + FORGOTTEN_AFTER);
        let left: Vec<_> = windows.windows.values().flat_map(HashMap::keys).collect();
        assert_eq!(left, [&TargetName::new("t/a").unwrap()]);
    }

    proptest! {
        /// However copies and marks come: each delivery is begun once.
        #[test]
        fn each_begins_once(steps in prop::collection::vec((0_u64..50, 0_u64..50), 1..200)) {
            let mut replayer = Replayer::new();
            let mut begun = std::collections::HashSet::new();
            for (sequence, mark) in steps {
                // A mark never passes what is in flight: only settled exchanges are below it.
                let mark = (0..mark).take_while(|s| begun.contains(s)).count() as u64;
                if replayer.begin(sequence, "t/a", mark) == Seen::Never {
                    prop_assert!(begun.insert(sequence), "{sequence} began twice");
                    replayer.end(sequence, "t/a", Some(OK));
                }
            }
        }
    }
}
