//! What waits for a program.
//!
//! What enters: messages. What leaves: the same, in order. What may be lost: nothing here; what finds no room is given back.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reprise_traffic::Exchange;

/// Messages, whatever their size.
const MOST: usize = 1 << 14;

/// Between two looks of those who wait.
const LOOK: Duration = Duration::from_millis(100);

/// A bounded queue.
#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// Told when there is something, or the end.
    changed: Condvar,
    most_bytes: usize,
}

#[derive(Debug)]
struct Inner {
    messages: VecDeque<Exchange>,
    bytes: usize,
    /// The last one taken is not dealt with yet.
    in_hand: bool,
    is_closed: bool,
    moved: Instant,
}

impl Queue {
    pub(super) fn new(most_bytes: usize) -> Queue {
        Queue {
            inner: Mutex::new(Inner {
                messages: VecDeque::new(),
                bytes: 0,
                in_hand: false,
                is_closed: false,
                moved: Instant::now(),
            }),
            changed: Condvar::new(),
            most_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message, or gives it back where there is no room. The last one may pass the bound, whatever its size.
    #[expect(
        clippy::result_large_err,
        reason = "what finds no room is given back as it is"
    )]
    pub(super) fn offer(&self, message: Exchange) -> Result<(), Exchange> {
        let size = message.request.size();
        let mut inner = self.lock();
        if inner.messages.is_empty() {
            inner.moved = Instant::now();
        }
        let is_full = inner.bytes >= self.most_bytes || inner.messages.len() >= MOST;
        if inner.is_closed || is_full {
            return Err(message);
        }
        inner.bytes += size;
        inner.messages.push_back(message);
        drop(inner);
        self.changed.notify_all();
        Ok(())
    }

    /// The next message; `None` when there is none within a moment, or after the last one.
    pub(super) fn take(&self) -> Option<Exchange> {
        let waits = |inner: &mut Inner| inner.messages.is_empty() && !inner.is_closed;
        let waited = self.changed.wait_timeout_while(self.lock(), LOOK, waits);
        let mut inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        let message = inner.messages.pop_front()?;
        inner.in_hand = true;
        inner.bytes -= message.request.size();
        inner.moved = Instant::now();
        Some(message)
    }

    /// The one that was taken is dealt with.
    pub(super) fn done(&self) {
        self.lock().in_hand = false;
    }

    /// For how long nothing has been taken.
    pub(super) fn still_for(&self) -> Duration {
        self.lock().moved.elapsed()
    }

    pub(super) fn is_half_full(&self) -> bool {
        let inner = self.lock();
        inner.bytes > self.most_bytes / 2 || inner.messages.len() > MOST / 2
    }

    /// True where nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.messages.is_empty() && !inner.in_hand
    }

    /// True after the last message, once [`Queue::close`] was called.
    pub(super) fn is_over(&self) -> bool {
        let inner = self.lock();
        inner.is_closed && inner.messages.is_empty()
    }

    /// Takes no more.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }
}
