use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use reprise_traffic::{Head, Source};

use super::*;

fn request(body: usize) -> Captured {
    Captured {
        captured_ns: 0,
        client: "10.0.0.2:1".parse().unwrap(),
        server: "10.0.0.1:80".parse().unwrap(),
        source: Source::Wire,
        head: Head::parse(Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n")).unwrap(),
        body: vec![0; body].into(),
        trailers: Bytes::new(),
        answer: None,
        label: None,
    }
}

const MANY: Room = Room {
    bytes: usize::MAX,
    exchanges: usize::MAX,
};

fn window(exchanges: usize) -> Window {
    let budget = Arc::new(Budget::new(1 << 20));
    Window::new(Arc::new(Epoch::new("l", 1)), exchanges, budget)
}

fn sequences(parcels: &[Parcel]) -> Vec<u64> {
    parcels
        .iter()
        .map(|parcel| parcel.exchange.id.sequence)
        .collect()
}

#[test]
fn what_is_large_is_entrusted_once_it_is_in_custody() {
    let budget = Arc::new(Budget::new(6 << 20));
    let epoch = Arc::new(Epoch::new("l", 1));
    let mut window = Window::new(epoch, 9, budget.clone());
    for body in [10, 1 << 20, 1 << 20, 10] {
        assert!(window.admit(request(body)).is_ok());
    }
    let stream = StreamId(1);
    window.open(stream, MANY, true);
    assert_eq!(
        sequences(&window.take(stream, 1, MANY, Instant::now()).parcels),
        [0, 1, 2, 3]
    );
    assert!(window.settle(1));
    window.accepted(stream, 0);
    let before = budget.used();
    window.accepted(stream, 1);
    assert!(before - budget.used() > 1 << 20);
    assert_eq!((window.unsettled(), window.outstanding(stream)), (3, 3));
    // The relay dies with the one that it was entrusted with; the small ones are sent again.
    let lost = window.close(stream);
    assert_eq!((lost.again, lost.entrusted), (2, 1));
    assert!(!window.settle(2));
    window.open(StreamId(2), MANY, true);
    let again = window.take(StreamId(2), 1, MANY, Instant::now()).parcels;
    assert_eq!(sequences(&again), [0, 3]);
    assert!(window.settle(0) && window.settle(3));
    assert_eq!((window.unsettled(), budget.used()), (0, 0));
}

/// Three of 1 MB in a budget of 5 MB: the first is sent while the next two could not both follow.
#[test]
fn what_leaves_no_room_is_let_go_while_it_is_sent() {
    let budget = Arc::new(Budget::new(5 << 20));
    let epoch = Arc::new(Epoch::new("l", 1));
    let mut window = Window::new(epoch, 9, budget.clone());
    for _ in 0..3 {
        assert!(window.admit(request(1 << 20)).is_ok());
    }
    let full = budget.used();
    let one = Room {
        exchanges: 1,
        ..MANY
    };
    for (stream, entrusts) in [(StreamId(1), false), (StreamId(2), true)] {
        window.open(stream, MANY, entrusts);
        let parcels = window.take(stream, 1, one, Instant::now()).parcels;
        assert_eq!(sequences(&parcels), [0]);
        assert!(parcels[0].exchange.request.body == vec![0; 1 << 20]);
        let on_the_wire = parcels[0].exchange.request.body.chunks()[0].clone();
        drop(parcels);
        assert!(full - budget.used() < 1 << 20);
        drop(on_the_wire);
        assert_eq!(full - budget.used() > 1 << 20, entrusts);
        let lost = window.close(stream);
        assert_eq!(
            (lost.again, lost.entrusted),
            if entrusts { (0, 1) } else { (1, 0) }
        );
    }
    // Now there is room for the others until the relay has them.
    window.open(StreamId(3), MANY, true);
    assert_eq!(
        sequences(&window.take(StreamId(3), 1, one, Instant::now()).parcels),
        [1]
    );
    assert_eq!(window.close(StreamId(3)).again, 1);
    assert_eq!(window.give_up(), (1, 1));
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_full_window_refuses_and_recovers() {
    let mut window = window(2);
    assert!(window.admit(request(0)).is_ok() && window.admit(request(0)).is_ok());
    assert!(window.admit(request(0)).is_err());
    window.open(StreamId(1), MANY, true);
    window.take(StreamId(1), 1, MANY, Instant::now());
    assert!(window.settle(1));
    assert!(window.admit(request(0)).is_ok());
    assert!(window.admit(request(0)).is_err());
    assert!(window.settle(0));
    assert_eq!(window.settled_below(), 2);
}

#[test]
fn bytes_come_out_of_the_budget_and_go_back() {
    let mut window = window(10);
    let budget = window.budget.clone();
    // Somebody else still counts what moves here.
    budget.take(1 << 20);
    window.admit(request(1 << 20)).unwrap();
    budget.give(1 << 20);
    assert!(budget.is_over() && window.admit(request(0)).is_err());
    window.open(StreamId(1), MANY, true);
    window.take(StreamId(1), 1, MANY, Instant::now());
    assert!(window.settle(0));
    assert_eq!(budget.used(), 0);
    window.admit(request(100)).unwrap();
    window.give_up();
    assert_eq!(budget.used(), 0);
}

#[test]
fn what_stands_behind_an_unsettled_one_costs_its_slot_only() {
    let mut window = window(1000);
    for _ in 0..500 {
        window.admit(request(1000)).unwrap();
    }
    window.open(StreamId(1), MANY, true);
    window.take(StreamId(1), 1, MANY, Instant::now());
    for sequence in 1..500 {
        assert!(window.settle(sequence));
    }
    assert_eq!(
        window.budget.used(),
        window.used().bytes + OVERHEAD + 500 * SLOT,
        "one request and all slots"
    );
    assert!(window.settle(0));
    assert_eq!(window.budget.used(), 0);
}

#[test]
fn a_broken_stream_is_sent_again_first_and_marked() {
    let mut window = window(10);
    let now = Instant::now();
    for _ in 0..3 {
        window.admit(request(0)).unwrap();
    }
    window.open(StreamId(1), MANY, true);
    let two = Room {
        exchanges: 2,
        ..MANY
    };
    assert_eq!(
        sequences(&window.take(StreamId(1), 1, two, now).parcels),
        [0, 1]
    );
    assert!(window.settle(0));
    assert_eq!(window.close(StreamId(1)).again, 1);
    window.open(StreamId(2), MANY, true);
    let parcels = window.take(StreamId(2), 1, MANY, now).parcels;
    assert_eq!(sequences(&parcels), [1, 2]);
    assert!(parcels[0].resent.is_some() && parcels[1].resent.is_none());
    // The late answer of the first stream and that of the second count once.
    assert!(window.settle(1) && !window.settle(1));
}

#[test]
fn credit_bounds_what_is_outstanding_but_a_giant_goes_alone() {
    let mut window = window(10);
    let now = Instant::now();
    for body in [0, 0, 5000] {
        window.admit(request(body)).unwrap();
    }
    window.open(
        StreamId(1),
        Room {
            bytes: 2000,
            exchanges: 2,
        },
        true,
    );
    assert_eq!(
        sequences(&window.take(StreamId(1), 1, MANY, now).parcels),
        [0, 1]
    );
    assert!(window.take(StreamId(1), 1, MANY, now).is_empty());
    window.settle(0);
    assert!(window.take(StreamId(1), 1, MANY, now).is_empty());
    window.settle(1);
    assert_eq!(
        sequences(&window.take(StreamId(1), 1, MANY, now).parcels),
        [2]
    );
}

#[test]
fn what_was_never_sent_cannot_be_settled() {
    let mut window = window(10);
    window.admit(request(0)).unwrap();
    assert!(!window.settle(0) && !window.settle(77));
    assert_eq!(window.unsettled(), 1);
    assert_eq!(window.give_up(), (1, 0));
}

#[derive(Debug, Clone)]
enum Step {
    Admit,
    /// More than a fifth of the budget.
    AdmitLarge,
    Take,
    Accept,
    Settle(u8),
    Break,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Admit),
        1 => Just(Step::AdmitLarge),
        2 => Just(Step::Take),
        3 => any::<u8>().prop_map(Step::Settle),
        1 => Just(Step::Accept),
        1 => Just(Step::Break),
    ]
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
fn taken(window: &mut Window, stream: u64, most: usize) -> Vec<String> {
    let most = Room {
        exchanges: most,
        ..MANY
    };
    let taken = window.take(StreamId(stream), 1, most, Instant::now());
    let items = reprise_proto::in_order(taken.parcels, taken.closed);
    let text = items.flat_map(|item| match item {
        reprise_proto::Item::Parcels(parcels) => {
            let sequence = |parcel: &Parcel| parcel.exchange.id.sequence.to_string();
            parcels.iter().map(sequence).collect()
        }
        reprise_proto::Item::Closed(notice) => vec![format!("end {}", notice.closed.client.port())],
    });
    text.collect()
}

#[test]
fn a_connection_ends_behind_its_exchanges_and_never_ahead_of_them() {
    let budget = Arc::new(Budget::new(1 << 20));
    let mut window = Window::new(Arc::new(Epoch::new("l", 1)), 9, budget.clone());
    window.admit_closed(closed(1)).unwrap();
    for port in 2..5 {
        window.admit(request(0)).unwrap();
        window.admit_closed(closed(port)).unwrap();
    }
    // There is credit for two.
    let credit = Room {
        exchanges: 2,
        ..MANY
    };
    window.open(StreamId(1), credit, false);
    assert_eq!(taken(&mut window, 1, 2), ["end 1", "0", "end 2"]);
    assert_eq!(taken(&mut window, 1, 9), ["1", "end 3"]);
    assert!(taken(&mut window, 1, 9).is_empty());
    // What is to be sent again goes first, and what waits behind it waits longer.
    window.close(StreamId(1));
    window.open(StreamId(2), credit, false);
    assert_eq!(taken(&mut window, 2, 9), ["0", "1"]);
    assert!(window.settle(0) && window.settle(1));
    assert_eq!(taken(&mut window, 2, 9), ["2", "end 4"]);
    window.admit_closed(closed(5)).unwrap();
    window.give_up();
    assert_eq!(budget.used(), 0);
}

#[test]
fn ends_of_connections_are_bounded_in_number_and_bytes() {
    let budget = Arc::new(Budget::new(100 << 20));
    let mut window = Window::new(Arc::new(Epoch::new("l", 1)), 9, budget.clone());
    let count = |window: &mut Window| {
        let admitted = (0..100_000).take_while(|_| window.admit_closed(closed(1)).is_ok());
        admitted.count()
    };
    assert_eq!(count(&mut window), 1 << 14);
    window.give_up();
    budget.take((100 << 20) - 1000);
    assert!((1..100).contains(&count(&mut window)));
    window.open(StreamId(1), MANY, false);
    assert_eq!(taken(&mut window, 1, 3).len(), 3);
}

proptest! {
    /// Whatever breaks and however answers come: every admitted exchange is settled exactly once.
    #[test]
    fn every_exchange_is_settled_once(steps in prop::collection::vec(step(), 1..200)) {
        let mut window = window(20);
        let now = Instant::now();
        let mut stream = StreamId(0);
        window.open(stream, MANY, true);
        let (mut admitted, mut entrusted) = (0_u64, 0);
        let mut settled: BTreeMap<u64, u32> = BTreeMap::new();
        let mut sent: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Admit => admitted += u64::from(window.admit(request(1)).is_ok()),
                Step::AdmitLarge => admitted += u64::from(window.admit(request(LARGE)).is_ok()),
                Step::Accept => window.accepted(stream, 1),
                Step::Take => sent.extend(sequences(&window.take(stream, 1, MANY, now).parcels)),
                Step::Settle(n) if !sent.is_empty() => {
                    let sequence = sent[n as usize % sent.len()];
                    if window.settle(sequence) {
                        *settled.entry(sequence).or_default() += 1;
                    }
                }
                Step::Settle(_) => {}
                Step::Break => {
                    entrusted += window.close(stream).entrusted;
                    stream = StreamId(stream.0 + 1);
                    window.open(stream, MANY, true);
                }
            }
            let ended = settled.len() as u64 + entrusted;
            prop_assert_eq!(window.unsettled() as u64 + ended, admitted);
        }
        entrusted += window.close(stream).entrusted;
        stream = StreamId(stream.0 + 1);
        window.open(stream, MANY, true);
        for sequence in sequences(&window.take(stream, 1, MANY, now).parcels) {
            prop_assert!(window.settle(sequence));
            *settled.entry(sequence).or_default() += 1;
        }
        prop_assert_eq!(settled.len() as u64 + entrusted, admitted);
        prop_assert!(settled.values().all(|n| *n == 1));
        prop_assert_eq!(window.settled_below(), admitted);
        prop_assert_eq!(window.used(), Room { bytes: 0, exchanges: 0 });
        prop_assert_eq!(window.budget.used(), 0);
    }
}
