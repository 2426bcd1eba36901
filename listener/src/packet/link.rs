//! Everything below IP: link types, tags, labels, and the protocols that carry IP between two machines.
//!
//! What enters: a captured packet, or what a tunnel carries, and what its first bytes are. What leaves: what begins
//! with an IP header. What may be lost: packets of other protocols, and broken ones, each with its reason.
//!
//! Tags and labels are taken off and forgotten: they are no part of a connection's identity. Where only some VLANs are
//! wanted, their tags are looked at on the way.

use super::view::View;
use super::{Unusable, ip};

/// Tags, labels and headers below one IP header; real networks have three or four.
const MAX_LAYERS: usize = 24;

/// Link types that can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkType {
    /// Ethernet II and IEEE 802.3.
    Ethernet,
    /// BSD loopback: four bytes of address family, in either byte order.
    Loopback,
    /// No link layer.
    RawIp,
    /// Linux cooked capture, as of the `any` device.
    LinuxSll,
    /// Its second version.
    LinuxSll2,
    /// Linux netfilter log messages.
    Nflog,
    /// PPP, in HDLC framing or without; Cisco's HDLC too.
    Ppp,
    /// PPP behind a byte that tells the direction.
    PppDirected,
    /// A PPPoE session's packets without Ethernet.
    Pppoe,
    /// IEEE 802.2 LLC, as ATM carries it (RFC 2684).
    Llc,
    /// Apple's packet metadata ahead of another link type.
    Pktap,
}

impl LinkType {
    /// The link type of a number from <https://www.tcpdump.org/linktypes.html>, in libpcap's (DLT) spelling too.
    pub fn from_number(number: i32) -> Option<LinkType> {
        Some(match number {
            0 | 108 => LinkType::Loopback,
            1 => LinkType::Ethernet,
            9 | 50 | 104 => LinkType::Ppp,
            11 | 100 => LinkType::Llc,
            12 | 14 | 101 | 228 | 229 => LinkType::RawIp,
            51 => LinkType::Pppoe,
            113 => LinkType::LinuxSll,
            166 | 204 => LinkType::PppDirected,
            239 => LinkType::Nflog,
            258 => LinkType::Pktap,
            276 => LinkType::LinuxSll2,
            _ => return None,
        })
    }
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    Link(LinkType),
    /// What this `EtherType` says; below 0x600 it is a length, and LLC follows (IEEE 802.3 §3.2.6).
    Typed(u16),
    Mpls,
    Ppp,
    /// Network service header (RFC 8300).
    Nsh,
    Ip,
}

pub(super) const ETHERNET: Layer = Layer::Link(LinkType::Ethernet);

type Next<'a> = Result<(Layer, View<'a>), Unusable>;

/// What begins with an IP header; the short way for what nearly all packets are.
#[inline]
pub(super) fn frame_to_ip(link: LinkType, view: View<'_>) -> Result<View<'_>, Unusable> {
    match (link, view.data) {
        (LinkType::Ethernet, [_, _, _, _, _, _, _, _, _, _, _, _, 0x08, 0x00, data @ ..])
        | (LinkType::Ethernet, [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, data @ ..]) => {
            Ok(View { data, ..view })
        }
        _ => to_ip(Layer::Link(link), view),
    }
}

/// What begins with an IP header, behind a tag of one of these VLANs at least.
#[inline(never)]
pub(super) fn tagged_to_ip<'a>(
    link: LinkType,
    view: View<'a>,
    vlans: &[u16],
) -> Result<View<'a>, Unusable> {
    let mut tagged = false;
    let found = walk(Layer::Link(link), view, |vlan| {
        tagged |= vlans.contains(&vlan)
    })?;
    match tagged {
        true => Ok(found),
        false => Err(Unusable::OtherNetwork),
    }
}

/// What begins with an IP header.
pub(super) fn to_ip(layer: Layer, view: View<'_>) -> Result<View<'_>, Unusable> {
    walk(layer, view, |_| ())
}

/// Takes layers off down to the IP header; `passed` gets the VLAN of each tag.
fn walk(
    mut layer: Layer,
    mut view: View<'_>,
    mut passed: impl FnMut(u16),
) -> Result<View<'_>, Unusable> {
    for _ in 0..MAX_LAYERS {
        (layer, view) = match layer {
            Layer::Ip | Layer::Typed(0x0800 | 0x86dd) => return Ok(view),
            // IEEE 802.1Q, 802.1ad, and the older QinQ numbers.
            Layer::Typed(0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300) => {
                passed(view.u16_at(0)? & 0x0fff);
                (Layer::Typed(view.u16_at(2)?), view.skip(4)?)
            }
            Layer::Typed(kind) => typed(kind, view)?,
            Layer::Mpls => mpls(view)?,
            Layer::Ppp => ppp(view)?,
            Layer::Nsh => nsh(view)?,
            Layer::Link(link) => linked(link, view)?,
        };
    }
    Err(Unusable::Broken)
}

