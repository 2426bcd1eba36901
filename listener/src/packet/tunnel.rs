//! Packets in packets.
//!
//! What enters: an IP packet that isn't TCP. What leaves: what it carries, if it is a tunnel, and what the first bytes
//! of that are. What may be lost: packets of virtual networks that are not asked for.
//!
//! Many of these are known by a UDP port alone, which anybody may use for something else. So whatever has to have a
//! certain value is checked, and what is checked wrong is no tunnel but [`Unusable::NotTcp`].

use etherparse::{IpNumber, UdpHeaderSlice};

use super::DecodeSettings;
use super::Unusable;
use super::ip::{self, Packet};
use super::link::{ETHERNET, Layer, nsh_protocol};
use super::view::View;

/// EtherIP (RFC 3378).
const ETHERIP: IpNumber = IpNumber(97);

type Inner<'a> = Result<(Layer, View<'a>), Unusable>;

/// Whether a protocol can have TCP in it, as far as this file knows.
pub(super) fn is_carrier(protocol: IpNumber) -> bool {
    use IpNumber as Ip;
    matches!(
        protocol,
        Ip::IPV4 | Ip::IPV6 | Ip::GRE | Ip::UDP | Ip::MPLS_IN_IP | ETHERIP
    )
}

/// What a tunnel's packet carries.
pub(super) fn open<'a>(packet: &Packet<'a>, settings: &DecodeSettings) -> Inner<'a> {
    let body = packet.body;
    match packet.protocol {
        IpNumber::IPV4 | IpNumber::IPV6 => Ok((Layer::Ip, body)),
        IpNumber::GRE => optional(gre(body)),
        IpNumber::MPLS_IN_IP => Ok((Layer::Mpls, body)),
        ETHERIP if body.u16_at(0) == Ok(0x3000) => Ok((ETHERNET, body.skip(2)?)),
        IpNumber::UDP => udp(body, settings),
        _ => Err(Unusable::NotTcp),
    }
}

/// A header too short for a tunnel's is none.
fn optional(inner: Inner<'_>) -> Inner<'_> {
    inner.map_err(|reason| match reason {
        Unusable::Broken => Unusable::NotTcp,
        reason => reason,
    })
}

fn udp<'a>(view: View<'a>, settings: &DecodeSettings) -> Inner<'a> {
    let header = UdpHeaderSlice::from_slice(view.data).map_err(|_| Unusable::NotTcp)?;
    let view = match usize::from(header.length()) {
        // More than the field can tell.
        0 => view,
        n if view.holds(n) => view.limit(n),
        _ => return Err(Unusable::NotTcp),
    };
    let view = view.skip(8).map_err(|_| Unusable::NotTcp)?;
    optional(match (header.source_port(), header.destination_port()) {
        // IANA's number, and what Linux took before there was one.
        (_, 4789 | 8472) => vxlan(view, settings),
        (_, 4790) => vxlan_gpe(view, settings),
        (_, 6081) => geneve(view, settings),
        (_, 2152) => gtp(view),
        // RFC 7510.
        (_, 6635) => Ok((Layer::Mpls, view)),
        (1701, _) | (_, 1701) => l2tp(view),
        (3544, _) | (_, 3544) => teredo(view),
        (5072, _) | (_, 5072) => ayiya(view),
        (_, port) if settings.vxlan_ports.contains(&port) => vxlan(view, settings),
        (_, port) if settings.geneve_ports.contains(&port) => geneve(view, settings),
        _ => teredo_peer(view),
    })
}

/// RFC 7348 §5. The upper bit of the flags marks a group policy.
fn vxlan<'a>(view: View<'a>, settings: &DecodeSettings) -> Inner<'a> {
    match view.array_at::<8>(0)? {
        [0x08 | 0x88, .., 0] => {
            admit(view.u32_at(4)? >> 8, settings)?;
            Ok((ETHERNET, view.skip(8)?))
        }
        _ => Err(Unusable::NotTcp),
    }
}

