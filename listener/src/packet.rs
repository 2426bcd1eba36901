//! A packet's link and network layers, down to the TCP segment.
//!
//! What enters: a captured packet and the link type of its source.
//! What leaves: a [`Segment`] that borrows the payload from the packet.
//! What may be lost: packets that are no TCP, IP fragments, packets with broken headers; each with its reason.
//!
//! Checksums are not looked at: the network card fills them in after the capture. VLAN tags are no part of a
//! connection's identity.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, LaxIpSlice, TcpSlice};

use crate::edge::EdgeEvent;

/// A TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// Whom it was sent to.
    pub destination: SocketAddr,
    /// Number of its first byte, or of the SYN.
    pub sequence: u32,
    /// Next byte that the sender expects of its peer.
    pub acknowledgment: Option<u32>,
    /// Opens a connection; counts as a byte before the payload.
    pub syn: bool,
    /// The sender's last; counts as a byte after the payload.
    pub fin: bool,
    /// Ends the connection at once.
    pub rst: bool,
    /// As far as it is in the capture.
    pub payload: &'a [u8],
    /// Bytes behind the payload that the capture cut off.
    pub missing: u32,
}

/// Link types that can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkType {
    /// Ethernet, with any number of VLAN tags.
    Ethernet,
    /// BSD loopback: four bytes of address family.
    Loopback,
    /// No link layer.
    RawIp,
    /// Linux cooked capture, as of the `any` device.
    LinuxSll,
    /// Its second version.
    LinuxSll2,
}

impl LinkType {
    /// The link type of a number from <https://www.tcpdump.org/linktypes.html>, in libpcap's (DLT) spelling too.
    pub fn from_number(number: i32) -> Option<LinkType> {
        Some(match number {
            0 | 108 => LinkType::Loopback,
            1 => LinkType::Ethernet,
            12 | 14 | 101 | 228 | 229 => LinkType::RawIp,
            113 => LinkType::LinuxSll,
            276 => LinkType::LinuxSll2,
            _ => return None,
        })
    }
}

/// Why a packet yields no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// Another protocol.
    NotTcp,
    /// A part of an IP packet.
    Fragment,
    /// A header that is cut off or makes no sense.
    Broken,
}

impl From<Unusable> for EdgeEvent {
    fn from(reason: Unusable) -> EdgeEvent {
        match reason {
            Unusable::NotTcp => EdgeEvent::NotTcp,
            Unusable::Fragment => EdgeEvent::Fragments,
            Unusable::Broken => EdgeEvent::Undecodable,
        }
    }
}

/// A captured packet.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What its first bytes are.
    pub link: LinkType,
    /// When it was captured, unix nanoseconds.
    pub at_ns: u64,
    /// Its bytes on the wire.
    pub wire_len: usize,
    /// As far as they were captured.
    pub data: &'a [u8],
}

/// Finds TCP segments in packets.
#[derive(Debug, Default)]
pub struct Decoder {}

impl Decoder {
    /// The TCP segment in a packet.
    ///
    /// # Errors
    /// Why there is none.
    pub fn decode<'a>(&'a mut self, frame: &Frame<'a>) -> Result<Segment<'a>, Unusable> {
        decode(frame.link, frame.data, frame.wire_len)
    }
}

/// Finds the TCP segment in a packet that had `wire_len` bytes on the wire.
fn decode(link: LinkType, packet: &[u8], wire_len: usize) -> Result<Segment<'_>, Unusable> {
    let ip = match link {
        LinkType::RawIp => packet,
        LinkType::Loopback => packet.get(4..).ok_or(Unusable::Broken)?,
        LinkType::Ethernet => network_layer(packet, 12)?,
        LinkType::LinuxSll => network_layer(packet, 14)?,
        LinkType::LinuxSll2 => {
            let protocol = u16_at(packet, 0)?;
            let rest = packet.get(20..).ok_or(Unusable::Broken)?;
            untag(protocol, rest)?
        }
    };
    from_ip(ip, wire_len.saturating_sub(packet.len()))
}

fn network_layer(packet: &[u8], type_at: usize) -> Result<&[u8], Unusable> {
    let ether_type = u16_at(packet, type_at)?;
    untag(ether_type, &packet[type_at + 2..])
}

