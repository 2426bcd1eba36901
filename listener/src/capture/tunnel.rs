//! Tunnels whose packets are looked into, as written on a command line: `vxlan`, `geneve:6081`.
//!
//! What enters: text. What leaves: the kind of tunnel and its UDP port. What may be lost: nothing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a tunnel wraps packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// RFC 7348.
    Vxlan,
    /// RFC 8926.
    Geneve,
}

/// A tunnel over UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tunnel {
    /// What its packets look like.
    pub kind: TunnelKind,
    /// Where they are sent to.
    pub port: u16,
}

/// Why a text is no [`Tunnel`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read tunnel {0:?}; write vxlan, geneve, vxlan:PORT or geneve:PORT")]
pub struct TunnelError(String);

impl TunnelKind {
    fn name(self) -> &'static str {
        match self {
            TunnelKind::Vxlan => "vxlan",
            TunnelKind::Geneve => "geneve",
        }
    }

    /// As the RFCs have it.
    fn usual_port(self) -> u16 {
        match self {
            TunnelKind::Vxlan => 4789,
            TunnelKind::Geneve => 6081,
        }
    }
}

impl FromStr for Tunnel {
    type Err = TunnelError;

    fn from_str(text: &str) -> Result<Tunnel, TunnelError> {
        let wrong = || TunnelError(text.to_owned());
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let kind = [TunnelKind::Vxlan, TunnelKind::Geneve]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(wrong)?;
        let port = match port.map(str::parse) {
            None => kind.usual_port(),
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return Err(wrong()),
        };
        Ok(Tunnel { kind, port })
    }
}

impl TryFrom<String> for Tunnel {
    type Error = TunnelError;

    fn try_from(text: String) -> Result<Tunnel, TunnelError> {
        text.parse()
    }
}

impl From<Tunnel> for String {
    fn from(tunnel: Tunnel) -> String {
        tunnel.to_string()
    }
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        match self.port == self.kind.usual_port() {
            true => Ok(()),
            false => write!(f, ":{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_written_again() {
        for (text, port, written) in [
            ("vxlan", 4789, "vxlan"),
            ("vxlan:8472", 8472, "vxlan:8472"),
            ("geneve:6081", 6081, "geneve"),
        ] {
            let tunnel: Tunnel = text.parse().unwrap();
            assert_eq!((tunnel.port, tunnel.to_string().as_str()), (port, written));
        }
        for text in ["", "gre", "vxlan:", "vxlan:0", "geneve:x"] {
            let error = text.parse::<Tunnel>().unwrap_err().to_string();
            assert!(error.contains("vxlan:PORT"), "{error}");
        }
    }
}
