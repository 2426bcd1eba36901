//! Whatever comes, the decoder says something.

use proptest::prelude::*;

use super::*;

const NUMBERS: [i32; 14] = [0, 1, 9, 11, 12, 50, 51, 101, 104, 113, 204, 239, 258, 276];

/// Beginnings that lead deep into the code.
fn lead() -> impl Strategy<Value = Vec<u8>> {
    let mut leads: Vec<Vec<u8>> = vec![
        Vec::new(),
        ethernet(0x0800, b""),
        ethernet(0x86dd, b"\x60"),
        ethernet(0x8100, b"\0\0\x08\0"),
        ethernet(0x8847, b"\0\0\x11\xff"),
        ethernet(0x8864, b"\x11\0"),
        ethernet(0x894f, b"\x0f\xc2\x01\x03"),
        ethernet(60, b"\xaa\xaa\x03\0\0\0\x08\0"),
        b"\x02\0\0\0\x08\0\x01\0".to_vec(),
    ];
    for header in [
        &b"\x08\0\0\0\0\0\x0a\0"[..],
        b"\x0c\0\0\x04\0\0\x0a\0",
        b"\x02\x40\x65\x58\0\0\x0a\0",
        b"\x34\xff\0\x30teid\0\0\0\x85",
        b"\x4a\x02\0\x3dtnsn",
        b"\0\x01\0\0",
        b"\x41\x52\x11\x29",
    ] {
        for port in [4789, 4790, 6081, 2152, 1701, 3544, 5072] {
            leads.push(udp(1, port, header));
        }
    }
    for (protocol, header) in [
        (4, &b"\x45\0"[..]),
        (41, b"\x60"),
        (47, b"\xb0\0\x08\0"),
        (47, b"\x30\x81\x88\x0b"),
        (47, b"\x10\0\x88\xbe"),
        (47, b"\x10\0\x22\xeb"),
        (51, b"\x06\x01"),
        (97, b"\x30\0"),
        (137, b"\0\0\x11\xff"),
    ] {
        leads.push(carried(protocol, header));
    }
    for next in [0, 43, 44, 51, 60, 135] {
        let mut packet = ipv6(b"")[..40].to_vec();
        packet[4..7].copy_from_slice(&[0, 0, next]);
        leads.push([&packet[..], b"\x06\0\xc2\x04"].concat());
    }
    prop::sample::select(leads)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn garbage_never_panics(
        lead in lead(),
        data in prop::collection::vec(prop_oneof![Just(0_u8), Just(0xff), Just(0x45), Just(0x06), any::<u8>()], 0..200),
        total in any::<Option<u8>>(),
        change in any::<(u8, u8, bool)>(),
        cut in 0_usize..3,
    ) {
        let mut packet = [lead, data].concat();
        // The outer length, so that what was added belongs to the packet.
        if packet.first() == Some(&0x45) && packet.len() > 20 {
            packet[3] = total.unwrap_or(packet.len().min(255) as u8);
        }
        if let (at, byte, true) = change && usize::from(at) < packet.len() {
            packet[usize::from(at)] = byte;
        }
        let mut decoder = Decoder::default();
        for number in NUMBERS {
            let frame = Frame { wire_len: packet.len() + cut, ..frame(number, &packet) };
            if let Ok(segment) = decoder.decode(&frame) {
                prop_assert!(segment.payload.len() <= packet.len());
            }
        }
    }

    #[test]
    fn the_short_way_finds_what_the_long_one_does(
        payload in prop::collection::vec(any::<u8>(), 0..60),
        six in any::<bool>(),
        change in any::<(u8, u8)>(),
        keep in 0_usize..120,
        padding in 0_usize..10,
    ) {
        let mut packet = if six { ipv6(&payload) } else { ipv4(&payload) };
        packet.resize(packet.len() + padding, 0);
        // Mostly the header.
        packet[usize::from(change.0) % 48 % (20 + payload.len())] = change.1;
        let data = &packet[..keep.min(packet.len())];
        let view = View { data, cut: packet.len() - data.len() };
        if let Some((source, destination, body)) = ip::plain_tcp(view) {
            let long = ip::read(view, Place::Link).unwrap();
            prop_assert_eq!((long.source, long.destination, long.body), (source, destination, body));
            prop_assert_eq!((long.protocol, long.part), (IpNumber::TCP, None));
        }
    }

    #[test]
    fn a_valid_packet_cut_anywhere_gives_no_more_than_it_has(
        lead in prop::sample::select(vec![b"\x08\0\0\0\0\0\x0a\0".to_vec(), b"\x88\0\0\0\0\0\x0a\0".to_vec()]),
        payload in prop::collection::vec(any::<u8>(), 0..100),
        keep in 0_usize..200,
    ) {
        let inner = ethernet(0x0800, &ipv4(&payload));
        let packet = udp(1, 4789, &[lead, inner].concat());
        let keep = keep.min(packet.len());
        let cut = Frame { wire_len: packet.len(), ..frame(101, &packet[..keep]) };
        let mut decoder = Decoder::default();
        if let Ok(segment) = decoder.decode(&cut) {
            prop_assert!(payload.starts_with(segment.payload));
            prop_assert_eq!(segment.payload.len() + segment.missing as usize, payload.len());
        } else {
            prop_assert!(keep < packet.len() - payload.len());
        }
    }
}
