//! Addresses of servers: URLs of HTTP, WebSocket and Elasticsearch, `HOST:PORT`, Kafka's lists.
//!
//! What enters: text without its limit. What leaves: an address with what is written of user and password apart. What
//! may be lost: nothing; nothing is looked up here.

use std::fmt;

use percent_encoding::percent_decode_str;
use serde::{Serialize, Serializer};
use url::Url;

/// User and password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Login {
    /// Decoded.
    pub(crate) user: String,
    /// Decoded; empty where there was none.
    pub(crate) password: Secret,
}

/// What must not be shown: it is written as `***`.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// A URL without user and password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Server {
    /// `SCHEME://HOST[:PORT][/PATH]`; no slash at the end where the path is nothing else.
    pub(crate) url: String,
    /// From the URL.
    pub(crate) login: Option<Login>,
}

/// Where documents about replayed requests go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Elasticsearch {
    /// Without the index.
    pub(crate) server: Server,
    /// Its name.
    pub(crate) index: String,
}

impl Server {
    /// A web server; without a scheme it is `http`.
    ///
    /// # Errors
    /// What is wrong and what to write, without the text.
    pub(super) fn http(text: &str) -> Result<Server, String> {
        const FORM: &str = "write [http://|https://]HOST[:PORT][/PATH]";
        let url = read(text, "http://", &["http", "https"], FORM)?;
        match (url.query(), url.fragment()) {
            (None, None) => Ok(Server::new(url)),
            _ => Err(format!(
                "a query or fragment can't go in front of a request's path; {FORM}, and --http-set-param for parameters"
            )),
        }
    }

    /// A WebSocket server.
    ///
    /// # Errors
    /// What is wrong and what to write, without the text.
    pub(super) fn websocket(text: &str) -> Result<Server, String> {
        const FORM: &str = "write ws://[USER:PASSWORD@]HOST[:PORT]/PATH or wss://…";
        let url = read(text, "ws://", &["ws", "wss"], FORM)?;
        match url.fragment() {
            None => Ok(Server::new(url)),
            Some(_) => Err(format!("a fragment never reaches a server; {FORM}")),
        }
    }

    fn new(mut url: Url) -> Server {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let login = (!url.username().is_empty() || url.password().is_some()).then(|| Login {
            user: decode(url.username()),
            password: Secret(url.password().map(decode).unwrap_or_default()),
        });
        // Both fail only for URLs without a host, of which there are none here.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let text = url.as_str();
        let text = match url.path() {
            "/" if url.query().is_none() => text.trim_end_matches('/'),
            _ => text,
        };
        Server {
            url: text.to_owned(),
            login,
        }
    }
}

impl Elasticsearch {
    /// # Errors
    /// What is wrong and what to write, without the text.
    pub(super) fn parse(text: &str) -> Result<Elasticsearch, String> {
        const FORM: &str = "write [http://|https://][USER:PASSWORD@]HOST[:PORT]/INDEX";
        let mut url = read(text, "http://", &["http", "https"], FORM)?;
        let index = url.path().trim_matches('/').to_owned();
        if index.is_empty() || index.contains('/') || url.query().is_some() {
            return Err(format!("the path must be the name of one index; {FORM}"));
        }
        // As Elasticsearch has it.
        if index.starts_with(['-', '_', '+']) || index.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(format!(
                "an index is written in small letters and begins with none of - _ +; {FORM}"
            ));
        }
        url.set_path("");
        Ok(Elasticsearch {
            server: Server::new(url),
            index,
        })
    }
}

fn read(text: &str, usual: &str, schemes: &[&str], form: &str) -> Result<Url, String> {
    let url = match text.contains("://") {
        true => Url::parse(text),
        false => Url::parse(&format!("{usual}{text}")),
    };
    let url = url.map_err(|error| format!("{error}; {form}"))?;
    match schemes.contains(&url.scheme()) && url.host().is_some() {
        true => Ok(url),
        false => Err(format!("{}:// is not spoken here; {form}", url.scheme())),
    }
}

