//! Streams of records: read alike in any pieces, within bounds, and what was read as a message comes back as it came.
//!
//! What enters: the length of pieces, how large a record may be, and a stream.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use reprise_fuzz::input::Input;
use reprise_listener::edge::EdgeEvent;
use reprise_listener::record_port::cutter::{Cut, Cutter, Passed, Whole};
use reprise_listener::records;
use reprise_traffic::gor::{self, Record, SEPARATOR};
use reprise_traffic::{Epoch, Exchange, ExchangeId};

type Found = Vec<(u64, Result<Vec<u8>, Passed>)>;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let piece = usize::from(input.byte()) + 1;
    let most = (usize::from(input.byte()) + 1) * 16;
    let stream = input.rest();
    let whole = read(stream, stream.len().max(1), most);
    assert_eq!(read(stream, piece, most), whole);
    for record in whole.into_iter().filter_map(|(_, record)| record.ok()) {
        comes_back(&record);
    }
});

fn read(stream: &[u8], piece: usize, most: usize) -> Found {
    let mut found = Found::new();
    let mut take = |(at, cut): Cut<'_>| {
        assert!(found.last().is_none_or(|(last, _)| *last < at));
        let bytes =
            |Whole { record, .. }: Whole<'_>| [record.header, b"\n", record.payload].concat();
        found.push((at, cut.map(bytes)));
    };
    let mut cutter = Cutter::new(most);
    for piece in stream.chunks(piece) {
        cutter.push(piece, &mut take);
        assert!(cutter.held() <= 4096 + 2 * most);
    }
    cutter.finish(&mut take);
    found
}

fn comes_back(bytes: &[u8]) {
    let record = Record::parse(bytes, 1).expect("it was read before");
    let request = match records::message(&record, 1 << 20) {
        Ok(message) => message,
        Err(reason) => return assert_eq!(reason, EdgeEvent::Marked),
    };
    let id = ExchangeId {
        epoch: Arc::new(Epoch::new("l", 1)),
        sequence: 0,
    };
    let exchange = Exchange {
        id,
        due_ns: None,
        request,
    };
    let (written, _) = gor::encode(&exchange, &exchange.request.head).expect("it was a record");
    let parts: Vec<&[u8]> = written.parts().collect();
    assert_eq!(parts.concat(), [bytes, SEPARATOR].concat());
}
