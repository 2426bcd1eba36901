//! An address with its limit: `http://staging|10%`.
//!
//! What enters: text. What leaves: the address and what stands behind its last `|`. What may be lost: nothing; a limit
//! that makes no sense is refused.

use std::num::NonZeroU32;

use serde::Serialize;

/// An address of an input or output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Address {
    /// As it was written, without the limit.
    pub(crate) address: String,
    /// None: everything passes.
    pub(crate) limit: Option<Limit>,
}

/// What an input or output lets through.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    /// So many in each second; the excess is dropped and counted.
    PerSecond(NonZeroU32),
    /// A share in percent, above 0, up to 100; of files and Kafka a speed, above 0 and without a bound, at which
    /// nothing is dropped.
    Percent(f64),
}

/// What `%` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Share,
    Speed,
}

/// Splits at the last `|`.
pub(super) fn split(text: &str, percent: Meaning) -> Result<Address, String> {
    let Some((address, limit)) = text.rsplit_once('|') else {
        return Ok(Address {
            address: text.to_owned(),
            limit: None,
        });
    };
    Ok(Address {
        address: address.to_owned(),
        limit: Some(read(limit.trim(), percent)?),
    })
}

fn read(text: &str, percent: Meaning) -> Result<Limit, String> {
    let wrong = || {
        let allowed = match percent {
            Meaning::Share => {
                "write |N for at most N a second, from 1 on, or |N% for a share above 0% and up to 100%"
            }
            Meaning::Speed => {
                "write |N% for the speed, as |200%, or |N for at most N a second, from 1 on"
            }
        };
        format!("no limit is written {text:?}: {allowed}")
    };
    let Some(number) = text.strip_suffix('%') else {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let limit = text.parse().ok().filter(|_| digits);
        return limit.map(Limit::PerSecond).ok_or_else(wrong);
    };
    // Neither signs nor exponents, infinities or NaN.
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number: f64 = number.parse().ok().filter(|_| plain).ok_or_else(wrong)?;
    let most = match percent {
        Meaning::Share => 100.0,
        Meaning::Speed => f64::MAX,
    };
    match number > 0.0 && number <= most {
        true => Ok(Limit::Percent(number)),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(text: &str) -> Result<(String, Option<Limit>), String> {
        split(text, Meaning::Share).map(|a| (a.address, a.limit))
    }

    #[test]
    fn a_limit_stands_behind_the_last_bar() {
        let per_second = |n| Some(Limit::PerSecond(NonZeroU32::new(n).unwrap()));
        for (text, address, limit) in [
            ("http://a", "http://a", None),
            ("http://a|10", "http://a", per_second(10)),
            ("http://a|10%", "http://a", Some(Limit::Percent(10.0))),
            ("http://a|0.5%", "http://a", Some(Limit::Percent(0.5))),
            ("a|b|100%", "a|b", Some(Limit::Percent(100.0))),
            ("|3", "", per_second(3)),
            ("", "", None),
        ] {
            assert_eq!(share(text), Ok((address.to_owned(), limit)), "{text}");
        }
        let fast = split("f.gor|200%", Meaning::Speed).unwrap();
        assert_eq!(fast.limit, Some(Limit::Percent(200.0)));
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for text in [
            "a|",
            "a|0",
            "a|-1",
            "a|+1",
            "a|x",
            "a|1.5",
            "a|0%",
            "a|101%",
            "a|-5%",
            "a|nan%",
            "a|inf%",
            "a|1e1%",
            "a|%",
            "a|4294967296",
            "a|b|c",
        ] {
            let error = share(text).unwrap_err();
            assert!(error.contains("|N%") && !error.contains('\n'), "{error}");
        }
        assert!(split("a|0%", Meaning::Speed).is_err());
    }
}
