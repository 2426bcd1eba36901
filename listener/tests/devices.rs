//! Live capture on interfaces in network namespaces: bridges, VLANs, interfaces that come and go, several threads,
//! pods.
//! Skipped, saying so, where there are no rights for it.
#![expect(
    clippy::unwrap_used,
    reason = "a test that can't set itself up has to fail"
)]

#[path = "devices/api.rs"]
mod api;
#[path = "devices/net.rs"]
mod net;
#[path = "devices/pods.rs"]
mod pods;

use std::collections::HashSet;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use reprise_listener::capture::{self, CaptureError, Settings};
use reprise_listener::edge::EdgeEvent;
use reprise_listener::reassembly::Answers;

use net::{Net, PATIENCE, captured_at_last};

/// Nobody else is in the namespaces.
const PORT: u16 = 8080;

#[test]
fn a_request_that_several_devices_show_is_reported_once() {
    let Some(net) = Net::new() else { return };
    net.ip("server", "link add br0 type bridge");
    net.ip("server", "addr add 10.1.0.1/24 dev br0");
    net.ip(
        "server",
        "link add port0 type veth peer name eth0 netns CLIENT",
    );
    net.ip("server", "link set port0 master br0 up");
    net.ip("server", "link set br0 up");
    net.ip("client", "addr add 10.1.0.2/24 dev eth0");
    net.ip("client", "link set eth0 up");
    net.serve(PORT);
    for specs in [
        &["br0:8080", "port0:8080"][..],
        &["*0:8080"],
        &[":8080", "port0:8080"],
    ] {
        let live = net.capture(specs, |_| {});
        for path in ["/1", "/2", "/3"] {
            net.send("client", "10.1.0.1:8080", path);
        }
        let edge = live.edge.clone();
        assert_eq!(live.stop(), ["/1", "/2", "/3"], "{specs:?}");
        // SYN, request and FIN of each, seen twice; no acknowledgements. A FIN may come with the request.
        let packets = edge.get(EdgeEvent::Packets);
        assert!((12..=18).contains(&packets), "{specs:?}: {packets}");
    }
}

#[test]
fn interfaces_come_and_go() {
    let Some(net) = Net::new() else { return };
    net.serve(PORT);
    let live = net.capture(&["cab?:8080"], |settings| {
        settings.ignore.push("cab9".parse().unwrap());
    });
    for path in ["/first", "/again"] {
        net.cable("cab1", 1);
        net.cable("cab9", 9);
        assert!(captured_at_last(&live, path, || {
            net.send("client", "10.9.0.1:8080", "/ignored");
            net.send("client", "10.1.0.1:8080", path);
        }));
        net.ip("server", "link del cab1");
        net.ip("server", "link del cab9");
    }
    let found = live.stop();
    assert!(!found.contains(&"/ignored".to_owned()), "{found:?}");
}

#[test]
fn a_named_interface_is_opened_again() {
    let Some(net) = Net::new() else { return };
    net.serve(PORT);
    net.cable("cab1", 1);
    let live = net.capture(&["cab1:8080"], |_| {});
    net.send("client", "10.1.0.1:8080", "/before");
    assert!(captured_at_last(&live, "/before", || ()));
    net.ip("server", "link del cab1");
    net.cable("cab1", 1);
    assert!(captured_at_last(&live, "/after", || {
        net.send("client", "10.1.0.1:8080", "/after");
    }));
    live.stop();
}

#[test]
fn what_is_down_is_said() {
    let Some(net) = Net::new() else { return };
    net.ip("server", "link add cab1 type veth peer name cab2");
    let error = net.on("server", || {
        let settings = Settings {
            specs: vec!["cab1:80".parse().unwrap()],
            ..Settings::default()
        };
        capture::open(settings).err()
    });
    assert!(
        matches!(error, Some(CaptureError::Down { .. })),
        "{error:?}"
    );
}

/// The frames of a connection with one request, with that between the addresses and the IP header.
fn frames(between: &[u8], client_port: u16, server_port: u16, path: &str) -> [Vec<u8>; 2] {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    [(1000, true, ""), (1001, false, &request)].map(|(sequence, syn, payload)| {
        let mut tcp = PacketBuilder::ipv4([10, 1, 0, 2], [10, 1, 0, 1], 64)
            .tcp(client_port, server_port, sequence, 1000)
            .ack(1);
        if syn {
            tcp = tcp.syn();
        }
        let mut frame = [&[0xff; 6][..], &[2; 6], between].concat();
        tcp.write(&mut frame, payload.as_bytes()).unwrap();
        frame
    })
}

