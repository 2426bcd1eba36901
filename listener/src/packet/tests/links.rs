//! Link types, tags and labels; IP headers.

use super::*;

const ETHERNET: i32 = 1;
const RAW: i32 = 101;

/// A name for the message, a link type, and what stands ahead of an IP packet.
const LEADS: &[(&str, i32, &[u8])] = &[
    ("raw", 12, b""),
    ("raw", 14, b""),
    ("raw", 101, b""),
    ("raw", 228, b""),
    ("null, little-endian", 0, b"\x02\0\0\0"),
    ("null, big-endian", 0, b"\0\0\0\x02"),
    ("null, Linux", 0, b"\x0a\0\0\0"),
    ("null, Windows", 0, b"\x17\0\0\0"),
    ("null, NetBSD", 0, b"\x18\0\0\0"),
    ("null, FreeBSD", 0, b"\x1c\0\0\0"),
    ("null, Darwin", 0, b"\x1e\0\0\0"),
    ("loop", 108, b"\0\0\0\x02"),
    ("ethernet", 1, b"ddddddssssss\x08\0"),
    ("ethernet", 1, b"ddddddssssss\x86\xdd"),
    ("q-in-q", 1, b"ddddddssssss\x88\xa8\0\x01\x81\0\0\x02\x08\0"),
    (
        "old q-in-q",
        1,
        b"ddddddssssss\x91\0\0\x01\x92\0\0\x02\x93\0\0\x02\x08\0",
    ),
    ("VN-Tag", 1, b"ddddddssssss\x89\x26tttt\x08\0"),
    ("802.1BR", 1, b"ddddddssssss\x89\x3ftttttt\x08\0"),
    ("HSR", 1, b"ddddddssssss\x89\x2ftttt\x08\0"),
    (
        "802.1ah",
        1,
        b"ddddddssssss\x88\xe7ttttddddddssssss\x81\0\0\x02\x08\0",
    ),
    ("FabricPath", 1, b"ddddddssssss\x89\x03ttddddddssssss\x08\0"),
    ("MPLS", 1, b"ddddddssssss\x88\x47\0\0\x11\xff"),
    (
        "MPLS stack in VLAN",
        1,
        b"ddddddssssss\x81\0\0\x02\x88\x48\0\0\x10\xff\0\0\x21\xff",
    ),
    (
        "pseudowire",
        1,
        b"ddddddssssss\x88\x47\0\0\x11\xffddddddssssss\x08\0",
    ),
    (
        "pseudowire with 4 ahead",
        1,
        b"ddddddssssss\x88\x47\0\0\x11\xff\x40dddddssssss\x08\0",
    ),
    (
        "pseudowire with control word",
        1,
        b"ddddddssssss\x88\x47\0\0\x11\xff\0\0\0\0ddddddssssss\x08\0",
    ),
    (
        "pseudowire with control word and the bytes of IP's type in an address",
        1,
        b"ddddddssssss\x88\x47\0\0\x11\xff\0\0\0\0ddddddss\x08\0ss\x08\0",
    ),
    (
        "pseudowire with number",
        1,
        b"ddddddssssss\x88\x47\0\0\x11\xff\0\0\0\x01ddddddssssss\x08\0",
    ),
    (
        "pseudowire with 0 ahead",
        1,
        b"ddddddssssss\x88\x47\0\0\x11\xff\0dddddssssss\x08\0",
    ),
    (
        "network service header",
        1,
        b"ddddddssssss\x89\x4f\x0f\xc2\x01\x01pppp",
    ),
    ("PPP over Ethernet type", 1, b"ddddddssssss\x88\x0b\0\x21"),
    ("SLL", 113, b"hhhhhhhhhhhhhh\x08\0"),
    (
        "SLL of lo",
        113,
        b"\0\0\x03\x04\0\x06\0\0\0\0\0\0\0\0\x08\0",
    ),
    ("SLL with VLAN", 113, b"hhhhhhhhhhhhhh\x81\0\0\x02\x08\0"),
    ("SLL with MPLS", 113, b"hhhhhhhhhhhhhh\x88\x47\0\0\x11\xff"),
    (
        "SLL with LLC",
        113,
        b"hhhhhhhhhhhhhh\0\x04\xaa\xaa\x03\0\0\0\x08\0",
    ),
    ("SLL2", 276, b"\x08\0hhhhhhhhhhhhhhhhhh"),
    (
        "SLL2 with VLAN",
        276,
        b"\x81\0hhhhhhhhhhhhhhhhhh\0\x02\x86\xdd",
    ),
    ("PPP", 9, b"\0\x21"),
    ("PPP, one byte", 9, b"\x21"),
    ("PPP in HDLC", 50, b"\xff\x03\0\x57"),
    ("PPP with MPLS", 50, b"\xff\x03\x02\x81\0\0\x11\xff"),
    ("Cisco HDLC", 104, b"\x0f\0\x08\0"),
    ("Cisco HDLC, multicast", 50, b"\x8f\0\x08\0"),
    ("PPP with direction", 204, b"\x01\xff\x03\0\x21"),
    ("LLC", 100, b"\xaa\xaa\x03\0\0\0\x08\0"),
    ("LLC of bridges", 11, b"\xaa\xaa\x03\0\0\xf8\x08\0"),
    ("LLC without SNAP", 100, b"\x06\x06\x03"),
    ("PKTAP", 258, b"\x10\0\0\0\x01\0\0\0\0\0\0\0rest\x02\0\0\0"),
];

