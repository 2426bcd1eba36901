//! Addresses to listen on: as people write them, and as sockets.
//!
//! What enters: `:28019`, `127.0.0.1:28019`, `[::1]:28019`, `host:28019`. What leaves: a bound socket with the
//! address it really has, or one line that says what to change. What may be lost: nothing.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use anyhow::anyhow;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that the kernel keeps for us until we accept them.
const BACKLOG: i32 = 1024;

/// Where to listen. `:PORT` means all addresses, IPv4 and IPv6; port 0 any free port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenAddress {
    /// Name or address, an IPv6 one without its brackets; all addresses where there is none.
    host: Option<String>,
    port: u16,
}

impl ListenAddress {
    /// All addresses, IPv4 and IPv6.
    pub fn any(port: u16) -> ListenAddress {
        ListenAddress { host: None, port }
    }

    /// This host only.
    pub fn loopback(port: u16) -> ListenAddress {
        ListenAddress {
            host: Some(Ipv4Addr::LOCALHOST.to_string()),
            port,
        }
    }

    /// The port as written: 0 for any free one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Binds a listening socket; the error names what it was for and the flag to change.
    ///
    /// # Errors
    /// One line: `listen on admin address :28490: address already in use; choose another with --admin`.
    pub fn bind(&self, purpose: &str, flag: &str) -> anyhow::Result<TcpListener> {
        self.socket().map_err(|error| {
            let (what, advice) = match error.kind() {
                io::ErrorKind::AddrInUse => (
                    "address already in use".to_owned(),
                    format!("choose another with {flag}"),
                ),
                io::ErrorKind::AddrNotAvailable => (
                    "this host has no such address".to_owned(),
                    format!("choose another with {flag}"),
                ),
                io::ErrorKind::PermissionDenied => (
                    "permission denied".to_owned(),
                    format!("choose a port above 1023 with {flag}"),
                ),
                _ => (error.to_string(), format!("see {flag}")),
            };
            anyhow!("listen on {purpose} address {self}: {what}; {advice}")
        })
    }

    fn socket(&self) -> io::Result<TcpListener> {
        let Some(host) = &self.host else {
            let both = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port)));
            return match both {
                // A host without IPv6.
                Err(error)
                    if error.kind() == io::ErrorKind::Unsupported
                        || error.kind() == io::ErrorKind::AddrNotAvailable
                        || error.raw_os_error()
                            == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) =>
                {
                    bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port)))
                }
                done => done,
            };
        };
        let address = (host.as_str(), self.port)
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::other("the name has no address"))?;
        bind(address)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A restarted process must not wait for its predecessor's closed connections.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Reads an address to listen on; for command lines, where the text is the only context.
///
/// # Errors
/// One line with the forms that are understood.
pub fn parse_listen(text: &str) -> Result<ListenAddress, String> {
    let wrong = || format!("address {text:?}: write :PORT, HOST:PORT or [IPV6]:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let v6 = rest.strip_suffix(']').ok_or_else(wrong)?;
            v6.parse::<Ipv6Addr>().map_err(|_| wrong())?;
            Some(v6)
        }
        None if host.contains([':', ']', '/', ' ', '@']) => return Err(wrong()),
        None => Some(host).filter(|host| !host.is_empty() && *host != "*"),
    };
    Ok(ListenAddress {
        host: host.map(str::to_owned),
        port,
    })
}

/// The address that others should use for a socket bound here: an address that isn't one host's own is replaced by
/// the host's name.
pub fn advertised(bound: SocketAddr) -> String {
    if bound.ip().is_unspecified() {
        format!("{}:{}", crate::identity::hostname(), bound.port())
    } else {
        bound.to_string()
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenAddress, String> {
        parse_listen(text)
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<ListenAddress, String> {
        parse_listen(&text)
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> String {
        address.to_string()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.as_deref() {
            None => write!(f, ":{}", self.port),
            Some(v6) if v6.contains(':') => write!(f, "[{v6}]:{}", self.port),
            Some(host) => write!(f, "{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for text in [
            ":28019",
            "127.0.0.1:80",
            "[::1]:0",
            "web-1.example:8080",
            "localhost:1",
        ] {
            assert_eq!(parse_listen(text).unwrap().to_string(), text);
        }
        assert_eq!(parse_listen("*:1").unwrap(), ListenAddress::any(1));
        for wrong in [
            "",
            "28019",
            "::1:80",
            ":http",
            ":65536",
            "[::1:80",
            "[host]:80",
            "http://h:1",
            "h:",
        ] {
            let error = parse_listen(wrong).unwrap_err();
            assert!(error.contains("write :PORT"), "{error}");
        }
    }

    #[tokio::test]
    async fn all_addresses_are_both_kinds() {
        let listener = ListenAddress::any(0).bind("test", "--test").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[tokio::test]
    async fn a_port_in_use_names_the_flag() {
        let first = ListenAddress::loopback(0).bind("admin", "--admin").unwrap();
        let port = first.local_addr().unwrap().port();
        let error = ListenAddress::loopback(port)
            .bind("admin", "--admin")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "listen on admin address 127.0.0.1:{port}: address already in use; choose another with --admin"
            )
        );
        let elsewhere: ListenAddress = "192.0.2.1:0".parse().unwrap();
        let error = elsewhere.bind("mirror", "--mirror").unwrap_err();
        assert!(error.to_string().contains("no such address"), "{error}");
    }
}
