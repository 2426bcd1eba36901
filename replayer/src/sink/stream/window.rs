//! What is on its way over one connection. Pure.
//!
//! What enters: exchanges with the place of their bytes in all that the connection carries, and how far the far host
//! acknowledged these. What leaves: the exchanges that it has; at last those that nobody can say it of. What may be lost:
//! nothing.
//!
//! Places count bytes as they are given to the uppermost layer. Acknowledged are those of TCP, below TLS and WebSocket, which
//! make others of them; so there are [`Marks`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What was acknowledged so shortly before a reset may have died unread: the far host acknowledges what its kernel has.
const DOUBT: Duration = Duration::from_millis(250);

/// Acknowledgements are put together that are no further apart.
const GRAIN: Duration = Duration::from_millis(10);

/// Exchanges on their way, in the order in which they were written.
pub(super) struct Window<T> {
    sent: VecDeque<Sent<T>>,
    /// How many were acknowledged when, for as long as somebody may ask.
    recent: VecDeque<(Instant, u64)>,
}

/// One of them.
pub(super) struct Sent<T> {
    pub(super) item: T,
    /// Places of its first byte and of that behind its last.
    pub(super) start: u64,
    end: u64,
}

impl<T> Window<T> {
    pub(super) fn new() -> Window<T> {
        Window {
            sent: VecDeque::new(),
            recent: VecDeque::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// One is given to the connection.
    pub(super) fn push(&mut self, item: T, start: u64, end: u64) {
        self.sent.push_back(Sent { item, start, end });
    }

    /// The next whose last byte stands before that place.
    pub(super) fn pop(&mut self, place: u64, now: Instant) -> Option<T> {
        if self.sent.front()?.end > place {
            return None;
        }
        let sent = self.sent.pop_front()?;
        match self.recent.back_mut() {
            Some((at, count)) if now.saturating_duration_since(*at) < GRAIN => *count += 1,
            _ => {
                let is_recent = |at| now.saturating_duration_since(at) <= DOUBT + GRAIN;
                self.recent.retain(|(at, _)| is_recent(*at));
                self.recent.push_back((now, 1));
            }
        }
        Some(sent.item)
    }

    /// The connection is gone: what was on its way.
    pub(super) fn take(&mut self) -> VecDeque<Sent<T>> {
        std::mem::take(&mut self.sent)
    }

    /// How many were acknowledged so recently that a reset puts them in doubt.
    pub(super) fn in_doubt(&self, now: Instant) -> u64 {
        let is_recent = |at: Instant| now.saturating_duration_since(at) <= DOUBT + GRAIN;
        let recent = self.recent.iter().filter(|(at, _)| is_recent(*at));
        recent.map(|(_, count)| count).sum()
    }
}

/// Which bytes of TCP hold all that stands before a place.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Bytes of TCP and the place; both grow.
    known: VecDeque<(u64, u64)>,
    /// All before it is acknowledged.
    place: u64,
}

impl Marks {
    /// So many bytes of TCP hold all before that place.
    pub(super) fn put(&mut self, bytes: u64, place: u64) {
        match self.known.back_mut() {
            Some(last) if last.0 == bytes => last.1 = place,
            _ => self.known.push_back((bytes, place)),
        }
    }

    /// So many bytes of TCP are acknowledged; the place before which all is.
    pub(super) fn acknowledged(&mut self, bytes: u64) -> u64 {
        while let Some((_, place)) = self.known.front().filter(|mark| mark.0 <= bytes) {
            self.place = *place;
            self.known.pop_front();
        }
        self.place
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_reset_puts_in_doubt_what_was_acknowledged_just_before() {
        let (mut window, start) = (Window::new(), Instant::now());
        for at in 0..1000_u32 {
            window.push(at, at.into(), (at + 1).into());
            assert_eq!(window.pop(at.into(), start), None);
            assert_eq!(window.pop(u64::from(at) + 1, start + at * MS), Some(at));
        }
        let in_doubt = window.in_doubt(start + 1000 * MS);
        assert!((250..=270).contains(&in_doubt), "{in_doubt}");
        assert_eq!(window.in_doubt(start + 1300 * MS), 0);
        assert!(window.recent.len() < 50 && window.is_empty());
    }

    proptest! {
        /// However its bytes are cut, wrapped and acknowledged: none has ended before its last byte is acknowledged,
        /// all have after, and in order.
        #[test]
        fn exchanges_end_when_their_last_byte_is_acknowledged(
            lengths in prop::collection::vec(0_u64..50, 1..100),
            flushes in prop::collection::vec((1_usize..10, 0_u64..30), 1..100),
            steps in prop::collection::vec(0_u64..200, 1..100),
        ) {
            let (mut window, mut marks) = (Window::new(), Marks::default());
            // Of each exchange, the bytes of TCP that hold it: known at a flush, some of which add bytes of their own.
            let (mut place, mut bytes, mut needed) = (0, 0, Vec::new());
            let mut flushes = flushes.into_iter().cycle();
            let mut left = flushes.next().unwrap();
            for (number, length) in lengths.iter().enumerate() {
                window.push(number, place, place + length);
                place += length;
                needed.push(u64::MAX);
                left.0 -= 1;
                if left.0 == 0 || number + 1 == lengths.len() {
                    bytes += needed.iter().zip(&lengths).filter(|(n, _)| **n == u64::MAX).map(|(_, l)| l).sum::<u64>();
                    bytes += left.1;
                    needed.iter_mut().filter(|n| **n == u64::MAX).for_each(|n| *n = bytes);
                    marks.put(bytes, place);
                    left = flushes.next().unwrap();
                }
            }
            let (mut ended, mut acknowledged) = (0, 0);
            let now = Instant::now();
            for step in steps.into_iter().chain([u64::MAX / 2]) {
                acknowledged += step;
                let place = marks.acknowledged(acknowledged);
                while let Some(number) = window.pop(place, now) {
                    prop_assert_eq!(number, ended);
                    // Without a byte of its own it may end with what stands before it.
                    prop_assert!(needed[number] <= acknowledged || lengths[number] == 0);
                    ended += 1;
                }
                let due = needed.iter().take_while(|needed| **needed <= acknowledged).count();
                prop_assert!(ended >= due, "{} of {}", ended, due);
            }
            prop_assert_eq!(ended, lengths.len());
        }
    }
}