#[test]
fn every_link_type_leads_to_the_segment() {
    let mut decoder = Decoder::default();
    for (name, number, lead) in LEADS {
        for ip in [ipv4(b"abc"), ipv6(b"abc")] {
            println!("{name}");
            check(&mut decoder, *number, &[lead, &ip[..]].concat(), b"abc");
        }
    }
}

#[test]
fn lengths_in_the_link_layer_are_of_no_account_where_ip_has_its_own() {
    let ip = ipv4(b"abc");
    let snap = [b"\xaa\xaa\x03\0\0\0\x08\0", &ip[..]].concat();
    let mut padded = ethernet(snap.len() as u16, &snap);
    let session = [
        b"\x11\0\0\x07",
        &(ip.len() as u16 + 2).to_be_bytes()[..],
        b"\0\x21",
        &ip,
    ]
    .concat();
    padded.extend([0; 9]);
    let mut decoder = Decoder::default();
    check(&mut decoder, ETHERNET, &padded, b"abc");
    check(&mut decoder, ETHERNET, &ethernet(0x8864, &session), b"abc");
    check(&mut decoder, 51, &session, b"abc");
}

/// Attributes in either byte order: a prefix to be passed over, and the packet.
#[test]
fn netfilter_logs_lead_to_the_segment_in_both_byte_orders() {
    let mut decoder = Decoder::default();
    // Without a length of IP's own, that of the attribute tells where padding begins.
    let mut offloaded = ipv4(b"abc");
    offloaded[2..4].fill(0);
    for ip in [ipv4(b"abc"), ipv6(b"abcd"), offloaded] {
        for order in [u16::to_le_bytes, u16::to_be_bytes] {
            let mut log = b"\x02\0\0\x2a".to_vec();
            for (kind, value) in [(10, &b"lo\0"[..]), (9, &ip)] {
                log.extend(order(value.len() as u16 + 4));
                log.extend(order(kind));
                log.extend(value);
                log.resize(log.len().next_multiple_of(4), 0);
            }
            check(
                &mut decoder,
                239,
                &log,
                if ip[0] == 0x45 { b"abc" } else { b"abcd" },
            );
        }
    }
    assert_eq!(reason(239, b"\x02\0\0\0\x03\0\x09\0E"), Unusable::Broken);
}

#[test]
fn options_and_extension_headers_are_passed_over() {
    let mut with_options = ipv4(b"abc");
    with_options[0] = 0x47;
    with_options[3] += 8;
    with_options.splice(20..20, [1; 8]);
    // An authentication header of 12 bytes and TCP behind it.
    let mut authenticated = ipv4(b"abc");
    authenticated[9] = 51;
    authenticated[3] += 12;
    authenticated.splice(20..20, *b"\x06\x01\0\0ssssnnnn");
    let mut decoder = Decoder::default();
    check(&mut decoder, RAW, &with_options, b"abc");
    check(&mut decoder, RAW, &authenticated, b"abc");

    // Destination options, hop by hop (in no order that a standard has), routing, mobility, an atomic fragment,
    // authentication, TCP.
    let chain = [
        &b"\0\0\x01\x04\0\0\0\0"[..],
        b"\x2b\x01\x01\x0c\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x87\0\0\0\0\0\0\0",
        b"\x2c\0\0\0\0\0\0\0",
        b"\x33\0\0\0\0\0\0\x07",
        b"\x06\x02\0\0ssssnnnnicvv",
    ]
    .concat();
    let mut extended = ipv6(b"abc");
    extended[6] = 60;
    extended[5] += chain.len() as u8;
    extended.splice(40..40, chain);
    check(&mut decoder, RAW, &extended, b"abc");
}

#[test]
fn padding_is_no_payload_and_a_zero_length_is_offload() {
    let mut decoder = Decoder::default();
    for mut ip in [ipv4(b""), ipv6(b"")] {
        ip.extend_from_slice(&[0; 6]);
        check(&mut decoder, RAW, &ip, b"");
    }
    let (mut four, mut six) = (ipv4(b"abc"), ipv6(b"abc"));
    four[2..4].fill(0);
    six[4..6].fill(0);
    check(&mut decoder, RAW, &four, b"abc");
    check(&mut decoder, RAW, &six, b"abc");
}

