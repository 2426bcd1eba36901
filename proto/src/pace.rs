//! How often the writer of a stream sends.
//!
//! What enters: a writer that has something to send. What leaves: the same, at once where the last turn was long
//! ago, or a moment later, with what came meanwhile. A message of its own for each exchange would wake half a dozen
//! tasks and make four system calls; at thousands a second that is most of what shipping costs the web host. What may
//! be lost: nothing but time, and at most [`TURN`] and a tick of the timer, 2 ms.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Between two turns that had little to send. tokio's timer rounds up to its next millisecond.
pub const TURN: Duration = Duration::from_millis(1);

/// The turns of one writer.
#[derive(Debug)]
pub struct Pace {
    next: Instant,
}

impl Default for Pace {
    /// The first turn is at once.
    fn default() -> Pace {
        Pace {
            next: Instant::now(),
        }
    }
}

impl Pace {
    /// Waits for the next turn. A writer whose last message was as full as it may be needs not wait.
    pub async fn turn(&self) {
        if Instant::now() < self.next {
            sleep_until(self.next).await;
        }
    }

    /// Something is sent now. A turn in which nothing was is none, or whoever comes next would wait for it.
    pub fn sent(&mut self) {
        self.next = Instant::now() + TURN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_turn_is_at_once_and_the_next_comes_soon() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.turn().await;
        pace.turn().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        pace.sent();
        pace.turn().await;
        assert_eq!(start.elapsed(), TURN);
        pace.sent();
        tokio::time::sleep(10 * TURN).await;
        pace.turn().await;
        assert_eq!(start.elapsed(), 11 * TURN);
    }
}
