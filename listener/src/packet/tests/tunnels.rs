//! Packets in packets, and what only looks like them.

use super::*;

const RAW: i32 = 101;

fn inner() -> Vec<u8> {
    ethernet(0x0800, &ipv4(b"abc"))
}

fn lead(header: &[u8], inner: &[u8]) -> Vec<u8> {
    [header, inner].concat()
}

/// GTP's length counts what is behind its first eight bytes.
fn gtp(flags: u8, optional: &[u8], inner: &[u8]) -> Vec<u8> {
    let length = (optional.len() + inner.len()) as u16;
    [
        &[flags, 0xff][..],
        &length.to_be_bytes(),
        b"teid",
        optional,
        inner,
    ]
    .concat()
}

/// From an address of Teredo's.
fn teredo_ipv6() -> Vec<u8> {
    let mut packet = ipv6(b"abc");
    packet[8..12].copy_from_slice(&[0x20, 0x01, 0, 0]);
    packet
}

/// Every tunnel, with IPv4 or IPv6 or an Ethernet frame in it.
fn tunnels() -> Vec<(&'static str, Vec<u8>)> {
    let (four, six, frame) = (ipv4(b"abc"), ipv6(b"abc"), inner());
    let vxlan = lead(b"\x08\0\0\0\0\0\x0a\0", &frame);
    let geneve = lead(b"\x02\x40\x65\x58\0\0\x0a\0optionss", &frame);
    let ayiya = [b"\x41\x52\x11\x29time", &[7; 16][..], &[9; 20], &six].concat();
    let teredo = [b"\0\x01\0\0nonce...\0\0\0ppaddr", &six[..]].concat();
    vec![
        ("4 in 4", carried(4, &four)),
        ("6 in 4", carried(41, &six)),
        ("4 in 4 in 4", carried(4, &carried(4, &four))),
        ("MPLS in IP", carried(137, &lead(b"\0\0\x11\xff", &four))),
        ("EtherIP", carried(97, &lead(b"\x30\0", &frame))),
        ("GRE", carried(47, &lead(b"\0\0\x08\0", &four))),
        (
            "GRE, all fields",
            carried(47, &lead(b"\xb0\0\x86\xddsum.key.seq.", &six)),
        ),
        ("NVGRE", carried(47, &lead(b"\x20\0\x65\x58vsid", &frame))),
        (
            "GRE with MPLS",
            carried(47, &lead(b"\0\0\x88\x47\0\0\x11\xff", &four)),
        ),
        (
            "GRE of PPTP",
            carried(
                47,
                &lead(b"\x30\x81\x88\x0b\0\x2f\0\x01seq.ack.\xff\x03\0\x21", &four),
            ),
        ),
        ("WCCP", carried(47, &lead(b"\0\0\x88\x3ewccp", &four))),
        ("ERSPAN I", carried(47, &lead(b"\0\0\x88\xbe", &frame))),
        (
            "ERSPAN II",
            carried(47, &lead(b"\x10\0\x88\xbeseq.\x10erspan.", &frame)),
        ),
        (
            "ERSPAN III",
            carried(
                47,
                &lead(b"\x10\0\x22\xebseq.\x20\0\0\0time\0\0\0\0", &frame),
            ),
        ),
        (
            "ERSPAN III and more",
            carried(
                47,
                &lead(
                    b"\x10\0\x22\xebseq.\x20\0\0\0time\0\0\0\x01platform",
                    &frame,
                ),
            ),
        ),
        ("VXLAN", udp(50_000, 4789, &vxlan)),
        ("VXLAN as of old", udp(50_000, 8472, &vxlan)),
        (
            "VXLAN with group",
            udp(50_000, 4789, &lead(b"\x88\0\0\x07\0\0\x0a\0", &frame)),
        ),
        (
            "VXLAN in VXLAN",
            udp(
                50_000,
                4789,
                &lead(
                    b"\x08\0\0\0\0\0\x01\0",
                    &ethernet(0x0800, &udp(1, 4789, &vxlan)),
                ),
            ),
        ),
        (
            "VXLAN-GPE",
            udp(50_000, 4790, &lead(b"\x0c\0\0\x01\0\0\x0a\0", &four)),
        ),
        (
            "VXLAN-GPE, NSH",
            udp(
                50_000,
                4790,
                &lead(b"\x0c\0\0\x04\0\0\x0a\0\x0f\xc2\x01\x03path", &frame),
            ),
        ),
        ("GENEVE", udp(50_000, 6081, &geneve)),
        (
            "GENEVE with IP",
            udp(50_000, 6081, &lead(b"\0\0\x86\xdd\0\0\x0a\0", &six)),
        ),
        ("GTP", udp(2152, 2152, &gtp(0x30, b"", &four))),
        (
            "GTP, sequence",
            udp(2152, 2152, &gtp(0x32, b"\0\x07\0\0", &six)),
        ),
        (
            "GTP, extensions",
            udp(
                2152,
                2152,
                &gtp(0x34, b"\0\0\0\x85\x01pd\xc0\x02......\0", &four),
            ),
        ),
        (
            "MPLS in UDP",
            udp(50_000, 6635, &lead(b"\0\0\x11\xff", &four)),
        ),
        (
            "L2TP",
            udp(1701, 1701, &lead(b"\0\x02tnsn\xff\x03\0\x21", &four)),
        ),
        (
            "L2TP, all fields",
            udp(
                1701,
                1701,
                &lead(b"\x4a\x02\0\x3dtnsnnsnr\0\x02..\0\x21", &four),
            ),
        ),
        ("Teredo", udp(3544, 50_000, &six)),
        ("Teredo with all", udp(50_000, 3544, &teredo)),
        ("Teredo of a peer", udp(50_000, 32_900, &teredo_ipv6())),
        ("AYIYA", udp(5072, 50_000, &ayiya)),
    ]
}

