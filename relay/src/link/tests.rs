//! What waits, what is sent and what is handed back.

use std::sync::Arc;

use reprise_proto::{Budget, Item};
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
        Counter::default(),
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
    let first = link.take(MANY).parcels;
    assert!(sequences(&first).contains(&100), "{:?}", sequences(&first));
    assert!(first.len() <= 10);
    link.offer(books.job("t/b", 101).await).unwrap();
    assert_eq!(sequences(&link.take(MANY).parcels), [101]);
}

#[tokio::test]
async fn a_broken_stream_tells_sent_from_unsent() {
    let (link, books) = (link(4), Books::new());
    for sequence in 0..5 {
        link.offer(books.job("t/a", sequence).await).unwrap();
    }
    assert_eq!(sequences(&link.take(MANY).parcels), [0, 1]);
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
    assert_eq!(sequences(&link.take(MANY).parcels), [0]);
    link.offer(second.job("t/a", 0).await).unwrap();
    assert!(link.take(MANY).is_empty());
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
    assert_eq!(sequences(&link.take(MANY).parcels), [0]);
    assert!(link.take(MANY).is_empty());
    let outcomes = [(target("t/a").name.clone(), Disposition::Replayed(204))].into();
    let id = parcel(0).exchange.id.clone();
    link.settle(vec![Settlement { id, outcomes }]);
    assert_eq!(books.ends(), [Disposition::Replayed(204)]);
    assert_eq!(sequences(&link.take(MANY).parcels), [1]);
}

fn closed(port: u16) -> Closed {
    Closed {
        closed_ns: 1,
        client: ([10, 0, 0, 2], port).into(),
        server: ([10, 0, 0, 1], 80).into(),
        due_ns: None,
    }
}

/// What is taken, in order: sequence numbers, and ports of connections that ended.
fn taken(link: &Link, most: usize) -> Vec<String> {
    let most = Load { jobs: most, ..MANY };
    let taken = link.take(most);
    let items = reprise_proto::in_order(taken.parcels, taken.closed);
    let text = items.flat_map(|item| match item {
        Item::Parcels(parcels) => sequences(&parcels).iter().map(u64::to_string).collect(),
        Item::Closed(notice) => vec![format!("end {}", notice.closed.client.port())],
    });
    text.collect()
}

#[tokio::test]
async fn a_connection_ends_behind_its_lane_s_jobs_whatever_becomes_of_them() {
    let (link, books) = (link(4), Books::new());
    let name = target("t/a").name.clone();
    assert!(link.offer_closed(&name, closed(0)));
    for sequence in 1..5 {
        link.offer(books.job("t/a", sequence).await).unwrap();
        assert!(link.offer_closed(&name, closed(sequence as u16)));
    }
    link.offer(books.job("t/b", 100).await).unwrap();
    // A part of the credit is for the other target.
    assert_eq!(taken(&link, 9), ["end 0", "1", "100", "end 1"]);
    assert!(taken(&link, 9).is_empty());
    let outcomes = [(name.clone(), Disposition::Replayed(200))].into();
    let id = parcel(1).exchange.id.clone();
    link.settle(vec![Settlement { id, outcomes }]);
    assert_eq!(taken(&link, 9), ["2", "end 2"]);
    assert_eq!(link.close().unsent.len(), 2);
    assert_eq!(link.closed_dropped.get(), 2);
    assert!(!link.offer_closed(&name, closed(1)));
}

#[tokio::test]
async fn ends_of_connections_need_no_credit_and_are_bounded() {
    let link = link(0);
    let name = target("t/a").name.clone();
    let offered = (0..100_000).take_while(|_| link.offer_closed(&name, closed(1)));
    assert_eq!(offered.count(), MOST_CLOSED);
    let mut all = 0;
    while let count @ 1.. = taken(&link, 1000).len() {
        assert!(count <= 1000);
        all += count;
    }
    assert_eq!((all, link.lock().lanes.len()), (MOST_CLOSED, 0));
}
