//! Following a redirect: where to, and the bytes to send there.
//!
//! What enters: a request as it was sent, and the status and `Location` that came back. What leaves: the head to send
//! next, the same but for its request target. What may be lost: nothing; a redirect that isn't followed is the answer.
//!
//! 301, 302 and 303 are followed for GET and HEAD, 307 and 308 for all safe methods, so that the method never changes. The
//! next request goes to the target and nowhere else: a `Location` on another host, port or scheme is not followed.

use reprise_traffic::lines::{HeaderLine, Lines};
use reprise_traffic::target::Endpoint;

use crate::response::Redirect;

/// The head to send for the redirect that answered a safe request with that head; `None` where it isn't followed.
pub(crate) fn follow(
    redirect: &Redirect,
    method: &str,
    head: &[u8],
    endpoint: &Endpoint,
) -> Option<Vec<u8>> {
    let keeps_method = match redirect.status {
        301..=303 => matches!(method, "GET" | "HEAD"),
        307 | 308 => true,
        _ => false,
    };
    let sent = Sent::of(head).filter(|_| keeps_method)?;
    let target = resolve(&redirect.location, &sent, endpoint)?;
    Some([sent.before, &target, sent.behind].concat())
}

/// A head that was sent.
struct Sent<'h> {
    before: &'h [u8],
    target: &'h [u8],
    behind: &'h [u8],
    host: Option<&'h [u8]>,
}

impl<'h> Sent<'h> {
    fn of(head: &'h [u8]) -> Option<Sent<'h>> {
        // Empty lines may precede the request line.
        let start = head.iter().position(|b| !matches!(b, b'\r' | b'\n'))?;
        let from = start + memchr::memchr(b' ', &head[start..])? + 1;
        let to = from + memchr::memchr(b' ', &head[from..])?;
        let headers = Lines::of(&head[to..]).skip(1).map(HeaderLine::of);
        let mut headers = headers.take_while(|header| !header.name.starts_with(b"\r\n"));
        Some(Sent {
            before: &head[..from],
            target: &head[from..to],
            behind: &head[to..],
            host: headers.find(|h| h.is("host")).map(|h| h.value),
        })
    }

    /// Its path, without scheme, authority and query.
    fn path(&self) -> &'h [u8] {
        let (_, rest) = split_authority(self.target).unwrap_or_default();
        let path = if rest.is_empty() { self.target } else { rest };
        let end = memchr::memchr2(b'?', b'#', path).unwrap_or(path.len());
        match path[..end].first() {
            Some(b'/') => &path[..end],
            // `*`, or an authority alone.
            _ => b"/",
        }
    }
}

/// Scheme and what follows its colon, where there is one.
fn split_scheme(location: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = location
        .iter()
        .position(|b| !(b.is_ascii_alphanumeric() || b"+-.".contains(b)))?;
    let is_scheme = location[end] == b':' && location[0].is_ascii_alphabetic();
    is_scheme.then(|| (&location[..end], &location[end + 1..]))
}

/// Authority of a URL with a scheme, and what follows.
fn split_authority(url: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, rest) = split_scheme(url)?;
    let rest = rest.strip_prefix(b"//")?;
    let end = memchr::memchr3(b'/', b'?', b'#', rest).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// The request target that a `Location` asks for (RFC 3986 §5.2), if it leads to the target.
fn resolve(location: &[u8], sent: &Sent<'_>, endpoint: &Endpoint) -> Option<Vec<u8>> {
    let end = memchr::memchr(b'#', location).unwrap_or(location.len());
    let location = location[..end].trim_ascii();
    if location.is_empty() || location.iter().any(|b| *b <= b' ' || *b == 0x7f) {
        return None;
    }
    let schemed = split_scheme(location);
    let scheme: &[u8] = if endpoint.tls { b"https" } else { b"http" };
    if schemed.is_some_and(|(name, _)| !name.eq_ignore_ascii_case(scheme)) {
        return None;
    }
    let rest = schemed.map_or(location, |(_, rest)| rest);
    let (path, query) = match rest.strip_prefix(b"//") {
        Some(rest) => {
            let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            if !leads_here(authority, sent, endpoint) {
                return None;
            }
            split_query(rest)
        }
        // `http:path` is no URL that anybody means.
        None if schemed.is_some() => return None,
        None => split_query(rest),
    };
    let base = sent.path();
    let merged = match path.first() {
        Some(b'/') => path.to_vec(),
        None if rest.starts_with(b"//") => b"/".to_vec(),
        None => base.to_vec(),
        Some(_) => {
            let folder = base.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
            [&base[..folder], path].concat()
        }
    };
    Some([&without_dots(&merged), query].concat())
}

/// Path and query, the latter with its mark.
fn split_query(rest: &[u8]) -> (&[u8], &[u8]) {
    rest.split_at(memchr::memchr(b'?', rest).unwrap_or(rest.len()))
}

/// True where an authority is the target's, or the host that the request was sent for.
fn leads_here(authority: &[u8], sent: &Sent<'_>, endpoint: &Endpoint) -> bool {
    let own_port = if endpoint.tls { 443 } else { 80 };
    let Some(asked) = host_and_port(authority, own_port) else {
        return false;
    };
    let own = endpoint.host_header();
    [Some(own.as_bytes()), sent.host]
        .into_iter()
        .flatten()
        .any(|known| host_and_port(known, own_port).as_ref() == Some(&asked))
}

