//! Values for this crate's unit tests.

use std::sync::Arc;

use reprise_proto::Parcel;
use reprise_traffic::exchange::Captured;
use reprise_traffic::{
    Epoch, Exchange, ExchangeId, Head, Source, Target, TargetDocument, TargetName,
};

pub(crate) fn target(name: &str) -> Arc<Target> {
    let document = TargetDocument::new("http://127.0.0.1:1");
    Arc::new(Target::new(TargetName::new(name).unwrap(), 1, document).unwrap())
}

pub(crate) fn parcel(sequence: u64) -> Parcel {
    request("GET", sequence)
}

pub(crate) fn request(method: &str, sequence: u64) -> Parcel {
    let exchange = Exchange {
        id: ExchangeId {
            epoch: Arc::new(Epoch::new("web", 1)),
            sequence,
        },
        due_ns: None,
        request: Captured {
            captured_ns: 0,
            client: ([10, 0, 0, 2], 1000 + sequence as u16).into(),
            server: ([10, 0, 0, 1], 80).into(),
            source: Source::Wire,
            head: Head::parse(format!("{method} / HTTP/1.1\r\n\r\n").into()).unwrap(),
            body: Default::default(),
            trailers: Default::default(),
            answer: None,
            label: None,
        },
    };
    Parcel {
        exchange: Arc::new(exchange),
        target: None,
        resent: None,
        claim: None,
    }
}
