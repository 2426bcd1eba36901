//! Keeps what is not due yet, and lets each go at its instant.
//!
//! What enters: deeds, each with its instant. What leaves: each deed, done at its instant or as soon after it as there is
//! a processor; those of the same instant in the order in which they came. What may be lost: nothing; whoever hands deeds
//! over bounds them.
//!
//! tokio's timers count milliseconds, and bursts that are shorter would change their shape. A thread of its own sleeps
//! to some ten microseconds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::num::NonZeroU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The kernel may wake the thread up so much later than asked for, nanoseconds. By default it takes 50 µs.
const SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

type Deed = Box<dyn FnOnce() + Send>;

struct Entry {
    due: Instant,
    /// In the order in which they came.
    number: u64,
    deed: Deed,
}

impl Entry {
    fn key(&self) -> (Instant, u64) {
        (self.due, self.number)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

#[derive(Default)]
struct State {
    waiting: BinaryHeap<Reverse<Entry>>,
    came: u64,
    stopped: bool,
}

impl State {
    /// Takes out what is due by now, in order.
    fn due(&mut self, now: Instant, out: &mut Vec<Deed>) {
        while let Some(Reverse(first)) = self.waiting.peek()
            && first.due <= now
        {
            out.extend(self.waiting.pop().map(|Reverse(entry)| entry.deed));
        }
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is due until it is told to stop; what is left then is dropped.
    fn run(&self) {
        if let Err(error) = rustix::thread::set_current_timer_slack(Some(SLACK_NS)) {
            tracing::debug!(%error, "exchanges will leave some 50 µs late");
        }
        let mut due = Vec::new();
        let mut state = self.lock();
        while !state.stopped {
            let now = Instant::now();
            state.due(now, &mut due);
            if !due.is_empty() {
                drop(state);
                due.drain(..).for_each(|deed| deed());
                state = self.lock();
                continue;
            }
            let next = state.waiting.peek().map(|Reverse(entry)| entry.due - now);
            let woken = match next {
                Some(wait) => self
                    .changed
                    .wait_timeout(state, wait)
                    .map(|(state, _)| state)
                    .map_err(|poisoned| poisoned.into_inner().0),
                None => self.changed.wait(state).map_err(PoisonError::into_inner),
            };
            state = woken.unwrap_or_else(|state| state);
        }
    }
}

/// What is not due yet, of all targets.
pub(crate) struct Schedule(Arc<Shared>);

impl Schedule {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system grants none.
    pub(crate) fn start() -> io::Result<Schedule> {
        let shared = Arc::new(Shared::default());
        let running = shared.clone();
        std::thread::Builder::new()
            .name("schedule".to_owned())
            .spawn(move || running.run())?;
        Ok(Schedule(shared))
    }

    /// Has `deed` done at `due`, on the schedule's thread: it must not block.
    pub(crate) fn at(&self, due: Instant, deed: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock();
        let number = state.came;
        state.came += 1;
        let deed = Box::new(deed);
        state.waiting.push(Reverse(Entry { due, number, deed }));
        let is_first = state
            .waiting
            .peek()
            .is_some_and(|Reverse(first)| first.number == number);
        drop(state);
        if is_first {
            self.0.changed.notify_one();
        }
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.0.lock().stopped = true;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_goes_at_its_instant_and_never_before() {
        let schedule = Schedule::start().unwrap();
        let (done, deeds) = mpsc::channel();
        let start = Instant::now();
        // The later half comes first, and each instant has two.
        for n in (0..20_u64).rev().chain(0..20) {
            let (due, done) = (start + Duration::from_millis(5 * n), done.clone());
            schedule.at(due, move || {
                done.send((n, Instant::now() >= due)).unwrap();
            });
        }
        let seen: Vec<(u64, bool)> = deeds.iter().take(40).collect();
        let expected: Vec<(u64, bool)> = (0..20).flat_map(|n| [(n, true); 2]).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn those_of_one_instant_go_in_the_order_in_which_they_came() {
        let schedule = Schedule::start().unwrap();
        let (done, deeds) = mpsc::channel();
        let due = Instant::now() + Duration::from_millis(20);
        for n in 0..100 {
            let done = done.clone();
            schedule.at(due, move || done.send(n).unwrap());
        }
        let seen: Vec<i32> = deeds.iter().take(100).collect();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_left_at_the_end_is_not_done() {
        let schedule = Schedule::start().unwrap();
        let (done, deeds) = mpsc::channel();
        schedule.at(Instant::now() + Duration::from_secs(3600), move || {
            done.send(()).unwrap();
        });
        drop(schedule);
        assert_eq!(deeds.recv(), Err(mpsc::RecvError));
    }
}
