//! Numbers as Go's flags take them: booleans, integers, sizes, durations.
//!
//! What enters: text. What leaves: a value, or nothing where the text is none. What may be lost: nothing; what doesn't
//! fit is refused, never cut.

use std::time::Duration;

use reprise_node::config::ByteSize;

/// The forms of Go's `strconv.ParseBool`.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Decimal, or with `0x`, `0o`, `0b` or a leading zero (octal); `_` between digits.
pub(super) fn integer(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(rest) => 0i64.checked_sub_unsigned(natural(rest)?),
        None => i64::try_from(natural(text.strip_prefix('+').unwrap_or(text))?).ok(),
    }
}

/// An [`integer`] without a sign, with `b`, `k`, `kb`, `m`, `mb`, `g`, `gb`, `t` or `tb` behind it in any case: powers
/// of 1024.
pub(super) fn size(text: &str) -> Option<ByteSize> {
    // First as it stands: in 0x1b the b is a digit.
    let (number, shift) = match natural(text) {
        Some(number) => (number, 0),
        None => {
            let text = text.to_ascii_lowercase();
            let rest = text.strip_suffix('b').unwrap_or(&text);
            let (rest, shift) = [('k', 10), ('m', 20), ('g', 30), ('t', 40)]
                .into_iter()
                .find_map(|(unit, shift)| Some((rest.strip_suffix(unit)?, shift)))
                .unwrap_or((rest, 0));
            (natural(rest.trim_end())?, shift)
        }
    };
    // What a configuration file can hold is the bound: 8 EiB.
    let bytes = number.checked_mul(1 << shift)?;
    i64::try_from(bytes).ok().map(|_| ByteSize(bytes))
}

fn natural(text: &str) -> Option<u64> {
    let prefixed = |short: char, long: char| {
        let rest = text.strip_prefix('0')?;
        rest.strip_prefix([short, long])
    };
    let (radix, digits) = if let Some(digits) = prefixed('x', 'X') {
        (16, digits)
    } else if let Some(digits) = prefixed('o', 'O') {
        (8, digits)
    } else if let Some(digits) = prefixed('b', 'B') {
        (2, digits)
    } else {
        match text.strip_prefix('0') {
            Some(digits) if !digits.is_empty() => (8, digits),
            _ => (10, text),
        }
    };
    // One may stand behind the prefix, and between digits.
    let digits = match radix {
        10 => digits,
        _ => digits.strip_prefix('_').unwrap_or(digits),
    };
    if digits.starts_with(['_', '+']) || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    u64::from_str_radix(&digits.replace('_', ""), radix).ok()
}

/// Nanoseconds of each unit of Go's `time.ParseDuration`; the longer names first. Both signs of micro are in use.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A duration of Go: `300ms`, `1.5h`, `1m30s`; a number without a unit only where it is 0. None is negative here.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u128 = 0;
    while {
        let (whole, behind) = digits(rest);
        let (fraction, behind) = match behind.strip_prefix('.') {
            Some(behind) => digits(behind),
            None => ("", behind),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (unit, nanos) = UNITS.iter().find(|(unit, _)| behind.starts_with(unit))?;
        let whole: u64 = format!("0{whole}").parse().ok()?;
        // Smaller parts are far below a nanosecond.
        let fraction = &fraction[..fraction.len().min(18)];
        let part: u128 = format!("0{fraction}").parse().ok()?;
        total += u128::from(whole) * nanos + part * nanos / 10u128.pow(fraction.len() as u32);
        rest = &behind[unit.len()..];
        !rest.is_empty()
    } {
        // Go's durations end there, after 292 years.
        if total > i64::MAX as u128 {
            return None;
        }
    }
    i64::try_from(total).ok()?;
    Some(Duration::from_nanos(u64::try_from(total).ok()?))
}

fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("0b", 0),
            ("1b", 1),
            ("0x1b", 27),
            ("10485760", 10_485_760),
            ("10_000", 10_000),
            ("32mb", 32 << 20),
            ("32MB", 32 << 20),
            ("32Mb", 32 << 20),
            ("32m", 32 << 20),
            ("5k", 5 << 10),
            ("5kb", 5 << 10),
            ("2g", 2 << 30),
            ("1tb", 1 << 40),
            ("1T", 1 << 40),
            ("0x10kb", 16 << 10),
            ("0o17", 15),
            ("017", 15),
            ("0b101", 5),
            ("0b11mb", 3 << 20),
        ] {
            assert_eq!(size(text), Some(ByteSize(bytes)), "{text}");
        }
        for text in [
            "",
            "kb",
            "-1",
            "-1kb",
            "1.5mb",
            "1pb",
            "1 2",
            "9999999tb",
            "mb1",
            "1__0",
            "_1",
            "1_",
            "0x",
            "+1",
            "１",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn integers_are_read() {
        for (text, number) in [
            ("-1", -1),
            ("+7", 7),
            ("0x_ff", 255),
            ("1_000", 1000),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer(text), Some(number), "{text}");
        }
        for text in ["", "-", "--1", "1.0", "9223372036854775808", "a", "0x"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_read() {
        let ms = Duration::from_millis;
        for (text, time) in [
            ("0", ms(0)),
            ("0s", ms(0)),
            ("300ms", ms(300)),
            ("1m30s", ms(90_000)),
            ("1.5h", ms(5_400_000)),
            ("2h45m", ms(9_900_000)),
            (".5s", ms(500)),
            ("1.s", ms(1_000)),
            ("+1s", ms(1_000)),
            ("1s1s", ms(2_000)),
            ("7us", Duration::from_micros(7)),
            ("7\u{b5}s", Duration::from_micros(7)),
            ("7\u{3bc}s", Duration::from_micros(7)),
            ("9ns", Duration::from_nanos(9)),
            ("0.1ns", ms(0)),
            (
                "0.3333333333333333333333h",
                Duration::from_nanos(1_199_999_999_999),
            ),
            (
                "9223372036854775807ns",
                Duration::from_nanos(i64::MAX as u64),
            ),
        ] {
            assert_eq!(duration(text), Some(time), "{text}");
        }
        for text in [
            "",
            "5",
            "-1s",
            "1d",
            "1 s",
            "s",
            ".s",
            "1m30",
            "3000000h",
            "9223372036854775808ns",
            "99999999999999999999999999999999999999999h",
            "1h1h1h1hx",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn booleans_are_those_of_go() {
        assert_eq!(switch("T"), Some(true));
        assert_eq!(switch("FALSE"), Some(false));
        assert_eq!(switch("tRUE"), None);
        assert_eq!(switch("yes"), None);
        assert_eq!(switch(""), None);
    }
}
