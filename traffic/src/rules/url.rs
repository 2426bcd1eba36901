//! Expressions over URLs.
//!
//! What enters: a request's host and its path and query. What leaves: whether an expression matches. What may be lost:
//! nothing.

use regex::bytes::Regex;

use crate::head::Head;

/// An expression, and what it is about.
#[derive(Debug)]
pub(super) struct UrlPattern {
    expression: Regex,
    /// It begins with a host.
    with_host: bool,
}

impl UrlPattern {
    pub(super) fn compile(key: &str, expression: &str) -> Result<UrlPattern, String> {
        Ok(UrlPattern {
            with_host: begins_with_host(expression),
            expression: super::compile(key, expression)?,
        })
    }

    /// Held against path and query; and against host, path and query where it begins with a host.
    pub(super) fn matches(&self, head: &Head) -> bool {
        let path = head.path_and_query();
        if self.expression.is_match(path) {
            return true;
        }
        let host = self.with_host.then(|| host(head)).flatten();
        host.is_some_and(|host| {
            let host = host.to_ascii_lowercase();
            let with_scheme = [b"http://", &host[..], path].concat();
            let https = [b"https://", &host[..], path].concat();
            self.expression.is_match(&with_scheme[7..])
                || self.expression.is_match(&with_scheme)
                || self.expression.is_match(&https)
        })
    }
}

/// Of an absolute URI its authority, which counts more than the header (RFC 9112 §3.2.2).
fn host(head: &Head) -> Option<&[u8]> {
    let target = head.target();
    match memchr::memmem::find(target, b"://").filter(|_| target.first() != Some(&b'/')) {
        Some(at) => {
            let authority = &target[at + 3..];
            let end = memchr::memchr2(b'/', b'?', authority).unwrap_or(authority.len());
            Some(&authority[..end])
        }
        None => head.header("host"),
    }
}

/// True for `^www\.`, `shop.example/cart`, `^https?://`: no path begins so. What isn't anchored has a host's dot before its
/// first slash.
fn begins_with_host(expression: &str) -> bool {
    let is_host = |c: char| c.is_ascii_alphanumeric() || c == '(' || c == '[';
    if let Some(anchored) = expression.strip_prefix('^') {
        return anchored.starts_with(is_host) || anchored.starts_with("\\w");
    }
    if expression.starts_with("http") {
        return true;
    }
    let Some((host, _)) = expression.split_once('/') else {
        return false;
    };
    let Some((label, rest)) = host.split_once('.') else {
        return false;
    };
    let label = label.trim_end_matches('\\');
    let is_label = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !label.is_empty() && label.bytes().all(is_label) && rest.starts_with(is_host)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_begins_with_a_host_is_held_against_it() {
        let matches = |expression: &str, target: &str| {
            let raw = format!("GET {target} HTTP/1.1\r\nHost: www.Shop.example:8080\r\n\r\n");
            let head = Head::parse(Bytes::from(raw)).unwrap();
            UrlPattern::compile("k", expression).unwrap().matches(&head)
        };
        for expression in [
            "^www.",
            "^www\\.shop\\.example:8080/a",
            "shop.example:8080/a",
            "www\\.shop.example.*/a",
            "^http://www",
            "^(www|m)\\.",
            "/a",
            "^/a$",
        ] {
            assert!(matches(expression, "/a"), "{expression}");
        }
        assert!(matches("^other/", "http://other/a"));
        for expression in ["www", "example", "shop\\.example", "^shop", "8080"] {
            assert!(!matches(expression, "/a"), "{expression}");
        }
    }
}
