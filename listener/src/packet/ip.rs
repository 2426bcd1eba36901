//! IP headers, with options and extension headers.
//!
//! What enters: what begins with an IP header. What leaves: addresses, the protocol, what it carries, and whether that
//! is a fragment. What may be lost: packets with broken headers.
//!
//! Checksums are not looked at: the network card fills them in after the capture.

use std::net::IpAddr;

use etherparse::{
    IpAuthHeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice,
};

use super::Unusable;
use super::view::View;

/// An IP packet behind its headers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: IpNumber,
    /// What the packet carries.
    pub(super) body: View<'a>,
    /// Of what larger packet this one is a part.
    pub(super) part: Option<Part>,
}

/// A fragment's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// The same for all fragments of a packet.
    pub(super) id: u32,
    /// Where it begins, in units of eight bytes.
    pub(super) offset: etherparse::IpFragOffset,
    /// It is not the last.
    pub(super) more: bool,
}

/// Where a packet was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind the link layer.
    Link,
    /// In a tunnel: what claims to be larger than the packet around it is no IP.
    Tunnel,
}

/// Reads the headers.
#[inline]
pub(super) fn read(view: View<'_>, place: Place) -> Result<Packet<'_>, Unusable> {
    match view.u8_at(0)? >> 4 {
        4 => version4(view, place),
        6 => version6(view, place),
        _ => Err(Unusable::Broken),
    }
}

/// The short way, measured to be worth its lines: what [`read`] would find in a packet whose TCP segment comes right
/// behind an IP header of ordinary length.
#[inline]
pub(super) fn plain_tcp(view: View<'_>) -> Option<(IpAddr, IpAddr, View<'_>)> {
    if let Ok(header) = Ipv4HeaderSlice::from_slice(view.data) {
        let (length, total) = (header.slice().len(), usize::from(header.total_len()));
        let plain = header.protocol() == IpNumber::TCP
            && !header.is_fragmenting_payload()
            && total >= length;
        let body = view.limit(total).skip(length).ok()?;
        plain.then(|| {
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                body,
            )
        })
    } else {
        let header = Ipv6HeaderSlice::from_slice(view.data).ok()?;
        let length = usize::from(header.payload_length());
        let body = view.skip(header.slice().len()).ok()?.limit(length);
        let plain = header.next_header() == IpNumber::TCP && length > 0;
        plain.then(|| {
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                body,
            )
        })
    }
}

/// Whether the first bytes could well be an IP header.
pub(super) fn plausible(view: View<'_>) -> bool {
    let claimed = match view.u8_at(0) {
        Ok(0x45..=0x4f) => view.u16_at(2).map(|n| (20..=65_535, usize::from(n))),
        Ok(0x60..=0x6f) => view.u16_at(4).map(|n| (40..=65_575, 40 + usize::from(n))),
        _ => return false,
    };
    claimed.is_ok_and(|(range, n)| n == 0 || range.contains(&n) && view.holds(n))
}

