//! The kernel's filter as an expression of pcap-filter(7), over IP packets.
//!
//! What enters: what is captured on an interface. What leaves: an expression that takes what is needed to find the
//! requests in it, and as little else as the language can say. What may be lost: nothing that would be looked at.
//!
//! A load beyond a packet's end ends the kernel's filter with "no", so what reads least stands first.

use std::net::IpAddr;

use super::pods::Addresses;
use super::{CaptureSpec, Place, Tunnel};
use crate::reassembly::Answers;

/// IPv6 extension headers that are no fragment header (RFC 8200 §4): hop-by-hop, routing, destination options. Their
/// second byte is their length.
const OPTIONS: [u8; 3] = [0, 43, 60];
/// The fragment header, and the authentication header, which counts its length otherwise (RFC 4302 §2.2).
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// Of more pods all packets to the ports pass, and requests to others are passed over when they are whole: libpcap's time
/// grows with the square of their number (0.13 s for 500, as long as the ring bridges), and the kernel takes no more.
const MOST_HOSTS: usize = 500;

/// What is wanted of the packets of an interface.
pub(super) struct Wanted<'a> {
    /// Who says so.
    pub(super) specs: Vec<&'a CaptureSpec>,
    /// Where pods are.
    pub(super) pods: &'a Addresses,
    pub(super) tunnels: &'a [Tunnel],
    pub(super) answers: Answers,
}

impl Wanted<'_> {
    /// The expression; `None` where no packet is wanted.
    pub(super) fn expression(&self) -> Option<String> {
        let hosts: Vec<_> = self.specs.iter().map(|spec| self.hosts(spec)).collect();
        // Where there is no such pod, nothing is wanted, and not everything.
        if hosts.iter().flatten().all(Vec::is_empty) && hosts.iter().all(Option::is_some) {
            return None;
        }
        let mut parts = vec![self.tunnelled()];
        let specs = || self.specs.iter().zip(&hosts);
        let anywhere = specs().filter(|(_, hosts)| hosts.is_none());
        if let Some(ports) = ServerPorts::of(anywhere.map(|(spec, _)| *spec)) {
            parts.push(self.segments(&[], &ports));
        }
        for (spec, hosts) in specs() {
            if let (Some(hosts @ [_, ..]), Some(ports)) =
                (hosts.as_deref(), ServerPorts::of([*spec]))
            {
                parts.push(self.segments(hosts, &ports));
            }
        }
        Some(any(parts))
    }

    /// The servers of a spec; `None` where it takes them wherever they are.
    fn hosts(&self, spec: &CaptureSpec) -> Option<Vec<IpAddr>> {
        match spec.place() {
            Place::Address(address) => Some(vec![*address]),
            Place::Pods(pods) => match self.pods.get(pods) {
                Some(known) if known.len() > MOST_HOSTS => None,
                known => Some(known.into_iter().flatten().copied().collect()),
            },
            Place::All | Place::Interface(_) | Place::Pattern(_) => None,
        }
    }

    fn tunnelled(&self) -> String {
        let ports = self.tunnels.iter().map(|tunnel| {
            let port = tunnel.port;
            format!("udp dst port {port} or (ip6[6] = 17 and ip6[42:2] = {port})")
        });
        let mut parts: Vec<String> = ports.collect();
        if !parts.is_empty() {
            parts.push(fragments(17));
        }
        any(parts)
    }

    /// TCP segments that the ports' servers get, and those of their answers that are wanted; on any host, or on these.
    fn segments(&self, hosts: &[IpAddr], ports: &ServerPorts) -> String {
        // With neither host nor port both directions look the same, and pass as one.
        let same = hosts.is_empty() && *ports == ServerPorts::Any;
        let both = !same && matches!(self.answers, Answers::Watched | Answers::Kept { .. });
        let (v4, v6) = match hosts {
            [] => (true, true),
            hosts => (
                hosts.iter().any(IpAddr::is_ipv4),
                hosts.iter().any(IpAddr::is_ipv6),
            ),
        };
        let side = |side, v4| {
            let of_kind = hosts.iter().filter(|host| host.is_ipv4() == v4);
            let one_of = any(of_kind.map(|host| format!("{side} host {host}")).collect());
            match one_of.is_empty() {
                true => one_of,
                false => format!("{one_of} and "),
            }
        };
        let (to4, from4) = (side("dst", true), side("src", true));
        let (to6, from6) = (side("dst", false), side("src", false));
        let mut parts = Vec::new();
        if v4 {
            let of = |side| any(vec![tcp4(&ports.v4(side)), fragments4(6)]);
            parts.push(format!("{to4}{}", of("dst")));
            if both {
                parts.push(format!("{from4}{}", of("src")));
            }
        }
        if v6 {
            let of = |at: u8| {
                let [first, behind] = [at.to_string(), behind_option(at - 32)];
                any(vec![tcp6(&ports.v6(&first)), extended(&ports.v6(&behind))])
            };
            parts.push(format!("{to6}{}", of(42)));
            if both {
                parts.push(format!("{from6}{}", of(40)));
            }
        }
        if !both && !same {
            parts.extend(v4.then(|| format!("{from4}{}", switching4(&ports.v4("src")))));
            parts.extend(v6.then(|| format!("{from6}{}", switching6(&ports.v6("40")))));
        }
        any(parts)
    }
}

