use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use reprise_proto::Parcel;
use reprise_traffic::{Head, Source};

use super::ahead::{LEAST_AHEAD, MOST_AHEAD};
use super::*;
use crate::kafka::Ends;

fn request(port: u16) -> Captured {
    Captured {
        captured_ns: 0,
        client: ([10, 0, 0, 2], port).into(),
        server: ([10, 0, 0, 1], 80).into(),
        source: Source::Wire,
        head: Head::parse(Bytes::from_static(b"GET / HTTP/1.1\r\n\r\n")).unwrap(),
        body: vec![0; 1000].into(),
        trailers: Bytes::new(),
        answer: None,
        label: None,
    }
}

/// With nobody to ship to, as many sessions as there are: each request has one end, and the budget holds.
#[test]
fn whatever_is_offered_is_counted_once() {
    let budget = Arc::new(Budget::new(1 << 20));
    let shed = Arc::new(Shed::new(budget.clone()));
    let edge = Arc::new(Edge::default());
    let epoch = Epoch::new("l", 1);
    let intake = Intake::new(epoch, 1 << 18, budget.clone(), shed.clone(), edge.clone());
    const SENT: u64 = 20_000;
    for n in 0..SENT {
        intake.offer(request(n as u16 % 2000));
        assert!(!budget.is_over());
    }
    let report = intake.report();
    let shed_memory = edge.get(EdgeEvent::ShedMemory);
    assert_eq!(report.captured + shed_memory, SENT);
    assert!(report.captured > 500 && shed_memory > 500, "{report:?}");
    // Shedding leaves the window room, so that nothing is dropped for want of it.
    assert_eq!(report.in_flight, report.captured);
    assert_eq!(shed.shares().memory, 0.0);
    intake.give_up();
    assert_eq!(budget.used(), 0);
}

fn small(limit: usize) -> (Arc<Budget>, Intake) {
    let budget = Arc::new(Budget::new(limit));
    let shed = Arc::new(Shed::new(budget.clone()));
    let edge = Arc::new(Edge::default());
    let intake = Intake::new(Epoch::new("l", 1), 1 << 18, budget.clone(), shed, edge);
    (budget, intake)
}

/// Sends and settles all that is there, as a relay would.
fn settle_all(intake: &Intake) -> u64 {
    let all = Room {
        bytes: usize::MAX,
        exchanges: usize::MAX,
    };
    let (Taken { parcels, .. }, _) = intake.take(StreamId(1), 1, all);
    let end = |parcel: &Parcel| Settlement {
        id: parcel.exchange.id.clone(),
        outcomes: Default::default(),
    };
    let ends: Vec<Settlement> = parcels.iter().map(end).collect();
    intake.settle(&ends);
    ends.len() as u64
}

/// Far more than fits, of a size that fills the budget or of one that fills the window's share.
#[test]
fn who_can_wait_waits_and_loses_nothing() {
    const SENT: u64 = 5000;
    for limit in [1 << 20, 1 << 30] {
        let (budget, intake) = small(limit);
        let all = Room {
            bytes: usize::MAX,
            exchanges: usize::MAX,
        };
        intake.open(StreamId(1), all, false);
        let go_on = AtomicBool::new(false);
        let settled = std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..SENT {
                    intake.wait_for_room(0, &go_on);
                    intake.admit_waited(request(n as u16));
                }
            });
            let mut settled = 0;
            while settled < SENT {
                assert!(intake.used().exchanges <= MOST_AHEAD);
                assert!(budget.used() <= limit / 2 + 4000);
                settled += settle_all(&intake);
                std::thread::yield_now();
            }
            settled
        });
        let report = intake.report();
        assert_eq!(
            (settled, report.settled, report.captured),
            (SENT, SENT, SENT)
        );
        assert!(report.dropped.is_empty() && !report.edge.contains_key("shed_memory"));
    }
}

/// Else a file with a request larger than half of the budget would never be read to its end.
#[test]
fn nobody_waits_for_an_empty_window() {
    let (budget, intake) = small(1 << 20);
    budget.take(2 << 20);
    intake.wait_for_room(0, &AtomicBool::new(false));
    intake.admit_waited(request(1));
    assert_eq!(intake.report().captured, 1);
}