fn linked(link: LinkType, view: View<'_>) -> Next<'_> {
    match link {
        LinkType::Ethernet => Ok((Layer::Typed(view.u16_at(12)?), view.skip(14)?)),
        LinkType::RawIp => Ok((Layer::Ip, view)),
        LinkType::Loopback => loopback(view),
        LinkType::LinuxSll => cooked(view.u16_at(14)?, view.skip(16)?),
        LinkType::LinuxSll2 => cooked(view.u16_at(0)?, view.skip(20)?),
        LinkType::Nflog => nflog(view),
        LinkType::Ppp => Ok((Layer::Ppp, view)),
        LinkType::PppDirected => Ok((Layer::Ppp, view.skip(1)?)),
        LinkType::Pppoe => pppoe(view),
        LinkType::Llc => llc(view),
        LinkType::Pktap => pktap(view),
    }
}

/// Linux puts `EtherType`s there, and small numbers of its own (`linux/if_ether.h`), of which 4 is LLC.
fn cooked(protocol: u16, rest: View<'_>) -> Next<'_> {
    match protocol {
        4 => llc(rest),
        0x600.. => Ok((Layer::Typed(protocol), rest)),
        _ => Err(Unusable::NotTcp),
    }
}

/// `AF_INET` is 2 everywhere, `AF_INET6` is not: 10 Linux, 23 Windows, 24 NetBSD and OpenBSD, 28 FreeBSD, 30 Darwin.
fn loopback(view: View<'_>) -> Next<'_> {
    let family = view.u32_at(0)?;
    // In the order of the machine that captured; families are small.
    match if family > 0xffff {
        family.swap_bytes()
    } else {
        family
    } {
        2 | 10 | 23 | 24 | 28 | 30 => Ok((Layer::Ip, view.skip(4)?)),
        _ => Err(Unusable::NotTcp),
    }
}

fn typed(kind: u16, view: View<'_>) -> Next<'_> {
    Ok(match kind {
        ..0x600 => return llc(view.limit(usize::from(kind))),
        // Cisco's VN-Tag; high-availability rings (IEC 62439-3).
        0x8926 | 0x892f => (Layer::Typed(view.u16_at(4)?), view.skip(6)?),
        // IEEE 802.1BR.
        0x893f => (Layer::Typed(view.u16_at(6)?), view.skip(8)?),
        // IEEE 802.1ah; Cisco's FabricPath.
        0x88e7 => (ETHERNET, view.skip(4)?),
        0x8903 => (ETHERNET, view.skip(2)?),
        // Transparent bridging (RFC 1701).
        0x6558 => (ETHERNET, view),
        0x8847 | 0x8848 => (Layer::Mpls, view),
        0x8864 => return pppoe(view),
        0x880b => (Layer::Ppp, view),
        0x894f => (Layer::Nsh, view),
        _ => return Err(Unusable::NotTcp),
    })
}

/// SNAP (RFC 1042), or IP's own service access point.
fn llc(view: View<'_>) -> Next<'_> {
    match view.array_at(0)? {
        [0xaa | 0xab, 0xaa | 0xab, 0x03] => {}
        [0x06, 0x06, 0x03] => return Ok((Layer::Ip, view.skip(3)?)),
        _ => return Err(Unusable::NotTcp),
    }
    let [a, b, c, high, low] = view.array_at(3)?;
    match ([a, b, c], u16::from_be_bytes([high, low])) {
        // 00-00-f8 is how bridges wrap what was Ethernet II (IEEE 802.1H).
        ([0, 0, 0 | 0xf8], kind @ 0x600..) => Ok((Layer::Typed(kind), view.skip(8)?)),
        _ => Err(Unusable::NotTcp),
    }
}

/// What labels carry is not written anywhere; a sane IP header is IP, and all else is an Ethernet pseudowire, with a
/// control word (RFC 4448 §4.6) or without.
fn mpls(mut view: View<'_>) -> Next<'_> {
    loop {
        let entry = view.u32_at(0)?;
        view = view.skip(4)?;
        if entry & 0x100 != 0 {
            break;
        }
    }
    if ip::plausible(view) {
        return Ok((Layer::Ip, view));
    }
    match view.u8_at(0)? >> 4 {
        0 if view.u32_at(0)? == 0 || !carries_ip(view) => Ok((ETHERNET, view.skip(4)?)),
        // The pseudowire's own messages (RFC 4385 §5).
        1 if !carries_ip(view) => Err(Unusable::NotTcp),
        _ => Ok((ETHERNET, view)),
    }
}

/// Whether it would be a sensible Ethernet frame with IP in it.
fn carries_ip(view: View<'_>) -> bool {
    matches!(view.u16_at(12), Ok(0x0800 | 0x86dd | 0x8100 | 0x88a8))
}

/// RFC 2516 §4, session stage.
fn pppoe(view: View<'_>) -> Next<'_> {
    match view.array_at(0)? {
        [0x11, 0x00] => {
            let length = usize::from(view.u16_at(4)?);
            Ok((Layer::Ppp, view.skip(6)?.limit(length)))
        }
        _ => Err(Unusable::NotTcp),
    }
}

/// RFC 1661 and RFC 1662; Cisco's HDLC has another address, a zero, and an `EtherType`.
fn ppp(view: View<'_>) -> Next<'_> {
    let view = match view.data {
        [0x0f | 0x8f, 0x00, ..] => return Ok((Layer::Typed(view.u16_at(2)?), view.skip(4)?)),
        [0xff, 0x03, ..] => view.skip(2)?,
        _ => view,
    };
    // An odd first byte is a protocol of one byte (RFC 1661 §6.5).
    let first = view.u8_at(0)?;
    let (protocol, rest) = if first & 1 == 1 {
        (u16::from(first), view.skip(1)?)
    } else {
        (view.u16_at(0)?, view.skip(2)?)
    };
    match protocol {
        0x0021 | 0x0057 => Ok((Layer::Ip, rest)),
        0x0281 | 0x0283 => Ok((Layer::Mpls, rest)),
        _ => Err(Unusable::NotTcp),
    }
}

/// Of which the length, in words of four bytes, and the next protocol matter.
fn nsh(view: View<'_>) -> Next<'_> {
    let [flags, length, _, next] = view.array_at(0)?;
    let length = usize::from(length & 0x3f) * 4;
    if flags >> 6 != 0 || length < 8 {
        return Err(Unusable::NotTcp);
    }
    Ok((nsh_protocol(next)?, view.skip(length)?))
}

/// The next protocol of a network service header, and of VXLAN-GPE, which has the same numbers.
pub(super) fn nsh_protocol(number: u8) -> Result<Layer, Unusable> {
    match number {
        1 | 2 => Ok(Layer::Ip),
        3 => Ok(ETHERNET),
        4 => Ok(Layer::Nsh),
        5 => Ok(Layer::Mpls),
        _ => Err(Unusable::NotTcp),
    }
}

/// Attributes with length and type in the byte order of the machine that logged; the packet is one of them.
/// `linux/netfilter/nfnetlink_log.h`
fn nflog(view: View<'_>) -> Next<'_> {
    const PAYLOAD: u16 = 9;
    // There are some twenty types of attributes; with the bytes swapped they would be 256 and more.
    let [_, _, first_low, first_high] = view.array_at(4)?;
    let read = if first_low != 0 && first_high & 0x3f == 0 {
        u16::from_le_bytes
    } else {
        u16::from_be_bytes
    };
    let mut rest = view.skip(4)?;
    loop {
        let length = usize::from(read(rest.array_at(0)?));
        // The upper two bits are flags of netlink's.
        let kind = read(rest.array_at(2)?) & 0x3fff;
        if length < 4 {
            return Err(Unusable::Broken);
        }
        if kind == PAYLOAD {
            return Ok((Layer::Ip, rest.limit(length).skip(4)?));
        }
        rest = rest.skip(length.next_multiple_of(4))?;
    }
}

/// A header of its own length, little-endian, that names the link type behind it.
fn pktap(view: View<'_>) -> Next<'_> {
    let length = u32::from_le_bytes(view.array_at(0)?);
    let number = u32::from_le_bytes(view.array_at(8)?);
    let link = i32::try_from(number).ok().and_then(LinkType::from_number);
    match (link, usize::try_from(length)) {
        (Some(link), Ok(length @ 12..)) if link != LinkType::Pktap => {
            Ok((Layer::Link(link), view.skip(length)?))
        }
        _ => Err(Unusable::NotTcp),
    }
}