/// Where servers listen, as far as a filter has to tell them apart.
#[derive(Debug, PartialEq, Eq)]
enum ServerPorts {
    Any,
    Only(Vec<u16>),
}

impl ServerPorts {
    /// Of all specs together; `None` where there is no spec.
    fn of<'a>(specs: impl IntoIterator<Item = &'a CaptureSpec>) -> Option<ServerPorts> {
        let mut all = None;
        for spec in specs {
            let ports: &mut Vec<u16> = all.get_or_insert_default();
            match spec.ports() {
                [] => return Some(ServerPorts::Any),
                more => ports.extend(more),
            }
        }
        let mut ports = all?;
        ports.sort_unstable();
        ports.dedup();
        Some(ServerPorts::Only(ports))
    }

    fn v4(&self, side: &str) -> String {
        match self {
            ServerPorts::Any => "tcp".to_owned(),
            ServerPorts::Only(ports) => {
                one_of(&format!("tcp {side} port"), ports).replace(" = ", " ")
            }
        }
    }

    /// With the port's place in the packet.
    fn v6(&self, at: &str) -> String {
        match self {
            // Says nothing more than what it stands behind, and is no jump in the program.
            ServerPorts::Any => "ip6".to_owned(),
            ServerPorts::Only(ports) => one_of(&format!("ip6[{at}:2]"), ports),
        }
    }
}

/// The place of a port: `by` bytes behind the fixed header, where the extension header there has 8 bytes, and as many
/// more as it has itself.
fn behind_option(by: u8) -> String {
    format!("{} + (ip6[41] << 3)", 40 + by)
}

fn any(parts: Vec<String>) -> String {
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    match &parts[..] {
        [] => String::new(),
        [one] => one.clone(),
        // `and` doesn't bind closer than `or`.
        several => format!("(({}))", several.join(") or (")),
    }
}

fn one_of(field: &str, values: impl IntoIterator<Item = impl ToString>) -> String {
    let equal = |value: String| format!("{field} = {value}");
    any(values.into_iter().map(|v| equal(v.to_string())).collect())
}

/// Segments with payload, SYN, FIN or RST: an acknowledgement alone tells nothing. A length of 0 is that of a packet
/// that the network card cuts, or of one over 64 KiB; they have a payload.
fn tcp4(ports: &str) -> String {
    format!(
        "(ip and {ports} and (tcp[13] & 7 != 0 or ip[2:2] = 0 or \
         ip[2:2] != ((ip[0] & 15) << 2) + ((tcp[12] & 240) >> 2)))"
    )
}

fn tcp6(ports: &str) -> String {
    format!(
        "(ip6 and ip6[6] = 6 and {ports} and (ip6[53] & 7 != 0 or ip6[4:2] = 0 or \
         ip6[4:2] != (ip6[52] & 240) >> 2))"
    )
}

/// Segments behind one extension header. Behind two, or behind those that count otherwise, the ports are out of reach,
/// and all passes: the reassembly looks again.
fn extended(ports: &str) -> String {
    let more = one_of(
        "ip6[40]",
        [&OPTIONS[..], &[FRAGMENT, AUTHENTICATION]].concat(),
    );
    let first = one_of("ip6[6]", OPTIONS);
    format!(
        "(ip6 and (({first} and ({more} or (ip6[40] = 6 and {ports}))) or ip6[6] = {AUTHENTICATION} or {}))",
        fragments6(6)
    )
}

/// Fragments that have no ports; who they belong to is seen only when they are put together.
fn fragments(protocol: u8) -> String {
    format!("{} or {}", fragments4(protocol), fragments6(protocol))
}

fn fragments4(protocol: u8) -> String {
    format!("(ip and ip[6:2] & 0x1fff != 0 and ip[9] = {protocol})")
}

fn fragments6(protocol: u8) -> String {
    let next = one_of("ip6[40]", [&OPTIONS[..], &[protocol]].concat());
    format!("(ip6 and ip6[6] = {FRAGMENT} and {next})")
}

/// Answers that begin with `HTTP/1.1 101` or `HTTP/1.0 101`: the connection is no longer HTTP.
fn switching4(ports: &str) -> String {
    let payload = "((tcp[12] & 240) >> 2)";
    format!("(ip and {ports} and {})", switching("tcp", payload))
}

fn switching6(ports: &str) -> String {
    let payload = "(40 + ((ip6[52] & 240) >> 2))";
    format!(
        "(ip6 and ip6[6] = 6 and {ports} and {})",
        switching("ip6", payload)
    )
}

fn switching(header: &str, payload: &str) -> String {
    format!(
        "{header}[{payload}:4] = 0x48545450 and {header}[{payload} + 4:4] & 0xfffffffe = 0x2f312e30 and \
         {header}[{payload} + 8:4] = 0x20313031"
    )
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