/// The kernel takes the outer tag off; an inner one and labels are still there when the filter looks.
#[test]
fn packets_behind_tags_and_labels_are_captured() {
    let Some(net) = Net::new() else { return };
    net.cable("cab1", 1);
    let between: [(&str, &[u8]); 5] = [
        ("/plain", b"\x08\x00"),
        ("/tag", b"\x81\x00\x00\x05\x08\x00"),
        ("/two", b"\x88\xa8\x00\x05\x81\x00\x00\x06\x08\x00"),
        (
            "/three",
            b"\x88\xa8\x00\x05\x81\x00\x00\x06\x81\x00\x00\x07\x08\x00",
        ),
        ("/label", b"\x88\x47\x00\x01\x01\x40"),
    ];
    // Alone the device is bound; with another it is told apart by the filter; and all see all of them.
    for specs in [&["cab1:8080"][..], &["cab1:8080", "lo:1"], &[":8080"]] {
        let live = net.capture(specs, |_| {});
        net.on("client", || {
            let device = pcap::Capture::from_device("cab1").unwrap();
            let mut device = device.open().unwrap();
            for (n, (path, between)) in (0..).zip(&between) {
                let wanted = frames(between, 40_000 + n, 8080, path);
                let other = frames(between, 40_000 + n, 8081, "/other");
                for frame in wanted.iter().chain(&other) {
                    device.sendpacket(&frame[..]).unwrap();
                }
            }
        });
        let edge = live.edge.clone();
        let found = live.stop();
        let packets = edge.get(EdgeEvent::Packets);
        assert_eq!(packets, 2 * between.len() as u64, "{specs:?}: {found:?}");
        let not_decoded = edge.get(EdgeEvent::NotTcp) / 2;
        assert_eq!(found.len() as u64, between.len() as u64 - not_decoded);
        for path in ["/plain", "/tag", "/two", "/three"] {
            assert!(found.contains(&path.to_owned()), "{specs:?}: {found:?}");
        }
    }
}

#[test]
fn threads_share_the_connections() {
    let Some(net) = Net::new() else { return };
    net.serve(PORT);
    net.cable("cab1", 1);
    for specs in [&["cab1:8080"][..], &["cab*:8080", "lo:8080"]] {
        let live = net.capture(specs, |settings| settings.threads = 2);
        let paths: Vec<String> = (100..140).map(|n| format!("/{n}")).collect();
        for path in &paths {
            net.send("client", "10.1.0.1:8080", path);
        }
        let found = live.found.clone();
        assert_eq!(live.stop(), paths, "{specs:?}");
        let threads: HashSet<ThreadId> = found.lock().unwrap().iter().map(|(_, t)| *t).collect();
        // 40 connections all on one thread: once in 10^12 times.
        assert_eq!(threads.len(), 2, "{specs:?}");
    }
}

#[test]
fn a_filter_of_ones_own_takes_the_place_of_the_usual_one() {
    let Some(net) = Net::new() else { return };
    net.serve(PORT);
    net.cable("cab1", 1);
    net.cable("cab2", 2);
    let live = net.capture(&["cab*:8080"], |settings| {
        settings.bpf = Some("tcp dst port 8080 and not src net 10.2.0.0/16".to_owned());
    });
    net.send("client", "10.2.0.1:8080", "/not");
    net.send("client", "10.1.0.1:8080", "/yes");
    assert_eq!(live.stop(), ["/yes"]);
}

#[test]
fn all_ports_are_captured_once_and_replays_not_at_all() {
    let Some(net) = Net::new() else { return };
    net.cable("cab1", 1);
    for port in [PORT, 9090] {
        net.serve(port);
    }
    net.serve_on("client", 7070);
    let both = Answers::Kept { max_body: 1024 };
    for answers in [Answers::Switches, both] {
        for (specs, lo, outgoing) in [
            (&[":*"][..], true, true),
            (&["cab1:", "lo:*"], true, true),
            (&["cab1:*"], false, true),
            (&["10.1.0.1:*"], true, false),
            (&["10.1.0.1:*", "cab1:7070"], true, true),
        ] {
            let live = net.capture(specs, |settings| settings.answers = answers);
            net.send("client", "10.1.0.1:8080", "/1");
            net.send("client", "10.1.0.1:9090", "/2");
            net.send(
                "client",
                "10.1.0.1:9090",
                "/replay HTTP/1.1\r\nReprise-Id: a/1\r\nA: b",
            );
            net.send("server", "10.1.0.1:9090", "/lo");
            net.send("server", "10.1.0.2:7070", "/out");
            let edge = live.edge.clone();
            let mut expected = vec!["/1", "/2"];
            expected.extend(lo.then_some("/lo"));
            expected.extend(outgoing.then_some("/out"));
            assert_eq!(live.stop(), expected, "{specs:?} {answers:?}");
            assert_eq!(edge.get(EdgeEvent::Marked), 1, "{specs:?} {answers:?}");
        }
    }
}

