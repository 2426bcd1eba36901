//! Streams over loopback: what is sent arrives whole and in order, within the taker's memory.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reprise_proto::{
    Batch, Budget, Downstream, Hello, Inlet, Outlet, Parcel, Settlement, Upstream, Welcome,
};
use reprise_traffic::exchange::Captured;
use reprise_traffic::{Epoch, Exchange, ExchangeId, Head, Source};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

fn welcome() -> Welcome {
    Welcome {
        node: "relay".to_owned(),
        version: String::new(),
        incarnation: 1,
        window_exchanges: 100,
        window_bytes: 64 << 20,
    }
}

fn hello() -> Hello {
    Hello {
        node: "web".to_owned(),
        version: String::new(),
        measures: false,
    }
}

/// Every seventh is an upload.
fn length(sequence: u64) -> usize {
    match sequence % 7 {
        3 => 20 << 20,
        5 => 100_000,
        _ => 10,
    }
}

fn parcel(epoch: &Arc<Epoch>, sequence: u64) -> Parcel {
    let request = Captured {
        captured_ns: sequence,
        client: "10.0.0.2:1".parse().unwrap(),
        server: "10.0.0.1:80".parse().unwrap(),
        source: Source::Wire,
        head: Head::parse(Bytes::from_static(b"POST / HTTP/1.1\r\n\r\n")).unwrap(),
        body: vec![sequence as u8; length(sequence)].into(),
        trailers: Bytes::new(),
        answer: None,
        label: None,
    };
    let id = ExchangeId {
        epoch: epoch.clone(),
        sequence,
    };
    Parcel {
        exchange: Arc::new(Exchange {
            id,
            due_ns: (sequence % 2 == 1).then_some(sequence),
            request,
        }),
        target: None,
        resent: None,
        claim: None,
    }
}

/// Settles each exchange as soon as it is there.
async fn settle(inlet: Inlet) {
    let Inlet { mut down, up, .. } = inlet;
    let mut next = 0;
    while let Some(message) = down.recv().await {
        let Downstream::Batch(batch) = message.unwrap() else {
            panic!("not a batch");
        };
        let mut settled = Vec::new();
        for parcel in batch.parcels {
            assert!(parcel.claim.is_some());
            let Exchange {
                id,
                due_ns,
                request,
            } = &*parcel.exchange;
            assert_eq!(*due_ns, (next % 2 == 1).then_some(next));
            assert_eq!((id.sequence, request.captured_ns), (next, next));
            assert!(request.body == vec![next as u8; length(next)][..]);
            next += 1;
            settled.push(Settlement {
                id: id.clone(),
                outcomes: Default::default(),
            });
        }
        up.send(Upstream::Settled(settled)).await.unwrap();
    }
}

async fn send(outlet: Outlet, listener: &str, count: u64) {
    let Outlet { down, mut up, .. } = outlet;
    let epoch = Arc::new(Epoch::new(listener, 1));
    let sending = tokio::spawn(async move {
        for pair in 0..count / 2 {
            let batch = Batch {
                id: pair + 1,
                settled_below: vec![(epoch.clone(), 0)],
                parcels: vec![parcel(&epoch, 2 * pair), parcel(&epoch, 2 * pair + 1)],
                closed: Vec::new(),
            };
            down.send(Downstream::Batch(batch)).await.unwrap();
        }
    });
    let mut settled = 0;
    while settled < count {
        if let Upstream::Settled(settlements) = up.recv().await.unwrap().unwrap() {
            settled += settlements.len() as u64;
        }
    }
    sending.await.unwrap();
}

/// Together the uploads under way need twice the budget, and none of them may wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_several_senders_arrive_whole_within_one_budget() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let budget = Budget::new(32 << 20);
    let mut server = reprise_proto::serve(socket, welcome(), Some(budget));
    let stop = CancellationToken::new();
    let senders = async {
        let sending = ["a", "b", "c"].map(|listener| {
            let address = &address;
            async move {
                let outlet = reprise_proto::connect(address, hello()).await.unwrap();
                send(outlet, listener, 42).await;
            }
        });
        let [a, b, c] = sending;
        let all = async { tokio::join!(a, b, c) };
        let arrived = tokio::time::timeout(PATIENCE, all).await;
        stop.cancel();
        arrived.expect("some wait for ever");
    };
    let serving = server.until(&stop, |inlet| drop(tokio::spawn(settle(inlet))));
    let (served, ()) = tokio::join!(serving, senders);
    served.unwrap();
    server.end().await;
}
