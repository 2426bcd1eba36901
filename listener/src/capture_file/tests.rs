//! Capture files that are written here, byte by byte as the formats have it, read back in pieces of any size.

use std::io::{Cursor, Write as _};

use proptest::prelude::*;

use super::*;

/// Whether numbers are written with the highest byte first.
type Big = bool;

fn n16(big: Big, n: u16) -> [u8; 2] {
    if big {
        n.to_be_bytes()
    } else {
        n.to_le_bytes()
    }
}

fn n32(big: Big, n: u32) -> [u8; 4] {
    if big {
        n.to_be_bytes()
    } else {
        n.to_le_bytes()
    }
}

fn pcap_header(big: Big, magic: u32, minor: u16, link: u32) -> Vec<u8> {
    let mut file = n32(big, magic).to_vec();
    file.extend([n16(big, 2), n16(big, minor)].concat());
    for field in [0, 0, 65_535, link] {
        file.extend(n32(big, field));
    }
    file
}

fn pcap_record(big: Big, fields: [u32; 4], between: &[u8], data: &[u8]) -> Vec<u8> {
    let fields = fields.map(|field| n32(big, field)).concat();
    [&fields, between, data].concat()
}

fn block(big: Big, kind: u32, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let length = n32(big, body.len() as u32 + 12);
    [&n32(big, kind), &length, &body[..], &length].concat()
}

fn section(big: Big) -> Vec<u8> {
    let magic = n32(big, 0x1a2b_3c4d);
    let version = [n16(big, 1), n16(big, 0)].concat();
    block(
        big,
        0x0a0d_0d0a,
        &[&magic, &version[..], &[0xff; 8]].concat(),
    )
}

fn interface(big: Big, link: u16, snap: u32, options: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = [&n16(big, link)[..], &[0; 2], &n32(big, snap)].concat();
    for (code, value) in options {
        body.extend([n16(big, *code), n16(big, value.len() as u16)].concat());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    block(big, 1, &body)
}

/// Any packet block with five numbers before the data.
fn packet(big: Big, kind: u32, first: [u8; 4], at: u64, wire: u32, data: &[u8]) -> Vec<u8> {
    let mut body = first.to_vec();
    for n in [(at >> 32) as u32, at as u32, data.len() as u32, wire] {
        body.extend(n32(big, n));
    }
    body.extend(data);
    block(big, kind, &body)
}

fn enhanced(big: Big, interface: u32, at: u64, data: &[u8]) -> Vec<u8> {
    packet(big, 6, n32(big, interface), at, data.len() as u32, data)
}

/// Hands out a few bytes at a time, as pipes do.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(buffer.len());
        (&mut self.0).take(n as u64).read(buffer)
    }
}

/// A packet as (link type, time, length on the wire, data); an unknown link type has no time and data.
type Row = (String, u64, usize, Vec<u8>);

fn read(file: impl Read) -> (Vec<Row>, Option<FileError>) {
    let mut rows = Vec::new();
    let mut file = match CaptureFile::open(file) {
        Ok(file) => file,
        Err(error) => return (rows, Some(error)),
    };
    loop {
        match file.next_packet() {
            Ok(Some(Packet::Frame(f))) => {
                rows.push((format!("{:?}", f.link), f.at_ns, f.wire_len, f.data.into()));
            }
            Ok(Some(Packet::UnknownLink { number, wire_len })) => {
                rows.push((number.to_string(), 0, wire_len, Vec::new()));
            }
            Ok(None) => return (rows, None),
            Err(error) => return (rows, Some(error)),
        }
        assert!(file.data.capacity() <= 2 * MAX_PACKET);
    }
}

/// All packets of a file without faults.
fn whole(file: &[u8]) -> Vec<Row> {
    let (rows, error) = read(file);
    assert!(error.is_none(), "{error:?}");
    let (piecewise, error) = read(Pieces(file, 3));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(piecewise, rows);
    rows
}

fn row(link: &str, at_ns: u64, wire_len: usize, data: &[u8]) -> Row {
    (link.to_owned(), at_ns, wire_len, data.to_vec())
}

