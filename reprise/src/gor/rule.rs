//! What filters and rewrites requests: expressions, headers, parameters, shares of values.
//!
//! What enters: the values of `--http-*` flags. What leaves: rules, compiled. What may be lost: nothing; an expression
//! that can't be compiled is refused.

use std::str::FromStr;

use http::{HeaderName, HeaderValue, Method};
use regex::bytes::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

/// What a compiled expression may take, as in a target's document.
const MOST: usize = 1 << 20;

/// A regular expression; equal where it is written alike.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(pub(crate) Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

/// A header line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Header {
    /// As written; names match in any case.
    pub(crate) name: String,
    /// May be empty.
    pub(crate) value: String,
}

/// A query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Param {
    /// As it stands in a query.
    pub(crate) name: String,
    /// The same; may be empty.
    pub(crate) value: String,
}

/// A header that an expression is held against.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HeaderRule {
    /// In any case.
    pub(crate) name: String,
    /// Not anchored.
    pub(crate) pattern: Pattern,
}

/// A replacement in the path and query.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Rewrite {
    /// What is replaced, everywhere.
    pub(crate) pattern: Pattern,
    /// `$1` stands for what the first group took.
    pub(crate) replacement: String,
}

/// A replacement in a header's value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HeaderRewrite {
    /// In any case.
    pub(crate) name: String,
    /// What is done to its value.
    pub(crate) rewrite: Rewrite,
}

/// The share of the values of a header or parameter that passes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ValueShare {
    /// Of the header or parameter.
    pub(crate) name: String,
    /// By the value's hash, FNV-1a of 32 bits.
    pub(crate) share: Share,
}

/// A share of values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Share {
    /// 0 to 100.
    Percent(f64),
    /// So many of so many equal parts, as 1 of 32.
    Parts {
        /// Up to `of`.
        take: u32,
        /// 1 at least.
        of: u32,
    },
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Pattern, String> {
        let compiled = RegexBuilder::new(text).size_limit(MOST).build();
        compiled.map(Pattern).map_err(|error| {
            // The last line says what is wrong; those before it point at where.
            let error = error.to_string();
            let line = error.lines().last().unwrap_or_default();
            let line = line.strip_prefix("error: ").unwrap_or(line);
            format!(
                "{text:?} is no regular expression: {line}; write one of Rust's regex crate, which is RE2's but for a few escapes"
            )
        })
    }
}

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Header, String> {
        const FORM: &str = "write \"NAME: VALUE\"";
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| format!("there is no colon; {FORM}"))?;
        let (name, value) = (header_name(name, FORM)?, value.trim());
        // UTF-8 beyond ASCII is sent as it is.
        match HeaderValue::from_bytes(value.as_bytes()) {
            Ok(_) => Ok(Header {
                name,
                value: value.to_owned(),
            }),
            Err(_) => Err(format!(
                "a header's value has no control characters; {FORM}"
            )),
        }
    }
}

impl FromStr for Param {
    type Err = String;

    fn from_str(text: &str) -> Result<Param, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && !text.contains(['#', ' ', '\r', '\n']) => {
                Ok(Param {
                    name: name.to_owned(),
                    value: value.to_owned(),
                })
            }
            _ => Err("write NAME=VALUE, blanks as %20 and # as %23".to_owned()),
        }
    }
}

impl FromStr for HeaderRule {
    type Err = String;

    fn from_str(text: &str) -> Result<HeaderRule, String> {
        const FORM: &str = "write NAME:REGEX";
        let (name, pattern) = text
            .split_once(':')
            .ok_or_else(|| format!("there is no colon; {FORM}"))?;
        Ok(HeaderRule {
            name: header_name(name, FORM)?,
            pattern: pattern.trim_start().parse()?,
        })
    }
}

impl FromStr for Rewrite {
    type Err = String;

    fn from_str(text: &str) -> Result<Rewrite, String> {
        let (pattern, replacement) = text
            .split_once(':')
            .ok_or("there is no colon; write REGEX:REPLACEMENT")?;
        let pattern = pattern.parse().map_err(|error| {
            format!("{error}; the first colon ends it, so write \\x3a for one within")
        })?;
        Ok(Rewrite {
            pattern,
            replacement: replacement.to_owned(),
        })
    }
}

impl FromStr for HeaderRewrite {
    type Err = String;

    fn from_str(text: &str) -> Result<HeaderRewrite, String> {
        const FORM: &str = "write \"NAME: REGEX,REPLACEMENT\"";
        let (name, rest) = text
            .split_once(':')
            .ok_or_else(|| format!("there is no colon; {FORM}"))?;
        let (pattern, replacement) = rest
            .split_once(',')
            .ok_or_else(|| format!("there is no comma; {FORM}"))?;
        let pattern = pattern.trim_start().parse().map_err(|error| {
            format!("{error}; the first comma ends it, so write \\x2c for one within")
        })?;
        Ok(HeaderRewrite {
            name: header_name(name, FORM)?,
            rewrite: Rewrite {
                pattern,
                replacement: replacement.to_owned(),
            },
        })
    }
}

impl ValueShare {
    /// Of a header.
    pub(super) fn of_header(text: &str) -> Result<ValueShare, String> {
        let share = ValueShare::of_param(text)?;
        header_name(&share.name, "write NAME:N% or NAME:1/32")?;
        Ok(share)
    }

