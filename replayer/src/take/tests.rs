//! What each parcel is answered.

use bytes::Bytes;
use prometheus_client::registry::Registry;
use reprise_proto::{Hello, Outlet, Parcel, Welcome, joined};
use reprise_traffic::exchange::Captured;
use reprise_traffic::{Body, Exchange, Fault, Head, Source, TargetDocument};

use super::*;

fn target() -> Arc<Target> {
    // Nobody listens there: whatever is sent ends as a fault of the network.
    let document = TargetDocument::new("http://127.0.0.1:1");
    Arc::new(Target::new(TargetName::new("t/a").unwrap(), 1, document).unwrap())
}

fn parcel(method: &str, sequence: u64, resent: bool) -> Parcel {
    let head = format!("{method} / HTTP/1.1\r\n\r\n");
    let exchange = Exchange {
        id: ExchangeId {
            epoch: Arc::new(Epoch::new("web", 1)),
            sequence,
        },
        due_ns: None,
        request: Captured {
            captured_ns: 0,
            client: "10.0.0.2:1".parse().unwrap(),
            server: "10.0.0.1:80".parse().unwrap(),
            source: Source::Wire,
            head: Head::parse(Bytes::from(head)).unwrap(),
            body: Body::default(),
            trailers: Bytes::new(),
            answer: None,
            label: None,
        },
    };
    Parcel {
        exchange: Arc::new(exchange),
        target: Some(target().name.clone()),
        resent: resent.then_some(Duration::ZERO),
        claim: None,
    }
}

fn serve() -> Outlet {
    let hello = Hello {
        node: "relay".to_owned(),
        version: String::new(),
        measures: false,
    };
    let welcome = Welcome {
        node: "replayer".to_owned(),
        version: String::new(),
        incarnation: 1,
        window_exchanges: 10,
        window_bytes: 1000,
    };
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let room = Room {
        bytes: 1000,
        jobs: 10,
    };
    let schedule = Schedule::start().unwrap();
    let leaving = CancellationToken::new();
    let desk = Desk::new(Arc::default(), metrics, schedule, room, None, leaving);
    let (outlet, inlet) = joined(hello, welcome);
    tokio::spawn(Arc::new(desk).serve(inlet));
    outlet
}

async fn end_of(outlet: &mut Outlet, parcel: Parcel) -> Upstream {
    let batch = Batch {
        parcels: vec![parcel],
        ..Batch::default()
    };
    outlet.down.send(Downstream::Batch(batch)).await.unwrap();
    loop {
        match outlet.up.recv().await.unwrap().unwrap() {
            Upstream::Accepted(_) => {}
            answer => return answer,
        }
    }
}

async fn disposition(outlet: &mut Outlet, parcel: Parcel) -> Disposition {
    match end_of(outlet, parcel).await {
        Upstream::Settled(settled) => settled[0].outcomes[0].1,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_unsafe_copy_whose_first_went_elsewhere_is_not_sent_nor_is_a_late_first() {
    let mut relay = serve();
    let targets = Downstream::Targets(vec![target()]);
    relay.down.send(targets).await.unwrap();
    let sent = Disposition::Failed(Fault::Network);
    assert_eq!(
        disposition(&mut relay, parcel("POST", 0, false)).await,
        sent
    );
    assert_eq!(disposition(&mut relay, parcel("POST", 0, true)).await, sent);
    assert_eq!(disposition(&mut relay, parcel("GET", 1, true)).await, sent);
    let unknown = Disposition::Unknown;
    assert_eq!(
        disposition(&mut relay, parcel("POST", 2, true)).await,
        unknown
    );
    assert_eq!(
        disposition(&mut relay, parcel("POST", 2, false)).await,
        unknown
    );
}

#[tokio::test]
async fn a_batch_for_nobody_ends_as_one_with_the_copies_in_it() {
    let mut relay = serve();
    let document = TargetDocument::new("null:");
    let nobody = Target::new(target().name.clone(), 1, document).unwrap();
    let targets = Downstream::Targets(vec![Arc::new(nobody)]);
    relay.down.send(targets).await.unwrap();
    let batch = Batch {
        parcels: [(0, false), (0, true), (1, false)]
            .map(|(sequence, resent)| parcel("GET", sequence, resent))
            .into(),
        ..Batch::default()
    };
    relay.down.send(Downstream::Batch(batch)).await.unwrap();
    let mut ends = Vec::new();
    while ends.len() < 3 {
        if let Upstream::Settled(settled) = relay.up.recv().await.unwrap().unwrap() {
            ends.extend(
                settled
                    .iter()
                    .map(|end| (end.id.sequence, end.outcomes[0].1)),
            );
        }
    }
    ends.sort_by_key(|(sequence, _)| *sequence);
    let nothing_done = Disposition::Replayed(reprise_traffic::outcome::TAKEN);
    assert_eq!(ends, [0, 0, 1].map(|sequence| (sequence, nothing_done)));
}

#[tokio::test]
async fn a_deleted_target_is_given_back() {
    let mut relay = serve();
    for targets in [vec![target()], Vec::new()] {
        relay.down.send(Downstream::Targets(targets)).await.unwrap();
    }
    let answer = end_of(&mut relay, parcel("GET", 0, false)).await;
    assert!(matches!(answer, Upstream::Returned(_)), "{answer:?}");
}
