//! Files that are written, cut off, and gone on with, again and again.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use reprise_traffic::gor::{Flaw, Reader, is_whole};

use super::super::file::{OpenError, RecordFile};
use super::super::pack::Packer;
use super::*;

const PACKINGS: [Packing; 3] = [Packing::Plain, Packing::Gzip, Packing::Zstd];

/// A record of a POST that says who it is and how long.
fn record(id: usize, size: usize) -> Vec<u8> {
    // What doesn't pack well, and what looks like a record itself.
    let noise = (0..size).map(|n| b"1 a 2\nGET /evil"[(n * n + id * 7) % 15]);
    let body: Vec<u8> = noise.collect();
    let head = format!("1 {id:x} 17 -1\nPOST /{id} HTTP/1.1\r\nContent-Length: {size}\r\n\r\n");
    [head.as_bytes(), &body, SEPARATOR].concat()
}

/// The ids of the whole records that any reader finds, up to what can't be unpacked. `clean` where nothing else is there.
fn read(packing: Packing, file: &[u8], clean: bool) -> Vec<usize> {
    let mut unpacked = Vec::new();
    let mut out = |bytes: &[u8]| unpacked.extend_from_slice(bytes);
    let ended = match packing {
        Packing::Plain => drain(&mut &file[..], &mut out),
        Packing::Gzip => drain(&mut MultiGzDecoder::new(file), &mut out),
        Packing::Zstd => drain(&mut ::zstd::Decoder::new(file).unwrap(), &mut out),
    };
    assert!(ended.unwrap() || !clean);
    let whole = unpacked.ends_with(SEPARATOR) || unpacked.is_empty();
    assert!(whole || !clean);
    let mut reader = Reader::new(&unpacked[..]);
    let mut ids = Vec::new();
    let mut at_end = false;
    while let Some(found) = reader.next_record().unwrap() {
        assert!(!at_end, "something behind what is torn");
        let Ok(found) = found else {
            assert!(!clean, "{found:?}");
            at_end = true;
            continue;
        };
        let id = usize::from_str_radix(std::str::from_utf8(found.id).unwrap_or("-"), 16);
        let header = format!("1 {} 17 -1\n", String::from_utf8_lossy(found.id));
        let is_whole = |payload| is_whole(&[header.as_bytes(), payload].concat());
        // The first byte of a separator that was torn off.
        let torn = found.payload.strip_suffix(b"\n").filter(|p| is_whole(p));
        let payload = torn.unwrap_or(found.payload);
        at_end = torn.is_some() || !is_whole(payload);
        assert!(!at_end || !clean, "{found:?}");
        if !is_whole(payload) {
            continue;
        }
        let id = id.unwrap();
        let size = payload.len() - (memmem::find(payload, b"\r\n\r\n").unwrap() + 4);
        let expected = record(id, size);
        let header = memmem::find(&expected, b"\n").unwrap() + 1;
        let same = expected[header..].strip_suffix(SEPARATOR) == Some(payload);
        assert!(same, "record {id} has bytes of another");
        ids.push(id);
    }
    ids
}

/// What a file holds when a write at a place was killed after `done` of its bytes, those in a plain file included that
/// make unreadable what was torn before.
fn killed(packing: Packing, before: &[u8], after: &[u8], at: usize, done: usize) -> Vec<u8> {
    let mut file = before.to_vec();
    let torn = match packing {
        Packing::Plain => before.len() - at,
        Packing::Gzip | Packing::Zstd => 0,
    };
    let header = memchr::memchr(b'\n', &before[at..at + torn]).map_or(torn, |at| at + 1);
    // The payload before the header.
    let order = (header..torn).chain(2..header).chain(0..2);
    for place in order.take(done).filter(|place| *place >= 2) {
        file[at + place] = b'~';
    }
    if done >= torn {
        let end = (at + done - torn).min(after.len());
        let rest = file.get(end..).unwrap_or_default();
        return [&after[..end], rest].concat();
    }
    file
}

