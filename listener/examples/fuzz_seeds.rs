//! Writes the seeds of all fuzz targets: `cargo run -p reprise-listener --example fuzz_seeds`.
//!
//! What enters: nothing. What leaves: small files in `fuzz/seeds/TARGET/`, the same ones whenever it runs.
//! What may be lost: seeds in that folder whose names are used again.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use reprise_traffic::gor::SEPARATOR;

type Seed = (&'static str, Vec<u8>);

const ASKED: [&str; 9] = [
    "GET /1?a=b HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nabcde",
    "PUT /3 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n3;x=\"y\"\r\nabc\r\n0a\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
    "HEAD http://h:80/4 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nA: b\r\nReprise-Id: l/1/2\r\n\r\n",
    "GET /w HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
    "POST /5 HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST /6 HTTP/1.1\r\nContent-Length: 5000\r\n\r\nGET / HTTP/1.1\r\n\r\n",
];

const ANSWERS: [&str; 7] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nT: 1\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.0 200 OK\nServer: x\n\nto the end",
];

/// Length, delay, and what else befalls a segment: see `conversation`.
const SCHEDULE: [u8; 9] = [7, 0, 0x82, 1, 40, 0x41, 30, 5, 0x93];

fn main() -> Result<(), Box<dyn Error>> {
    let files = captures()?;
    for (target, seeds) in [
        ("requests", requests()),
        ("conversation", conversations()),
        ("answers", answers()),
        ("packets", packets()),
        ("capture_file", files),
        ("gor", recordings()),
        ("records", streams()),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/seeds")
            .join(target);
        fs::create_dir_all(&folder)?;
        for (name, seed) in seeds {
            fs::write(folder.join(name), seed)?;
        }
    }
    Ok(())
}

fn requests() -> Vec<Seed> {
    let all = ASKED.concat();
    let [
        get,
        post,
        put,
        head,
        marked,
        upgrade,
        connect,
        unclear,
        long,
    ] = ASKED;
    let after = [connect, get].concat();
    [
        ("all", 1, all.as_str()),
        ("pipelined", 3 << 2, &[get, post, put, head].concat()),
        ("chunked", (2 << 2) | 2, put),
        ("marked", 0, &[marked, get].concat()),
        ("upgrade_guessed", 0, &[upgrade, get].concat()),
        ("upgrade_refused", 1, &[upgrade, get].concat()),
        ("tunnel", 1, &after),
        ("unclear", 0, unclear),
        ("too_long", 2, long),
        ("other_protocol", 0, "SSH-2.0-x\r\n"),
    ]
    .map(|(name, options, text): (&str, u8, &str)| {
        let lengths = &SCHEDULE[..usize::from(options >> 2)];
        (name, [&[options, 0], lengths, text.as_bytes()].concat())
    })
    .to_vec()
}

/// Options, a schedule, and turns.
fn conversation(options: u8, turns: &[&str]) -> Vec<u8> {
    let mut seed = vec![options];
    if options & 4 != 0 {
        seed.extend([20, 0xff, 0xff]);
    }
    seed.push(SCHEDULE.len() as u8);
    seed.extend(SCHEDULE);
    let turns: Vec<_> = turns.iter().map(|turn| turn.as_bytes()).collect();
    seed.extend(turns.join(&0xff));
    seed
}

fn conversations() -> Vec<Seed> {
    let [get, post, put, head, marked, upgrade, connect, unclear, _] = ASKED;
    let [ok, chunked, none, unchanged, switching, refused, to_end] = ANSWERS;
    let pipelined = [get, post, put].concat();
    let answered = [ok, chunked, none].concat();
    let frames = "\u{1}\u{2}frames GET / HTTP/1.1\r\n\r\n";
    vec![
        (
            "unseen",
            conversation(0x18, &[get, ok, post, chunked, put, none]),
        ),
        (
            "kept",
            conversation(0x1a, &[get, unchanged, post, chunked, head, none, put, ok]),
        ),
        (
            "wrapping",
            conversation(0x3f, &[get, ok, post, chunked, put, none]),
        ),
        ("pipelined", conversation(0x2, &[&pipelined, &answered])),
        ("to_the_end", conversation(0x12, &[head, to_end])),
        (
            "switched",
            conversation(0x2, &[upgrade, switching, frames, "\u{3}\u{4}"]),
        ),
        ("refused", conversation(0x1, &[connect, refused, get, ok])),
        (
            "tunnel",
            conversation(0x1e, &[connect, "HTTP/1.1 200 Go\r\n\r\n", get, ok]),
        ),
        ("marked", conversation(0x2, &[marked, none, get, ok])),
        ("unclear", conversation(0x2, &[get, ok, unclear, refused])),
    ]
}

