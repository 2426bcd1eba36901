//! The session key: what keeps exchanges together, chosen per target.
//!
//! What enters: an exchange. What leaves: a 64-bit hash of its key. What may be lost: nothing; an exchange
//! without the chosen header, cookie or parameter is keyed by its connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::exchange::{Captured, Closed};
use crate::head::Head;

/// Where a target finds the key that keeps a session's exchanges in order on one replayer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SessionKey {
    /// The client's connection: both addresses and ports.
    #[default]
    Connection,
    /// The client's address without its port.
    Client,
    /// The value of a header.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
    /// The value of a query parameter, as on the wire.
    Query(String),
    /// Nothing is kept together: each exchange is a session of its own.
    Exchange,
}

/// What a session key may look like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown session key {0:?}: use connection, client, header:NAME, cookie:NAME, query:NAME or exchange"
)]
pub struct UnknownSessionKey(String);

impl FromStr for SessionKey {
    type Err = UnknownSessionKey;

    fn from_str(text: &str) -> Result<SessionKey, UnknownSessionKey> {
        let unknown = || UnknownSessionKey(text.to_owned());
        match text.split_once(':') {
            None if text == "connection" => Ok(SessionKey::Connection),
            None if text == "client" => Ok(SessionKey::Client),
            None if text == "exchange" => Ok(SessionKey::Exchange),
            Some((_, "")) => Err(unknown()),
            Some(("header", name)) => Ok(SessionKey::Header(name.to_owned())),
            Some(("cookie", name)) => Ok(SessionKey::Cookie(name.to_owned())),
            Some(("query", name)) => Ok(SessionKey::Query(name.to_owned())),
            _ => Err(unknown()),
        }
    }
}

impl TryFrom<String> for SessionKey {
    type Error = UnknownSessionKey;

    fn try_from(text: String) -> Result<SessionKey, UnknownSessionKey> {
        text.parse()
    }
}

impl From<SessionKey> for String {
    fn from(key: SessionKey) -> String {
        key.to_string()
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionKey::Connection => f.write_str("connection"),
            SessionKey::Client => f.write_str("client"),
            SessionKey::Header(name) => write!(f, "header:{name}"),
            SessionKey::Cookie(name) => write!(f, "cookie:{name}"),
            SessionKey::Query(name) => write!(f, "query:{name}"),
            SessionKey::Exchange => f.write_str("exchange"),
        }
    }
}

/// Seeds keep keys of different kinds apart: a cookie "a" and a header "a" are two sessions.
const SEED_ADDRESS: u64 = 1;
const SEED_NAMED: u64 = 2;

impl SessionKey {
    /// The hash of the exchange's session key. Equal keys have equal hashes on every host.
    pub fn hash(&self, request: &Captured) -> u64 {
        let named = match self {
            SessionKey::Connection => None,
            SessionKey::Client => return client_hash(request.client),
            SessionKey::Exchange => return exchange_hash(request),
            SessionKey::Header(name) => request.head.header(name),
            SessionKey::Cookie(name) => cookies(&request.head, name).next(),
            SessionKey::Query(name) => query_parameters(&request.head, name).next(),
        };
        match named {
            Some(value) => xxh3_64_with_seed(value, SEED_NAMED),
            None => connection_hash(request.client, request.server),
        }
    }

    /// The hash of the session that a connection is, where its requests can be keyed by it.
    pub fn hash_of_connection(&self, closed: &Closed) -> Option<u64> {
        match self {
            SessionKey::Client | SessionKey::Exchange => None,
            SessionKey::Connection
            | SessionKey::Header(_)
            | SessionKey::Cookie(_)
            | SessionKey::Query(_) => Some(connection_hash(closed.client, closed.server)),
        }
    }
}

impl SessionKey {
    /// Where in a head's bytes the named value ends, each time that it is there.
    pub fn value_ends(&self, head: &Head) -> Vec<usize> {
        let end =
            |value: &[u8]| value.as_ptr() as usize + value.len() - head.raw().as_ptr() as usize;
        match self {
            SessionKey::Connection | SessionKey::Client | SessionKey::Exchange => Vec::new(),
            SessionKey::Header(name) => values(head, name).map(end).collect(),
            SessionKey::Cookie(name) => cookies(head, name).map(end).collect(),
            SessionKey::Query(name) => query_parameters(head, name).map(end).collect(),
        }
    }
}

