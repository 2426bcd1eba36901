//! The web server that a target's URL names.
//!
//! What enters: a URL. What leaves: its parts. What may be lost: nothing; what is no such URL is refused with one line.

/// Where an address of a target leads, taken from its URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// True for https.
    pub tls: bool,
    /// Name or address, an IPv6 one without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The path that goes in front of each request's: empty, or begins with a slash and ends without one.
    pub base: String,
}

impl Endpoint {
    /// Reads `http://host[:port][/base/path]`.
    ///
    /// # Errors
    /// One line that says what a URL should look like.
    pub fn parse(url: &str) -> Result<Endpoint, String> {
        let wrong = |what: &str| {
            format!(
                "url {url:?}: {what}; write http://HOST[:PORT][/PATH], or file:///PATH to record"
            )
        };
        let uri: http::Uri = url.parse().map_err(|_| wrong("not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("the scheme is neither http nor https")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("user and password don't belong in it"));
        }
        // The parser takes a fragment off without a word.
        if uri.query().is_some() || url.contains('#') {
            return Err(wrong("a query or fragment doesn't belong in it"));
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong("no host"));
        }
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => [80, 443][usize::from(tls)],
            Some(port) => port
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .filter(|port| *port > 0)
                .ok_or_else(|| wrong("not a port"))?,
            None => return Err(wrong("not a host and port")),
        };
        Ok(Endpoint {
            tls,
            host: host.to_owned(),
            port,
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// What its Host header says: the port only where it isn't the scheme's own.
    pub fn host_header(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.tls, self.port) {
            (false, 80) | (true, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let endpoint = Endpoint::parse("http://[::1]:8080").unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("::1", 8080));
        assert_eq!(endpoint.host_header(), "[::1]:8080");
        assert_eq!(Endpoint::parse("https://h").unwrap().host_header(), "h");
        for (url, base) in [
            ("http://h", ""),
            ("http://h/", ""),
            ("http://h//", ""),
            ("http://h:1/a//b%20/", "/a//b%20"),
        ] {
            assert_eq!(Endpoint::parse(url).unwrap().base, base, "{url}");
        }
        for url in [
            "h",
            "http://",
            "http://h:0",
            "http://h:x",
            "http://u:p@h",
            "http://h/a?b",
            "http://h/a#b",
            "http://h/a b",
            "",
        ] {
            assert!(Endpoint::parse(url).is_err(), "{url}");
        }
    }
}
