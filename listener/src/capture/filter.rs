//! The kernel's filter as an expression of pcap-filter(7), over IP packets.
//!
//! What enters: what is captured on an interface. What leaves: an expression that takes what is needed to find the
//! requests in it, and as little else as the language can say. What may be lost: nothing that would be looked at.
//!
//! A load beyond a packet's end ends the kernel's filter with "no", so what reads least stands first.

use std::net::IpAddr;

use super::{CaptureSpec, Place, Tunnel};
use crate::reassembly::Answers;

/// IPv6 extension headers that are no fragment header (RFC 8200 §4): hop-by-hop, routing, destination options. Their
/// second byte is their length.
const OPTIONS: [u8; 3] = [0, 43, 60];
/// The fragment header, and the authentication header, which counts its length otherwise (RFC 4302 §2.2).
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// What is wanted of the packets of an interface.
pub(super) struct Wanted<'a> {
    /// Who says so.
    pub(super) specs: Vec<&'a CaptureSpec>,
    pub(super) tunnels: &'a [Tunnel],
    pub(super) answers: Answers,
}

impl Wanted<'_> {
    /// The expression; `None` where no packet is wanted.
    pub(super) fn expression(&self) -> Option<String> {
        if self.specs.is_empty() {
            return None;
        }
        let mut parts = vec![self.tunnelled()];
        let everywhere = self.specs.iter().filter(|s| address(s).is_none());
        let mut ports: Vec<u16> = everywhere.flat_map(|s| s.ports()).copied().collect();
        ports.sort_unstable();
        ports.dedup();
        parts.push(self.segments(None, &ports));
        for spec in &self.specs {
            if let Some(host) = address(spec) {
                parts.push(self.segments(Some(host), spec.ports()));
            }
        }
        Some(any(parts))
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

    /// TCP segments that the ports' servers get, and those of their answers that are wanted.
    fn segments(&self, host: Option<IpAddr>, ports: &[u16]) -> String {
        if ports.is_empty() {
            return String::new();
        }
        let both = matches!(self.answers, Answers::Watched | Answers::Kept { .. });
        let to = side(host, "dst");
        let from = side(host, "src");
        let (v4, v6) = match host {
            None => (true, true),
            Some(host) => (host.is_ipv4(), host.is_ipv6()),
        };
        let mut parts = Vec::new();
        if v4 {
            parts.push(format!("{to}{}", tcp4("dst", ports)));
            parts.push(format!("{to}{}", fragments4(6)));
            if both {
                parts.push(format!("{from}{}", tcp4("src", ports)));
                parts.push(format!("{from}{}", fragments4(6)));
            }
        }
        if v6 {
            parts.push(format!("{to}{}", tcp6(42, ports)));
            parts.push(format!("{to}{}", extended(50, ports)));
            if both {
                parts.push(format!("{from}{}", tcp6(40, ports)));
                parts.push(format!("{from}{}", extended(48, ports)));
            }
        }
        if !both {
            parts.extend(v4.then(|| format!("{from}{}", switching4(ports))));
            parts.extend(v6.then(|| format!("{from}{}", switching6(ports))));
        }
        any(parts)
    }
}

fn address(spec: &CaptureSpec) -> Option<IpAddr> {
    match spec.place() {
        Place::Address(address) => Some(*address),
        Place::All | Place::Interface(_) | Place::Pattern(_) => None,
    }
}

fn side(host: Option<IpAddr>, side: &str) -> String {
    host.map_or(String::new(), |host| format!("{side} host {host} and "))
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
fn tcp4(side: &str, ports: &[u16]) -> String {
    let ports = one_of(&format!("tcp {side} port"), ports).replace(" = ", " ");
    format!(
        "(ip and {ports} and (tcp[13] & 7 != 0 or ip[2:2] = 0 or \
         ip[2:2] != ((ip[0] & 15) << 2) + ((tcp[12] & 240) >> 2)))"
    )
}

fn tcp6(at: u8, ports: &[u16]) -> String {
    let ports = one_of(&format!("ip6[{at}:2]"), ports);
    format!(
        "(ip6 and ip6[6] = 6 and {ports} and (ip6[53] & 7 != 0 or ip6[4:2] = 0 or \
         ip6[4:2] != (ip6[52] & 240) >> 2))"
    )
}

/// Segments behind one extension header; `at` is the port's place behind a header of 8 bytes. Behind two, or behind
/// those that count otherwise, the ports are out of reach, and all passes: the reassembly looks again.
fn extended(at: u8, ports: &[u16]) -> String {
    let ports = one_of(&format!("ip6[{at} + (ip6[41] << 3):2]"), ports);
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
fn switching4(ports: &[u16]) -> String {
    let ports = one_of("tcp src port", ports).replace(" = ", " ");
    let payload = "((tcp[12] & 240) >> 2)";
    format!("(ip and {ports} and {})", switching("tcp", payload))
}

fn switching6(ports: &[u16]) -> String {
    let ports = one_of("ip6[40:2]", ports);
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