#[test]
fn pcap_of_every_kind() {
    for big in [false, true] {
        for (magic, fraction_ns, between) in [
            (0xa1b2_c3d4, 5_000, 0),
            (0xa1b2_3c4d, 5, 0),
            (0xa1b2_cd34, 5_000, 8),
        ] {
            let between = vec![0xaa; between];
            // The upper half of the link type's field tells of a checksum.
            let mut file = pcap_header(big, magic, 4, 0x5800_0001);
            file.extend(pcap_record(big, [7, 5, 3, 60], &between, b"abc"));
            file.extend(pcap_record(big, [8, 0, 0, 0], &between, b""));
            let expected = [
                row("Ethernet", 7_000_000_000 + fraction_ns, 60, b"abc"),
                row("Ethernet", 8_000_000_000, 0, b""),
            ];
            assert_eq!(whole(&file), expected, "{big} {magic:x}");
        }
        // Before 2.3 the length on the wire came first.
        let mut file = pcap_header(big, 0xa1b2_c3d4, 2, 0);
        file.extend(pcap_record(big, [7, 0, 60, 3], &[], b"abc"));
        assert_eq!(whole(&file), [row("Loopback", 7_000_000_000, 60, b"abc")]);
        let file = pcap_header(big, 0xa1b2_c3d4, 4, 0xffff);
        let file = [file, pcap_record(big, [7, 0, 3, 9], &[], b"abc")].concat();
        assert_eq!(whole(&file), [row("65535", 0, 9, b"")]);
    }
}

#[test]
fn pcapng_with_several_sections_and_interfaces() {
    let mut file = Vec::new();
    let mut expected = Vec::new();
    for big in [false, true] {
        let offset = if big {
            100_i64.to_be_bytes()
        } else {
            100_i64.to_le_bytes()
        };
        let clock = [
            (2, b"eth0".to_vec()),
            (9, vec![9]),
            (14, offset.to_vec()),
            (0, vec![]),
        ];
        file.extend(section(big));
        file.extend(interface(big, 1, 0, &[]));
        file.extend(interface(big, 101, 2, &clock));
        file.extend(interface(big, 0xffff, 2, &[(9, vec![0x80 | 1])]));
        file.extend(block(big, 0x0bad_cafe, &[1; 100_000]));
        file.extend(enhanced(big, 0, 3_000_007, b"abcde"));
        file.extend(packet(
            big,
            2,
            [n16(big, 1), n16(big, 9)].concat().try_into().unwrap(),
            8,
            99,
            b"f",
        ));
        file.extend(enhanced(big, 2, 3, b"g"));
        file.extend(block(big, 3, &[&n32(big, 6)[..], b"simple"].concat()));
        expected.extend([
            row("Ethernet", 3_000_007_000, 5, b"abcde"),
            row("RawIp", 100_000_000_008, 99, b"f"),
            row("65535", 0, 1, b""),
            row("Ethernet", 0, 6, b"simple"),
        ]);
    }
    // A simple packet is as long as its interface cuts them; a new section has interfaces of its own.
    file.extend(section(true));
    file.extend(interface(true, 101, 2, &[]));
    file.extend(block(true, 3, &[&n32(true, 6)[..], b"si"].concat()));
    expected.push(row("RawIp", 0, 6, b"si"));
    assert_eq!(whole(&file), expected);

    file.extend(section(false));
    file.extend(enhanced(false, 0, 1, b"x"));
    let (rows, error) = read(&file[..]);
    assert_eq!(rows, expected);
    let error = error.unwrap().to_string();
    assert!(
        error.contains("interface that was not described"),
        "{error}"
    );
    assert!(error.contains("after 9 packets"), "{error}");
}

#[test]
fn options_that_make_no_sense_are_passed_over() {
    for (code, value) in [
        (9, vec![]),
        (14, vec![1, 2]),
        (1, vec![0xff; 70_000 % 65_536]),
    ] {
        let mut file = section(false);
        file.extend(interface(false, 1, 0, &[(code, value)]));
        file.extend(enhanced(false, 0, 5, b"x"));
        assert_eq!(whole(&file), [row("Ethernet", 5_000, 1, b"x")]);
    }
    // An option that is longer than its block, and options that are longer than anybody reads.
    let mut file = section(false);
    file.extend(block(false, 1, &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 9, 9]));
    file.extend(block(
        false,
        1,
        &[&[1, 0, 0, 0, 0, 0, 0, 0][..], &[0xee; 200_000]].concat(),
    ));
    file.extend(enhanced(false, 1, 5, b"x"));
    assert_eq!(whole(&file), [row("Ethernet", 5_000, 1, b"x")]);
}

