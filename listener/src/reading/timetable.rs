//! The instants at which recorded requests are to leave.
//!
//! What enters: the times at which requests were captured, in order. What leaves: how long after the start each is to
//! leave. What may be lost: nothing; where the time is over, that is said. No clock is read here.
//!
//! Instants are counted from the start of a pass over the recording, never from request to request, so that no rounding
//! adds up.

use std::time::Duration;

use super::pace::{Pacing, Repeat, Speed, Stage};

/// When the next request leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    /// As soon as it is taken.
    AtOnce,
    /// So long after the start.
    After(Duration),
    /// Not at all, and neither does any later one: the time is over.
    Over,
}

/// The instants of a replay.
#[derive(Debug)]
pub(super) struct Timetable {
    pacing: Pacing,
    /// Requests of all passes so far.
    sent: u64,
    /// Requests of this pass.
    in_pass: u64,
    /// When this pass began, nanoseconds after the start.
    pass_ns: f64,
    /// When the first request of this pass, and the last so far, were captured.
    first_at: u64,
    last_at: u64,
    /// What was cut off pauses in this pass, nanoseconds.
    cut_ns: f64,
    /// When the last request leaves, nanoseconds after the start.
    last_ns: f64,
}

const SECOND: f64 = 1e9;

impl Timetable {
    pub(super) fn new(pacing: Pacing) -> Timetable {
        Timetable {
            pacing,
            sent: 0,
            in_pass: 0,
            pass_ns: 0.0,
            first_at: 0,
            last_at: 0,
            cut_ns: 0.0,
            last_ns: 0.0,
        }
    }

    /// For the next request, which was captured at `at_ns`. One that was captured before the request ahead of it leaves
    /// together with that.
    pub(super) fn next(&mut self, at_ns: u64) -> Leaves {
        let leaves = if !self.pacing.stages.is_empty() {
            staged(&self.pacing.stages, self.sent)
        } else if let Some(rate) = self.pacing.rate {
            Some(self.sent as f64 / rate.per_second * SECOND)
        } else {
            match self.pacing.speed {
                None => Some(self.captured(at_ns, 1.0)),
                Some(Speed::Times(speed)) => Some(self.captured(at_ns, speed)),
                Some(Speed::Max) => return Leaves::AtOnce,
            }
        };
        let limit = match self.pacing.repeat {
            Repeat::For(time) => time.as_nanos() as f64,
            _ => f64::INFINITY,
        };
        match leaves.filter(|leaves| *leaves <= limit) {
            Some(leaves) => {
                self.sent += 1;
                self.in_pass += 1;
                self.last_ns = leaves;
                Leaves::After(Duration::from_nanos(leaves as u64))
            }
            None => Leaves::Over,
        }
    }

    /// Production's pace.
    fn captured(&mut self, at_ns: u64, speed: f64) -> f64 {
        if self.in_pass == 0 {
            (self.first_at, self.last_at) = (at_ns, at_ns);
        }
        let at_ns = at_ns.max(self.last_at);
        if let Some(most) = self.pacing.max_gap {
            let gap = (at_ns - self.last_at) as f64 / speed;
            self.cut_ns += (gap - most.as_nanos() as f64).max(0.0);
        }
        self.last_at = at_ns;
        self.pass_ns + (at_ns - self.first_at) as f64 / speed - self.cut_ns
    }

    /// How long after the start a connection is to end that ended in the recording at `at_ns`, behind the last request so far
    /// and ahead of the next.
    pub(super) fn closes(&self, at_ns: u64) -> Duration {
        let evenly = self.pacing.rate.is_some() || !self.pacing.stages.is_empty();
        let after = at_ns.saturating_sub(self.last_at) as f64;
        let most = self.pacing.max_gap.unwrap_or(Duration::MAX).as_nanos() as f64;
        let pause = match self.pacing.speed {
            _ if evenly => 0.0,
            Some(Speed::Max) => 0.0,
            Some(Speed::Times(speed)) => (after / speed).min(most),
            None => after.min(most),
        };
        Duration::from_nanos((self.last_ns + pause) as u64)
    }

    /// How long after the start this pass begins.
    pub(super) fn pass_begins(&self) -> Duration {
        Duration::from_nanos(self.pass_ns as u64)
    }

    /// The recording is at its end, and begins anew. Its first request then follows the last after a pause as long as its
    /// pauses are on average; where it has none, after a second, or it would begin anew for ever at the same instant.
    pub(super) fn begin_again(&mut self) {
        let gaps = self.in_pass.saturating_sub(1).max(1);
        let pause = match self.last_ns - self.pass_ns {
            lasted if lasted > 0.0 => lasted / gaps as f64,
            _ => SECOND,
        };
        self.pass_ns = self.last_ns + pause;
        self.in_pass = 0;
        self.cut_ns = 0.0;
    }
}