/// A bridge keeps what is for others from the host, unless asked.
#[test]
fn packets_to_other_hosts_are_captured_where_that_is_asked_for() {
    let Some(net) = Net::new() else { return };
    net.ip("server", "link add br0 type bridge");
    net.ip("server", "link set br0 up");
    for port in ["one", "two"] {
        net.ip(
            "server",
            &format!("link add {port} type veth peer name {port} netns CLIENT"),
        );
        net.ip("server", &format!("link set {port} master br0 up"));
        net.ip("client", &format!("link set {port} up"));
    }
    let frame = |path, source: u8, to: u8| {
        let mut frames = frames(b"\x08\x00", 40_000 + u16::from(source), 8080, path);
        for frame in &mut frames {
            frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, to]);
            frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, source]);
        }
        frames
    };
    let send = |device: &str, frames: &[Vec<u8>]| net.transmit("client", device, frames);
    // The bridge learns who is where.
    let learn = || {
        send("one", &frame("/learn", 1, 9));
        send("two", &frame("/learn", 2, 9));
    };
    for (spec, promiscuous, expected) in [
        ("br0:8080", false, &[][..]),
        ("br0:8080", true, &["/other"]),
        ("br?:8080", true, &["/other"]),
    ] {
        learn();
        let live = net.capture(&[spec], |settings| settings.promiscuous = promiscuous);
        send("one", &frame("/other", 1, 2));
        assert_eq!(live.stop(), expected, "{spec} {promiscuous}");
    }
    // An interface that comes later is asked too.
    let live = net.capture(&["late*:8080"], |settings| settings.promiscuous = true);
    net.ip("server", "link add late0 type bridge");
    net.ip("server", "link set late0 up");
    let asked = || {
        let text = net.said("server", "-d link show late0");
        assert!(text.contains("promiscuity"), "{text}");
        !text.contains("promiscuity 0 ")
    };
    let until = Instant::now() + PATIENCE;
    while !asked() && Instant::now() < until {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(asked());
    live.stop();
    assert!(!asked());
}

/// Tags that the kernel takes off, those that it leaves, and those of packets that leave.
#[test]
fn of_some_vlans_only_their_packets_are_captured() {
    let Some(net) = Net::new() else { return };
    net.cable("cab1", 1);
    let frames_of = |between: &[(&str, &[u8])], first_port| -> Vec<Vec<u8>> {
        let of_one = |(n, (path, between)): (u16, &(&str, &[u8]))| frames(between, n, 8080, path);
        (first_port..).zip(between).flat_map(of_one).collect()
    };
    let arriving: [(&str, &[u8]); 6] = [
        ("/plain", b"\x08\x00"),
        // Two bytes are the VLAN, which is the lower half, and a priority.
        ("/5", b"\x81\x00\xa0\x05\x08\x00"),
        ("/6", b"\x81\x00\x00\x06\x08\x00"),
        ("/outer", b"\x88\xa8\x00\x05\x81\x00\x00\x07\x08\x00"),
        ("/inner", b"\x88\xa8\x00\x07\x81\x00\x00\x05\x08\x00"),
        (
            "/innermost",
            b"\x88\xa8\x00\x07\x81\x00\x00\x07\x81\x00\x00\x05\x08\x00",
        ),
    ];
    let leaving: [(&str, &[u8]); 2] = [
        ("/out", b"\x81\x00\x00\x05\x08\x00"),
        ("/out6", b"\x81\x00\x00\x06\x08\x00"),
    ];
    let of_5 = ["/5", "/inner", "/innermost", "/out", "/outer"];
    for (specs, vlans, expected) in [
        (&["cab1:8080"][..], &[5][..], &of_5[..]),
        (&["cab1:8080"], &[6, 9], &["/6", "/out6"]),
        (&["cab1:8080", "lo:1"], &[5], &of_5),
        (&[":8080"], &[5], &of_5),
        (&["cab1:8080"], &[4], &[]),
    ] {
        let live = net.capture(specs, |settings| settings.vlans = vlans.to_vec());
        net.transmit("client", "cab1", &frames_of(&arriving, 40_000));
        net.transmit("server", "cab1", &frames_of(&leaving, 41_000));
        let edge = live.edge.clone();
        assert_eq!(live.stop(), expected, "{specs:?} {vlans:?}");
        // All others stay in the kernel.
        let packets = edge.get(EdgeEvent::Packets);
        assert_eq!(packets, 2 * expected.len() as u64, "{specs:?} {vlans:?}");
    }
}

/// The card adds tags, and takes them off.
#[test]
fn vlan_interfaces_are_seen_below() {
    let Some(net) = Net::new() else { return };
    net.cable("cab1", 1);
    for (host, number) in [("server", 1), ("client", 2)] {
        for vlan in [5, 6] {
            let name = format!("cab1.{vlan}");
            let add = format!("link add link cab1 name {name} type vlan id {vlan}");
            if !net.try_ip(host, &add) {
                println!("skipped: this kernel has no VLAN interfaces");
                return;
            }
            net.ip(
                host,
                &format!("addr add 10.{vlan}.0.{number}/24 dev {name}"),
            );
            net.ip(host, &format!("link set {name} up"));
        }
    }
    net.serve(PORT);
    net.serve_on("client", PORT);
    for specs in [&["cab1:8080"][..], &[":8080"]] {
        let live = net.capture(specs, |settings| settings.vlans = vec![5]);
        for (path, address) in [("/1", "10.1.0.1"), ("/5", "10.5.0.1"), ("/6", "10.6.0.1")] {
            net.send("client", &format!("{address}:8080"), path);
        }
        net.send("server", "10.5.0.2:8080", "/out");
        assert_eq!(live.stop(), ["/5", "/out"], "{specs:?}");
    }
}
