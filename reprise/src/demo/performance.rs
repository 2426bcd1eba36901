//! The performance: customers come, the cluster replays what they do, half-way a replayer dies, and all comes to rest.
//!
//! What enters: a running cluster and shops. What leaves: drawings of the table, and what is known at the end. What may
//! be lost: nothing; it ends early where it is told to, and says the same then.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::closing::Closing;
use super::customers::{Crowd, Seen};
use super::line::{Line, Tone};
use super::look;
use super::scene::{Scene, TARGETS};
use super::screen::Screen;
use super::stage::Stage;

/// Between two looks while the cluster comes to rest.
const LOOK: Duration = Duration::from_millis(100);
/// Without any change for so long, it never will.
const PATIENCE: Duration = Duration::from_secs(10);
/// The table's rate is that of this time, at least.
const RATE_SPAN: Duration = Duration::from_secs(2);

/// All that takes part.
pub(crate) struct Performance {
    pub(crate) scene: Scene,
    pub(crate) stage: Stage,
    pub(crate) screen: Screen,
    /// How long customers shop.
    pub(crate) duration: Duration,
    /// Requests a second.
    pub(crate) rate: u32,
}

impl Performance {
    /// Plays it to its end, or until `stop` is cancelled.
    ///
    /// # Errors
    /// When a part of the cluster doesn't answer, or nobody reads the table.
    pub(crate) async fn play(
        mut self,
        stop: CancellationToken,
    ) -> anyhow::Result<(Closing, Screen)> {
        let crowd = Crowd::enter(&self.scene.addresses(), self.rate);
        let mut clock = Clock::start(self.duration);
        let mut ticks =
            tokio::time::interval_at(clock.start + self.screen.interval(), self.screen.interval());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut killed = None;
        let mut half_over = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => self.show(&mut clock, &crowd.seen()).await?,
                () = tokio::time::sleep_until(clock.start + self.duration / 2), if !half_over => {
                    half_over = true;
                    killed = self.kill(&clock).await?;
                }
                () = tokio::time::sleep_until(clock.start + self.duration) => break,
                () = stop.cancelled() => break,
            }
        }
        let played = clock.start.elapsed();
        let customers = crowd.leave().await;
        self.rest(&mut clock, &customers).await?;
        let not_mirrored = self.scene.not_mirrored();
        let (mut parts, struck) = self.stage.strike().await?;
        if let ([part], [_]) = (&mut *parts, &*struck.books) {
            part.said.epochs.clone_from(&struck.books);
        }
        let board = Board {
            phase: format!("over, {:.0} s", played.as_secs_f64()),
            rate: customers.answered as f64 / played.as_secs_f64().max(0.001),
            seen: &customers,
            parts: &parts,
            targets: &TARGETS,
        };
        self.screen.close(&board)?;
        let closing = Closing {
            arrivals: self.scene.arrivals(),
            customers,
            not_mirrored,
            books: struck.books,
            killed: killed.map(str::to_owned),
            ended_badly: struck.badly,
            logs: struck.logs,
        };
        Ok((closing, self.screen))
    }

    async fn kill(&mut self, clock: &Clock) -> anyhow::Result<Option<&'static str>> {
        // Its last words, as late as they can be had.
        self.stage.look().await?;
        let after = clock.start.elapsed();
        let killed = self.stage.kill().await?;
        if let Some(name) = killed {
            let text = format!(
                "After {:.0} s: {name} is killed (kill -9).",
                after.as_secs_f64()
            );
            self.screen.say(&[Line::new(Tone::Warning, text)])?;
        }
        Ok(killed)
    }

    /// Waits until all that the customers sent is captured and has come to its end, or nothing changes any more.
    async fn rest(&mut self, clock: &mut Clock, seen: &Seen) -> anyhow::Result<()> {
        let (mut last, mut changed, mut shown) = (None, Instant::now(), Instant::now());
        loop {
            self.stage.look().await?;
            let books = look::books(&self.stage.parts);
            let captured: u64 = books.iter().map(|epoch| epoch.captured).sum();
            let in_flight: u64 = books.iter().map(|epoch| epoch.in_flight).sum();
            if captured >= seen.answered && in_flight == 0 {
                return Ok(());
            }
            if last.replace((captured, in_flight)) != Some((captured, in_flight)) {
                changed = Instant::now();
            }
            if changed.elapsed() > PATIENCE {
                return Ok(());
            }
            if shown.elapsed() > self.screen.interval() {
                shown = Instant::now();
                self.show(clock, seen).await?;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn show(&mut self, clock: &mut Clock, seen: &Seen) -> anyhow::Result<()> {
        self.stage.look().await?;
        let captured = look::books(&self.stage.parts)
            .iter()
            .map(|epoch| epoch.captured)
            .sum();
        let board = Board {
            phase: clock.phase(),
            rate: clock.rate(captured),
            seen,
            parts: &self.stage.parts,
            targets: &TARGETS,
        };
        self.screen.draw(&board)
    }
}

/// Where the performance is, and how fast.
struct Clock {
    start: Instant,
    duration: Duration,
    /// Of late: when so many were captured.
    captured: VecDeque<(Instant, u64)>,
}

impl Clock {
    fn start(duration: Duration) -> Clock {
        let start = Instant::now();
        Clock {
            start,
            duration,
            captured: VecDeque::from([(start, 0)]),
        }
    }

    fn phase(&self) -> String {
        let elapsed = self.start.elapsed();
        match elapsed < self.duration + Duration::from_secs(1) {
            true => format!(
                "{:.0} s of {:.0} s",
                elapsed.as_secs_f64(),
                self.duration.as_secs_f64()
            ),
            false => "coming to rest".to_owned(),
        }
    }

    /// Captured requests a second.
    fn rate(&mut self, captured: u64) -> f64 {
        let now = Instant::now();
        self.captured.push_back((now, captured));
        while self
            .captured
            .get(1)
            .is_some_and(|(then, _)| now - *then >= RATE_SPAN)
        {
            self.captured.pop_front();
        }
        let Some((then, before)) = self.captured.front() else {
            return 0.0;
        };
        captured.saturating_sub(*before) as f64 / (now - *then).as_secs_f64().max(0.001)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_that_of_late() {
        let mut clock = Clock::start(Duration::from_secs(20));
        let mut captured = 0;
        for (step, expected) in [
            (100, 200.0),
            (100, 200.0),
            (100, 200.0),
            (100, 200.0),
            (100, 200.0),
            (0, 150.0),
        ] {
            tokio::time::advance(Duration::from_millis(500)).await;
            captured += step;
            assert_eq!(clock.rate(captured), expected);
        }
        assert_eq!(clock.phase(), "3 s of 20 s");
        tokio::time::advance(Duration::from_secs(19)).await;
        assert_eq!(clock.phase(), "coming to rest");
    }
}
