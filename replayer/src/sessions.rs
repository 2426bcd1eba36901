//! Keeps the exchanges of a session in order: one at a time, in the order in which they came.
//!
//! What enters: jobs with the hash of their session. What leaves: for each session the next job once the one before
//! it has ended. What may be lost: when the target's queue is full in bytes, a job is refused and its caller counts
//! it.

use std::collections::HashMap;
use std::collections::VecDeque;

/// Jobs of one target, by session.
#[derive(Debug)]
pub(crate) struct Sessions<J> {
    /// An entry for each session with a job under way; in it those that wait.
    waiting: HashMap<u64, VecDeque<(usize, J)>>,
    bytes: usize,
    most: usize,
}

/// What became of a job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placed<J> {
    /// Its session was idle: to be sent now.
    Start(J),
    /// It waits for the one before it.
    Waits,
    /// There is no room.
    Full(J),
}

impl<J> Sessions<J> {
    /// No sessions; so many bytes may wait.
    pub(crate) fn new(most: usize) -> Sessions<J> {
        Sessions {
            waiting: HashMap::new(),
            bytes: 0,
            most,
        }
    }

    /// Puts a job of that size behind those of its session.
    pub(crate) fn push(&mut self, session: u64, size: usize, job: J) -> Placed<J> {
        let Some(queue) = self.waiting.get_mut(&session) else {
            self.waiting.insert(session, VecDeque::new());
            return Placed::Start(job);
        };
        if self.bytes + size > self.most {
            return Placed::Full(job);
        }
        self.bytes += size;
        queue.push_back((size, job));
        Placed::Waits
    }

    /// The job that was under way has ended: the session's next, or nothing, and the session is idle.
    pub(crate) fn next(&mut self, session: u64) -> Option<J> {
        let next = self.waiting.get_mut(&session).and_then(VecDeque::pop_front);
        match next {
            Some((size, job)) => {
                self.bytes -= size;
                Some(job)
            }
            None => {
                self.waiting.remove(&session);
                None
            }
        }
    }

    /// Sessions with a job under way, and jobs that wait behind them.
    pub(crate) fn load(&self) -> (usize, usize) {
        (
            self.waiting.len(),
            self.waiting.values().map(VecDeque::len).sum(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_goes_one_by_one_and_others_pass() {
        let mut sessions = Sessions::new(100);
        assert_eq!(sessions.push(1, 10, 'a'), Placed::Start('a'));
        assert_eq!(sessions.push(1, 10, 'b'), Placed::Waits);
        assert_eq!(sessions.push(1, 10, 'c'), Placed::Waits);
        assert_eq!(sessions.push(2, 10, 'x'), Placed::Start('x'));
        assert_eq!(sessions.load(), (2, 2));
        assert_eq!(sessions.next(1), Some('b'));
        assert_eq!(sessions.next(1), Some('c'));
        assert_eq!(sessions.next(1), None);
        assert_eq!(sessions.push(1, 10, 'd'), Placed::Start('d'));
    }

    #[test]
    fn the_queue_is_bounded_in_bytes() {
        let mut sessions = Sessions::new(15);
        assert_eq!(sessions.push(1, 10, 'a'), Placed::Start('a'));
        assert_eq!(sessions.push(1, 10, 'b'), Placed::Waits);
        assert_eq!(sessions.push(1, 10, 'c'), Placed::Full('c'));
        assert_eq!(sessions.next(1), Some('b'));
        assert_eq!(sessions.push(1, 10, 'c'), Placed::Waits);
    }
}
