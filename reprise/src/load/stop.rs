//! When a load test is to end by itself.
//!
//! What enters: rules as a person writes them, and what was measured in the last seconds. What leaves: the rule that
//! is broken. What may be lost: nothing; a rule that makes no sense is refused.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use reprise_traffic::Measured;

/// Fewer requests than this say nothing about a rate or a quantile.
const LEAST: u64 = 20;

/// A rule such as `error_rate>5%` or `p99>500ms`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct StopRule {
    what: What,
    over: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    /// Of those that ended, the share without a whole answer or with a status of 500 and above.
    ErrorRate,
    /// A quantile of latency from the intended instant, seconds.
    Latency(f64),
    /// The 99th percentile of lateness, seconds.
    Lateness,
}

const KNOWN: &str = "error_rate>5%, p50>…, p90>…, p95>…, p99>500ms, p99.9>…, lateness>100ms";

impl FromStr for StopRule {
    type Err = String;

    fn from_str(text: &str) -> Result<StopRule, String> {
        let wrong = |why: String| format!("rule {text:?}: {why}; known are {KNOWN}");
        let (what, over) = text
            .split_once('>')
            .ok_or_else(|| wrong("there is no >".to_owned()))?;
        let what = match what.trim() {
            "error_rate" => What::ErrorRate,
            "lateness" => What::Lateness,
            "p50" => What::Latency(0.5),
            "p90" => What::Latency(0.9),
            "p95" => What::Latency(0.95),
            "p99" => What::Latency(0.99),
            "p99.9" => What::Latency(0.999),
            other => return Err(wrong(format!("{other:?} is not measured"))),
        };
        let over = over.trim();
        let over = match what {
            What::ErrorRate => over
                .strip_suffix('%')
                .and_then(|percent| percent.trim().parse::<f64>().ok())
                .filter(|percent| (0.0..=100.0).contains(percent))
                .map(|percent| percent / 100.0)
                .ok_or_else(|| wrong(format!("{over:?} is no share; write 5%")))?,
            What::Latency(_) | What::Lateness => humantime::parse_duration(over)
                .map_err(|_| wrong(format!("{over:?} is no time; write 500ms")))?
                .as_secs_f64(),
        };
        Ok(StopRule { what, over })
    }
}

impl fmt::Display for StopRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = || humantime::format_duration(Duration::from_secs_f64(self.over));
        match self.what {
            What::ErrorRate => write!(f, "error_rate>{}%", percent(self.over)),
            What::Latency(share) => write!(f, "p{}>{}", percent(share), time()),
            What::Lateness => write!(f, "lateness>{}", time()),
        }
    }
}

/// A share as it was written: 7, not 7.000000000000001.
fn percent(share: f64) -> f64 {
    (share * 1e8).round() / 1e6
}

impl StopRule {
    /// The value that is too much, for people.
    pub(super) fn broken_by(&self, recent: &Measured) -> Option<String> {
        let enough = match self.what {
            What::Lateness => recent.sent >= LEAST,
            _ => recent.answered() + recent.failed() >= LEAST,
        };
        let value = match self.what {
            What::ErrorRate => recent.error_rate(),
            What::Latency(share) => recent.latency.quantile(share).as_secs_f64(),
            What::Lateness => recent.lateness.quantile(0.99).as_secs_f64(),
        };
        let shown = match self.what {
            What::ErrorRate => format!("{:.1}%", value * 100.0),
            _ => format!("{:.1?}", Duration::from_secs_f64(value)),
        };
        (enough && value > self.over).then_some(shown)
    }
}

#[cfg(test)]
mod tests {
    use reprise_traffic::measure::Cause;

    use super::*;

    #[test]
    fn rules_are_read_and_broken_by_enough_requests() {
        let rule: StopRule = "error_rate > 5%".parse().unwrap();
        assert_eq!(rule.to_string(), "error_rate>5%");
        let recent = |good, bad| Measured {
            statuses: [(200, good)].into(),
            failures: [(Cause::Timeout, bad)].into(),
            ..Measured::default()
        };
        assert_eq!(rule.broken_by(&recent(95, 5)), None);
        assert_eq!(rule.broken_by(&recent(94, 6)).as_deref(), Some("6.0%"));
        assert_eq!(rule.broken_by(&recent(1, 1)), None, "too few");
        let rule: StopRule = "p99>500ms".parse().unwrap();
        let mut slow = recent(100, 0);
        (0..100).for_each(|n| slow.latency.add(Duration::from_millis(n * 6)));
        assert!(rule.broken_by(&slow).unwrap().ends_with("ms"));
        assert_eq!(rule.to_string(), "p99>500ms");
        for text in ["error_rate>7%", "error_rate>0.1%", "p99.9>2s"] {
            assert_eq!(text.parse::<StopRule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused_with_those_that_do() {
        for wrong in [
            "error_rate",
            "errors>5%",
            "error_rate>5",
            "error_rate>101%",
            "p99>fast",
        ] {
            let said = wrong.parse::<StopRule>().unwrap_err();
            assert!(said.contains(wrong) && said.contains("known are"), "{said}");
        }
    }
}
