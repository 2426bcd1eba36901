//! A replayer that leaves while a stream has work.

use reprise_proto::{
    Batch, Downstream, Hello, Outlet, Parcel, Settlement, Upstream, Welcome, joined,
};

use super::*;
use crate::Replayer;

/// How many were taken.
fn taken(answer: &Upstream) -> usize {
    let Upstream::Settled(settled) = answer else {
        return 0;
    };
    let is_taken = |end: &&Settlement| end.outcomes[0].1 == TAKEN_IT;
    settled.iter().filter(is_taken).count()
}

/// A replayer to which these were given for a target, of which the stream has taken so many by then.
async fn loaded(target: Target, exchanges: Vec<Arc<Exchange>>) -> (Replayer, Outlet, usize) {
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
    let replayer = Replayer::start("replayer".to_owned(), 1 << 30, None, &mut registry).unwrap();
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
    let mut early = 0;
    loop {
        match outlet.up.recv().await.unwrap().unwrap() {
            Upstream::Accepted(_) => return (replayer, outlet, early),
            answer => early += taken(&answer),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_sent_and_acknowledged_before_it_leaves() {
    let (far, address) = Far::listen().await;
    let sent: Vec<_> = (0..2000).map(half).collect();
    let target = target(&format!("tcp://{address}"), "stream: {connections: 3}");
    let (replayer, outlet, early) = loaded(target, sent.clone()).await;
    let Outlet { down, mut up, .. } = outlet;
    // A relay that is told to go elsewhere closes its side.
    drop(down);
    let ending = tokio::spawn(async move {
        let mut count = early;
        while let Some(Ok(answer)) = up.recv().await {
            count += taken(&answer);
        }
        count
    });
    replayer.drain(LIMIT).await;
    let heard = far.all(3).await;
    let mut arrived: Vec<_> = heard.iter().flat_map(|heard| records(heard)).collect();
    let mut expected: Vec<_> = sent.iter().map(|exchange| record_of(exchange)).collect();
    arrived.sort();
    expected.sort();
    assert!(arrived == expected);
    assert_eq!(ending.await.unwrap(), 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_end_that_never_reads_keeps_it_no_longer_than_its_patience() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let body = vec![b'x'; 1 << 20];
    let sent = (0..100).map(|n| exchange(n, &body)).collect();
    let (replayer, _relay, _) = loaded(target(&url, ""), sent).await;
    let draining = replayer.drain(Duration::from_millis(300));
    timeout(LIMIT, draining).await.unwrap();
}
