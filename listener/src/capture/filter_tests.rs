//! Filters as libpcap compiles them, on packets.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::super::program::{Body, Program};
use super::*;

const UNSEEN: Answers = Answers::Unseen;
const KEPT: Answers = Answers::Kept { max_body: 0 };

/// Both of the compiler's opinions: optimised as it is used, and as written.
fn passes(specs: &[&str], tunnels: &[&str], answers: Answers, packet: &[u8]) -> bool {
    let specs: Vec<CaptureSpec> = specs.iter().map(|s| s.parse().unwrap()).collect();
    let tunnels: Vec<Tunnel> = tunnels.iter().map(|t| t.parse().unwrap()).collect();
    let wanted = Wanted {
        specs: specs.iter().collect(),
        pods: &Addresses::new(),
        tunnels: &tunnels,
        answers,
    };
    let expression = wanted.expression().unwrap();
    let dead = pcap::Capture::dead(pcap::Linktype(12)).unwrap();
    let compiled = [true, false].map(|optimise| dead.compile(&expression, optimise).unwrap());
    let [fast, plain] = compiled.map(|program| program.filter(packet));
    assert_eq!(fast, plain, "{expression}");
    fast
}

struct Packet {
    v6: bool,
    ports: (u16, u16),
    flags: u8,
    options: usize,
    payload: Vec<u8>,
}

const ACK: u8 = 16;

impl Packet {
    fn to(port: u16) -> Packet {
        Packet {
            v6: false,
            ports: (40_000, port),
            flags: ACK,
            options: 0,
            payload: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        }
    }