fn append(path: &Path, packing: Packing, pending: &mut Vec<u8>) -> Result<RecordFile, OpenError> {
    RecordFile::append(path.to_str().unwrap(), packing, pending)
}

fn write(file: &mut RecordFile, packing: Packing, pending: &[u8]) {
    let mut packer = Packer::new(packing).unwrap();
    let packed = file.pack(&mut packer, pending).unwrap().to_vec();
    file.write(&packed, packing).unwrap();
}

fn file_in(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("file")
}

/// One life of a process: the sizes of the records of each write, and after how many bytes of the last it was killed.
fn lives() -> impl Strategy<Value = Vec<(Vec<Vec<usize>>, usize)>> {
    let batch = prop::collection::vec(prop_oneof![0_usize..40, 1000_usize..3000], 1..4);
    let life = (prop::collection::vec(batch, 1..4), 0_usize..4000);
    prop::collection::vec(life, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_dies_when_what_was_written_is_read(
        lives in lives(),
        packing in prop::sample::select(&PACKINGS[..]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = file_in(&dir);
        // What can be read, and how much of it a write that was not killed has handed over.
        let mut known: Vec<usize> = Vec::new();
        let mut safe = 0;
        let mut next = 1;
        for (writes, done) in lives {
            let found = fs::read(&path).unwrap_or_default();
            let mut pending = Vec::new();
            let mut file = append(&path, packing, &mut pending).unwrap();
            prop_assert_eq!(&fs::read(&path).unwrap(), &found, "opening changes nothing");
            for (n, sizes) in writes.iter().enumerate() {
                let ids: Vec<usize> = (next..next + sizes.len()).collect();
                next += sizes.len();
                for (id, size) in ids.iter().zip(sizes) {
                    pending.extend(record(*id, *size));
                }
                let before = fs::read(&path).unwrap();
                let at = file.size() as usize;
                write(&mut file, packing, &pending);
                pending.clear();
                let after = fs::read(&path).unwrap();
                prop_assert!(after.len() >= before.len());
                if n + 1 == writes.len() {
                    let torn = killed(packing, &before, &after, at, done);
                    let read_now = read(packing, &torn, false);
                    // Nothing that was written is gone, and no more is there than that and what was begun.
                    prop_assert!(read_now.starts_with(&known[..safe]), "{:?} {:?}", read_now, known);
                    let all = [&known[..], &ids].concat();
                    prop_assert!(all.starts_with(&read_now), "{:?} {:?}", read_now, all);
                    known = read_now;
                    fs::write(&path, &torn).unwrap();
                } else {
                    known.extend(&ids);
                    safe = known.len();
                    prop_assert_eq!(&read(packing, &after, true), &known);
                }
            }
            drop(file);
        }
        // The last life ends well.
        let mut pending = Vec::new();
        let mut file = append(&path, packing, &mut pending).unwrap();
        pending.extend(record(next, 10));
        write(&mut file, packing, &pending);
        known.push(next);
        prop_assert_eq!(read(packing, &fs::read(&path).unwrap(), true), known);
    }
}

#[test]
fn a_file_cut_off_anywhere_is_read_to_its_last_whole_record_and_gone_on_with() {
    for packing in PACKINGS {
        let dir = tempfile::tempdir().unwrap();
        let path = file_in(&dir);
        let mut file = append(&path, packing, &mut Vec::new()).unwrap();
        let mut ends = vec![0];
        for id in 1..4 {
            write(&mut file, packing, &record(id, 20 * id));
            ends.push(file.size());
        }
        drop(file);
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            let wanted = ends
                .iter()
                .filter(|end| **end > 0 && **end <= cut as u64)
                .count();
            let found = match cut {
                // zstd's tools know no empty file.
                0 => Vec::new(),
                _ => read(packing, &whole[..cut], false),
            };
            assert!(
                found.len() >= wanted && found.len() <= wanted + 1,
                "{packing:?} {cut}"
            );
            fs::write(&path, &whole[..cut]).unwrap();
            let mut pending = Vec::new();
            let mut file = append(&path, packing, &mut pending).unwrap();
            pending.extend(record(9, 5));
            write(&mut file, packing, &pending);
            let bytes = fs::read(&path).unwrap();
            assert!(bytes.len() >= cut);
            assert_eq!(
                read(packing, &bytes, true),
                [found, vec![9]].concat(),
                "{packing:?} {cut}"
            );
        }
    }
}

/// As GoReplay leaves it where it is killed: one member without an end. Its records must not be lost.
#[test]
fn what_others_packed_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_in(&dir);
    let records: Vec<u8> = (1..200).flat_map(|id| record(id, id)).collect();
    let mut member = GzEncoder::new(Vec::new(), Compression::default());
    member.write_all(&records).unwrap();
    let whole = member.finish().unwrap();
    let torn = &whole[..whole.len() * 2 / 3];
    for bytes in [whole.clone(), [&whole[..], torn].concat(), torn.to_vec()] {
        fs::write(&path, &bytes).unwrap();
        let before = read(Packing::Gzip, &bytes, false);
        assert!(before.len() > 50);
        let mut pending = Vec::new();
        let mut file = append(&path, Packing::Gzip, &mut pending).unwrap();
        pending.extend(record(500, 5));
        write(&mut file, Packing::Gzip, &pending);
        let after = fs::read(&path).unwrap();
        assert!(after.len() >= bytes.len());
        assert_eq!(
            read(Packing::Gzip, &after, true),
            [before, vec![500]].concat()
        );
    }
}

