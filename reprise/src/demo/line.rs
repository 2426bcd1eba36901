//! Lines of text, and figures as people read them.
//!
//! What enters: numbers. What leaves: text with the tone in which it is said. What may be lost: digits behind the first
//! of a millisecond.

use std::time::Duration;

/// How a line is said, where there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Strong,
    Faint,
    Good,
    Warning,
    Bad,
}

/// A line without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) tone: Tone,
}

impl Line {
    /// Between one matter and the next.
    pub(crate) fn empty() -> Line {
        Line::new(Tone::Plain, "")
    }

    /// A line that is said so.
    pub(crate) fn new(tone: Tone, text: impl Into<String>) -> Line {
        Line {
            text: text.into(),
            tone,
        }
    }
}

/// A latency as people read it.
pub(crate) fn milliseconds(latency: Option<Duration>) -> String {
    match latency {
        Some(latency) => format!("{:.1} ms", latency.as_secs_f64() * 1e3),
        None => "-".to_owned(),
    }
}

/// A number with a comma between thousands.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(n), text);
        }
    }

    #[test]
    fn latencies_are_milliseconds() {
        assert_eq!(milliseconds(Some(Duration::from_micros(1250))), "1.2 ms");
        assert_eq!(milliseconds(None), "-");
    }
}