/// When the request leaves before which so many left, nanoseconds after the start.
fn staged(stages: &[Stage], sent: u64) -> Option<f64> {
    // Requests that leave within t seconds of a stage: r·t + (s - r)·t²/2d, from rate r to rate s in d seconds.
    let (mut begin, mut rate, mut before) = (0.0, 0.0, 0.0);
    for stage in stages {
        let lasts = stage.lasts.as_secs_f64();
        let to = stage.to.per_second;
        let within = (rate + to) / 2.0 * lasts;
        let wanted = sent as f64 - before;
        if wanted < within {
            let slope = (to - rate) / lasts;
            // The smaller root; written so that it also holds for a slope of 0 or near it.
            let root = (rate * rate + 2.0 * slope * wanted).max(0.0).sqrt();
            let t = match rate + root {
                0.0 => 0.0,
                sum => 2.0 * wanted / sum,
            };
            return Some((begin + t) * SECOND);
        }
        before += within;
        begin += lasts;
        rate = to;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(leaves: Leaves) -> f64 {
        match leaves {
            Leaves::After(time) => time.as_nanos() as f64 / 1e6,
            other => panic!("{other:?}"),
        }
    }

    fn pacing(speed: &str) -> Pacing {
        Pacing {
            speed: Some(speed.parse().unwrap()),
            ..Pacing::default()
        }
    }

    #[test]
    fn production_s_gaps_times_the_factor() {
        const MS: u64 = 1_000_000;
        let mut table = Timetable::new(pacing("2"));
        let at = [50, 60, 55, 100].map(|at| ms(table.next(1_700_000_000_000_000_000 + at * MS)));
        // The third was captured before the second; it doesn't overtake it.
        assert_eq!(at, [0.0, 5.0, 5.0, 25.0]);
        assert_eq!(Timetable::new(pacing("max")).next(7), Leaves::AtOnce);
    }

    #[test]
    fn nothing_adds_up_over_ten_million_requests() {
        let mut table = Timetable::new(pacing("3"));
        let mut last = Leaves::Over;
        for n in 0..10_000_000_u64 {
            last = table.next(1_700_000_000_000_000_000 + n * 100);
        }
        assert_eq!(last, Leaves::After(Duration::from_nanos(333_333_300)));
    }

    #[test]
    fn pauses_are_cut_and_recordings_repeated() {
        const S: u64 = 1_000_000_000;
        let mut table = Timetable::new(Pacing {
            max_gap: Some(Duration::from_secs(1)),
            repeat: Repeat::For(Duration::from_secs(9)),
            ..pacing("2")
        });
        let times = [0, 2 * S, 3600 * S, 3601 * S];
        let first = times.map(|at| ms(table.next(at)));
        assert_eq!(first, [0.0, 1000.0, 2000.0, 2500.0]);
        table.begin_again();
        let second = times.map(|at| ms(table.next(at)));
        let begin = 2500.0 + 2500.0 / 3.0;
        for (leaves, after) in second.iter().zip(first) {
            assert!((leaves - begin - after).abs() < 0.001, "{second:?}");
        }
        table.begin_again();
        assert_eq!(times.map(|at| table.next(at))[3], Leaves::Over);
    }

    #[test]
    fn a_connection_ends_where_it_did_between_two_requests() {
        const S: u64 = 1_000_000_000;
        let of = |pacing: Pacing| {
            let mut table = Timetable::new(pacing);
            let _ = [10 * S, 14 * S].map(|at| table.next(at));
            [13 * S, 16 * S].map(|at| table.closes(at).as_millis())
        };
        assert_eq!(of(pacing("2")), [2000, 3000]);
        assert_eq!(of(pacing("max")), [0, 0]);
        let max_gap = Some(Duration::from_millis(500));
        assert_eq!(
            of(Pacing {
                max_gap,
                ..Pacing::default()
            }),
            [500, 1000]
        );
        let rate = Some("10/s".parse().unwrap());
        assert_eq!(
            of(Pacing {
                rate,
                ..Pacing::default()
            }),
            [100, 100]
        );
    }

    #[test]
    fn a_recording_without_pauses_begins_anew_once_a_second() {
        let mut table = Timetable::new(Pacing {
            repeat: Repeat::For(Duration::from_millis(2500)),
            ..Pacing::default()
        });
        for second in 0..3 {
            assert_eq!(
                [7, 7].map(|at| ms(table.next(at))),
                [second as f64 * 1e3; 2]
            );
            table.begin_again();
        }
        assert_eq!(table.next(7), Leaves::Over);
    }

    #[test]
    fn a_rate_is_even() {
        let rate = Some("500/s".parse().unwrap());
        let mut table = Timetable::new(Pacing {
            rate,
            ..Pacing::default()
        });
        let at: Vec<f64> = (0..4).map(|n| ms(table.next(n * n * 7))).collect();
        assert_eq!(at, [0.0, 2.0, 4.0, 6.0]);
    }

    #[test]
    fn stages_rise_stay_and_fall_and_end() {
        let stages = ["100/s:10s", "100/s:10s", "0/s:10s"];
        let mut table = Timetable::new(Pacing {
            stages: stages.map(|stage| stage.parse().unwrap()).to_vec(),
            ..Pacing::default()
        });
        let mut within = [0; 30];
        let mut last = 0.0;
        while let Leaves::After(time) = table.next(0) {
            assert!(time.as_secs_f64() >= last);
            last = time.as_secs_f64();
            within[last as usize] += 1;
        }
        // 500 while it rises, 1,000 while it stays, 500 while it falls.
        assert_eq!(within.iter().sum::<i32>(), 2000);
        assert_eq!(within[..3], [5, 15, 25]);
        assert_eq!(within[12], 100);
        assert!((4..=6).contains(&within[29]), "{within:?}");
    }
}