fn answers() -> Vec<Seed> {
    let [ok, chunked, none, unchanged, switching, refused, to_end] = ANSWERS;
    let head_only = "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n";
    [
        (
            "in_turn",
            0x30,
            0b1110_0100,
            [ok, head_only, chunked, unchanged].concat(),
        ),
        ("interim", 0x10, 0, [chunked, none, chunked, ok].concat()),
        ("to_the_end", 0x20, 0, [ok, to_end].concat()),
        ("switched", 0x3, 0, [ok, switching, "\u{1}\u{2}"].concat()),
        ("refused", 0x1, 0, [refused, ok, ok, none, ok].concat()),
        ("tunnel", 0x9, 0, "HTTP/1.1 200 Go\r\n\r\nbytes".to_owned()),
        (
            "long",
            0x10,
            0,
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 150\r\n\r\n{:150}{ok}",
                "a"
            ),
        ),
        ("no_answer", 0x10, 0, ["SSH-2.0\r\n", ok].concat()),
    ]
    .map(|(name, options, kinds, text)| {
        let start = [&[options, kinds, SCHEDULE.len() as u8], &SCHEDULE[..]].concat();
        (name, [start, text.into_bytes()].concat())
    })
    .to_vec()
}

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;

/// A TCP segment, from the client or to it.
fn tcp(from_client: bool, sequence: u32, acknowledgment: u32, flags: u8, payload: &str) -> Vec<u8> {
    let (from, to) = match from_client {
        true => ([0x9c_u8, 0x40], [0, 80]),
        false => ([0, 80], [0x9c, 0x40]),
    };
    [
        &from[..],
        &to,
        &sequence.to_be_bytes(),
        &acknowledgment.to_be_bytes(),
        &[0x50, flags, 0xff, 0xff, 0, 0, 0, 0],
        payload.as_bytes(),
    ]
    .concat()
}

/// An IPv4 packet; `part` is its fragment field.
fn ipv4(from_client: bool, protocol: u8, part: u16, body: &[u8]) -> Vec<u8> {
    let (from, to) = match from_client {
        true => ([10, 0, 0, 1], [10, 0, 0, 2]),
        false => ([10, 0, 0, 2], [10, 0, 0, 1]),
    };
    [
        &[0x45, 0][..],
        &(body.len() as u16 + 20).to_be_bytes(),
        &[0, 9],
        &part.to_be_bytes(),
        &[64, protocol, 0, 0],
        &from,
        &to,
        body,
    ]
    .concat()
}

/// An IPv6 packet, with an extension header for destinations.
fn ipv6(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16 + 8).to_be_bytes();
    let (from, to) = ([0xfd_u8, 1], [0xfd_u8, 2]);
    [
        &[0x60, 0, 0, 0][..],
        &length,
        &[60, 64],
        &from,
        &[0; 14],
        &to,
        &[0; 14],
        &[6, 0, 1, 4, 0, 0, 0, 0],
        body,
    ]
    .concat()
}

fn udp(port: u16, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16 + 8).to_be_bytes();
    [
        &[0x30, 0x39][..],
        &port.to_be_bytes(),
        &length,
        &[0, 0],
        body,
    ]
    .concat()
}

/// A frame as the target `packets` reads it.
fn frame(link: u8, lead: &[u8], packet: &[u8]) -> Vec<u8> {
    let length = ((lead.len() + packet.len()) as u16).to_le_bytes();
    [&[link, 1][..], &length, lead, packet].concat()
}

const ETHERNET: &[u8] = b"ddddddssssss\x08\0";