/// `draft-ietf-nvo3-vxlan-gpe` §3: a valid identifier, a next protocol, and no message of its own.
fn vxlan_gpe<'a>(view: View<'a>, settings: &DecodeSettings) -> Inner<'a> {
    let [flags, _, _, next] = view.array_at(0)?;
    if flags & 0xcd != 0x0c {
        return Err(Unusable::NotTcp);
    }
    admit(view.u32_at(4)? >> 8, settings)?;
    Ok((nsh_protocol(next)?, view.skip(8)?))
}

/// RFC 8926 §3.4.
fn geneve<'a>(view: View<'a>, settings: &DecodeSettings) -> Inner<'a> {
    let [version_and_length, flags] = view.array_at(0)?;
    let options = usize::from(version_and_length & 0x3f) * 4;
    // Version 0; a control packet has no Ethernet frame; the reserved bits are 0.
    if version_and_length >> 6 != 0 || flags & 0xbf != 0 {
        return Err(Unusable::NotTcp);
    }
    let kind = ether_type(view.u16_at(2)?)?;
    admit(view.u32_at(4)? >> 8, settings)?;
    Ok((kind, view.skip(8 + options)?))
}

fn admit(vni: u32, settings: &DecodeSettings) -> Result<(), Unusable> {
    if settings.vni.takes(vni) {
        Ok(())
    } else {
        Err(Unusable::OtherNetwork)
    }
}

/// What a tunnel calls by an `EtherType` has no length in its place.
fn ether_type(kind: u16) -> Result<Layer, Unusable> {
    match kind {
        0x600.. => Ok(Layer::Typed(kind)),
        _ => Err(Unusable::NotTcp),
    }
}

