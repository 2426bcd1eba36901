//! What to capture, as written on a command line: `lo:8080`, `eth0:80,8080`, `veth*:80`, `:80`, `10.0.0.1:80`,
//! `[::1]:80`, `eth0:*`, `k8s://deployment/web:80`.
//!
//! What enters: text. What leaves: a place and ports. What may be lost: nothing.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{NamePattern, Pods};

/// Where packets are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// All interfaces.
    All,
    /// One interface.
    Interface(String),
    /// All interfaces whose name matches, those that come later too.
    Pattern(NamePattern),
    /// Packets to an address, on all interfaces: what a host sends to itself passes `lo`, whatever the address.
    Address(IpAddr),
    /// Packets to pods of this node, on all interfaces: each pod has one of its own there.
    Pods(Pods),
}

/// Ahead of pods.
const CLUSTER: &str = "k8s://";

/// What one capture takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CaptureSpec {
    place: Place,
    /// In ascending order, without repetitions; all where it is empty.
    ports: Vec<u16>,
}

/// Why a text is no [`CaptureSpec`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot read capture {text:?}: {problem}; write INTERFACE:PORT[,PORT…], PATTERN:PORT as in eth*:80, ADDRESS:PORT, :PORT or k8s://[NAMESPACE/]KIND/NAME:PORT; * as port takes all"
)]
pub struct SpecError {
    text: String,
    problem: &'static str,
}

impl CaptureSpec {
    /// Where to look.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The servers' ports, in ascending order; any port where there are none.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Whether it takes packets of an interface.
    pub(super) fn covers(&self, interface: &str) -> bool {
        match &self.place {
            Place::All | Place::Address(_) | Place::Pods(_) => true,
            Place::Interface(name) => name == interface,
            Place::Pattern(pattern) => pattern.matches(interface),
        }
    }

    /// Whether it takes packets of whatever interface comes.
    pub(super) fn is_everywhere(&self) -> bool {
        matches!(self.place, Place::All | Place::Address(_) | Place::Pods(_))
    }

    /// The pods whose packets it takes, where it is made of pods.
    pub(super) fn pods(&self) -> Option<&Pods> {
        match &self.place {
            Place::Pods(pods) => Some(pods),
            Place::All | Place::Interface(_) | Place::Pattern(_) | Place::Address(_) => None,
        }
    }
}

impl TryFrom<String> for CaptureSpec {
    type Error = SpecError;

    fn try_from(text: String) -> Result<CaptureSpec, SpecError> {
        text.parse()
    }
}

impl From<CaptureSpec> for String {
    fn from(spec: CaptureSpec) -> String {
        spec.to_string()
    }
}

impl FromStr for CaptureSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<CaptureSpec, SpecError> {
        let wrong = |problem| SpecError {
            text: text.to_owned(),
            problem,
        };
        let pods = text.strip_prefix(CLUSTER);
        let rest = pods.unwrap_or(text);
        let (place, ports) = rest.rsplit_once(':').ok_or(wrong("the port is missing"))?;
        let ports = parse_ports(ports).map_err(wrong)?;
        let place = match pods {
            Some(_) => place.parse().map(Place::Pods),
            None => parse_place(place),
        };
        let place = place.map_err(wrong)?;
        Ok(CaptureSpec { place, ports })
    }
}

fn parse_ports(text: &str) -> Result<Vec<u16>, &'static str> {
    if let "" | "*" = text {
        return Ok(Vec::new());
    }
    let port = |text: &str| match text.parse() {
        Ok(0) | Err(_) => Err("a port is a number from 1 to 65535"),
        Ok(port) => Ok(port),
    };
    let mut ports = text.split(',').map(port).collect::<Result<Vec<u16>, _>>()?;
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

