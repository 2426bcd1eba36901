//! Whether a capture thread goes ahead of others.
//!
//! What enters: the thread's CPU time. What leaves: its niceness. What may be lost: nothing.
//!
//! Packets wait in the ring for some milliseconds only, and a kernel that is busy with others may let a thread wait for
//! 20 ms. Going ahead costs others nothing as long as there is little to do. A thread that is busy for half of the time
//! would take it from production, so it queues up with all others until that is over.

use std::time::{Duration, Instant};

use reprise_node::privileges;
use rustix::time::{ClockId, clock_gettime};

/// How often its CPU time is looked at.
const EVERY: Duration = Duration::from_millis(500);

/// Over this share of one processor it doesn't go ahead, and under half of that it does again.
const BUSY: f64 = 0.5;

/// Of the thread that made it.
#[derive(Debug)]
pub(super) struct Precedence {
    /// The system lets it go ahead.
    may: bool,
    ahead: bool,
    looked: Instant,
    used: Duration,
}

impl Precedence {
    /// Goes ahead where the process has the right to that.
    pub(super) fn take() -> Precedence {
        let ahead = privileges::get_ahead();
        tracing::debug!(ahead, "a capture thread begins");
        Precedence {
            may: ahead,
            ahead,
            looked: Instant::now(),
            used: cpu_time(),
        }
    }

    /// To be called again and again.
    pub(super) fn look(&mut self) {
        let elapsed = self.looked.elapsed();
        if !self.may || elapsed < EVERY {
            return;
        }
        let used = cpu_time();
        let share = used.saturating_sub(self.used).as_secs_f64() / elapsed.as_secs_f64();
        self.looked += elapsed;
        self.used = used;
        self.decide(share);
    }

    /// By the share of one processor that the thread used.
    fn decide(&mut self, share: f64) {
        if self.ahead && share > BUSY {
            privileges::queue_up();
            self.ahead = false;
        } else if !self.ahead && share < BUSY / 2.0 {
            self.ahead = privileges::get_ahead();
        }
    }
}

fn cpu_time() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    /// Without the right it does nothing, which is all that can be seen then.
    #[test]
    fn a_busy_thread_queues_up_until_it_is_idle_again() {
        let thread = std::thread::spawn(|| {
            let mut precedence = Precedence::take();
            if !precedence.may {
                eprintln!("skipped: no right to go ahead of others");
                return;
            }
            let nice = || getpriority_process(None).unwrap();
            let first = nice();
            assert!(first < 0);
            for (share, expected) in [(0.4, first), (0.6, 0), (0.4, 0), (0.2, first)] {
                precedence.decide(share);
                assert_eq!(nice(), expected, "at a share of {share}");
            }
        });
        thread.join().unwrap();
    }
}
