//! Servers that take a stream of records, or of bare requests.
//!
//! What enters: a URL with one of the schemes `tcp`, `tls`, `ws`, `wss`, `binary`. What leaves: its parts. What may be lost:
//! nothing; what is no such URL is refused with one line.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

/// What a document says under `stream`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamSettings {
    /// From each replayer; GoReplay calls them workers.
    pub connections: NonZeroU32,
    /// Each session over one of them. Without it, a request and its answers over one.
    pub sticky: bool,
}

impl Default for StreamSettings {
    fn default() -> StreamSettings {
        const CONNECTIONS: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
        StreamSettings {
            connections: CONNECTIONS,
            sticky: false,
        }
    }
}

/// More connections than a server has descriptors by default help nobody.
const MAX_CONNECTIONS: u32 = 1024;

/// What goes over a stream's connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamKind {
    /// Records, one behind the other, as GoReplay's `--input-tcp` takes them.
    Records,
    /// Records as the binary frames of a WebSocket.
    WebSocket {
        /// Path and query.
        path: String,
        /// `user:password` from the URL.
        user: Option<String>,
    },
    /// The bare bytes of requests; answers are read and thrown away.
    Binary,
}

/// A server that takes a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// What goes over it.
    pub kind: StreamKind,
    /// True over TLS.
    pub tls: bool,
    /// Name or address, an IPv6 one without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How.
    pub settings: StreamSettings,
}

impl Stream {
    /// True for schemes of streams.
    pub(super) fn is_scheme(scheme: &str) -> bool {
        matches!(scheme, "tcp" | "tls" | "ws" | "wss" | "binary")
    }

    /// Reads `tcp://HOST:PORT` and the like.
    ///
    /// # Errors
    /// One line that says what a URL should look like.
    pub fn parse(url: &str, settings: StreamSettings) -> Result<Stream, String> {
        let wrong = |what: &str| {
            format!(
                "url {url:?}: {what}; write tcp://HOST:PORT, tls://HOST:PORT, ws://HOST[:PORT][/PATH], wss://… or \
                 binary://HOST:PORT"
            )
        };
        if settings.connections.get() > MAX_CONNECTIONS {
            return Err(format!(
                "stream: connections: {} is more than {MAX_CONNECTIONS}",
                settings.connections
            ));
        }
        let uri: http::Uri = url.parse().map_err(|_| wrong("not a URL"))?;
        let scheme = uri.scheme_str().unwrap_or_default();
        let is_web = scheme.starts_with("ws");
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        let (user, address) = match authority.as_str().rsplit_once('@') {
            Some((user, address)) if is_web => (Some(user.to_owned()), address),
            Some(_) => return Err(wrong("nobody asks for a user there")),
            None => (None, authority.as_str()),
        };
        let host = authority.host();
        let usual = match scheme {
            "ws" => Some(80),
            "wss" => Some(443),
            _ => None,
        };
        let port = match address.strip_prefix(host) {
            Some("") => usual.ok_or_else(|| wrong("no port"))?,
            Some(port) => port
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .filter(|port| *port > 0)
                .ok_or_else(|| wrong("not a port"))?,
            None => return Err(wrong("not a host and port")),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong("no host"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        if !is_web && path != "/" {
            return Err(wrong("a path says nothing there"));
        }
        Ok(Stream {
            kind: match scheme {
                "tcp" | "tls" => StreamKind::Records,
                "binary" => StreamKind::Binary,
                "ws" | "wss" => StreamKind::WebSocket {
                    path: path.to_owned(),
                    user,
                },
                _ => return Err(wrong("no scheme of a stream")),
            },
            tls: matches!(scheme, "tls" | "wss"),
            host: host.to_owned(),
            port,
            settings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parse = |url: &str| Stream::parse(url, StreamSettings::default());
        let records = parse("tcp://[::1]:28020").unwrap();
        assert_eq!((records.host.as_str(), records.port), ("::1", 28020));
        assert_eq!((records.kind, records.tls), (StreamKind::Records, false));
        assert!(parse("tls://h:1").unwrap().tls);
        let web = parse("wss://u:p@h/a?b").unwrap();
        let kind = StreamKind::WebSocket {
            path: "/a?b".to_owned(),
            user: Some("u:p".to_owned()),
        };
        assert_eq!((web.kind, web.port, web.tls), (kind, 443, true));
        for (url, part) in [
            ("tcp://h", "no port"),
            ("tcp://h:0", "not a port"),
            ("tcp://h:1/a", "path"),
            ("tcp://u@h:1", "user"),
            ("binary://", "not a URL"),
            ("tcp://:1", "no host"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(part), "{url}: {error}");
        }
    }
}
