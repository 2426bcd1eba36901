//! A replayer that leaves while a stream has work.

use reprise_proto::{Batch, Downstream, Hello, Outlet, Parcel, Upstream, Welcome, joined};

use super::*;
use crate::Replayer;

/// A replayer that has taken these for a target.
async fn loaded(target: Target, exchanges: Vec<Arc<Exchange>>) -> (Replayer, Outlet) {
    let hello = Hello {
        node: "relay".to_owned(),
        version: String::new(),
        measures: false,
    };
    let welcome = Welcome {
        node: "replayer".to_owned(),
        version: String::new(),
        incarnation: 1,
        window_exchanges: 10_000,
        window_bytes: 1 << 30,
    };
    let mut registry = Registry::default();
    let replayer = Replayer::start("replayer".to_owned(), 1 << 30, &mut registry).unwrap();
    let (mut outlet, inlet) = joined(hello, welcome);
    replayer.accept(inlet);
    let name = target.name.clone();
    let described = Downstream::Targets(vec![Arc::new(target)]);
    outlet.down.send(described).await.unwrap();
    let parcel = |exchange| Parcel {
        exchange,
        target: Some(name.clone()),
        resent: None,
        claim: None,
    };
    let batch = Batch {
        parcels: exchanges.into_iter().map(parcel).collect(),
        ..Batch::default()
    };
    outlet.down.send(Downstream::Batch(batch)).await.unwrap();
    while !matches!(outlet.up.recv().await, Some(Ok(Upstream::Accepted(_)))) {}
    (replayer, outlet)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_sent_and_acknowledged_before_it_leaves() {
    let (far, address) = Far::listen().await;
    let sent: Vec<_> = (0..2000).map(half).collect();
    let target = target(&format!("tcp://{address}"), "stream: {connections: 3}");
    let (replayer, Outlet { down, mut up, .. }) = loaded(target, sent.clone()).await;
    // A relay that is told to go elsewhere closes its side.
    drop(down);
    let ending = tokio::spawn(async move {
        let mut ends = Vec::new();
        while let Some(Ok(answer)) = up.recv().await {
            if let Upstream::Settled(settled) = answer {
                ends.extend(settled.into_iter().map(|end| end.outcomes[0].1));
            }
        }
        ends
    });
    replayer.drain(LIMIT).await;
    let heard = far.all(3).await;
    let mut arrived: Vec<_> = heard.iter().flat_map(|heard| records(heard)).collect();
    let mut expected: Vec<_> = sent.iter().map(|exchange| record_of(exchange)).collect();
    arrived.sort();
    expected.sort();
    assert!(arrived == expected);
    assert_eq!(ending.await.unwrap(), [TAKEN_IT; 2000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_end_that_never_reads_keeps_it_no_longer_than_its_patience() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let body = vec![b'x'; 1 << 20];
    let sent = (0..100).map(|n| exchange(n, &body)).collect();
    let (replayer, _relay) = loaded(target(&url, ""), sent).await;
    let draining = replayer.drain(Duration::from_millis(300));
    timeout(LIMIT, draining).await.unwrap();
}
