//! A regular expression with what takes the place of its matches.
//!
//! What enters: an expression, a replacement with `$1`, `$name`, `${name}` and `$$` as the regex crate has them, and the
//! text to change. What leaves: the text with all matches replaced. What may be lost: nothing; a replacement that names a group
//! which isn't there is refused, since it would silently stand for nothing, and so is a text that grows past its bound.

use std::borrow::Cow;

use regex::bytes::{Captures, Regex};

use crate::rules;

/// The text would grow past its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

#[derive(Debug, Clone)]
enum Part {
    Literal(String),
    Group(usize),
}

/// An expression and its replacement, compiled.
#[derive(Debug, Clone)]
pub(super) struct Substitution {
    matches: Regex,
    parts: Vec<Part>,
}

impl Substitution {
    /// Compiles both; `key` is where they stand in the document.
    ///
    /// # Errors
    /// One line: the key and what is wrong with its value.
    pub(super) fn compile(key: &str, matches: &str, replace: &str) -> Result<Substitution, String> {
        let matches = rules::compile(key, matches)?;
        let mut parts = Vec::new();
        let mut rest = replace;
        while let Some(at) = rest.find('$') {
            parts.push(Part::Literal(rest[..at].to_owned()));
            let (part, left) = reference(key, replace, &rest[at + 1..], &matches)?;
            parts.push(part);
            rest = left;
        }
        parts.push(Part::Literal(rest.to_owned()));
        Ok(Substitution { matches, parts })
    }

    /// The text with all matches replaced; it may grow to `most` bytes.
    pub(super) fn apply<'t>(&self, text: &'t [u8], most: usize) -> Result<Cow<'t, [u8]>, TooLong> {
        let mut out: Option<Vec<u8>> = None;
        let mut from = 0;
        for captures in self.matches.captures_iter(text) {
            let Some(whole) = captures.get(0) else {
                continue;
            };
            let out = out.get_or_insert_default();
            out.extend_from_slice(&text[from..whole.start()]);
            self.expand(&captures, out);
            if out.len() > most {
                return Err(TooLong);
            }
            from = whole.end();
        }
        match out {
            None => Ok(Cow::Borrowed(text)),
            Some(mut out) => {
                out.extend_from_slice(&text[from..]);
                if out.len() > most {
                    return Err(TooLong);
                }
                Ok(Cow::Owned(out))
            }
        }
    }

    fn expand(&self, captures: &Captures<'_>, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                // A group that took no part in the match is empty.
                Part::Group(group) => {
                    out.extend_from_slice(captures.get(*group).map_or(b"", |m| m.as_bytes()));
                }
            }
        }
    }
}

/// What a `$` refers to, given what stands behind it; and the rest.
fn reference<'r>(
    key: &str,
    replace: &str,
    behind: &'r str,
    matches: &Regex,
) -> Result<(Part, &'r str), String> {
    if let Some(rest) = behind.strip_prefix('$') {
        return Ok((Part::Literal("$".to_owned()), rest));
    }
    let (name, rest) = match behind.strip_prefix('{') {
        Some(braced) => braced
            .split_once('}')
            .ok_or_else(|| format!("{key}: {replace:?}: a brace is not closed"))?,
        None => {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let end = behind.find(|c| !is_word(c)).unwrap_or(behind.len());
            behind.split_at(end)
        }
    };
    if name.is_empty() {
        return Ok((Part::Literal("$".to_owned()), behind));
    }
    let group = match name.parse::<usize>() {
        Ok(number) => Some(number).filter(|number| *number < matches.captures_len()),
        Err(_) => matches.capture_names().position(|n| n == Some(name)),
    };
    match group {
        Some(group) => Ok((Part::Group(group), rest)),
        None => Err(format!(
            "{key}: {replace:?}: the expression has no group {name:?}; write ${{1}}x for group 1 before an x, $$ for a $"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(matches: &str, replace: &str, text: &str) -> String {
        let substitution = Substitution::compile("key", matches, replace).unwrap();
        let changed = substitution.apply(text.as_bytes(), 100).unwrap();
        String::from_utf8(changed.into_owned()).unwrap()
    }

    #[test]
    fn groups_stand_for_what_they_matched() {
        for (matches, replace, text, expected) in [
            ("^/v1/", "/v2/", "/v1/a/v1/", "/v2/a/v1/"),
            ("b+", "<$0>", "abbab", "a<bb>a<b>"),
            ("/u/(\\d+)", "/user?id=$1", "/u/7/x", "/user?id=7/x"),
            ("(?P<id>\\d+)", "${id}0", "a1", "a10"),
            ("(a)(x)?", "[$2$1]", "ab", "[a]b"),
            ("a", "$$1", "a", "$1"),
            ("a", "$", "a", "$"),
            ("a", "$-", "a", "$-"),
            ("", "-", "ab", "-a-b-"),
        ] {
            assert_eq!(
                replaced(matches, replace, text),
                expected,
                "{matches} {replace}"
            );
        }
    }

    #[test]
    fn what_does_not_match_is_not_copied() {
        let substitution = Substitution::compile("key", "x", "y").unwrap();
        assert!(matches!(
            substitution.apply(b"abc", 0),
            Ok(Cow::Borrowed(b"abc"))
        ));
    }

    #[test]
    fn growth_is_bounded() {
        let substitution = Substitution::compile("key", "", &"x".repeat(30)).unwrap();
        assert!(substitution.apply(b"a", 61).is_ok());
        assert_eq!(substitution.apply(b"aa", 91), Err(TooLong));
        let substitution = Substitution::compile("key", "^", "x").unwrap();
        assert_eq!(substitution.apply(b"aaaa", 4), Err(TooLong));
    }

    #[test]
    fn mistakes_are_named() {
        for (matches, replace, part) in [
            ("(", "", "key: \"(\""),
            ("(a)", "$2", "no group \"2\""),
            ("(a)", "$1x", "no group \"1x\""),
            ("(a)", "${b}", "no group \"b\""),
            ("(a)", "${1", "not closed"),
            ("a{1000}{1000}", "", "key"),
        ] {
            let error = Substitution::compile("key", matches, replace).unwrap_err();
            assert!(error.contains(part), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
    }
}