    fn from(port: u16, payload: &[u8]) -> Packet {
        Packet {
            ports: (port, 40_000),
            payload: payload.to_vec(),
            ..Packet::to(0)
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut tcp = etherparse::TcpHeader::new(self.ports.0, self.ports.1, 7, 1000);
        tcp.set_options_raw(&vec![1; self.options]).unwrap();
        (tcp.fin, tcp.syn, tcp.rst) = (self.flags & 1 > 0, self.flags & 2 > 0, self.flags & 4 > 0);
        tcp.ack = self.flags & ACK > 0;
        let mut bytes = Vec::new();
        if self.v6 {
            let ip = PacketBuilder::ipv6(ADDRESS6_A, ADDRESS6_B, 64);
            ip.tcp_header(tcp).write(&mut bytes, &self.payload).unwrap();
        } else {
            let ip = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
            ip.tcp_header(tcp).write(&mut bytes, &self.payload).unwrap();
        }
        bytes
    }
}

const ADDRESS6_A: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ADDRESS6_B: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

proptest! {
    /// What clients send passes if it says anything, whatever the addresses' family and the header's length.
    #[test]
    fn clients_segments_pass_unless_they_only_acknowledge(
        v6: bool,
        port in prop::sample::select(vec![79_u16, 80, 81, 8080]),
        flags in 0_u8..8,
        options in (0_usize..=10).prop_map(|words| words * 4),
        length in prop::sample::select(vec![0_usize, 1, 6, 1400, 60_000]),
    ) {
        let packet = Packet { v6, flags: flags | ACK, options, payload: vec![b'x'; length], ..Packet::to(port) };
        let wanted = matches!(port, 80 | 8080) && (length > 0 || flags > 0);
        let bytes = packet.bytes();
        prop_assert_eq!(passes(&["lo:80,8080"], &[], UNSEEN, &bytes), wanted);
        prop_assert_eq!(passes(&["lo:80", ":8080"], &["vxlan"], UNSEEN, &bytes), wanted);
        let address = if v6 { "[fd00::2]:80,8080" } else { "10.0.0.2:80,8080" };
        prop_assert_eq!(passes(&[address], &[], UNSEEN, &bytes), wanted);
        let other = if v6 { "[fd00::1]:80,8080" } else { "10.0.0.1:80,8080" };
        prop_assert!(!passes(&[other], &[], UNSEEN, &bytes));
    }

    /// Of the answers only those pass that accept an upgrade, or all that say anything.
    #[test]
    fn answers_pass_where_they_are_needed(
        v6: bool,
        options in (0_usize..=10).prop_map(|words| words * 4),
        answer in 0_usize..6,
    ) {
        let answers: [(&[u8], bool); 6] = [
            (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", true),
            (b"HTTP/1.0 101\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\n\r\n", false),
            (b"HTTP/1.1 10", false),
            (b"HTTP/2.1 101 Switching Protocols\r\n\r\n", false),
            (b"", false),
        ];
        let (payload, switches) = answers[answer];
        let packet = Packet { v6, options, ..Packet::from(80, payload) };
        let bytes = packet.bytes();
        prop_assert_eq!(passes(&["lo:80"], &[], UNSEEN, &bytes), switches);
        prop_assert_eq!(passes(&["lo:80"], &[], KEPT, &bytes), !payload.is_empty());
        prop_assert!(!passes(&["lo:81"], &[], KEPT, &bytes));
        let host = if v6 { "[fd00::1]:80" } else { "10.0.0.1:80" };
        prop_assert_eq!(passes(&[host], &[], UNSEEN, &bytes), switches);
    }
}

#[test]
fn any_port_is_a_servers_where_none_is_named() {
    for v6 in [false, true] {
        let packet = |packet: Packet| Packet { v6, ..packet }.bytes();
        let (asks, bare) = (packet(Packet::to(9)), packet(Packet::from(9, b"")));
        let answer = packet(Packet::from(9, b"HTTP/1.1 200 OK\r\n\r\n"));
        let switch = packet(Packet::from(9, b"HTTP/1.1 101 S\r\n\r\n"));
        // Packets are all of the same direction: from the first host to the second.
        let [first, second] = match v6 {
            true => ["[fd00::1]:", "[fd00::2]:"],
            false => ["10.0.0.1:", "10.0.0.2:"],
        };
        for answers in [UNSEEN, KEPT] {
            for spec in ["lo:*", ":", second] {
                assert!(passes(&[spec, "lo:80"], &[], answers, &asks), "{spec}");
                assert!(passes(&[spec], &[], answers, &answer), "{spec}");
                assert!(!passes(&[spec], &[], answers, &bare), "{spec}");
            }
            assert!(passes(&[first], &[], answers, &switch));
        }
        assert!(!passes(&[first], &[], UNSEEN, &asks));
        assert!(passes(&[first], &[], KEPT, &asks));
    }
    let behind_options = extended(&[(60, 2)], 9);
    assert!(passes(&[":*"], &[], UNSEEN, &behind_options));
    assert!(passes(&["[fd00::2]:*"], &[], UNSEEN, &behind_options));
    assert!(!passes(&["[fd00::3]:*"], &[], KEPT, &behind_options));
}

#[test]
fn packets_without_a_length_pass() {
    for v6 in [false, true] {
        let packet = Packet {
            v6,
            ..Packet::to(80)
        };
        let mut bytes = packet.bytes();
        let at = if v6 { 4 } else { 2 };
        bytes[at..at + 2].fill(0);
        assert!(passes(&["lo:80"], &[], UNSEEN, &bytes), "IPv6: {v6}");
    }
}

#[test]
fn fragments_without_ports_pass_to_the_wanted_host() {
    let mut later = Packet::to(80).bytes();
    later[6..8].copy_from_slice(&185_u16.to_be_bytes());
    assert!(passes(&["lo:80"], &[], UNSEEN, &later));
    assert!(passes(&["10.0.0.2:80"], &[], UNSEEN, &later));
    assert!(!passes(&["10.0.0.3:80"], &[], UNSEEN, &later));
    later[9] = 17;
    assert!(!passes(&["lo:80"], &[], UNSEEN, &later));
    assert!(passes(&["lo:80"], &["vxlan"], UNSEEN, &later));
    let mut first = Packet::to(80).bytes();
    first[6] |= 0x20;
    assert!(passes(&["lo:80"], &[], UNSEEN, &first));
    let mut other = Packet::to(81).bytes();
    other[6] |= 0x20;
    assert!(!passes(&["lo:80"], &[], UNSEEN, &other));
}

/// An IPv6 packet whose TCP segment stands behind extension headers: kinds, and words of 8 bytes of each.
fn extended(headers: &[(u8, u8)], port: u16) -> Vec<u8> {
    let packet = Packet {
        v6: true,
        ..Packet::to(port)
    };
    let plain = packet.bytes();
    let mut bytes = plain[..40].to_vec();
    let mut kind_at = 6;
    for (kind, words) in headers {
        bytes[kind_at] = *kind;
        kind_at = bytes.len();
        let mut header = vec![0; 8 * usize::from(*words)];
        header[1] = words - 1;
        bytes.extend_from_slice(&header);
    }
    bytes[kind_at] = 6;
    bytes.extend_from_slice(&plain[40..]);
    let length = (bytes.len() - 40) as u16;
    bytes[4..6].copy_from_slice(&length.to_be_bytes());
    bytes
}

#[test]
fn extension_headers_hide_no_port() {
    for kind in OPTIONS {
        for words in [1, 2, 5] {
            let yes = extended(&[(kind, words)], 80);
            let no = extended(&[(kind, words)], 81);
            assert!(passes(&["lo:80"], &[], UNSEEN, &yes), "{kind} {words}");
            assert!(passes(&["[fd00::2]:80"], &[], UNSEEN, &yes));
            assert!(!passes(&["lo:80"], &[], UNSEEN, &no), "{kind} {words}");
        }
    }
    for headers in [
        &[(0, 1), (60, 2)][..],
        &[(51, 3)],
        &[(44, 1)],
        &[(0, 1), (44, 1)],
    ] {
        let packet = extended(headers, 80);
        assert!(passes(&["lo:80"], &[], UNSEEN, &packet), "{headers:?}");
    }
}

#[test]
fn tunnels_pass_where_they_are_asked_for() {
    for v6 in [false, true] {
        let mut bytes = Vec::new();
        let payload = [0; 60];
        match v6 {
            false => PacketBuilder::ipv4([1; 4], [2; 4], 64)
                .udp(1, 4789)
                .write(&mut bytes, &payload)
                .unwrap(),
            true => PacketBuilder::ipv6([1; 16], [2; 16], 64)
                .udp(1, 4789)
                .write(&mut bytes, &payload)
                .unwrap(),
        }
        assert!(passes(&["lo:80"], &["vxlan"], UNSEEN, &bytes), "{v6}");
        assert!(!passes(&["lo:80"], &["geneve"], UNSEEN, &bytes), "{v6}");
        assert!(!passes(&["lo:4789"], &[], UNSEEN, &bytes), "{v6}");
    }
}

fn wanted_of(specs: &[&str], pods: &Addresses) -> Option<String> {
    let specs: Vec<CaptureSpec> = specs.iter().map(|s| s.parse().unwrap()).collect();
    let wanted = Wanted {
        specs: specs.iter().collect(),
        pods,
        tunnels: &["vxlan".parse().unwrap()],
        answers: KEPT,
    };
    wanted.expression()
}

#[test]
fn nothing_is_wanted_of_an_interface_without_specs_or_of_no_pods() {
    let pods = "deployment/web".parse().unwrap();
    let none = [(pods, [].into())].into();
    for known in [Addresses::new(), none] {
        assert_eq!(wanted_of(&[], &known), None);
        assert_eq!(wanted_of(&["k8s://deployment/web:80"], &known), None);
        assert_eq!(wanted_of(&["k8s://deployment/web:*"], &known), None);
        let both = wanted_of(&["k8s://deployment/web:*", "lo:80"], &known);
        assert_eq!(both, wanted_of(&["lo:80"], &known));
    }
}

#[test]
fn pods_of_a_full_node_fit_into_the_kernels_program() {
    let pods = "deployment/web".parse().unwrap();
    let v4 = (0..250).map(|n| IpAddr::from([10, 0, 7, n]));
    let v6 = (0..250).map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 7, n]));
    let mut known: Addresses = [(pods, v4.chain(v6).collect())].into();
    let specs = ["k8s://deployment/web:80,8080"];
    let expression = wanted_of(&specs, &known).unwrap();
    let body = Body::compile(&expression).unwrap();
    Program::new(&[], &body, &[]).unwrap();
    // Of more than that, hosts are told apart later.
    for addresses in known.values_mut() {
        addresses.insert(IpAddr::from([10, 0, 8, 1]));
    }
    let ports = wanted_of(&["lo:80,8080"], &known);
    assert_eq!(wanted_of(&specs, &known), ports);
}
