//! Packets of which every layer is written by hand or by etherparse, through a decoder.

mod fragments;
mod garbage;
mod links;
mod tunnels;

use etherparse::PacketBuilder;

use super::*;

/// An IPv4 packet, 10.0.0.1:40000 to 10.0.0.2:80.
fn ipv4(payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(40_000, 80, 7, 1000)
        .ack(9)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

/// The same in IPv6, `::1` to `::2`.
fn ipv6(payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (1_u128.to_be_bytes(), 2_u128.to_be_bytes());
    let mut packet = Vec::new();
    PacketBuilder::ipv6(source, destination, 64)
        .tcp(40_000, 80, 7, 1000)
        .ack(9)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

/// An IPv4 packet around something else.
fn carried(protocol: u8, inner: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        .write(&mut packet, IpNumber(protocol), inner)
        .unwrap();
    packet
}

fn udp(source: u16, destination: u16, inner: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        .udp(source, destination)
        .write(&mut packet, inner)
        .unwrap();
    packet
}

/// `kind` is an `EtherType`, or a length.
fn ethernet(kind: u16, inner: &[u8]) -> Vec<u8> {
    [b"ddddddssssss", &kind.to_be_bytes()[..], inner].concat()
}

fn frame(number: i32, data: &[u8]) -> Frame<'_> {
    Frame {
        link: LinkType::from_number(number).unwrap(),
        at_ns: 1,
        wire_len: data.len(),
        data,
    }
}

/// The segment is that of [`ipv4`] or [`ipv6`].
#[track_caller]
fn check(decoder: &mut Decoder, number: i32, data: &[u8], payload: &[u8]) {
    let segment = decoder.decode(&frame(number, data)).unwrap();
    assert_eq!(segment.payload, payload);
    let destination: [SocketAddr; 2] = ["10.0.0.2:80", "[::2]:80"].map(|a| a.parse().unwrap());
    assert!(destination.contains(&segment.destination));
    assert_eq!(segment.source.port(), 40_000);
    assert_eq!((segment.sequence, segment.acknowledgment), (7, Some(9)));
    assert_eq!(segment.missing, 0);
}

fn reason(number: i32, data: &[u8]) -> Unusable {
    let mut decoder = Decoder::default();
    decoder.decode(&frame(number, data)).unwrap_err()
}