/// A connection's segments: opened, a request in two parts the wrong way round, its answer, closed.
fn segments() -> Vec<(bool, Vec<u8>)> {
    let (request, answer) = (ASKED[1], ANSWERS[0]);
    let (first, second) = request.split_at(30);
    let (asked, said) = (request.len() as u32, answer.len() as u32);
    vec![
        (true, tcp(true, 99, 0, SYN, "")),
        (false, tcp(false, 499, 100, SYN | ACK, "")),
        (true, tcp(true, 130, 500, ACK, second)),
        (true, tcp(true, 100, 500, ACK, first)),
        (false, tcp(false, 500, 100 + asked, ACK, answer)),
        (true, tcp(true, 100 + asked, 500 + said, FIN | ACK, "")),
        (false, tcp(false, 500 + said, 101 + asked, FIN | ACK, "")),
    ]
}

fn packets() -> Vec<Seed> {
    // An index into the target's link types, and what stands ahead of IPv4.
    let leads: [(&str, u8, &[u8]); 10] = [
        ("ethernet", 0, ETHERNET),
        ("vlan", 0, b"ddddddssssss\x88\xa8\0\x01\x81\0\0\x02\x08\0"),
        ("mpls", 0, b"ddddddssssss\x88\x47\0\0\x11\xff"),
        ("loopback", 1, b"\x02\0\0\0"),
        ("raw", 2, b""),
        ("cooked", 3, b"\0\0\0\x01\0\x06ssssss\0\0\x08\0"),
        ("cooked2", 4, b"\x08\0\0\0\0\0\0\x02\0\x01\0\x06ssssss\0\0"),
        ("nflog", 5, b"\x02\0\0\0\x04\0\x09\0"),
        ("ppp", 6, b"\xff\x03\0\x21"),
        ("llc", 9, b"\xaa\xaa\x03\0\0\0\x08\0"),
    ];
    let over_ipv4 = |link, lead: &[u8], wrap: &dyn Fn(bool, Vec<u8>) -> Vec<u8>| -> Vec<u8> {
        let frames = segments().into_iter();
        let frames = frames.map(|(way, tcp)| frame(link, lead, &wrap(way, tcp)));
        [vec![0x1b], frames.flatten().collect()].concat()
    };
    let mut seeds: Vec<Seed> = leads
        .map(|(name, link, lead)| {
            (
                name,
                over_ipv4(link, lead, &|way, tcp| ipv4(way, 6, 0, &tcp)),
            )
        })
        .to_vec();
    let vxlan = |way, tcp: Vec<u8>| {
        let inner = [ETHERNET, &ipv4(way, 6, 0, &tcp)].concat();
        let body = [&b"\x08\0\0\0\0\0\x07\0"[..], &inner].concat();
        ipv4(true, 17, 0, &udp(4789, &body))
    };
    let geneve = |way, tcp: Vec<u8>| {
        let inner = [ETHERNET, &ipv4(way, 6, 0, &tcp)].concat();
        let body = [&b"\0\0\x65\x58\0\0\x07\0"[..], &inner].concat();
        ipv4(true, 17, 0, &udp(6081, &body))
    };
    let gre = |way, tcp: Vec<u8>| {
        let body = [&b"\0\0\x08\0"[..], &ipv4(way, 6, 0, &tcp)].concat();
        ipv4(true, 47, 0, &body)
    };
    seeds.push(("vxlan", over_ipv4(0, ETHERNET, &vxlan)));
    seeds.push(("geneve", over_ipv4(0, ETHERNET, &geneve)));
    seeds.push(("gre", over_ipv4(2, b"", &gre)));
    seeds.push((
        "ipv6",
        over_ipv4(0, b"ddddddssssss\x86\xdd", &|_, tcp| ipv6(&tcp)),
    ));
    let mut parts = vec![0x1b];
    let whole = tcp(true, 100, 500, ACK, ASKED[0]);
    let (first, second) = whole.split_at(24);
    parts.extend(frame(2, b"", &ipv4(true, 6, 3, second)));
    parts.extend(frame(2, b"", &ipv4(true, 6, 0x2000, first)));
    seeds.push(("fragments", parts));
    seeds
}

