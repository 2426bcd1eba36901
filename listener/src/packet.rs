//! From a captured packet to its TCP segment.
//!
//! What enters: a captured packet and the link type of its source. On its way lie the link layer (`link`), IP
//! headers (`ip`), fragments that wait for others (`fragments`), and tunnels (`tunnel`, `vni`), which lead
//! back to a link layer. What leaves: a [`Segment`] that borrows the payload from the packet.
//! What may be lost: packets that are no TCP, fragments whose packet never becomes whole, packets with broken headers
//! or of virtual networks that nobody asked for; each with its reason.
//!
//! Checksums are not looked at: the network card fills them in after the capture. Tags, labels and tunnels are no part
//! of a connection's identity.

mod fragments;
mod ip;
mod link;
mod tunnel;
mod view;
mod vni;

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, TcpSlice};

use crate::edge::EdgeEvent;
use fragments::{Fragments, Whole};
use ip::{Packet, Place};
use view::View;

pub use link::LinkType;
pub use vni::{VniError, VniFilter, VniRule};

/// IP headers around a segment; real networks have two or three.
const MAX_NESTING: usize = 6;
/// Fragments of packets that came in fragments themselves.
const MAX_REASSEMBLIES: usize = 3;

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

/// Why a packet yields no segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// Another protocol.
    NotTcp,
    /// A part of an IP packet, taken until the others come. Whether they do, [`Decoder::lost`] tells.
    Held,
    /// A part of an IP packet that is of no use: cut off, or against what other parts say.
    Fragment,
    /// From a virtual network or a VLAN that isn't captured.
    OtherNetwork,
    /// A header that is cut off or makes no sense.
    Broken,
}

