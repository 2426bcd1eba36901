//! GoReplay's recordings: read alike in any pieces, and what was read comes back from what it is written as.
//!
//! What enters: the length of pieces, and a file.
#![no_main]

use std::io::BufReader;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use reprise_fuzz::input::Input;
use reprise_traffic::gor::{Kind, Reader, SEPARATOR};
use reprise_traffic::{AnswerHead, Head};

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let piece = usize::from(input.byte()) + 1;
    let file = input.rest();
    let whole = read(file, file.len().max(1));
    assert_eq!(read(file, piece), whole);
    // A file of nothing but its good records has the same ones.
    let records: Vec<_> = whole.into_iter().filter_map(Result::ok).collect();
    let written: Vec<u8> = records.iter().flat_map(Written::bytes).collect();
    if holds_no_other_separator(&records) {
        let again = read(&written, piece);
        assert_eq!(again, records.into_iter().map(Ok).collect::<Vec<_>>());
    }
});

/// A record's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    kind: Kind,
    id: Vec<u8>,
    timestamp_ns: u64,
    latency_ns: Option<u64>,
    payload: Vec<u8>,
}

impl Written {
    fn bytes(&self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Request => 1,
            Kind::Answer => 2,
            Kind::Replayed => 3,
        };
        let latency = self.latency_ns.map_or("-1".to_owned(), |ns| ns.to_string());
        [
            format!("{kind} ").as_bytes(),
            &self.id,
            format!(" {} {latency}\n", self.timestamp_ns).as_bytes(),
            &self.payload,
            SEPARATOR,
        ]
        .concat()
    }
}

/// The records of a file; of what is skipped, the reason.
fn read(file: &[u8], piece: usize) -> Vec<Result<Written, String>> {
    let mut reader = Reader::new(BufReader::with_capacity(piece, file));
    let mut found = Vec::new();
    let mut line = 0;
    while let Some(record) = reader.next_record().expect("memory is always readable") {
        let record = match record {
            Ok(record) => record,
            Err(skipped) => {
                assert!(skipped.line > line);
                line = skipped.line;
                found.push(Err(format!("{skipped:?}")));
                continue;
            }
        };
        assert!(record.line > line && record.payload.len() <= file.len());
        line = record.line;
        // Whatever a payload is, looking at it harms nobody.
        let payload = Bytes::copy_from_slice(record.payload);
        let _ = (Head::parse(payload.clone()), AnswerHead::parse(payload));
        found.push(Ok(Written {
            kind: record.kind,
            id: record.id.to_vec(),
            timestamp_ns: record.timestamp_ns,
            latency_ns: record.latency_ns,
            payload: record.payload.to_vec(),
        }));
    }
    found
}

/// Whether all separators in what would be written are those between records.
fn holds_no_other_separator(records: &[Written]) -> bool {
    records.iter().all(|record| {
        // One may begin in the header's line end, and end with the first byte of the separator behind.
        let framed = [b"\n", &record.payload[..], b"\n"].concat();
        !framed
            .windows(SEPARATOR.len())
            .any(|part| part == SEPARATOR)
    })
}