/// A pcap file's header and records, of raw IP.
fn pcap(magic: u32) -> Vec<u8> {
    let mut file = magic.to_le_bytes().to_vec();
    file.extend([
        2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 101, 0, 0, 0,
    ]);
    for (n, (way, tcp)) in segments().into_iter().enumerate() {
        let packet = ipv4(way, 6, 0, &tcp);
        for field in [
            1_700_000_000,
            n as u32,
            packet.len() as u32,
            packet.len() as u32,
        ] {
            file.extend(field.to_le_bytes());
        }
        file.extend(packet);
    }
    file
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, &body, &length].concat()
}

/// A pcapng file with an interface in nanoseconds, enhanced and simple packets, and a block to be skipped.
fn pcapng() -> Vec<u8> {
    let magic = 0x1a2b_3c4d_u32.to_le_bytes();
    let section = [&magic[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let mut file = block(0x0a0d_0d0a, &section);
    file.extend(block(
        1,
        &[101, 0, 0, 0, 0, 0, 4, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0],
    ));
    file.extend(block(5, &[0; 12]));
    for (n, (way, tcp)) in segments().into_iter().enumerate() {
        let packet = ipv4(way, 6, 0, &tcp);
        let length = packet.len() as u32;
        let fields = [0, 0x18_0000, n as u32, length, length].map(u32::to_le_bytes);
        file.extend(match n {
            2 => block(3, &[&length.to_le_bytes()[..], &packet].concat()),
            _ => block(6, &[fields.as_flattened(), &packet].concat()),
        });
    }
    file
}

fn captures() -> Result<Vec<Seed>, Box<dyn Error>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&pcap(0xa1b2_c3d4))?;
    let mut stored = GzEncoder::new(Vec::new(), Compression::none());
    stored.write_all(&pcapng())?;
    let (gzip, stored) = (gzip.finish()?, stored.finish()?);
    let zstd = zstd::encode_all(&pcapng()[..], 3)?;
    let cut = pcap(0xa1b2_c3d4);
    let cut = cut[..cut.len() - 30].to_vec();
    let mut two = pcapng();
    two.extend(pcapng());
    let seeds = [
        ("micros", pcap(0xa1b2_c3d4)),
        ("nanos", pcap(0xa1b2_3c4d)),
        ("swapped_nonsense", pcap(0xd4c3_b2a1)),
        ("modified", pcap(0xa1b2_cd34)),
        ("cut_off", cut),
        ("pcapng", pcapng()),
        ("two_sections", two),
        ("gzip", gzip),
        ("gzip_stored", stored),
        ("zstd", zstd),
    ];
    // Pipes hand out 7 bytes at a time.
    let piped = |file: Vec<u8>| [vec![6], file].concat();
    Ok(seeds.map(|(name, file)| (name, piped(file))).to_vec())
}

/// The same files, with a bound for records ahead of them.
fn streams() -> Vec<Seed> {
    let mut seeds = recordings();
    for (_, stream) in &mut seeds {
        stream.insert(1, 8);
    }
    seeds
}

fn recordings() -> Vec<Seed> {
    let record = |header: &str, payload: &str| {
        [header.as_bytes(), b"\n", payload.as_bytes(), SEPARATOR].concat()
    };
    let pair = [
        record(
            "1 932079936fa4306fc308d67588178d17d823647c 1439818823587396305",
            ASKED[0],
        ),
        record(
            "2 932079936fa4306fc308d67588178d17d823647c 1439818823587396305 4711",
            ANSWERS[0],
        ),
        record(
            "3 932079936fa4306fc308d67588178d17d823647c 1439818823587396305 -1",
            ANSWERS[1],
        ),
    ];
    let flawed = [
        record("1 a", "x"),
        record("4 a 1", "x"),
        record("1 a soon", "x"),
        record("", ""),
        record("1 a 2", "\n🐵🙈 🙉\n"),
    ];
    let mut cut = pair.concat();
    cut.truncate(cut.len() - 5);
    let seeds = [
        ("pair", pair.concat()),
        ("flawed", flawed.concat()),
        ("cut_off", cut),
        ("no_separator", b"1 a 1\nGET / HTTP/1.1\r\n\r\n".to_vec()),
    ];
    seeds
        .map(|(name, file)| (name, [vec![4], file].concat()))
        .to_vec()
}