/// RFC 2784 and RFC 2890, and PPTP's own version (RFC 2637 §4.1).
fn gre(view: View<'_>) -> Inner<'_> {
    const CHECKSUM: u16 = 0x8000;
    const ROUTING: u16 = 0x4000;
    const KEY: u16 = 0x2000;
    const SEQUENCE: u16 = 0x1000;
    const ACKNOWLEDGMENT: u16 = 0x0080;
    let (flags, kind) = (view.u16_at(0)?, view.u16_at(2)?);
    let words = |of: u16| 4 * (flags & of).count_ones() as usize;
    match flags & 0x0007 {
        0 if flags & (ROUTING | 0x00f8) == 0 => {
            let rest = view.skip(4 + words(CHECKSUM | KEY | SEQUENCE))?;
            match kind {
                0x88be | 0x22eb => erspan(kind, flags & SEQUENCE != 0, rest),
                // WCCP puts four bytes of its own ahead of IP in its second version.
                0x883e if ip::plausible(rest) => Ok((Layer::Ip, rest)),
                0x883e => Ok((Layer::Ip, rest.skip(4)?)),
                _ => Ok((ether_type(kind)?, rest)),
            }
        }
        1 if flags & KEY != 0 && kind == 0x880b => {
            let length = usize::from(view.u16_at(4)?);
            let rest = view.skip(8 + words(SEQUENCE | ACKNOWLEDGMENT))?;
            Ok((Layer::Ppp, rest.limit(length)))
        }
        _ => Err(Unusable::NotTcp),
    }
}

/// `draft-foschiano-erspan`: the first type has no header of its own, and no sequence number in GRE's.
fn erspan(kind: u16, numbered: bool, view: View<'_>) -> Inner<'_> {
    if kind == 0x88be && !numbered {
        return Ok((ETHERNET, view));
    }
    match (kind, view.u8_at(0)? >> 4) {
        (0x88be, 1) => Ok((ETHERNET, view.skip(8)?)),
        (0x22eb, 2) => {
            let last = view.u16_at(10)?;
            let rest = view.skip(if last & 1 == 1 { 20 } else { 12 })?;
            match last >> 10 & 0x1f {
                0 => Ok((ETHERNET, rest)),
                2 => Ok((Layer::Ip, rest)),
                _ => Err(Unusable::NotTcp),
            }
        }
        _ => Err(Unusable::NotTcp),
    }
}

/// 3GPP TS 29.281 §5: user data of version 1, with optional fields and extension headers.
fn gtp(view: View<'_>) -> Inner<'_> {
    let [flags, message] = view.array_at(0)?;
    let length = 8 + usize::from(view.u16_at(2)?);
    if flags & 0xf8 != 0x30 || message != 0xff || !view.holds(length) {
        return Err(Unusable::NotTcp);
    }
    let mut rest = view.limit(length).skip(8)?;
    if flags & 0x07 != 0 {
        let mut next = rest.u8_at(3)?;
        rest = rest.skip(4)?;
        // The next type is only there where the flag says so.
        while flags & 0x04 != 0 && next != 0 {
            let length = usize::from(rest.u8_at(0)?) * 4;
            if length == 0 {
                return Err(Unusable::NotTcp);
            }
            next = rest.u8_at(length - 1)?;
            rest = rest.skip(length)?;
        }
    }
    sane_ip(rest)
}

/// RFC 2661 §3.1, data messages of version 2.
fn l2tp(view: View<'_>) -> Inner<'_> {
    const CONTROL: u16 = 0x8000;
    const LENGTH: u16 = 0x4000;
    const NUMBERED: u16 = 0x0800;
    const OFFSET: u16 = 0x0200;
    let flags = view.u16_at(0)?;
    // Bits without a meaning are 0, so few other things look like this.
    if flags & (CONTROL | 0x34ff) != 2 {
        return Err(Unusable::NotTcp);
    }
    let view = match flags & LENGTH {
        0 => view.skip(6)?,
        _ => view.limit(usize::from(view.u16_at(2)?)).skip(8)?,
    };
    let view = view.skip(if flags & NUMBERED == 0 { 0 } else { 4 })?;
    match flags & OFFSET {
        0 => Ok((Layer::Ppp, view)),
        _ => Ok((Layer::Ppp, view.skip(2 + usize::from(view.u16_at(0)?))?)),
    }
}

/// RFC 4380 §5.1.1: IPv6, perhaps behind an authentication and an origin.
fn teredo(view: View<'_>) -> Inner<'_> {
    let mut view = view;
    if let [0, 1, identifier, value] = view.array_at(0)? {
        view = view.skip(13 + usize::from(identifier) + usize::from(value))?;
    }
    if let [0, 0] = view.array_at(0)? {
        view = view.skip(8)?;
    }
    match view.u8_at(0)? >> 4 {
        6 => sane_ip(view),
        _ => Err(Unusable::NotTcp),
    }
}

/// Teredo's relays and peers take any port. Here one of the addresses has to have its prefix (RFC 4380 §4), and the
/// length has to be right to the byte.
fn teredo_peer(view: View<'_>) -> Inner<'_> {
    const PREFIX: [u8; 4] = [0x20, 0x01, 0, 0];
    let exact = 40 + usize::from(view.u16_at(4)?) == view.data.len() + view.cut;
    let peers = [view.array_at(8)?, view.array_at(24)?].contains(&PREFIX);
    if exact && peers && view.u8_at(0)? >> 4 == 6 {
        Ok((Layer::Ip, view))
    } else {
        Err(Unusable::NotTcp)
    }
}

/// `draft-massar-v6ops-ayiya` §3: an identity and a signature, whose lengths come first.
fn ayiya(view: View<'_>) -> Inner<'_> {
    let [identity, signature, operation, next] = view.array_at(0)?;
    let identity = 1_usize << (identity >> 4);
    let signature = usize::from(signature >> 4) * 4;
    // To forward is operation 1.
    if operation & 0x0f != 1 || !matches!(IpNumber(next), IpNumber::IPV4 | IpNumber::IPV6) {
        return Err(Unusable::NotTcp);
    }
    sane_ip(view.skip(8 + identity + signature)?)
}

fn sane_ip(view: View<'_>) -> Inner<'_> {
    if ip::plausible(view) {
        Ok((Layer::Ip, view))
    } else {
        Err(Unusable::NotTcp)
    }
}
