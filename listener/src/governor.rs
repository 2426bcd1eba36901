//! Keeps the process within its share of a core, and says when sessions are shed.
//!
//! What enters: the CPU time that the process used, a few times a second. What leaves: the share of sessions that may
//! be captured ([`crate::shed`]); a warning when not all are, and a word when all are again. What may be lost: the
//! sessions beyond that share.
//!
//! The law is in [`Governor`], which reads no clock. Too much CPU lowers the share by the ratio that is too much, at
//! most to half at a time; with room to spare the share rises by a fixed step, but never by more than would use up
//! the room if every bit of the CPU time went into requests. Between both it rests.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reprise_node::LogLimit;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::budget::Budget;
use crate::edge::{Edge, EdgeEvent};
use crate::shed::Shed;

/// Often enough to follow a load within seconds, seldom enough to cost nothing.
const EVERY: Duration = Duration::from_millis(250);
const WARN_EVERY: Duration = Duration::from_secs(10);

/// With less than this part of the limit used, more sessions are captured …
const ROOM: f64 = 0.85;
/// … up to this part, as far as can be foretold.
const AIM: f64 = 0.95;
/// The largest step up: from nothing to all in eight seconds.
const STEP_UP: f64 = 1.0 / 32.0;
/// The smallest, which leads away from nothing.
const LEAST_UP: f64 = 1.0 / 256.0;
/// The deepest cut at a time.
const DEEPEST: f64 = 0.5;
/// What the newest measurement counts, against all before it.
const WEIGHT: f64 = 0.5;

/// The share of one core that the process may use, or no limit. Written `"20%"` or `"none"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuLimit(Option<f64>);

impl CpuLimit {
    /// Cores, where there is a limit: 0.2 for 20 %.
    pub fn cores(self) -> Option<f64> {
        self.0
    }
}

impl FromStr for CpuLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<CpuLimit, String> {
        if text == "none" {
            return Ok(CpuLimit(None));
        }
        let percent: Option<f64> = text.strip_suffix('%').and_then(|n| n.trim().parse().ok());
        match percent {
            Some(percent) if (1.0..=100_000.0).contains(&percent) => {
                Ok(CpuLimit(Some(percent / 100.0)))
            }
            _ => Err(format!(
                "CPU limit {text:?}: write a percentage of one core, 1% or more, as in 20%, or none"
            )),
        }
    }
}

impl TryFrom<String> for CpuLimit {
    type Error = String;

    fn try_from(text: String) -> Result<CpuLimit, String> {
        text.parse()
    }
}

impl From<CpuLimit> for String {
    fn from(limit: CpuLimit) -> String {
        limit.to_string()
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // To a hundredth of a percent, so that 14 % are not 14.000000000000002 %.
            Some(cores) => write!(f, "{}%", (cores * 10_000.0).round() / 100.0),
            None => f.write_str("none"),
        }
    }
}

/// From CPU time to a share of sessions.
#[derive(Debug)]
pub struct Governor {
    limit: Option<f64>,
    /// Cores in use, as smoothed and foretold.
    usage: Option<f64>,
    share: f64,
}

impl Governor {
    /// Begins with all sessions.
    pub fn new(limit: CpuLimit) -> Governor {
        Governor {
            limit: limit.cores(),
            usage: None,
            share: 1.0,
        }
    }

    /// The process used `cpu` within `elapsed`: the share of sessions from now on, 0 to 1.
    pub fn step(&mut self, cpu: Duration, elapsed: Duration) -> f64 {
        if elapsed.is_zero() {
            return self.share;
        }
        let now = cpu.as_secs_f64() / elapsed.as_secs_f64();
        let limit = self.limit.unwrap_or(f64::INFINITY);
        let Some(before) = self.usage else {
            // The process has just started, which costs more than what follows.
            self.usage = Some(now.min(limit));
            return self.share;
        };
        let usage = before + WEIGHT * (now - before);
        let share = if usage > limit {
            self.share * (limit / usage).max(DEEPEST)
        } else if usage < limit * ROOM && self.share < 1.0 {
            // All of the CPU time may belong to the sessions that are captured, or none of it.
            let safe = self.share * (limit * AIM / usage.max(f64::EPSILON) - 1.0);
            (self.share + safe.clamp(LEAST_UP, STEP_UP)).min(1.0)
        } else {
            self.share
        };
        // Without this the old share's usage would still be in the mean, and lead to the next cut.
        let expected = match self.share > 0.0 {
            true => usage * (share / self.share).min(1.0),
            false => usage,
        };
        self.usage = Some(expected);
        self.share = share;
        share
    }