#[test]
fn every_tunnel_leads_to_the_segment() {
    let mut decoder = Decoder::default();
    for (name, packet) in tunnels() {
        println!("{name}");
        check(&mut decoder, RAW, &packet, b"abc");
        check(&mut decoder, 1, &ethernet(0x0800, &packet), b"abc");
    }
}

#[test]
fn tunnels_can_be_left_alone() {
    let settings = DecodeSettings {
        tunnels: false,
        ..DecodeSettings::default()
    };
    let mut decoder = Decoder::new(settings);
    for (name, packet) in tunnels() {
        let found = decoder.decode(&frame(RAW, &packet));
        assert_eq!(found, Err(Unusable::NotTcp), "{name}");
    }
    check(&mut decoder, RAW, &ipv4(b"abc"), b"abc");
}

/// One header byte changed, and it's another protocol on the same port.
#[test]
fn what_only_looks_like_a_tunnel_yields_nothing() {
    let (four, frame) = (ipv4(b"abc"), inner());
    let mut too_long = four.clone();
    too_long[3] += 1;
    let mut ports_only = Vec::new();
    for port in [4789, 8472, 4790, 6081, 2152, 6635, 1701, 3544, 5072] {
        ports_only.push(udp(
            50_000,
            port,
            b"some other protocol, with more than just a few bytes",
        ));
        ports_only.push(udp(50_000, port, b""));
    }
    for packet in ports_only {
        let reason = reason(RAW, &packet);
        assert!(reason == Unusable::NotTcp || reason == Unusable::Broken);
    }
    for packet in [
        udp(1, 4789, &lead(b"\0\0\0\0\0\0\x0a\0", &frame)),
        udp(1, 4789, &lead(b"\x08\0\0\0\0\0\x0a\x01", &frame)),
        udp(1, 4790, &lead(b"\x08\0\0\x01\0\0\x0a\0", &four)),
        udp(1, 4790, &lead(b"\x0c\0\0\x09\0\0\x0a\0", &four)),
        udp(1, 6081, &lead(b"\x40\0\x65\x58\0\0\x0a\0", &frame)),
        udp(1, 6081, &lead(b"\0\x80\x65\x58\0\0\x0a\0", &frame)),
        udp(1, 6081, &lead(b"\0\0\0\x58\0\0\x0a\0", &frame)),
        udp(1, 2152, &gtp(0x20, b"", &four)),
        udp(1, 2152, &gtp(0x30, b"", &too_long)),
        udp(1, 2152, &gtp(0x34, b"\0\0\0\x85\0ext", &four)),
        udp(1, 2152, &lead(b"\x30\xff\xff\xffteid", &four)),
        udp(1, 2152, &lead(b"\x30\x01\0\x2bteid", &four)),
        udp(1, 1701, &lead(b"\x80\x02tnsn\xff\x03\0\x21", &four)),
        udp(1, 3544, &four),
        udp(50_000, 32_900, &ipv6(b"abc")),
        udp(50_000, 32_900, &lead(&teredo_ipv6(), b".")),
        udp(
            1,
            5072,
            &[b"\x41\x52\x10\x29time", &[7; 36][..], &four].concat(),
        ),
        carried(47, &lead(b"\x40\0\x08\0routing.", &four)),
        carried(47, &lead(b"\0\x02\x08\0", &four)),
        carried(47, &lead(b"\0\0\0\0", &four)),
        carried(97, &lead(b"\x20\0", &frame)),
    ] {
        assert_eq!(reason(RAW, &packet), Unusable::NotTcp, "{packet:02x?}");
    }
    // In a tunnel nothing is larger than the tunnel's own packet.
    assert_eq!(reason(RAW, &carried(4, &too_long)), Unusable::Broken);
}