fn small_files() -> [Vec<u8>; 2] {
    let mut pcap = pcap_header(false, 0xa1b2_c3d4, 4, 1);
    let mut pcapng = [section(true), interface(true, 1, 0, &[])].concat();
    for n in 0..3 {
        pcap.extend(pcap_record(false, [n, 0, 5, 5], &[], b"abcde"));
        pcapng.extend(enhanced(true, 0, u64::from(n), b"abcde"));
    }
    [pcap, pcapng]
}

#[test]
fn a_file_that_is_cut_off_gives_what_is_whole_and_says_where() {
    for file in small_files() {
        let all = whole(&file);
        let mut kinds = [0; 3];
        for cut in 0..file.len() {
            let (rows, error) = read(&file[..cut]);
            assert_eq!(rows, all[..rows.len()]);
            match error {
                Some(FileError::NotACapture) => assert!(cut < MAGIC_LEN),
                Some(FileError::CutOff { at, end, packets }) => {
                    assert!(at < end && end == cut as u64, "{at} {end} {cut}");
                    assert_eq!(packets, rows.len() as u64);
                }
                None => {}
                other => panic!("{cut}: {other:?}"),
            }
            let packets = rows.len();
            kinds[packets] += 1;
        }
        assert!(kinds.iter().all(|n| *n > 10), "{kinds:?}");
    }
}

#[test]
fn what_is_claimed_is_never_allocated() {
    let huge = pcap_record(false, [1, 1, u32::MAX, 9], &[], b"");
    let pcap = [pcap_header(false, 0xa1b2_c3d4, 4, 1), huge].concat();
    let large = pcap_record(false, [1, 1, MAX_PACKET as u32, 9], &[], b"only this");
    let cut_off = [pcap_header(false, 0xa1b2_c3d4, 4, 1), large].concat();
    let mut block = [
        section(false),
        n32(false, 6).to_vec(),
        n32(false, !3).to_vec(),
    ]
    .concat();
    block.extend([0; 64]);
    let mut interface = [
        section(false),
        n32(false, 1).to_vec(),
        n32(false, !3).to_vec(),
    ]
    .concat();
    interface.extend([0; 64]);
    for file in [pcap, cut_off, block, interface] {
        let mut file = CaptureFile::open(&file[..]).unwrap();
        file.next_packet().unwrap_err();
        assert!(file.data.capacity() < 64 * 1024, "{}", file.data.capacity());
    }
}

#[test]
fn packed_files_are_known_by_their_content() {
    for file in small_files() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&file[..50]).unwrap();
        let mut members = gzip.finish().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&file[50..]).unwrap();
        members.extend(gzip.finish().unwrap());
        let zstd = zstd::encode_all(&file[..], 0).unwrap();
        for packed in [members, zstd, file.clone()] {
            let (rows, error) = read(unpack(Cursor::new(packed.clone())).unwrap());
            assert!(error.is_none(), "{error:?}");
            assert_eq!(rows, whole(&file));
            // What is broken within is said, and what came before counts.
            let short = packed[..packed.len() - 9].to_vec();
            let (rows, error) = read(unpack(Cursor::new(short)).unwrap());
            // zstd gives nothing of a part that isn't whole.
            assert!(
                matches!(
                    error,
                    Some(FileError::CutOff { .. } | FileError::NotACapture)
                ),
                "{error:?}"
            );
            assert_eq!(rows, whole(&file)[..rows.len()]);
        }
    }
    let (magic, all) = peek(&b"ab"[..]).unwrap();
    assert_eq!(magic, *b"ab\0\0");
    assert_eq!(io::read_to_string(all).unwrap(), "ab");
    assert!(!is_capture(magic));
}

proptest! {
    #[test]
    fn damage_never_goes_further_than_an_error(
        which in 0_usize..2,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        piece in 1_usize..50,
    ) {
        let mut file = small_files()[which].clone();
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let (rows, _) = read(&file[..]);
        prop_assert_eq!(read(Pieces(&file, piece)).0, rows);
    }

    #[test]
    fn garbage_behind_a_header_ends_in_an_error_or_the_end(
        garbage in prop::collection::vec(any::<u8>(), 0..300),
        which in 0_usize..2,
    ) {
        let file = small_files()[which].clone();
        let (rows, _) = read(&[&file[..], &garbage].concat()[..]);
        prop_assert!(rows.len() >= 3);
        prop_assert!(rows.len() <= 3 + garbage.len());
    }
}