    /// Cores in use, smoothed.
    pub fn usage(&self) -> f64 {
        self.usage.unwrap_or(0.0)
    }
}

/// What is governed.
pub(crate) struct Governed {
    pub(crate) shed: Arc<Shed>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) edge: Arc<Edge>,
    pub(crate) limit: CpuLimit,
}

/// A time during which not all sessions were captured.
struct Episode {
    began: Instant,
    lowest: f64,
    shed_memory: u64,
    shed_cpu: u64,
}

/// Governs until `stop` is cancelled.
pub(crate) async fn govern(governed: Governed, stop: CancellationToken) {
    let mut governor = Governor::new(governed.limit);
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = (Instant::now(), process_cpu());
    let mut episode = None;
    let warnings = LogLimit::every(WARN_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let now = (Instant::now(), process_cpu());
        let share = governor.step(now.1.saturating_sub(last.1), now.0 - last.0);
        last = now;
        governed.shed.limit_cpu(share);
        governed.shed.recover();
        episode = governed.tell(episode, &warnings, governor.usage());
    }
}

impl Governed {
    fn tell(&self, episode: Option<Episode>, warnings: &LogLimit, usage: f64) -> Option<Episode> {
        let shares = self.shed.shares();
        let share = shares.both();
        let counts = (
            self.edge.get(EdgeEvent::ShedMemory),
            self.edge.get(EdgeEvent::ShedCpu),
        );
        match episode {
            None if share < 1.0 => {
                if let Some(suppressed) = warnings.allow() {
                    warn!(
                        cause = if shares.memory <= shares.cpu { "memory" } else { "cpu" },
                        share = %percent(share),
                        cpu = %percent(usage),
                        cpu_limit = %self.limit,
                        held_mib = self.budget.used() >> 20,
                        budget_mib = self.budget.limit() >> 20,
                        suppressed,
                        "not all sessions are captured any more: whole ones are left out and counted"
                    );
                }
                Some(Episode {
                    began: Instant::now(),
                    lowest: share,
                    shed_memory: counts.0,
                    shed_cpu: counts.1,
                })
            }
            Some(episode) if share >= 1.0 => {
                info!(
                    seconds = episode.began.elapsed().as_secs(),
                    lowest = %percent(episode.lowest),
                    shed_memory = counts.0 - episode.shed_memory,
                    shed_cpu = counts.1 - episode.shed_cpu,
                    "all sessions are captured again"
                );
                None
            }
            Some(episode) => Some(Episode {
                lowest: episode.lowest.min(share),
                ..episode
            }),
            None => None,
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// CPU time of all threads of this process, in user and kernel mode.
fn process_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A process that costs `base` cores whatever is captured, and `full` more when all is.
    struct Process {
        base: f64,
        full: f64,
    }

    struct Run {
        shares: Vec<f64>,
        usage: Vec<f64>,
    }

    fn limit(percent: &str) -> CpuLimit {
        percent.parse().unwrap()
    }

    fn run(governor: &mut Governor, process: &Process, seconds: u32, noise: &[f64]) -> Run {
        let mut run = Run {
            shares: Vec::new(),
            usage: Vec::new(),
        };
        let mut share = governor.share;
        for tick in 0..seconds * 4 {
            let jitter = noise
                .get(tick as usize % noise.len().max(1))
                .unwrap_or(&1.0);
            let usage = (process.base + process.full * share) * jitter;
            share = governor.step(EVERY.mul_f64(usage), EVERY);
            run.usage.push(usage);
            run.shares.push(share);
        }
        run
    }

    #[test]
    fn without_a_limit_or_below_it_all_is_captured() {
        let busy = Process {
            base: 1.0,
            full: 3.0,
        };
        let all = run(&mut Governor::new(limit("none")), &busy, 10, &[]);
        assert!(all.shares.iter().all(|share| *share == 1.0));
        let quiet = Process {
            base: 0.05,
            full: 0.14,
        };
        let all = run(&mut Governor::new(limit("20%")), &quiet, 10, &[]);
        assert!(all.shares.iter().all(|share| *share == 1.0));
    }

    proptest! {
        /// Within four seconds the limit is kept, the share rests, and not much of the limit is left unused.
        #[test]
        fn it_settles_at_the_limit(base in 0.0_f64..0.15, full in 0.3_f64..4.0) {
            let mut governor = Governor::new(limit("20%"));
            let run = run(&mut governor, &Process { base, full }, 20, &[]);
            for usage in &run.usage[16..] {
                prop_assert!(*usage <= 0.2 * 1.06, "{:?}", run.usage);
            }
            for usage in &run.usage[40..] {
                prop_assert!(*usage >= 0.2 * 0.7, "{:?}", run.usage);
            }
            let late = &run.shares[60..];
            let (low, high) = late.iter().fold((1.0_f64, 0.0_f64), |(l, h), s| (l.min(*s), h.max(*s)));
            prop_assert!(high - low <= 0.05 * high, "{late:?}");
        }

        /// Measurements that scatter by a fifth don't make the share swing.
        #[test]
        fn noise_does_not_rock_it(noise in prop::collection::vec(0.8_f64..1.2, 7..30)) {
            let mut governor = Governor::new(limit("20%"));
            let process = Process { base: 0.05, full: 0.5 };
            let run = run(&mut governor, &process, 30, &noise);
            let late = &run.shares[40..];
            let (low, high) = late.iter().fold((1.0_f64, 0.0_f64), |(l, h), s| (l.min(*s), h.max(*s)));
            prop_assert!(low > 0.15 && high < 0.40, "{low} {high}");
            let mean = run.usage[40..].iter().sum::<f64>() / run.usage[40..].len() as f64;
            prop_assert!(mean <= 0.2 * 1.05, "{mean}");
        }
    }

    #[test]
    fn what_costs_too_much_in_itself_is_not_made_up_for_but_shed() {
        let mut governor = Governor::new(limit("20%"));
        let all = run(
            &mut governor,
            &Process {
                base: 0.3,
                full: 0.5,
            },
            20,
            &[],
        );
        assert!(all.shares.last().unwrap() < &0.001);
    }

    #[test]
    fn it_recovers_within_ten_seconds() {
        let mut governor = Governor::new(limit("20%"));
        let flood = Process {
            base: 0.1,
            full: 4.0,
        };
        run(&mut governor, &flood, 20, &[]);
        let calm = Process {
            base: 0.01,
            full: 0.1,
        };
        let all = run(&mut governor, &calm, 12, &[]);
        assert_eq!(all.shares[44], 1.0);
        // Upwards and never back.
        assert!(all.shares.windows(2).all(|two| two[0] <= two[1]));
    }

    #[test]
    fn what_a_start_costs_sheds_nobody() {
        let mut governor = Governor::new(limit("5%"));
        let calm = EVERY.mul_f64(0.02);
        let shares = [EVERY, calm, calm].map(|cpu| governor.step(cpu, EVERY));
        assert_eq!(shares, [1.0; 3]);
    }

    #[test]
    fn it_begins_anew_from_nothing() {
        let mut governor = Governor::new(limit("20%"));
        let dead = Process {
            base: 2.0,
            full: 0.0,
        };
        run(&mut governor, &dead, 300, &[]);
        let calm = Process {
            base: 0.0,
            full: 0.1,
        };
        assert_eq!(run(&mut governor, &calm, 20, &[]).shares.pop(), Some(1.0));
    }

    #[test]
    fn limits_are_written_as_percentages() {
        for text in ["none", "20%", "14%", "12.5%", "250%"] {
            assert_eq!(limit(text).to_string(), text);
        }
        for text in ["", "20", "0%", "-5%", "%", "NaN%", "inf%", "1e9%"] {
            assert!(text.parse::<CpuLimit>().is_err(), "{text}");
        }
    }
}