#[test]
fn a_snap_length_in_a_tunnel_tells_what_is_missing() {
    let packet = udp(
        1,
        4789,
        &lead(b"\x08\0\0\0\0\0\x0a\0", &ethernet(0x0800, &ipv4(b"abcdef"))),
    );
    let cut = Frame {
        wire_len: packet.len(),
        ..frame(RAW, &packet[..packet.len() - 4])
    };
    let mut decoder = Decoder::default();
    let segment = decoder.decode(&cut).unwrap();
    assert_eq!((segment.payload, segment.missing), (&b"ab"[..], 4));
}

#[test]
fn nesting_ends_somewhere() {
    let nested = |depth: usize| (0..depth).fold(ipv4(b"abc"), |packet, _| carried(4, &packet));
    let mut decoder = Decoder::default();
    check(&mut decoder, RAW, &nested(MAX_NESTING - 1), b"abc");
    assert_eq!(reason(RAW, &nested(MAX_NESTING)), Unusable::NotTcp);
}

#[test]
fn only_the_networks_asked_for_are_captured() {
    let decoder = |rules: &[&str]| {
        let vni = rules
            .iter()
            .map(|r| r.parse::<VniRule>().unwrap())
            .collect();
        let mut decoder = Decoder::new(DecodeSettings {
            vni,
            ..DecodeSettings::default()
        });
        move |packet: &[u8]| decoder.decode(&frame(RAW, packet)).is_ok()
    };
    let vxlan = udp(1, 4789, &lead(b"\x08\0\0\0\0\0\x0a\0", &inner()));
    let geneve = udp(1, 6081, &lead(b"\0\0\x65\x58\0\0\x14\0", &inner()));
    for (rules, in_10, in_20) in [
        (&[][..], true, true),
        (&["10"], true, false),
        (&["10", "20"], true, true),
        (&["!10"], false, true),
    ] {
        let mut takes = decoder(rules);
        assert_eq!((takes(&vxlan), takes(&geneve)), (in_10, in_20), "{rules:?}");
        assert!(takes(&ipv4(b"abc")) && takes(&carried(4, &ipv4(b"abc"))));
    }
    let vni = [VniRule::Take(7)].into_iter().collect();
    let mut only_7 = Decoder::new(DecodeSettings {
        vni,
        ..DecodeSettings::default()
    });
    let found = only_7.decode(&frame(RAW, &vxlan));
    assert_eq!(found, Err(Unusable::OtherNetwork));
}