#[test]
fn a_jumbo_payload_is_as_long_as_its_option_says() {
    let payload = vec![b'x'; 100_000];
    let mut jumbo = ipv6(b"");
    jumbo.extend_from_slice(&payload);
    jumbo[4..7].copy_from_slice(&[0, 0, 0]);
    let length = (8 + 20 + payload.len() as u32).to_be_bytes();
    jumbo.splice(40..40, [&[6, 0, 0xc2, 4][..], &length].concat());
    jumbo.extend_from_slice(b"trailer");
    let mut decoder = Decoder::default();
    check(&mut decoder, RAW, &jumbo, &payload);
    let cut = &jumbo[..50_000];
    let segment = decoder.decode(&frame(RAW, cut)).unwrap();
    assert_eq!(segment.missing as usize, 100_000 - segment.payload.len());
}

#[test]
fn a_cut_off_packet_tells_what_is_missing() {
    let mut offloaded = ipv4(b"abcdef");
    offloaded[2..4].fill(0);
    let mut decoder = Decoder::default();
    for whole in [ipv4(b"abcdef"), ipv6(b"abcdef"), offloaded] {
        let cut = Frame {
            wire_len: whole.len(),
            ..frame(RAW, &whole[..whole.len() - 2])
        };
        let segment = decoder.decode(&cut).unwrap();
        assert_eq!((segment.payload, segment.missing), (&b"abcd"[..], 2));
    }
}

#[test]
fn what_is_no_whole_tcp_segment_has_its_reason() {
    let mut icmp = ipv4(b"abc");
    icmp[9] = 1;
    let mut short = ipv4(b"abc");
    short[2..4].copy_from_slice(&[0, 19]);
    for (number, packet, expected) in [
        (RAW, &icmp[..], Unusable::NotTcp),
        (RAW, &udp(53, 53, b"query"), Unusable::NotTcp),
        (RAW, &short, Unusable::Broken),
        (RAW, &ipv4(b"")[..30], Unusable::Broken),
        (RAW, &ipv6(b"")[..50], Unusable::Broken),
        (RAW, b"\x55 is no version", Unusable::Broken),
        (RAW, b"", Unusable::Broken),
        (ETHERNET, &ethernet(0x0806, b"arp"), Unusable::NotTcp),
        (
            ETHERNET,
            &ethernet(60, b"\x42\x42\x03spanning tree"),
            Unusable::NotTcp,
        ),
        (
            ETHERNET,
            &ethernet(0x8863, b"\x11\x09\0\0\0\0"),
            Unusable::NotTcp,
        ),
        (ETHERNET, &ethernet(0x8100, b"\0"), Unusable::Broken),
        (
            ETHERNET,
            &ethernet(0x8847, b"\0\0\x11\xff\x10\0\0\x07channel......"),
            Unusable::NotTcp,
        ),
        (
            ETHERNET,
            &[&b"dddddd"[..], &b"\x81\0\0\x01".repeat(9000)].concat(),
            Unusable::Broken,
        ),
        (9, b"\xff\x03\xc0\x21\x01", Unusable::NotTcp),
        (0, b"\x07\0\0\0", Unusable::NotTcp),
        (258, b"\x0c\0\0\0\x01\0\0\0\x02\x01\0\0", Unusable::NotTcp),
    ] {
        assert_eq!(reason(number, packet), expected, "{number} {packet:02x?}");
    }
}

#[test]
fn unknown_link_types_are_not_guessed() {
    for number in [-1, 2, 105, 127, 147, 189, 1000] {
        assert_eq!(LinkType::from_number(number), None);
    }
}

#[test]
fn of_some_vlans_only_their_packets_are_decoded() {
    let settings = DecodeSettings {
        vlans: vec![5, 6],
        ..DecodeSettings::default()
    };
    let mut decoder = Decoder::new(settings);
    for (lead, wanted) in [
        (&b"ddddddssssss\x08\0"[..], false),
        (b"ddddddssssss\x81\0\xa0\x05\x08\0", true),
        (b"ddddddssssss\x81\0\0\x06\x08\0", true),
        (b"ddddddssssss\x81\0\0\x07\x08\0", false),
        (b"ddddddssssss\x88\xa8\0\x05\x81\0\0\x07\x08\0", true),
        (b"ddddddssssss\x88\xa8\0\x07\x81\0\0\x06\x08\0", true),
    ] {
        let packet = [lead, &ipv4(b"x")].concat();
        let decoded = decoder.decode(&frame(ETHERNET, &packet)).map(|_| ());
        let expected = wanted.then_some(()).ok_or(Unusable::OtherNetwork);
        assert_eq!(decoded, expected, "{lead:?}");
    }
    // Tags are those of the host's network, not of a tunnel's.
    let tagged = [b"ddddddssssss\x81\0\0\x05\x08\0", &ipv4(b"x")[..]].concat();
    let vxlan = [&b"\x08\0\0\0\0\0\x01\0"[..], &tagged].concat();
    let packet = ethernet(0x0800, &udp(1, 4789, &vxlan));
    let decoded = decoder.decode(&frame(ETHERNET, &packet)).map(|_| ());
    assert_eq!(decoded, Err(Unusable::OtherNetwork));
}