/// An authority in one form: small letters, and the port that goes without saying.
fn host_and_port(authority: &[u8], own_port: u16) -> Option<(String, u16)> {
    let authority = std::str::from_utf8(authority).ok()?.to_ascii_lowercase();
    if authority.is_empty() || authority.contains('@') {
        return None;
    }
    // In an IPv6 address the last colon is within the brackets.
    match authority
        .rsplit_once(':')
        .filter(|(_, port)| !port.contains(']'))
    {
        Some((host, "")) => Some((host.to_owned(), own_port)),
        Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
        None => Some((authority, own_port)),
    }
}

/// A path without `.` and `..` (RFC 3986 §5.2.4).
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|b| *b == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            b"." => {}
            b".." => drop(kept.pop()),
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push(b"");
        }
    }
    [b"/", &kept.join(&b'/')[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(url: &str, head: &str, status: u16, method: &str, location: &str) -> Option<String> {
        let redirect = Redirect {
            status,
            location: location.as_bytes().to_vec(),
        };
        let endpoint = Endpoint::parse(url).unwrap();
        follow(&redirect, method, head.as_bytes(), &endpoint)
            .map(|head| String::from_utf8(head).unwrap())
    }

    /// Where a GET of `/a/b?q` for `shop.example` is sent on to.
    fn target(url: &str, location: &str) -> Option<String> {
        let head = "GET /a/b?q HTTP/1.1\r\nX: 1\r\nhost: shop.example\r\n\r\n";
        let next = next(url, head, 302, "GET", location)?;
        let rest = next.strip_prefix("GET ").unwrap();
        let end = " HTTP/1.1\r\nX: 1\r\nhost: shop.example\r\n\r\n";
        Some(rest.strip_suffix(end).unwrap().to_owned())
    }

    #[test]
    fn locations_are_resolved() {
        for (location, expected) in [
            ("/x", "/x"),
            ("/x/../y/./z?a=../b#f", "/y/z?a=../b"),
            ("c", "/a/c"),
            ("../c/", "/c/"),
            ("../../..", "/"),
            ("./", "/a/"),
            ("?r=1", "/a/b?r=1"),
            ("http://staging:8080/x?y", "/x?y"),
            ("HTTP://Staging:8080", "/"),
            ("http://staging:8080?y", "/?y"),
            ("//staging:8080/x", "/x"),
            // For whom the request was sent.
            ("http://shop.example/x", "/x"),
            ("http://SHOP.example:80/x", "/x"),
            ("http://shop.example:/x", "/x"),
            ("/x:y", "/x:y"),
            ("x?u=http://elsewhere/", "/a/x?u=http://elsewhere/"),
        ] {
            let found = target("http://staging:8080", location);
            assert_eq!(found.as_deref(), Some(expected), "{location}");
        }
        assert_eq!(
            target("http://[::1]:81", "http://[::1]:81/x").as_deref(),
            Some("/x")
        );
        assert_eq!(
            target("https://staging", "https://staging:443/x").as_deref(),
            Some("/x")
        );
    }

    #[test]
    fn nobody_else_is_asked() {
        for location in [
            "http://elsewhere/x",
            "http://staging/x",
            "http://staging:8081/x",
            "https://staging:8080/x",
            "https://shop.example/x",
            "//elsewhere/x",
            "http://u:p@staging:8080/x",
            "http://staging:8080@elsewhere/x",
            "http://staging:808000/x",
            "http:///x",
            "http:x",
            "mailto:a@b",
            "ftp://staging:8080/x",
            "",
            "#f",
            "/a b",
            "/a\r\nX: y",
            "/a\x7f",
        ] {
            assert_eq!(
                target("http://staging:8080", location),
                None,
                "{location:?}"
            );
        }
    }

    #[test]
    fn the_method_never_changes() {
        let head = |method: &str| format!("{method} / HTTP/1.0\r\n\r\n");
        for (method, followed) in [
            ("GET", vec![301, 302, 303, 307, 308]),
            ("HEAD", vec![301, 302, 303, 307, 308]),
            ("OPTIONS", vec![307, 308]),
            ("TRACE", vec![307, 308]),
        ] {
            for status in [200, 201, 300, 301, 302, 303, 304, 305, 306, 307, 308, 309] {
                let next = next("http://h", &head(method), status, method, "/x");
                let expected = format!("{method} /x HTTP/1.0\r\n\r\n");
                let expected = followed.contains(&status).then_some(expected);
                assert_eq!(next, expected, "{method} {status}");
            }
        }
    }

    #[test]
    fn absolute_and_asterisk_form_have_a_path_too() {
        for (sent, location, expected) in [
            ("http://shop/a/b?q=/c", "d", "/a/d"),
            ("http://shop", "d", "/d"),
            ("*", "d", "/d"),
        ] {
            let head = format!("\r\nOPTIONS {sent} HTTP/1.1\r\nA: b\r\n\r\n");
            let next = next("http://h", &head, 307, "OPTIONS", location);
            let expected = format!("\r\nOPTIONS {expected} HTTP/1.1\r\nA: b\r\n\r\n");
            assert_eq!(next, Some(expected), "{sent}");
        }
    }
}