#[test]
fn who_waits_goes_on_when_a_relay_dies_with_all_there_was() {
    let (_budget, intake) = small(1 << 20);
    let large = Captured {
        body: vec![0; 600_000].into(),
        ..request(1)
    };
    intake.admit_waited(large);
    let all = Room {
        bytes: usize::MAX,
        exchanges: usize::MAX,
    };
    intake.open(StreamId(1), all, true);
    let (parcels, _) = intake.take(StreamId(1), 1, all);
    let (stop, (woken, wakes)) = (AtomicBool::new(false), mpsc::channel());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            intake.wait_for_room(0, &stop);
            woken.send(()).unwrap();
        });
        let early = wakes.recv_timeout(Duration::from_millis(50));
        drop(parcels);
        assert_eq!(intake.close(StreamId(1)).entrusted, 1);
        let late = wakes.recv_timeout(Duration::from_secs(10));
        stop.store(true, Ordering::Relaxed);
        intake.wake_readers();
        assert!(early.is_err() && late.is_ok());
    });
}

#[test]
fn who_reads_is_as_far_ahead_as_is_settled_in_a_while() {
    let start = Instant::now();
    let mut ahead = ReadAhead::new(start);
    for (settled, ms, expected) in [
        (10, 10, LEAST_AHEAD),
        (19_990, 100, 4000),
        (1000, 200, LEAST_AHEAD),
        (1_000_000, 300, MOST_AHEAD),
    ] {
        ahead.settled(settled, start + Duration::from_millis(ms));
        assert_eq!(ahead.exchanges, expected);
    }
}

/// A schedule waits for room until a request is due; meanwhile the books balance, and then it is dropped and counted.
#[test]
fn what_is_due_is_dropped_for_want_of_room_and_the_books_always_balance() {
    let (budget, intake) = small(1 << 20);
    budget.take(1 << 20);
    let go_on = AtomicBool::new(false);
    let due = Due {
        instant: Instant::now() + Duration::from_millis(100),
        unix_ns: 1,
    };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| intake.admit_due(request(1), due, 0, &go_on));
        while !waiting.is_finished() {
            assert_eq!(intake.report().residue(), 0);
            std::thread::yield_now();
        }
    });
    let report = intake.report();
    assert_eq!((report.captured, report.dropped["listener_full"]), (1, 1));
    assert!(Instant::now() >= due.instant && report.residue() == 0);
}

#[test]
fn who_waits_can_be_told_to_stop() {
    let (budget, intake) = small(1 << 20);
    intake.admit_waited(request(1));
    budget.take(1 << 20);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| intake.wait_for_room(0, &stop));
        assert!(!waiting.is_finished());
        stop.store(true, Ordering::Relaxed);
        intake.wake_readers();
    });
}

/// An exchange that has ended has, whoever took it; what a life leaves open has not.
#[test]
fn a_message_ends_with_its_exchange_and_not_with_the_life() {
    let all = Room {
        bytes: usize::MAX,
        exchanges: usize::MAX,
    };
    let ends = Ends::of_nobody();
    let (budget, intake) = small(1 << 30);
    intake.open(StreamId(1), all, true);
    let owe = |offset, body: usize| {
        let mut request = request(1);
        request.body = vec![0; body].into();
        intake.admit_owed(request, None, ends.owe(offset));
    };
    owe(5, 10);
    intake.admit_waited(request(2));
    owe(6, 10);
    assert_eq!(ends.due(), 5);
    assert_eq!(settle_all(&intake), 3);
    assert_eq!(ends.due(), 7);
    // One whose only copy went with a relay has ended as unknown.
    budget.take(budget.limit() - (1 << 20));
    owe(7, 1 << 19);
    owe(8, 10);
    let (taken, _) = intake.take(StreamId(1), 2, all);
    intake.accepted(StreamId(1), 2);
    assert_eq!((taken.parcels.len(), ends.due()), (2, 7));
    assert_eq!(intake.close(StreamId(1)).entrusted, 1);
    assert_eq!(ends.due(), 8);
    intake.give_up();
    assert_eq!(ends.due(), 8);
}
