//! When the breaker opens, lets through and closes, and what holds whatever happens in whatever order.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn settings(failures: u32, probes: u32) -> BreakerSettings {
    BreakerSettings {
        failures: NonZeroU32::new(failures).unwrap(),
        open_for: SECOND,
        max_open: 5 * SECOND,
        probes: NonZeroU32::new(probes).unwrap(),
    }
}

struct Rig {
    breaker: Breaker,
    now: Instant,
}

impl Rig {
    fn new(failures: u32, probes: u32) -> Rig {
        Rig {
            breaker: Breaker::new(settings(failures, probes), fastrand::Rng::with_seed(7)),
            now: Instant::now(),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn leave(&mut self) -> Option<Leave> {
        self.breaker.leave(self.now, true)
    }

    fn ended(&mut self, leave: Leave, ended: Ended) -> Option<Change> {
        self.breaker.ended(leave, ended, self.now)
    }

    fn send(&mut self, ended: Ended) -> Option<Change> {
        let leave = self.leave().expect("leave to send");
        self.ended(leave, ended)
    }
}

#[test]
fn failures_in_a_row_open_it_and_an_answer_in_between_counts_anew() {
    let mut rig = Rig::new(3, 1);
    for ended in [Ended::Failed, Ended::Failed, Ended::Answered, Ended::Failed] {
        assert_eq!(rig.send(ended), None);
    }
    // What wasn't sent says nothing.
    assert_eq!(rig.send(Ended::Unsent), None);
    assert_eq!(rig.send(Ended::Failed), None);
    let opened = rig.send(Ended::Failed);
    let Some(Change::Opened { open_for }) = opened else {
        panic!("{opened:?}");
    };
    assert!(open_for <= SECOND && open_for >= SECOND * 3 / 4);
    rig.pass(open_for - Duration::from_nanos(1));
    assert_eq!(rig.leave(), None);
    rig.pass(Duration::from_nanos(1));
    assert_eq!(rig.send(Ended::Answered), Some(Change::Closed));
    assert!((0..100).all(|_| rig.leave().is_some()));
}

#[test]
fn half_open_lets_so_many_safe_ones_through_and_all_must_be_answered() {
    let mut rig = Rig::new(1, 2);
    rig.send(Ended::Failed);
    rig.pass(SECOND);
    assert_eq!(rig.breaker.leave(rig.now, false), None, "unsafe");
    let (a, b) = (rig.leave().unwrap(), rig.leave().unwrap());
    assert_eq!(rig.leave(), None);
    assert_eq!(rig.ended(a, Ended::Answered), None);
    assert_eq!(rig.leave(), None);
    // One that wasn't sent makes room for another.
    assert_eq!(rig.ended(b, Ended::Unsent), None);
    assert_eq!(rig.send(Ended::Answered), Some(Change::Closed));
}

#[test]
fn the_time_doubles_to_its_bound_and_starts_anew_once_it_has_closed() {
    let mut rig = Rig::new(1, 1);
    rig.send(Ended::Failed);
    for longest in [2, 4, 5, 5] {
        rig.pass(5 * SECOND);
        let change = rig.send(Ended::Failed);
        let Some(Change::Reopened { open_for }) = change else {
            panic!("{change:?}");
        };
        assert!(open_for <= longest * SECOND && open_for >= longest * SECOND * 3 / 4);
    }
    rig.pass(5 * SECOND);
    assert_eq!(rig.send(Ended::Answered), Some(Change::Closed));
    let change = rig.send(Ended::Failed);
    assert!(matches!(change, Some(Change::Opened { open_for }) if open_for <= SECOND));
}

#[test]
fn what_set_out_before_says_nothing_about_now() {
    let mut rig = Rig::new(2, 1);
    let early: Vec<Leave> = (0..9).map(|_| rig.leave().unwrap()).collect();
    rig.ended(early[0], Ended::Failed);
    assert!(matches!(
        rig.ended(early[1], Ended::Failed),
        Some(Change::Opened { .. })
    ));
    assert!(rig.breaker.revokes(early[2]));
    assert_eq!(rig.ended(early[2], Ended::Answered), None);
    rig.pass(SECOND);
    let probe = rig.leave().unwrap();
    assert!(!rig.breaker.revokes(probe) && rig.breaker.revokes(early[3]));
    assert_eq!(rig.ended(early[3], Ended::Failed), None);
    assert_eq!(rig.ended(probe, Ended::Answered), Some(Change::Closed));
    assert_eq!(rig.ended(early[4], Ended::Failed), None);
    assert_eq!(rig.ended(early[5], Ended::Failed), None);
    assert!(rig.leave().is_some() && !rig.breaker.revokes(early[6]));
}

#[test]
fn an_unsafe_one_goes_first_where_no_safe_one_comes() {
    let mut rig = Rig::new(1, 1);
    rig.send(Ended::Failed);
    rig.pass(SECOND);
    assert!(!rig.breaker.admits(rig.now, false));
    rig.pass(SECOND);
    assert!(rig.breaker.leave(rig.now, false).is_some());
    assert!(!rig.breaker.admits(rig.now, false) && !rig.breaker.admits(rig.now, true));
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Ask(bool),
    End(usize, Ended),
}

fn step() -> impl Strategy<Value = Step> {
    let ended = prop::sample::select(vec![Ended::Answered, Ended::Failed, Ended::Unsent]);
    prop_oneof![
        (0..3000_u64).prop_map(Step::Pass),
        any::<bool>().prop_map(Step::Ask),
        (any::<usize>(), ended).prop_map(|(which, ended)| Step::End(which, ended)),
    ]
}

proptest! {
    /// Whatever happens in whatever order: open is open for its time, half-open lets no more through than it may,
    /// and it is never shut for ever.
    #[test]
    fn it_keeps_its_promises(
        steps in prop::collection::vec(step(), 0..200),
        failures in 1_u32..4,
        probes in 1_u32..4,
    ) {
        let mut rig = Rig::new(failures, probes);
        let mut out: Vec<Leave> = Vec::new();
        let mut closed = true;
        // When it opened and until when, and leaves given since.
        let (mut open_until, mut given) = (rig.now, 0);
        let mut in_a_row = 0;
        for step in steps {
            match step {
                Step::Pass(millis) => rig.pass(Duration::from_millis(millis)),
                Step::Ask(is_safe) => {
                    let admitted = rig.breaker.admits(rig.now, is_safe);
                    let leave = rig.breaker.leave(rig.now, is_safe);
                    prop_assert_eq!(admitted, leave.is_some());
                    if closed {
                        prop_assert!(leave.is_some());
                    }
                    if let Some(leave) = leave {
                        out.push(leave);
                        if !closed {
                            prop_assert!(rig.now >= open_until);
                            given += 1;
                            prop_assert!(given <= probes);
                        }
                    }
                }
                Step::End(which, ended) if !out.is_empty() => {
                    let leave = out.swap_remove(which % out.len());
                    let current = leave.round == rig.breaker.round;
                    given -= u32::from(current && !closed && ended == Ended::Unsent);
                    in_a_row = match ended {
                        Ended::Failed if current && closed => in_a_row + 1,
                        Ended::Answered if current => 0,
                        _ => in_a_row,
                    };
                    match rig.ended(leave, ended) {
                        Some(Change::Opened { open_for }) => {
                            prop_assert!(closed && in_a_row == failures);
                            (closed, open_until, given) = (false, rig.now + open_for, 0);
                            prop_assert!(open_for <= 5 * SECOND && open_for >= SECOND * 3 / 4);
                        }
                        Some(Change::Reopened { open_for }) => {
                            prop_assert!(!closed && current);
                            (open_until, given) = (rig.now + open_for, 0);
                            prop_assert!(open_for <= 5 * SECOND);
                        }
                        Some(Change::Closed) => {
                            prop_assert!(!closed && current && ended == Ended::Answered);
                            (closed, in_a_row) = (true, 0);
                        }
                        None => prop_assert!(!closed || in_a_row < failures),
                    }
                }
                Step::End(..) => {}
            }
        }
        // All come back, and it is asked again when its time is over: it lets somebody through.
        for leave in out {
            rig.ended(leave, Ended::Unsent);
        }
        rig.pass(6 * SECOND);
        prop_assert!(rig.leave().is_some());
    }
}