/// Of what came as a record by its id, so that an answer has its request's.
fn exchange_hash(request: &Captured) -> u64 {
    match &request.label {
        Some(label) => xxh3_64_with_seed(label.id(), SEED_NAMED),
        None => {
            let connection = connection_hash(request.client, request.server);
            xxh3_64_with_seed(&request.captured_ns.to_le_bytes(), connection)
        }
    }
}

/// IPv4 addresses as they stand in IPv6 (RFC 4291 §2.5.5.2).
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn client_hash(client: SocketAddr) -> u64 {
    xxh3_64_with_seed(&octets(client.ip()), SEED_ADDRESS)
}

fn connection_hash(client: SocketAddr, server: SocketAddr) -> u64 {
    let mut bytes = [0_u8; 36];
    bytes[..16].copy_from_slice(&octets(client.ip()));
    bytes[16..32].copy_from_slice(&octets(server.ip()));
    bytes[32..34].copy_from_slice(&client.port().to_be_bytes());
    bytes[34..].copy_from_slice(&server.port().to_be_bytes());
    xxh3_64_with_seed(&bytes, SEED_ADDRESS)
}

fn values<'a>(head: &'a Head, name: &str) -> impl Iterator<Item = &'a [u8]> {
    head.headers()
        .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

fn cookies<'a>(head: &'a Head, name: &str) -> impl Iterator<Item = &'a [u8]> {
    values(head, "cookie")
        .flat_map(|value| value.split(|b| *b == b';'))
        .filter_map(move |pair| {
            let pair = pair.trim_ascii();
            pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
        })
}

pub(crate) fn query_parameters<'a>(head: &'a Head, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let target = head.path_and_query();
    let query = memchr::memchr(b'?', target).map_or(&target[..0], |at| &target[at + 1..]);
    query
        .split(|b| *b == b'&')
        .filter_map(move |pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::body::Body;
    use crate::exchange::Source;

    fn request(head: &str, client: &str) -> Captured {
        Captured {
            captured_ns: 0,
            client: client.parse().unwrap(),
            server: "10.0.0.1:80".parse().unwrap(),
            source: Source::Wire,
            head: Head::parse(Bytes::from(head.to_owned())).unwrap(),
            body: Body::default(),
            trailers: Bytes::new(),
            answer: None,
            label: None,
        }
    }

    #[test]
    fn the_named_value_decides_and_nothing_else() {
        let key: SessionKey = "cookie:sid".parse().unwrap();
        let a = request("GET / HTTP/1.1\r\nCookie: x=1; sid=7\r\n\r\n", "1.1.1.1:1");
        let b = request("GET /other HTTP/1.1\r\ncookie: sid=7\r\n\r\n", "2.2.2.2:2");
        let c = request(
            "GET / HTTP/1.1\r\nCookie: xsid=7; sid=8\r\n\r\n",
            "1.1.1.1:1",
        );
        assert_eq!(key.hash(&a), key.hash(&b));
        assert_ne!(key.hash(&a), key.hash(&c));

        let key: SessionKey = "query:user".parse().unwrap();
        let a = request("GET /?user=1&b=2 HTTP/1.1\r\n\r\n", "1.1.1.1:1");
        let b = request("GET /x?b=2&user=1 HTTP/1.1\r\n\r\n", "2.2.2.2:2");
        assert_eq!(key.hash(&a), key.hash(&b));
    }

    #[test]
    fn without_the_named_value_the_connection_decides() {
        let key: SessionKey = "header:X-User".parse().unwrap();
        let a = request("GET / HTTP/1.1\r\n\r\n", "1.1.1.1:1");
        let b = request("GET / HTTP/1.1\r\n\r\n", "1.1.1.1:2");
        assert_eq!(key.hash(&a), SessionKey::Connection.hash(&a));
        assert_ne!(key.hash(&a), key.hash(&b));
        assert_eq!(SessionKey::Client.hash(&a), SessionKey::Client.hash(&b));
        let closed = Closed {
            closed_ns: 0,
            client: a.client,
            server: a.server,
            due_ns: None,
        };
        assert_eq!(key.hash_of_connection(&closed), Some(key.hash(&a)));
        assert_eq!(SessionKey::Client.hash_of_connection(&closed), None);
    }

    #[test]
    fn text_and_back() {
        for text in [
            "connection",
            "client",
            "header:X-User",
            "cookie:sid",
            "query:u",
        ] {
            assert_eq!(text.parse::<SessionKey>().unwrap().to_string(), text);
        }
        assert!("cookie:".parse::<SessionKey>().is_err());
        assert!("session".parse::<SessionKey>().is_err());
    }
}
