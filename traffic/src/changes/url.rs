//! Changes of a request's target: query parameters, expressions, and the base path of the target's URL.
//!
//! What enters: a request target as captured. What leaves: the one to send; the same bytes where nothing is to be
//! changed. What may be lost: nothing; asterisk and authority form have no path and stay as they are.

use std::borrow::Cow;

use super::template::Substitution;
use super::{ChangeError, MAX_HEAD, shown};

/// Asked-for changes of a request target.
#[derive(Debug, Clone, Default)]
pub(super) struct UrlChanges {
    /// Names and values as on the wire.
    pub(super) params: Vec<(String, String)>,
    /// In this order, after the parameters.
    pub(super) rewrites: Vec<Substitution>,
    /// Goes in front of the path at last: empty, or begins with a slash and ends without one.
    pub(super) base: String,
}

impl UrlChanges {
    pub(super) fn is_empty(&self) -> bool {
        self.params.is_empty() && self.rewrites.is_empty() && self.base.is_empty()
    }

    /// The request target to send.
    pub(super) fn apply<'t>(&self, target: &'t [u8]) -> Result<Cow<'t, [u8]>, ChangeError> {
        let Some(at) = path_at(target).filter(|_| !self.is_empty()) else {
            return Ok(Cow::Borrowed(target));
        };
        let (authority, captured) = target.split_at(at);
        // In absolute form the slash may be missing (RFC 9112 §3.2.2).
        let mut path = match captured.first() {
            Some(b'/') => Cow::Borrowed(captured),
            _ => Cow::Owned([b"/", captured].concat()),
        };
        let mut is_changed = !self.base.is_empty();
        for (name, value) in &self.params {
            path = Cow::Owned(with_param(&path, name.as_bytes(), value.as_bytes()));
            is_changed = true;
        }
        for rewrite in &self.rewrites {
            let changed = rewrite.apply(&path, MAX_HEAD)?;
            if let Cow::Owned(changed) = changed {
                path = Cow::Owned(changed);
                is_changed = true;
            }
        }
        if !is_changed {
            return Ok(Cow::Borrowed(target));
        }
        // What was captured holds neither blanks nor control characters, but an expression can move things to where they hurt.
        if path.first() != Some(&b'/') || !path.iter().all(|b| is_target_byte(*b)) {
            return Err(ChangeError::Target(shown(&path)));
        }
        Ok(Cow::Owned(
            [authority, self.base.as_bytes(), &path].concat(),
        ))
    }
}

/// True for bytes that may stand in a request line's target.
pub(super) fn is_target_byte(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}

/// Where a request target's path begins: at once in origin form, behind the authority in absolute form, nowhere else.
fn path_at(target: &[u8]) -> Option<usize> {
    if target.first() == Some(&b'/') {
        return Some(0);
    }
    let colon = memchr::memchr(b':', target)?;
    let (scheme, rest) = target.split_at(colon);
    let is_scheme = scheme.first()?.is_ascii_alphabetic()
        && scheme
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b));
    let authority = rest.strip_prefix(b"://").filter(|_| is_scheme)?;
    let length = memchr::memchr3(b'/', b'?', b'#', authority).unwrap_or(authority.len());
    Some(colon + 3 + length)
}

/// The path with the parameter in the place of the first of that name, or behind the last; further ones go.
fn with_param(path: &[u8], name: &[u8], value: &[u8]) -> Vec<u8> {
    let end = memchr::memchr(b'#', path).unwrap_or(path.len());
    let (path, fragment) = path.split_at(end);
    let (path, query) = match memchr::memchr(b'?', path) {
        Some(mark) => (&path[..mark], Some(&path[mark + 1..])),
        None => (path, None),
    };
    let pair = [name, b"=", value].concat();
    let mut pairs: Vec<&[u8]> = Vec::new();
    let mut is_placed = false;
    for captured in query
        .into_iter()
        .flat_map(|query| query.split(|b| *b == b'&'))
    {
        let is_named = captured
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'=');
        if !is_named {
            pairs.push(captured);
        } else if !is_placed {
            pairs.push(&pair);
            is_placed = true;
        }
    }
    if !is_placed {
        // An empty query has no pairs, though splitting finds one.
        if pairs == [b""] {
            pairs.clear();
        }
        pairs.push(&pair);
    }
    [path, b"?", &pairs.join(&b'&'), fragment].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(changes: &UrlChanges, target: &str) -> String {
        let changed = changes.apply(target.as_bytes()).unwrap();
        String::from_utf8(changed.into_owned()).unwrap()
    }

    #[test]
    fn parameters_are_replaced_in_place_or_appended() {
        let changes = UrlChanges {
            params: vec![("a".to_owned(), "9".to_owned())],
            ..UrlChanges::default()
        };
        for (target, expected) in [
            ("/", "/?a=9"),
            ("/?", "/?a=9"),
            ("/?b=1", "/?b=1&a=9"),
            ("/?a=1&b=2&a=3&a", "/?a=9&b=2"),
            ("/?b&a", "/?b&a=9"),
            ("/?aa=1&&A=2&", "/?aa=1&&A=2&&a=9"),
            ("/a=1#a?b", "/a=1?a=9#a?b"),
            ("http://h", "http://h/?a=9"),
            ("http://h?b", "http://h/?b&a=9"),
            ("*", "*"),
            ("h:443", "h:443"),
        ] {
            assert_eq!(apply(&changes, target), expected, "{target}");
        }
    }

    #[test]
    fn a_base_path_goes_in_front_of_each_path() {
        let changes = UrlChanges {
            base: "/base/p".to_owned(),
            ..UrlChanges::default()
        };
        for (target, expected) in [
            ("/", "/base/p/"),
            ("/a//b?c=/d", "/base/p/a//b?c=/d"),
            ("http://shop:81/a?q", "http://shop:81/base/p/a?q"),
            ("http://shop", "http://shop/base/p/"),
            ("HTTPS://shop?q", "HTTPS://shop/base/p/?q"),
            ("/go?to=http://h/x", "/base/p/go?to=http://h/x"),
            ("*", "*"),
            ("shop:443", "shop:443"),
            ("a?u=http://h/x", "a?u=http://h/x"),
        ] {
            assert_eq!(apply(&changes, target), expected, "{target}");
        }
    }

    #[test]
    fn expressions_see_path_and_query_one_after_the_other() {
        let rewrite = |m, r| Substitution::compile("rewrite_urls", m, r).unwrap();
        let changes = UrlChanges {
            rewrites: vec![rewrite("^/v1/", "/v2/"), rewrite("^/v2/(.*)$", "/api/$1")],
            ..UrlChanges::default()
        };
        assert_eq!(apply(&changes, "/v1/a?b=/v1/"), "/api/a?b=/v1/");
        assert_eq!(apply(&changes, "http://v1/v1/a"), "http://v1/api/a");
        for same in ["/x", "http://h", "http://h?/v1/", "*"] {
            assert_eq!(apply(&changes, same), same);
        }
    }

    #[test]
    fn a_target_that_would_be_malformed_is_refused() {
        for (matches, replace) in [("^/", ""), ("^/", "x"), (".*", "")] {
            let changes = UrlChanges {
                rewrites: vec![Substitution::compile("rewrite_urls", matches, replace).unwrap()],
                ..UrlChanges::default()
            };
            let refused = changes.apply(b"/a").unwrap_err();
            assert!(matches!(refused, ChangeError::Target(_)), "{refused}");
        }
    }
}