/// `HOST:PORT` to connect to. Without a host it is this one, as in Go.
///
/// # Errors
/// What is wrong and what to write, without the text.
pub(super) fn host_port(text: &str) -> Result<String, String> {
    const FORM: &str = "write HOST:PORT";
    let (host, port) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("the port is missing; {FORM}"))?;
    if !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Err(format!("a port is a number from 1 to 65535; {FORM}"));
    }
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.contains(['/', '@', ' ']) || (host.contains(':') && !bracketed) {
        return Err(format!(
            "{host:?} is no host; {FORM}, an IPv6 address in brackets"
        ));
    }
    Ok(match host {
        "" => format!("localhost:{port}"),
        host => format!("{host}:{port}"),
    })
}

/// `HOST:PORT[,HOST:PORT…]`.
///
/// # Errors
/// What is wrong and what to write, without the text.
pub(super) fn hosts(text: &str) -> Result<Vec<String>, String> {
    text.split(',')
        .map(|host| host_port(host.trim()).map_err(|error| format!("{error}[,HOST:PORT…]")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(server: &Server) -> (&str, Option<(&str, &str)>) {
        let login = server.login.as_ref();
        let login = login.map(|l| (l.user.as_str(), l.password.0.as_str()));
        (&server.url, login)
    }

    #[test]
    fn web_servers_are_read() {
        for (text, url, login) in [
            ("staging.com", "http://staging.com", None),
            ("localhost:8080", "http://localhost:8080", None),
            ("127.0.0.1:8080/base/", "http://127.0.0.1:8080/base/", None),
            ("https://the-other-server", "https://the-other-server", None),
            ("http://[::1]:81", "http://[::1]:81", None),
            (
                "http://user:pa%40ss@staging.com",
                "http://staging.com",
                Some(("user", "pa@ss")),
            ),
            ("user@staging.com", "http://staging.com", Some(("user", ""))),
        ] {
            assert_eq!(parts(&Server::http(text).unwrap()), (url, login), "{text}");
        }
        for text in [
            "",
            "ftp://a",
            "http://",
            "http://a:b",
            "a?b=c",
            "http://a#b",
            "s3://a/b",
        ] {
            let error = Server::http(text).unwrap_err();
            assert!(error.contains("write ") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn other_servers_are_read() {
        let ws = Server::websocket("wss://u:p@h/path?a=b").unwrap();
        assert_eq!(parts(&ws), ("wss://h/path?a=b", Some(("u", "p"))));
        assert!(Server::websocket("http://h/").is_err());

        for (text, url, index) in [
            ("localhost:9200/gor", "http://localhost:9200", "gor"),
            ("https://u:p@es/logs-1/", "https://es", "logs-1"),
        ] {
            let es = Elasticsearch::parse(text).unwrap();
            assert_eq!((es.server.url.as_str(), es.index.as_str()), (url, index));
        }
        for text in [
            "es:9200",
            "es:9200/",
            "es/a/b",
            "es/Gor",
            "es/_x",
            "tcp://es/a",
        ] {
            assert!(Elasticsearch::parse(text).is_err(), "{text}");
        }

        assert_eq!(
            host_port("replay.local:28020").unwrap(),
            "replay.local:28020"
        );
        assert_eq!(host_port(":28020").unwrap(), "localhost:28020");
        assert_eq!(host_port("[::1]:1").unwrap(), "[::1]:1");
        for text in ["", "h", "h:", "h:0", "h:x", "::1:1", "http://h:1"] {
            assert!(host_port(text).is_err(), "{text}");
        }
        assert_eq!(hosts("a:9092, b:9092").unwrap(), ["a:9092", "b:9092"]);
        assert!(hosts("a:9092,").is_err());
    }

    #[test]
    fn passwords_are_not_shown() {
        let server = Server::http("http://user:hidden@h").unwrap();
        assert!(!format!("{server:?}").contains("hidden"));
        assert!(!serde_json::to_string(&server).unwrap().contains("hidden"));
    }
}
