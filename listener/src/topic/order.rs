//! Messages in order of time, each with the instant at which it is due. Pure.
//!
//! What enters: messages of several partitions, each in its own order. What leaves: the oldest, and when it is due. What may
//! be lost: nothing; a message that comes behind one that is younger, and has left, is due at once.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::kafka::Debt;

/// The first messages of all partitions come within this time.
const SETTLE: Duration = Duration::from_millis(250);

/// Messages, whatever their size.
const MOST: usize = 1 << 13;

/// No clock goes further: 30 years.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 86_400);

/// A message that is to leave.
#[derive(Debug)]
pub(super) struct Waiting {
    /// When its request was captured.
    pub(super) timestamp_ns: u64,
    pub(super) record: Bytes,
    pub(super) debt: Debt,
}

pub(super) struct Order {
    speed: f64,
    most_bytes: usize,
    bytes: usize,
    /// By time, then as they came.
    waiting: BTreeMap<(u64, u64), Waiting>,
    count: u64,
    /// When the first left, and its timestamp.
    start: Option<(Instant, u64)>,
    /// Since when there is a first one.
    since: Option<Instant>,
}

impl Order {
    /// At that speed, of so many bytes.
    pub(super) fn new(speed: f64, most_bytes: usize) -> Order {
        Order {
            speed,
            most_bytes,
            bytes: 0,
            waiting: BTreeMap::new(),
            count: 0,
            start: None,
            since: None,
        }
    }

    pub(super) fn extend(&mut self, message: Option<Waiting>, now: Instant) {
        let Some(message) = message else {
            return;
        };
        self.since.get_or_insert(now);
        self.bytes += message.record.len();
        self.count += 1;
        let place = (message.timestamp_ns, self.count);
        self.waiting.insert(place, message);
    }

    /// One always fits.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.is_empty() || (self.bytes < self.most_bytes && self.waiting.len() < MOST)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When to look for the oldest again, so long ahead of the instant at which it is due.
    pub(super) fn wakes(&mut self, now: Instant, lead: Duration) -> Option<Instant> {
        let oldest = *self.waiting.first_key_value()?.0;
        let since = *self.since.get_or_insert(now);
        if self.start.is_none() && now < since + SETTLE && self.has_room() {
            return Some(since + SETTLE);
        }
        let (start, first) = *self.start.get_or_insert((now, oldest.0));
        let due = self.due(start, first, oldest.0);
        Some(due.checked_sub(lead).unwrap_or(due))
    }

    fn due(&self, start: Instant, first: u64, timestamp_ns: u64) -> Instant {
        let passed = Duration::from_nanos(timestamp_ns.saturating_sub(first)).as_secs_f64();
        let after = Duration::try_from_secs_f64(passed / self.speed).unwrap_or(LONGEST);
        start + after.min(LONGEST)
    }

    /// The oldest, and when it is due; nothing, before the first messages are there.
    pub(super) fn pop(&mut self) -> Option<(Waiting, Instant)> {
        let (start, first) = self.start?;
        let ((timestamp_ns, _), message) = self.waiting.pop_first()?;
        self.bytes -= message.record.len();
        Some((message, self.due(start, first, timestamp_ns)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Ends;

    const SECOND: u64 = 1_000_000_000;

    fn waiting(timestamps: &[u64]) -> Vec<Waiting> {
        let ends = Ends::of_nobody();
        let waiting = |(offset, timestamp_ns): (i64, &u64)| Waiting {
            timestamp_ns: *timestamp_ns,
            record: Bytes::from_static(&[0; 10]),
            debt: ends.owe(offset),
        };
        (0..).zip(timestamps).map(waiting).collect()
    }

    #[test]
    fn messages_leave_in_order_of_time_at_their_pace() {
        let now = Instant::now();
        let mut order = Order::new(2.0, 1000);
        assert_eq!(order.wakes(now, Duration::ZERO), None);
        // Two partitions, one behind the other.
        for message in waiting(&[10 * SECOND, 14 * SECOND, 11 * SECOND, 12 * SECOND]) {
            order.extend(Some(message), now);
        }
        let settled = now + SETTLE;
        assert_eq!(order.wakes(now, Duration::ZERO), Some(settled));
        assert!(order.pop().is_none());
        assert_eq!(order.wakes(settled, Duration::ZERO), Some(settled));
        let mut left = Vec::new();
        while let Some((message, due)) = order.pop() {
            left.push((message.timestamp_ns / SECOND, (due - settled).as_millis()));
        }
        assert_eq!(left, [(10, 0), (11, 500), (12, 1000), (14, 2000)]);
        // What comes too late is due at once.
        order.extend(waiting(&[3 * SECOND]).pop(), settled);
        let lead = Duration::from_millis(100);
        assert_eq!(order.wakes(settled, lead), Some(settled - lead));
    }

    #[test]
    fn it_holds_so_much_and_one_message_always() {
        let now = Instant::now();
        let mut order = Order::new(1.0, 15);
        let mut messages = waiting(&[1, 2, u64::MAX]);
        order.extend(messages.pop(), now);
        assert!(order.has_room());
        order.extend(messages.pop(), now);
        // Full, it doesn't wait for more before it begins.
        assert!(!order.has_room() && order.wakes(now, Duration::ZERO) == Some(now));
        assert_eq!(order.pop().unwrap().0.timestamp_ns, 2);
        assert!(order.wakes(now, Duration::ZERO) > Some(now) && order.has_room());
    }
}