fn parse_place(text: &str) -> Result<Place, &'static str> {
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        let address: Ipv6Addr = inner.parse().map_err(|_| "no IPv6 address in brackets")?;
        return Ok(address_place(address.into()));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return match address {
            IpAddr::V4(_) => Ok(address_place(address)),
            IpAddr::V6(_) => Err("an IPv6 address stands in brackets"),
        };
    }
    if text.contains([':', '[', ']']) {
        return Err("an IPv6 address stands in brackets");
    }
    match text {
        "" | "any" | "*" => Ok(Place::All),
        pattern if NamePattern::is_wild(pattern) => pattern
            .parse()
            .map(Place::Pattern)
            .map_err(|_| "no interface has such a name"),
        // IFNAMSIZ of Linux, without the NUL.
        name if name.len() > 15 || name.contains(['/', ' ', '\t', '\0']) => {
            Err("no interface has such a name")
        }
        name => Ok(Place::Interface(name.to_owned())),
    }
}

fn address_place(address: IpAddr) -> Place {
    match address.is_unspecified() {
        true => Place::All,
        false => Place::Address(address),
    }
}

impl fmt::Display for CaptureSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::All => {}
            Place::Interface(name) => f.write_str(name)?,
            Place::Pattern(pattern) => write!(f, "{pattern}")?,
            Place::Address(IpAddr::V4(address)) => write!(f, "{address}")?,
            Place::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
            Place::Pods(pods) => write!(f, "{CLUSTER}{pods}")?,
        }
        if self.ports.is_empty() {
            return f.write_str(":*");
        }
        for (n, port) in self.ports.iter().enumerate() {
            write!(f, "{}{port}", if n == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> CaptureSpec {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_written_again() {
        for (text, written) in [
            ("lo:8080", "lo:8080"),
            ("eth0.100:8080,80,80", "eth0.100:80,8080"),
            (":80", ":80"),
            ("any:80", ":80"),
            ("*:80", ":80"),
            ("eth*:80", "eth*:80"),
            ("veth?:81,80", "veth?:80,81"),
            ("0.0.0.0:80", ":80"),
            ("[::]:80", ":80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("eth0:*", "eth0:*"),
            ("eth0:", "eth0:*"),
            (":", ":*"),
            ("*:*", ":*"),
            ("10.0.0.1:", "10.0.0.1:*"),
            ("[::1]:*", "[::1]:*"),
            ("k8s://deployment/web:80", "k8s://deployment/web:80"),
            ("k8s://shop/pods/web-1:81,80", "k8s://shop/pod/web-1:80,81"),
            (
                "k8s://shop/labelSelector/app.kubernetes.io/name=web,tier in (a,b):",
                "k8s://shop/labelSelector/app.kubernetes.io/name=web,tier in (a,b):*",
            ),
            ("k8s://fieldSelector/a=b:80", "k8s://fieldSelector/a=b:80"),
            ("k8s://daemonset/d:80", "k8s://daemonset/d:80"),
        ] {
            assert_eq!(spec(text).to_string(), written);
            assert_eq!(spec(written), spec(text));
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (text, problem) in [
            ("lo", "the port is missing"),
            ("lo:80,*", "a port is a number"),
            ("lo:0", "a port is a number"),
            ("lo:80,", "a port is a number"),
            ("lo:http", "a port is a number"),
            ("lo:65536", "a port is a number"),
            ("::1:80", "brackets"),
            ("[10.0.0.1]:80", "brackets"),
            ("a/b:80", "no interface has such a name"),
            ("a /*:80", "no interface has such a name"),
            ("k8s://deployment/web", "the port is missing"),
            ("k8s://web:80", "kind or name"),
            ("k8s://deployment/:80", "kind or name"),
            ("k8s://deployment/Web:80", "small letters"),
            ("k8s://job/web:80", "named by pod"),
            ("k8s://shop/job/web:80", "named by pod, deployment"),
            ("k8s://Shop/pod/web:80", "namespace"),
            ("k8s://pod/web:x", "a port is a number"),
        ] {
            let error = text.parse::<CaptureSpec>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains(text), "{error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn a_spec_covers_the_interfaces_that_it_names() {
        for (text, covered) in [
            ("eth0:80", [true, false, false]),
            ("eth*:80", [true, true, false]),
            (":80", [true, true, true]),
            ("10.0.0.1:80", [true, true, true]),
            ("k8s://pod/web:80", [true, true, true]),
        ] {
            let covers = ["eth0", "eth1", "lo"].map(|name| spec(text).covers(name));
            assert_eq!(covers, covered, "{text}");
        }
    }
}
