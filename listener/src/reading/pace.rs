//! At which pace recorded requests are replayed, as a person writes it.
//!
//! What enters: text. What leaves: a [`Pacing`], from which a [`super::timetable`] follows. What may be lost: nothing; what
//! makes no sense is refused with one line that says what would.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_with::{DeserializeFromStr, SerializeDisplay};

/// Production's pace times a factor, or none at all. Written `"1"`, `"0.5"`, `"10"` or `"max"`.
#[derive(Debug, Clone, Copy, PartialEq, SerializeDisplay, DeserializeFromStr)]
pub enum Speed {
    /// So many times as fast as production.
    Times(f64),
    /// As fast as requests are taken.
    Max,
}

impl Speed {
    /// The factor, where there is one.
    pub fn factor(self) -> Option<f64> {
        match self {
            Speed::Times(factor) => Some(factor),
            Speed::Max => None,
        }
    }
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Speed, String> {
        if text == "max" {
            return Ok(Speed::Max);
        }
        let factor = text.trim_end_matches('x').parse::<f64>().ok();
        factor
            .filter(|factor| (0.001..=100_000.0).contains(factor))
            .map(Speed::Times)
            .ok_or_else(|| {
                format!("speed {text:?}: write a factor from 0.001 to 100000, as 0.5 or 10, or max")
            })
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Speed::Times(factor) => write!(f, "{factor}"),
            Speed::Max => f.write_str("max"),
        }
    }
}

/// Requests in a time, written `500/s`, `30/m` or `0.5/s`.
#[derive(Debug, Clone, Copy, PartialEq, SerializeDisplay, DeserializeFromStr)]
pub struct Rate {
    /// A second.
    pub(super) per_second: f64,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let wrong =
            || format!("rate {text:?}: write requests a second or a minute, as 500/s or 30/m");
        let (number, seconds) = match (text.strip_suffix("/s"), text.strip_suffix("/m")) {
            (Some(number), _) => (number, 1.0),
            (_, Some(number)) => (number, 60.0),
            _ => return Err(wrong()),
        };
        let number = number.trim().parse::<f64>().map_err(|_| wrong())?;
        let per_second = number / seconds;
        match (0.0..=10_000_000.0).contains(&per_second) {
            true => Ok(Rate { per_second }),
            false => Err(wrong()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.per_second)
    }
}

/// A part of a ramp, written `1000/s:5m`: within that time the rate goes evenly from that of the stage before, or from
/// nothing, to this one.
#[derive(Debug, Clone, Copy, PartialEq, SerializeDisplay, DeserializeFromStr)]
pub struct Stage {
    pub(super) to: Rate,
    pub(super) lasts: Duration,
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Stage, String> {
        let (rate, time) = text
            .split_once(':')
            .ok_or_else(|| format!("stage {text:?}: write RATE:TIME, as 1000/s:5m"))?;
        let lasts = humantime::parse_duration(time.trim())
            .ok()
            .filter(|lasts| !lasts.is_zero())
            .ok_or_else(|| format!("stage {text:?}: {time:?} is no time; write 90s or 5m"))?;
        let to = rate.trim().parse()?;
        Ok(Stage { to, lasts })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.to, humantime::format_duration(self.lasts))
    }
}

/// How often a recording is replayed, written `3`, `forever`, or a time as in `10m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub enum Repeat {
    /// So many times.
    Times(u32),
    /// Again and again, until so much time is over.
    For(Duration),
    /// Until the process is stopped.
    Forever,
}

impl Default for Repeat {
    fn default() -> Repeat {
        Repeat::Times(1)
    }
}

impl FromStr for Repeat {
    type Err = String;

    fn from_str(text: &str) -> Result<Repeat, String> {
        if text == "forever" {
            return Ok(Repeat::Forever);
        }
        if let Ok(times) = text.parse::<u32>() {
            return match times {
                0 => Err("loop 0 would replay nothing".to_owned()),
                times => Ok(Repeat::Times(times)),
            };
        }
        let time = humantime::parse_duration(text).map_err(|_| {
            format!("loop {text:?}: write a number of times, a time as 10m, or forever")
        })?;
        Ok(Repeat::For(time))
    }
}

