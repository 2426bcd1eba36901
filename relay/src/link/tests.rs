//! What waits, what is sent and what is handed back.

use std::sync::Arc;

use reprise_proto::Budget;
use reprise_traffic::Disposition;

use super::*;
use crate::custody::Custody;
use crate::samples::{parcel, target};

const MANY: Load = Load {
    bytes: usize::MAX,
    jobs: usize::MAX,
};

fn link(window_exchanges: u64) -> Link {
    let link = Link::new(
        "r".to_owned(),
        1,
        Load {
            bytes: 100_000,
            jobs: 1000,
        },
    );
    link.open(&Welcome {
        node: "r".to_owned(),
        version: String::new(),
        incarnation: 7,
        window_exchanges,
        window_bytes: u64::MAX,
    });
    link
}

struct Books(Arc<Custody>);

impl Books {
    fn new() -> Books {
        Books(Custody::new(Budget::new(1 << 30), Arc::default()))
    }

    async fn job(&self, name: &str, sequence: u64) -> Job {
        self.0
            .take(vec![parcel(sequence)], &[target(name)], Instant::now())
            .await
            .remove(0)
    }

    fn ends(&self) -> Vec<Disposition> {
        self.0
            .take_settled()
            .0
            .into_iter()
            .flat_map(|s| s.outcomes)
            .map(|(_, d)| d)
            .collect()
    }
}

fn sequences(parcels: &[Parcel]) -> Vec<u64> {
    parcels
        .iter()
        .map(|parcel| parcel.exchange.id.sequence)
        .collect()
}

#[tokio::test]
async fn a_slow_target_leaves_credit_to_the_others() {
    let (link, books) = (link(10), Books::new());
    for sequence in 0..20 {
        link.offer(books.job("t/slow", sequence).await).unwrap();
    }
    link.offer(books.job("t/b", 100).await).unwrap();
    let first = link.take(MANY).0;
    assert!(sequences(&first).contains(&100), "{:?}", sequences(&first));
    assert!(first.len() <= 10);
    link.offer(books.job("t/b", 101).await).unwrap();
    assert_eq!(sequences(&link.take(MANY).0), [101]);
}

#[tokio::test]
async fn a_broken_stream_tells_sent_from_unsent() {
    let (link, books) = (link(4), Books::new());
    for sequence in 0..5 {
        link.offer(books.job("t/a", sequence).await).unwrap();
    }
    assert_eq!(sequences(&link.take(MANY).0), [0, 1]);
    let first = Delivery {
        id: parcel(0).exchange.id.clone(),
        target: target("t/a").name.clone(),
    };
    assert_eq!(link.returned(&[first]).len(), 1);
    let orphans = link.close();
    assert_eq!(orphans.sent.len(), 1);
    assert_eq!(orphans.unsent.len(), 3);
    let late = books.job("t/a", 9).await;
    assert!(matches!(link.offer(late), Err(Refused::Down(_))));
}

#[tokio::test]
async fn a_copy_joins_the_first_and_both_are_answered() {
    let link = link(4);
    let (first, second) = (Books::new(), Books::new());
    link.offer(first.job("t/a", 0).await).unwrap();
    assert_eq!(sequences(&link.take(MANY).0), [0]);
    link.offer(second.job("t/a", 0).await).unwrap();
    assert!(link.take(MANY).0.is_empty());
    let outcomes = [(target("t/a").name.clone(), Disposition::Replayed(200))].into();
    let id = parcel(0).exchange.id.clone();
    link.settle(vec![Settlement { id, outcomes }]);
    assert_eq!(first.ends(), [Disposition::Replayed(200)]);
    assert_eq!(second.ends(), [Disposition::Replayed(200)]);
    assert_eq!(link.load(), (0, 0));
    assert_eq!(link.lock().sent, Load::default());
}

#[tokio::test]
async fn a_full_lane_refuses_and_an_answer_frees_credit() {
    let (link, books) = (link(1), Books::new());
    let mut taken = 0;
    let refused = loop {
        match link.offer(books.job("t/a", taken).await) {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Refused::Full(_)));
    drop(refused);
    books.ends();
    assert_eq!(sequences(&link.take(MANY).0), [0]);
    assert!(link.take(MANY).0.is_empty());
    let outcomes = [(target("t/a").name.clone(), Disposition::Replayed(204))].into();
    let id = parcel(0).exchange.id.clone();
    link.settle(vec![Settlement { id, outcomes }]);
    assert_eq!(books.ends(), [Disposition::Replayed(204)]);
    assert_eq!(sequences(&link.take(MANY).0), [1]);
}