/// Takes VLAN tags off. IEEE 802.1Q, 802.1ad, and the older QinQ numbers.
fn untag(mut ether_type: u16, mut rest: &[u8]) -> Result<&[u8], Unusable> {
    loop {
        match ether_type {
            0x0800 | 0x86dd => return Ok(rest),
            0x8100 | 0x88a8 | 0x9100 | 0x9200 => {
                ether_type = u16_at(rest, 2)?;
                rest = &rest[4..];
            }
            _ => return Err(Unusable::NotTcp),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Unusable> {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(Unusable::Broken),
    }
}

/// `cut_off` bytes of the packet are not in the capture.
fn from_ip(packet: &[u8], cut_off: usize) -> Result<Segment<'_>, Unusable> {
    let (ip, stopped) = LaxIpSlice::from_slice(packet).map_err(|_| Unusable::Broken)?;
    if stopped.is_some() {
        return Err(Unusable::Broken);
    }
    // The sender's stack leaves the length 0 where the network card is to cut the packet into segments.
    let (claimed, offloaded) = match &ip {
        LaxIpSlice::Ipv4(ip) => {
            let header = ip.header();
            let total = usize::from(header.total_len());
            if total != 0 && total < header.slice().len() {
                return Err(Unusable::Broken);
            }
            (total, total == 0)
        }
        LaxIpSlice::Ipv6(ip) => {
            let length = usize::from(ip.header().payload_length());
            (40 + length, length == 0)
        }
    };
    let payload = ip.payload();
    if payload.fragmented {
        return Err(Unusable::Fragment);
    }
    if payload.ip_number != IpNumber::TCP {
        return Err(Unusable::NotTcp);
    }
    let missing = if offloaded {
        cut_off
    } else {
        claimed.saturating_sub(packet.len())
    };
    let tcp = TcpSlice::from_slice(payload.payload).map_err(|_| Unusable::Broken)?;
    let (source, destination): (IpAddr, IpAddr) = (ip.source_addr(), ip.destination_addr());
    Ok(Segment {
        source: SocketAddr::new(source, tcp.source_port()),
        destination: SocketAddr::new(destination, tcp.destination_port()),
        sequence: tcp.sequence_number(),
        acknowledgment: tcp.ack().then(|| tcp.acknowledgment_number()),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        payload: tcp.payload(),
        missing: u32::try_from(missing).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    fn ipv4(payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(40_000, 80, 7, 1000)
            .ack(9)
            .write(&mut packet, payload)
            .unwrap();
        packet
    }

    fn check(link: LinkType, packet: &[u8], payload: &[u8]) {
        let segment = decode(link, packet, packet.len()).unwrap();
        assert_eq!(segment.payload, payload);
        assert_eq!(segment.destination, "10.0.0.2:80".parse().unwrap());
        assert_eq!((segment.sequence, segment.acknowledgment), (7, Some(9)));
        assert_eq!(segment.missing, 0);
    }

    #[test]
    fn every_link_type_leads_to_the_segment() {
        let ip = ipv4(b"abc");
        let before = |link: &[u8]| [link, &ip].concat();
        check(LinkType::RawIp, &ip, b"abc");
        check(LinkType::Loopback, &before(&[2, 0, 0, 0]), b"abc");
        check(LinkType::Ethernet, &before(b"ddddddssssss\x08\x00"), b"abc");
        check(
            LinkType::Ethernet,
            &before(b"ddddddssssss\x88\xa8\x00\x01\x81\x00\x00\x02\x08\x00"),
            b"abc",
        );
        check(
            LinkType::LinuxSll,
            &before(b"hhhhhhhhhhhhhh\x08\x00"),
            b"abc",
        );
        check(
            LinkType::LinuxSll,
            &before(b"hhhhhhhhhhhhhh\x81\x00\x00\x02\x08\x00"),
            b"abc",
        );
        check(
            LinkType::LinuxSll2,
            &before(b"\x08\x00hhhhhhhhhhhhhhhhhh"),
            b"abc",
        );
    }

    #[test]
    fn padding_is_no_payload_and_a_zero_length_is_offload() {
        let mut padded = ipv4(b"");
        padded.extend_from_slice(&[0; 6]);
        check(LinkType::RawIp, &padded, b"");
        let mut offloaded = ipv4(b"abc");
        offloaded[2..4].fill(0);
        check(LinkType::RawIp, &offloaded, b"abc");
    }

    #[test]
    fn a_cut_off_packet_tells_what_is_missing() {
        let whole = ipv4(b"abcdef");
        let cut = &whole[..whole.len() - 2];
        let segment = decode(LinkType::RawIp, cut, whole.len()).unwrap();
        assert_eq!((segment.payload, segment.missing), (&b"abcd"[..], 2));
    }

    #[test]
    fn what_is_no_whole_tcp_segment_has_its_reason() {
        let mut fragment = ipv4(b"abc");
        fragment[6] = 0x20;
        let mut udp = ipv4(b"abc");
        udp[9] = 17;
        for (packet, reason) in [
            (&fragment[..], Unusable::Fragment),
            (&udp, Unusable::NotTcp),
            (&ipv4(b"")[..30], Unusable::Broken),
            (b"", Unusable::Broken),
        ] {
            assert_eq!(decode(LinkType::RawIp, packet, packet.len()), Err(reason));
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            packet in prop::collection::vec(any::<u8>(), 0..120),
            number in prop::sample::select(vec![0, 1, 101, 113, 276]),
            lead in 0_usize..3,
        ) {
            let link = LinkType::from_number(number).unwrap();
            let mut packet = packet;
            let start: &[u8] = [&b""[..], b"ddddddssssss\x81\x00\x00\x00\x08\x00", b"\x45"][lead];
            packet.splice(0..0, start.iter().copied());
            let _ = decode(link, &packet, packet.len() + lead);
        }
    }
}