    /// Of a query parameter.
    pub(super) fn of_param(text: &str) -> Result<ValueShare, String> {
        let wrong = || "write NAME:N%, from 0 to 100, or NAME:1/32".to_owned();
        let (name, share) = text.split_once(':').ok_or_else(wrong)?;
        let (name, share) = (name.trim(), share.trim().parse().map_err(|()| wrong())?);
        match name.is_empty() {
            true => Err(wrong()),
            false => Ok(ValueShare {
                name: name.to_owned(),
                share,
            }),
        }
    }
}

impl FromStr for Share {
    type Err = ();

    fn from_str(text: &str) -> Result<Share, ()> {
        if let Some((take, of)) = text.split_once('/') {
            let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
                true => text.parse::<u32>().map_err(drop),
                false => Err(()),
            };
            let (take, of) = (number(take)?, number(of)?);
            return match of > 0 && take <= of {
                true => Ok(Share::Parts { take, of }),
                false => Err(()),
            };
        }
        let number = text.strip_suffix('%').ok_or(())?;
        let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let number: f64 = number.parse().map_err(drop)?;
        match plain && number <= 100.0 {
            true => Ok(Share::Percent(number)),
            false => Err(()),
        }
    }
}

/// A method, as it stands in a request.
///
/// # Errors
/// Where it has characters that no method has.
pub(super) fn method(text: &str) -> Result<String, String> {
    match Method::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("write a method, as GET".to_owned()),
    }
}

/// A header's name.
///
/// # Errors
/// Where it has characters that no name has.
pub(super) fn header_name(text: &str, form: &str) -> Result<String, String> {
    let text = text.trim();
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{text:?} is no header's name; {form}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_split_where_they_are_meant_to() {
        let header: Header = "User-Agent: Replayed by: Gor".parse().unwrap();
        assert_eq!(
            (&*header.name, &*header.value),
            ("User-Agent", "Replayed by: Gor")
        );
        let header: Header = "X-Name: Zoë".parse().unwrap();
        assert_eq!(header.value, "Zoë");
        let rule: HeaderRule = r"api-version:^1\.0\d".parse().unwrap();
        assert_eq!(
            (&*rule.name, rule.pattern.0.as_str()),
            ("api-version", r"^1\.0\d")
        );
        let rule: HeaderRule = "User-Agent: Replayed by Gor".parse().unwrap();
        assert_eq!(rule.pattern.0.as_str(), "Replayed by Gor");
        let param: Param = "api_key=1=2".parse().unwrap();
        assert_eq!((&*param.name, &*param.value), ("api_key", "1=2"));

        let rewrite: Rewrite = r"/v1/user/([^\\/]+)/ping:/v2/user/$1/ping".parse().unwrap();
        let there = rewrite
            .pattern
            .0
            .replace_all(b"/v1/user/joe/ping", rewrite.replacement.as_bytes());
        assert_eq!(&*there, b"/v2/user/joe/ping");
        let rewrite: Rewrite = "/a:http://b:1/".parse().unwrap();
        assert_eq!(rewrite.replacement, "http://b:1/");

        let header: HeaderRewrite = r"Host: (.*).example.com,$1.beta.example.com"
            .parse()
            .unwrap();
        assert_eq!(header.name, "Host");
        assert_eq!(header.rewrite.pattern.0.as_str(), "(.*).example.com");
        assert_eq!(header.rewrite.replacement, "$1.beta.example.com");
    }

    #[test]
    fn shares_are_percents_or_parts() {
        for (text, share) in [
            ("user-id:25%", Share::Percent(25.0)),
            ("user-id: 0.5%", Share::Percent(0.5)),
            ("user-id:1/32", Share::Parts { take: 1, of: 32 }),
            ("user-id:0%", Share::Percent(0.0)),
        ] {
            let read = ValueShare::of_header(text).unwrap();
            assert_eq!((&*read.name, read.share), ("user-id", share));
        }
        for text in [
            "user-id", ":1%", "a:101%", "a:-1%", "a:1", "a:2/1", "a:1/0", "a:+1/2", "a:nan%",
            "a b:1%",
        ] {
            assert!(ValueShare::of_header(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (error, what) in [
            ("(".parse::<Pattern>().unwrap_err(), "unclosed group"),
            (
                r"(\w{1000}){1000}".parse::<Pattern>().unwrap_err(),
                "size limit",
            ),
            ("a".parse::<Header>().unwrap_err(), "NAME: VALUE"),
            ("a b: c".parse::<Header>().unwrap_err(), "no header's name"),
            (
                "a: b\nc".parse::<Header>().unwrap_err(),
                "control characters",
            ),
            ("a".parse::<Param>().unwrap_err(), "NAME=VALUE"),
            ("a".parse::<HeaderRule>().unwrap_err(), "NAME:REGEX"),
            (
                "a:[".parse::<HeaderRule>().unwrap_err(),
                "unclosed character class",
            ),
            ("/(?:a)/:b".parse::<Rewrite>().unwrap_err(), "x3a"),
            ("a".parse::<Rewrite>().unwrap_err(), "REGEX:REPLACEMENT"),
            ("A: b".parse::<HeaderRewrite>().unwrap_err(), "no comma"),
            ("A: (b,c)".parse::<HeaderRewrite>().unwrap_err(), "x2c"),
            (method("G ET").unwrap_err(), "a method"),
        ] {
            assert!(
                error.contains(what) && !error.contains('\n'),
                "{what}: {error}"
            );
        }
    }
}