#[test]
fn a_separator_that_is_missing_is_made_up_for() {
    let first = record(1, 10);
    for packing in PACKINGS {
        for there in 0..SEPARATOR.len() {
            let dir = tempfile::tempdir().unwrap();
            let path = file_in(&dir);
            let without = &first[..first.len() - SEPARATOR.len() + there];
            fs::write(
                &path,
                Packer::new(packing).unwrap().pack(without, 0).unwrap(),
            )
            .unwrap();
            let mut pending = Vec::new();
            let mut file = append(&path, packing, &mut pending).unwrap();
            pending.extend(record(2, 10));
            write(&mut file, packing, &pending);
            let bytes = fs::read(&path).unwrap();
            // At the end of a member that is whole, an LF alone is the payload's own.
            if there != 1 || packing == Packing::Plain {
                assert_eq!(read(packing, &bytes, true), [1, 2], "{packing:?} {there}");
            }
        }
    }
}

#[test]
fn what_is_no_recording_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_in(&dir);
    let log = b"GET / 200\n".repeat(100);
    for packing in PACKINGS {
        let packed = Packer::new(packing)
            .unwrap()
            .pack(&log, 0)
            .unwrap()
            .to_vec();
        for bytes in [&packed[..], &log] {
            fs::write(&path, bytes).unwrap();
            let error = append(&path, packing, &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("no recording"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }
    let mut reader = Reader::new(&log[..]);
    let first = reader.next_record().unwrap().unwrap();
    assert_eq!(first.unwrap_err().flaw, Flaw::UnknownKind);
}

#[test]
fn a_file_has_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_in(&dir);
    let first = append(&path, Packing::Plain, &mut Vec::new()).unwrap();
    let checked = super::super::file::check_append(&path, Packing::Plain).unwrap_err();
    assert!(matches!(checked, OpenError::Locked(_)), "{checked}");
    let second = append(&path, Packing::Plain, &mut Vec::new()).unwrap_err();
    assert!(second.to_string().contains("another process"), "{second}");
    drop(first);
    append(&path, Packing::Plain, &mut Vec::new()).unwrap();
}