impl fmt::Display for Repeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Repeat::Times(times) => write!(f, "{times}"),
            Repeat::For(time) => write!(f, "{}", humantime::format_duration(*time)),
            Repeat::Forever => f.write_str("forever"),
        }
    }
}

/// When requests of recordings leave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pacing {
    /// Production's pace times this, where neither a rate nor stages are given; once, unless set.
    pub speed: Option<Speed>,
    /// Evenly at this rate, whatever production's pace was.
    pub rate: Option<Rate>,
    /// At a rate that changes. The recording is replayed again and again until the last stage is over.
    pub stages: Vec<Stage>,
    /// A pause is no longer than this, after the factor.
    pub max_gap: Option<Duration>,
    /// How often.
    pub repeat: Repeat,
}

impl Pacing {
    /// Checks what one setting alone doesn't show.
    ///
    /// # Errors
    /// One line that says which settings don't go together.
    pub fn check(&self) -> Result<(), String> {
        let evenly = self.rate.is_some() || !self.stages.is_empty();
        if self.rate.is_some() && !self.stages.is_empty() {
            return Err("--rate and --stages exclude each other".to_owned());
        }
        if evenly && self.speed.is_some() {
            return Err(
                "--speed is production's pace; with --rate or --stages leave it out".to_owned(),
            );
        }
        if self.max_gap.is_some() && (evenly || self.speed == Some(Speed::Max)) {
            return Err("--max-gap shortens production's pauses, of which --rate, --stages and --speed max keep none".to_owned());
        }
        if !self.stages.is_empty() && self.repeat != Repeat::default() {
            return Err("--stages say how long it takes; leave --loop out".to_owned());
        }
        if self.stages.iter().all(|stage| stage.to.per_second == 0.0) && !self.stages.is_empty()
            || self.rate.is_some_and(|rate| rate.per_second == 0.0)
        {
            return Err("a rate of 0 would replay nothing".to_owned());
        }
        Ok(())
    }

    /// True where what is replayed is read again from its beginning.
    pub(super) fn is_repeated(&self) -> bool {
        !self.stages.is_empty() || self.repeat != Repeat::default()
    }

    /// False where requests leave as fast as they are taken.
    pub fn is_timed(&self) -> bool {
        self.rate.is_some() || !self.stages.is_empty() || self.speed != Some(Speed::Max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["1", "0.5", "10", "max"] {
            assert_eq!(text.parse::<Speed>().unwrap().to_string(), text);
        }
        for text in ["3", "10m", "forever"] {
            assert_eq!(text.parse::<Repeat>().unwrap().to_string(), text);
        }
        assert_eq!(
            "1000/s:5m".parse::<Stage>().unwrap().to_string(),
            "1000/s:5m"
        );
        assert_eq!("30/m".parse::<Rate>().unwrap().to_string(), "0.5/s");
        for wrong in ["0", "-1", "fast", "NaN", ""] {
            assert!(wrong.parse::<Speed>().is_err(), "{wrong}");
        }
        for wrong in ["500", "/s", "-1/s", "1/h"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
        for wrong in ["500/s", "500/s:", "5:1m", "5/s:0s"] {
            assert!(wrong.parse::<Stage>().is_err(), "{wrong}");
        }
        assert!("0".parse::<Repeat>().is_err() && "often".parse::<Repeat>().is_err());
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let rate = Some("5/s".parse().unwrap());
        let stages = vec!["5/s:1m".parse().unwrap()];
        let good = Pacing {
            rate,
            ..Pacing::default()
        };
        good.check().unwrap();
        for (wrong, word) in [
            (
                Pacing {
                    stages: stages.clone(),
                    ..good.clone()
                },
                "--stages",
            ),
            (
                Pacing {
                    speed: Some(Speed::Max),
                    ..good.clone()
                },
                "--speed",
            ),
            (
                Pacing {
                    max_gap: Some(Duration::ZERO),
                    ..good
                },
                "--max-gap",
            ),
            (
                Pacing {
                    stages,
                    repeat: Repeat::Forever,
                    ..Pacing::default()
                },
                "--loop",
            ),
        ] {
            assert!(wrong.check().unwrap_err().contains(word), "{wrong:?}");
        }
    }
}
