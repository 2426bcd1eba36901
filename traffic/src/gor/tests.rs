//! Records that are written here as the format has them, read back in pieces of any size.

use std::io::{BufReader, Cursor};

use proptest::prelude::*;

use super::*;

/// What a reader makes of `bytes`, read in pieces of `piece` bytes: payloads, or the lines of what is skipped.
fn read(bytes: &[u8], piece: usize, max_record: usize) -> Vec<Result<Vec<u8>, Skipped>> {
    let mut reader = Reader::new(BufReader::with_capacity(piece, Cursor::new(bytes)));
    reader.max_record = max_record;
    let mut found = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        found.push(record.map(|record| record.payload.to_vec()));
    }
    found
}

fn write(header: &str, payload: &[u8]) -> Vec<u8> {
    [header.as_bytes(), b"\n", payload, SEPARATOR].concat()
}

#[test]
fn a_record_has_all_its_fields() {
    let mut file = write("1 c0ffee 1500000000000000001 -1", b"GET / HTTP/1.1\r\n\r\n");
    file.extend(write(
        "2 c0ffee 1500000000000000002 77\r",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ));
    file.extend_from_slice(b"3 c0ffee 1500000000000000003\nno separator");
    let mut reader = Reader::new(&file[..]);
    let first = reader.next_record().unwrap().unwrap().unwrap();
    assert_eq!((first.kind, first.id), (Kind::Request, &b"c0ffee"[..]));
    assert_eq!(
        (first.timestamp_ns, first.latency_ns),
        (1_500_000_000_000_000_001, None)
    );
    assert_eq!(first.payload, b"GET / HTTP/1.1\r\n\r\n");
    let second = reader.next_record().unwrap().unwrap().unwrap();
    assert_eq!((second.kind, second.latency_ns), (Kind::Answer, Some(77)));
    assert_eq!(second.line, 6);
    let third = reader.next_record().unwrap().unwrap().unwrap();
    assert_eq!(
        (third.kind, third.payload),
        (Kind::Replayed, &b"no separator"[..])
    );
    assert_eq!(reader.next_record().unwrap(), None);
}

#[test]
fn what_makes_no_sense_is_skipped_with_its_line() {
    let mut file = write("1 a 1", b"x\ny");
    for header in ["1 a", "", "4 a 1", "1 a soon"] {
        file.extend(write(header, b"z"));
    }
    file.extend(write("1 a 2", &[b'z'; 100]));
    file.extend(write("1 a 3", b"last"));
    let skipped = |line, at, flaw| Err(Skipped { line, at, flaw });
    for piece in [1, 3, 4096] {
        assert_eq!(
            read(&file, piece, 64),
            [
                Ok(b"x\ny".to_vec()),
                skipped(5, 23, Flaw::FewFields),
                skipped(8, 42, Flaw::FewFields),
                skipped(11, 58, Flaw::UnknownKind),
                skipped(14, 79, Flaw::BadTimestamp),
                skipped(17, 103, Flaw::TooLarge),
                Ok(b"last".to_vec()),
            ]
        );
    }
}

#[test]
fn a_file_may_end_anywhere_in_the_last_separator() {
    let file = write("1 a 1", b"last");
    for cut in 2..=SEPARATOR.len() {
        let end = file.len() - SEPARATOR.len() + cut;
        assert_eq!(read(&file[..end], 5, 64), [Ok(b"last".to_vec())], "{cut}");
    }
    assert_eq!(read(b"", 5, 64), []);
    assert_eq!(read(b"\r\n\n", 5, 64), []);
}

#[test]
fn a_recording_is_known_by_its_first_bytes() {
    assert!(is_recording(b"1 c0ffee"));
    assert!(is_recording(SEPARATOR));
    assert!(!is_recording(b"GET / HTTP/1.1"));
    assert!(!is_recording(b"1"));
}

#[test]
fn a_part_of_the_separator_is_payload() {
    for payload in ["x🐵🙈🙉", "\n🐵🙈🙉 \n", "\n🐵🙈🙈\n", "a\n🐵", "\n\n"] {
        let mut file = write("1 a 1", payload.as_bytes());
        file.extend(write("1 a 2", b"next"));
        let expected = [Ok(payload.into()), Ok(b"next".to_vec())];
        assert_eq!(read(&file, 7, 1000), expected);
    }
}

/// Bytes of which many are parts of separators.
fn monkeys() -> impl Strategy<Value = Vec<u8>> {
    let part = (0..=SEPARATOR.len(), 0..=SEPARATOR.len())
        .prop_map(|(a, b)| SEPARATOR[a.min(b)..a.max(b)].to_vec());
    let noise = prop::collection::vec(any::<u8>(), 0..8);
    let header = Just(b"1 a 1\n".to_vec());
    prop::collection::vec(prop_oneof![part, noise, header], 0..12).prop_map(|p| p.concat())
}

proptest! {
    #[test]
    fn payloads_come_back_as_written(
        payloads in prop::collection::vec(monkeys(), 1..6),
        piece in 1_usize..40,
    ) {
        // Not part of a payload that the format can hold: a separator, also one that begins in the header's line end.
        let free = |p: &Vec<u8>| {
            let framed = [b"\n", &p[..], &SEPARATOR[..SEPARATOR.len() - 1]].concat();
            memchr::memmem::find(&framed, SEPARATOR).is_none()
        };
        let payloads: Vec<Vec<u8>> = payloads.into_iter().filter(free).collect();
        let file: Vec<u8> = payloads.iter().flat_map(|p| write("1 ab 12 3", p)).collect();
        let expected: Vec<_> = payloads.into_iter().map(Ok).collect();
        prop_assert_eq!(read(&file, piece, 10_000), expected);
    }

    #[test]
    fn garbage_is_read_alike_in_any_pieces(
        garbage in monkeys(),
        piece in 1_usize..40,
        max_record in 1_usize..40,
    ) {
        let whole = read(&garbage, 10_000, max_record);
        prop_assert_eq!(&read(&garbage, piece, max_record), &whole);
        for record in whole.into_iter().flatten() {
            prop_assert!(record.len() <= max_record);
        }
    }
}