#[inline]
fn version4(view: View<'_>, place: Place) -> Result<Packet<'_>, Unusable> {
    let header = Ipv4HeaderSlice::from_slice(view.data).map_err(|_| Unusable::Broken)?;
    let (length, total) = (header.slice().len(), usize::from(header.total_len()));
    let fragmented = header.is_fragmenting_payload();
    let whole = match total {
        // The sender's stack leaves it 0 where the network card is to cut the packet into segments.
        0 if !fragmented => view,
        n if n < length || place == Place::Tunnel && !view.holds(n) => {
            return Err(Unusable::Broken);
        }
        n => view.limit(n),
    };
    let mut packet = Packet {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: header.protocol(),
        body: whole.skip(length)?,
        part: fragmented.then(|| Part {
            id: u32::from(header.identification()),
            offset: header.fragments_offset(),
            more: header.more_fragments(),
        }),
    };
    if packet.protocol == IpNumber::AUTHENTICATION_HEADER {
        packet.extend()?;
    }
    Ok(packet)
}

#[inline]
fn version6(view: View<'_>, place: Place) -> Result<Packet<'_>, Unusable> {
    let header = Ipv6HeaderSlice::from_slice(view.data).map_err(|_| Unusable::Broken)?;
    let body = view.skip(header.slice().len())?;
    let protocol = header.next_header();
    let body = match usize::from(header.payload_length()) {
        // Offload again, or more than the field can tell.
        0 => match jumbo_length(protocol, body) {
            Some(n) => body.limit(n),
            None => body,
        },
        n if place == Place::Tunnel && !body.holds(n) => return Err(Unusable::Broken),
        n => body.limit(n),
    };
    let mut packet = Packet {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol,
        body,
        part: None,
    };
    if protocol != IpNumber::TCP {
        packet.extend()?;
    }
    Ok(packet)
}

impl Packet<'_> {
    /// Whether it carries TCP, or headers behind which that may come; nothing is to be seen behind encryption.
    pub(super) fn may_be_tcp(&self) -> bool {
        let encrypted = self.protocol == IpNumber::ENCAPSULATING_SECURITY_PAYLOAD;
        self.protocol == IpNumber::TCP || self.protocol.is_ipv6_ext_header_value() && !encrypted
    }

    /// Takes extension headers off, up to the protocol that is carried, or to where a fragment begins.
    pub(super) fn extend(&mut self) -> Result<(), Unusable> {
        let broken = |_| Unusable::Broken;
        while self.part.is_none() {
            let data = self.body.data;
            let (next, length) = match self.protocol {
                IpNumber::AUTHENTICATION_HEADER => {
                    let header = IpAuthHeaderSlice::from_slice(data);
                    let header = header.map_err(|_| Unusable::Broken)?;
                    (header.next_header(), header.slice().len())
                }
                _ if self.source.is_ipv4() => return Ok(()),
                IpNumber::IPV6_FRAGMENTATION_HEADER => {
                    let header = Ipv6FragmentHeaderSlice::from_slice(data).map_err(broken)?;
                    // One that is all of its packet says so with a header too (RFC 6946).
                    self.part = header.is_fragmenting_payload().then(|| Part {
                        id: header.identification(),
                        offset: header.fragment_offset(),
                        more: header.more_fragments(),
                    });
                    (header.next_header(), header.slice().len())
                }
                IpNumber::IPV6_HEADER_HOP_BY_HOP
                | IpNumber::IPV6_ROUTE_HEADER
                | IpNumber::IPV6_DESTINATION_OPTIONS
                | IpNumber::MOBILITY_HEADER
                | IpNumber::HIP
                | IpNumber::SHIM6 => {
                    let header = Ipv6RawExtHeaderSlice::from_slice(data).map_err(broken)?;
                    (header.next_header(), header.slice().len())
                }
                _ => return Ok(()),
            };
            self.protocol = next;
            self.body = self.body.skip(length)?;
        }
        Ok(())
    }
}

/// The length in a jumbo payload option (RFC 2675 §2), which Linux puts first and alone.
fn jumbo_length(protocol: IpNumber, body: View<'_>) -> Option<usize> {
    const OPTION: [u8; 2] = [0xc2, 4];
    if protocol != IpNumber::IPV6_HEADER_HOP_BY_HOP {
        return None;
    }
    let header = Ipv6RawExtHeaderSlice::from_slice(body.data).ok()?;
    let mut options = header.payload();
    loop {
        options = match options {
            [a, b, length @ ..] if [*a, *b] == OPTION => {
                let length = u32::from_be_bytes(*length.first_chunk()?);
                return usize::try_from(length).ok();
            }
            [0, rest @ ..] => rest,
            [_, length, rest @ ..] => rest.get(usize::from(*length)..)?,
            _ => return None,
        };
    }
}
