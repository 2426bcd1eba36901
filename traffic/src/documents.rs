//! Where documents about replays go.
//!
//! What enters: a URL, `http[s]://[USER:PASSWORD@]HOST[:PORT]/INDEX`, or without its scheme. What leaves: its parts. What
//! may be lost: nothing; what is no such URL is refused with one line, which shows no password.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use crate::target::Endpoint;

/// Where no port is said.
const PORT: u16 = 9200;

/// The servers' own bound for the name of an index.
const LONGEST_INDEX: usize = 255;

/// An index, and how to reach its server.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// The server; its base path is empty.
    pub endpoint: Endpoint,
    /// The index's name.
    pub index: String,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// One line that says what a URL should look like.
    pub fn parse(url: &str) -> Result<Address, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let (authority, index) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let shown = format!("{scheme}://{host}/{index}");
        let wrong = |what: &str| {
            format!(
                "{shown:?} is no index: {what}; write http[s]://[USER:PASSWORD@]HOST[:PORT]/INDEX"
            )
        };
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(wrong("the scheme is neither http nor https")),
        };
        check_index(index).map_err(wrong)?;
        // A port that is the scheme's own is only meant where it is written.
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.ends_with(']'));
        let port = [format!(":{PORT}"), String::new()];
        let port = &port[usize::from(has_port)];
        let endpoint = Endpoint::parse(&format!("{scheme}://{host}{port}"));
        let endpoint = endpoint.map_err(|_| wrong("no host and port"))?;
        let authorization = user.map(|user| basic(user).ok_or_else(|| wrong("no USER:PASSWORD")));
        Ok(Address {
            endpoint: Endpoint { tls, ..endpoint },
            index: index.to_owned(),
            authorization: authorization.transpose()?,
        })
    }

    /// `http[s]://HOST:PORT`.
    pub fn base(&self) -> String {
        let Endpoint {
            tls, host, port, ..
        } = &self.endpoint;
        let scheme = ["http", "https"][usize::from(*tls)];
        match host.contains(':') {
            true => format!("{scheme}://[{host}]:{port}"),
            false => format!("{scheme}://{host}:{port}"),
        }
    }
}

impl fmt::Display for Address {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.index)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// RFC 7617, of the part of a URL where some characters are written as `%` and digits.
fn basic(user: &str) -> Option<String> {
    let (name, password) = user.split_once(':')?;
    let part = |text| percent_decode_str(text).collect::<Vec<u8>>();
    let line = [&part(name)[..], b":", &part(password)].concat();
    let is_clean = !name.is_empty() && !line.iter().any(u8::is_ascii_control);
    is_clean.then(|| format!("Basic {}", STANDARD.encode(line)))
}

fn check_index(index: &str) -> Result<(), &'static str> {
    let is_legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.+".contains(c);
    match index {
        "" => Err("no index"),
        "." | ".." => Err("no index may be called so"),
        _ if index.starts_with(['-', '_', '+']) => Err("an index begins with a letter or digit"),
        _ if index.len() > LONGEST_INDEX => Err("the name of the index is over 255 characters"),
        _ if !index.chars().all(is_legal) => {
            Err("the name of an index has small letters, digits, dots, underscores and hyphens")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_their_parts() {
        for (url, shown, authorization) in [
            ("http://h:1/i", "http://h:1/i", None),
            ("https://h/i-2.x", "https://h:9200/i-2.x", None),
            ("h:443/i", "http://h:443/i", None),
            ("h/i", "http://h:9200/i", None),
            ("[::1]/i", "http://[::1]:9200/i", None),
            ("https://[::1]:443/i", "https://[::1]:443/i", None),
            (
                "http://Aladdin:open%20sesame@h/i",
                "http://h:9200/i",
                Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ),
            (
                "https://a@b:c@d@h/i",
                "https://h:9200/i",
                Some("Basic YUBiOmNAZA=="),
            ),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.to_string(), shown, "{url}");
            assert_eq!(address.authorization.as_deref(), authorization, "{url}");
            assert_eq!(format!("{address:?}"), shown);
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (url, part) in [
            ("ftp://u:secret@h/i", "scheme"),
            ("http://u:secret@h", "no index"),
            ("http://u:secret@h/", "no index"),
            ("http://u:secret@h/a/b", "small letters"),
            ("http://u:secret@h/Ab", "small letters"),
            ("http://u:secret@h/_all", "begins"),
            ("http://u:secret@h/i?pretty", "small letters"),
            ("http://u:secret@h:x/i", "no host"),
            ("http://u:secret@h:0/i", "no host"),
            ("http://u:secret@/i", "no host"),
            ("http://secret@h/i", "USER"),
            ("http://:secret@h/i", "USER"),
            ("http://u:secret%0a@h/i", "USER"),
        ] {
            let error = Address::parse(url).unwrap_err();
            assert!(error.contains(part), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