impl From<Unusable> for EdgeEvent {
    fn from(reason: Unusable) -> EdgeEvent {
        match reason {
            Unusable::NotTcp => EdgeEvent::NotTcp,
            Unusable::Held => EdgeEvent::FragmentsHeld,
            Unusable::Fragment => EdgeEvent::Fragments,
            Unusable::OtherNetwork => EdgeEvent::OtherNetwork,
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

/// What is decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeSettings {
    /// Look into tunnels: VXLAN, GENEVE, GRE, IP in IP and their like.
    pub tunnels: bool,
    /// UDP ports of VXLAN besides 4789 and 8472.
    pub vxlan_ports: Vec<u16>,
    /// UDP ports of GENEVE besides 6081.
    pub geneve_ports: Vec<u16>,
    /// Of which virtual networks, where a tunnel tells them apart.
    pub vni: VniFilter,
    /// Only packets with a tag of one of these VLANs, where there are any; tags within tunnels don't count.
    pub vlans: Vec<u16>,
}

impl Default for DecodeSettings {
    fn default() -> DecodeSettings {
        DecodeSettings {
            tunnels: true,
            vxlan_ports: Vec::new(),
            geneve_ports: Vec::new(),
            vni: VniFilter::default(),
            vlans: Vec::new(),
        }
    }
}

/// Finds TCP segments in packets. One for each source: it keeps fragments from one packet to the next, a few MiB at
/// most.
#[derive(Debug, Default)]
pub struct Decoder {
    settings: DecodeSettings,
    fragments: Fragments,
    /// What was put together for the segment given last.
    wholes: [Vec<u8>; MAX_REASSEMBLIES],
}

/// How far one packet leads.
enum Found<'a> {
    Segment(Segment<'a>),
    Whole(Whole),
}

impl Decoder {
    /// A decoder that has seen nothing yet.
    pub fn new(settings: DecodeSettings) -> Decoder {
        Decoder {
            settings,
            ..Decoder::default()
        }
    }

    /// The TCP segment in a packet, or the one for which it had the last part.
    ///
    /// # Errors
    /// Why there is none.
    #[inline]
    pub fn decode<'a>(&'a mut self, frame: &Frame<'a>) -> Result<Segment<'a>, Unusable> {
        let view = View {
            data: frame.data,
            cut: frame.wire_len.saturating_sub(frame.data.len()),
        };
        let view = match &self.settings.vlans[..] {
            [] => link::frame_to_ip(frame.link, view)?,
            vlans => link::tagged_to_ip(frame.link, view, vlans)?,
        };
        match ip::plain_tcp(view) {
            Some((source, destination, body)) => segment(source, destination, body),
            None => self.walk(ip::read(view, Place::Link)?, frame.at_ns),
        }
    }

    /// The long way, kept apart from the short one.
    #[inline(never)]
    fn walk<'a>(&'a mut self, packet: Packet<'a>, at_ns: u64) -> Result<Segment<'a>, Unusable> {
        let mut walk = Walk {
            settings: &self.settings,
            fragments: &mut self.fragments,
            at_ns,
            nesting: 0,
        };
        match walk.follow(packet)? {
            Found::Segment(segment) => Ok(segment),
            Found::Whole(whole) => walk.settle(whole, &mut self.wholes),
        }
    }

    /// Fragments given up since the last call, of those that were [`Unusable::Held`]: their packet never became whole.
    pub fn lost(&mut self) -> u64 {
        self.fragments.lost()
    }

    /// The same at the end of a capture, when nothing is worth to be waited for.
    pub fn finish(&mut self) -> u64 {
        self.fragments.give_up_all();
        self.lost()
    }
}

/// The way through the tunnels of one packet.
struct Walk<'w> {
    settings: &'w DecodeSettings,
    fragments: &'w mut Fragments,
    at_ns: u64,
    /// IP headers so far.
    nesting: usize,
}

impl Walk<'_> {
    fn follow<'a>(&mut self, mut packet: Packet<'a>) -> Result<Found<'a>, Unusable> {
        let tunnels = self.settings.tunnels;
        while self.nesting < MAX_NESTING {
            self.nesting += 1;
            if let Some(part) = packet.part {
                if !(packet.may_be_tcp() || tunnels && tunnel::is_carrier(packet.protocol)) {
                    break;
                }
                let whole = self.fragments.add(&packet, part, self.at_ns)?;
                return Ok(Found::Whole(whole));
            }
            if packet.protocol == IpNumber::TCP {
                let (source, destination) = (packet.source, packet.destination);
                return segment(source, destination, packet.body).map(Found::Segment);
            }
            if !tunnels {
                break;
            }
            let (layer, inner) = tunnel::open(&packet, self.settings)?;
            packet = ip::read(link::to_ip(layer, inner)?, Place::Tunnel)?;
        }
        Err(Unusable::NotTcp)
    }

    /// Goes on with what was put together, which may hold fragments again.
    fn settle<'a>(
        &mut self,
        whole: Whole,
        buffers: &'a mut [Vec<u8>],
    ) -> Result<Segment<'a>, Unusable> {
        let (buffer, others) = buffers.split_first_mut().ok_or(Unusable::Fragment)?;
        *buffer = whole.bytes;
        let mut packet = Packet {
            source: whole.source,
            destination: whole.destination,
            protocol: whole.protocol,
            body: View::whole(buffer),
            part: None,
        };
        packet.extend()?;
        match self.follow(packet)? {
            Found::Segment(segment) => Ok(segment),
            Found::Whole(whole) => self.settle(whole, others),
        }
    }
}

#[inline]
fn segment(source: IpAddr, destination: IpAddr, body: View<'_>) -> Result<Segment<'_>, Unusable> {
    let tcp = TcpSlice::from_slice(body.data).map_err(|_| Unusable::Broken)?;
    Ok(Segment {
        source: SocketAddr::new(source, tcp.source_port()),
        destination: SocketAddr::new(destination, tcp.destination_port()),
        sequence: tcp.sequence_number(),
        acknowledgment: tcp.ack().then(|| tcp.acknowledgment_number()),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        payload: &body.data[tcp.header_slice().len()..],
        missing: u32::try_from(body.cut).unwrap_or(u32::MAX),
    })
}

#[cfg(test)]
mod tests;
