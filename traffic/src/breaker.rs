//! How a target wants its circuit breaker.
//!
//! What enters: `breaker:` of a document, `off` or its keys. What leaves: checked settings. What may be lost: nothing.
//! The breaker itself is the replayer's.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `breaker:` of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Whatever a target does, each exchange is tried.
    Off,
    /// It opens and closes by itself.
    On(BreakerSettings),
}

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSettings {
    /// So many requests in a row without an answer open it.
    pub failures: NonZeroU32,
    /// For so long nothing is sent after the first opening; twice as long after each further one.
    #[serde(with = "humantime_serde")]
    pub open_for: Duration,
    /// Never longer than this.
    #[serde(with = "humantime_serde")]
    pub max_open: Duration,
    /// So many requests are let through then, and have to be answered for it to close.
    pub probes: NonZeroU32,
}

impl Default for BreakerSettings {
    fn default() -> BreakerSettings {
        BreakerSettings {
            failures: const { NonZeroU32::new(5).expect("not zero") },
            open_for: Duration::from_secs(1),
            max_open: Duration::from_secs(30),
            probes: NonZeroU32::MIN,
        }
    }
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker::On(BreakerSettings::default())
    }
}

impl Breaker {
    /// What no key shows by itself.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Breaker::On(settings) = self else {
            return Ok(());
        };
        let text = |time: Duration| humantime_serde::re::humantime::format_duration(time);
        let BreakerSettings {
            open_for, max_open, ..
        } = *settings;
        if open_for < Duration::from_millis(10) {
            return Err(format!(
                "breaker: open_for: {} is less than 10ms",
                text(open_for)
            ));
        }
        if max_open < open_for {
            return Err(format!(
                "breaker: max_open: {} is less than open_for, {}",
                text(max_open),
                text(open_for)
            ));
        }
        Ok(())
    }
}

impl Serialize for Breaker {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Breaker::Off => serializer.serialize_str("off"),
            Breaker::On(settings) => settings.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Breaker {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Breaker, D::Error> {
        deserializer.deserialize_any(OffOrSettings)
    }
}

struct OffOrSettings;

impl<'de> Visitor<'de> for OffOrSettings {
    type Value = Breaker;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("off, or failures, open_for, max_open and probes")
    }

    /// In YAML, `off` without quotes may be a truth value.
    fn visit_bool<E: Error>(self, on: bool) -> Result<Breaker, E> {
        Ok(if on { Breaker::default() } else { Breaker::Off })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Breaker, E> {
        match text {
            "off" => Ok(Breaker::Off),
            "on" => Ok(Breaker::default()),
            _ => Err(E::custom(format!(
                "breaker {text:?} is neither off nor {{failures: 5, open_for: 1s, max_open: 30s, probes: 1}}"
            ))),
        }
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Breaker, M::Error> {
        BreakerSettings::deserialize(MapAccessDeserializer::new(map)).map(Breaker::On)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Target, TargetDocument, TargetName};

    fn parsed(yaml: &str) -> Result<Breaker, String> {
        let text = format!("url: http://h\nbreaker: {yaml}\n");
        let document = TargetDocument::parse("t", &text).map_err(|e| e.to_string())?;
        let json = serde_json::to_string(&document).unwrap();
        assert_eq!(TargetDocument::parse("t", &json).unwrap(), document);
        let target = Target::new(TargetName::new("a/b").unwrap(), 1, document);
        target
            .map(|target| target.document.breaker)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn off_or_some_of_its_keys() {
        for off in ["off", "'off'", "false"] {
            assert_eq!(parsed(off), Ok(Breaker::Off), "{off}");
        }
        let set = BreakerSettings {
            failures: NonZeroU32::new(9).unwrap(),
            max_open: Duration::from_secs(60),
            ..BreakerSettings::default()
        };
        assert_eq!(parsed("{failures: 9, max_open: 1m}"), Ok(Breaker::On(set)));
        assert_eq!(parsed("{}"), Ok(Breaker::default()));
        assert_eq!(parsed("on"), Ok(Breaker::default()));
    }

    #[test]
    fn mistakes_are_named_in_one_line() {
        for (yaml, part) in [
            ("never", "never"),
            ("{failures: 0}", "0"),
            ("{failure: 1}", "failure"),
            ("{open_for: soon}", "soon"),
            ("{open_for: 0s}", "open_for: 0s"),
            ("{open_for: 2m}", "max_open: 30s is less than open_for, 2m"),
            ("7", "off"),
        ] {
            let error = parsed(yaml).unwrap_err();
            assert!(error.contains(part), "{yaml}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
