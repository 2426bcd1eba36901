//! Keeps the exchanges of a session in order: one at a time, in the order in which they came.
//!
//! What enters: jobs with the hash of their session, for which room was reserved, and ends of sessions' connections.
//! What leaves: for each session the next job once the one before it has ended, and an end behind the jobs before it.
//! What may be lost: where the target has no room left, none is reserved, and the caller counts the job.

use std::collections::VecDeque;

use foldhash::HashMap;

/// Jobs of one target that a replayer may have: bytes and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) bytes: usize,
    pub(crate) jobs: usize,
}

/// Jobs of one target, by session.
#[derive(Debug)]
pub(crate) struct Sessions<J> {
    /// An entry for each session with a job under way; in it those that wait.
    waiting: HashMap<u64, VecDeque<Next<J>>>,
    /// Jobs that have not ended, those under way and those that are not due yet included.
    used: Room,
    most: Room,
}

/// What a session does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<J> {
    /// It sends this.
    Send(J),
    /// It closes its connection; what follows goes over another.
    Close,
}

/// What became of a job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placed<J> {
    /// Its session was idle: to be sent now.
    Start(J),
    /// It waits for the one before it.
    Waits,
}

impl<J> Sessions<J> {
    /// No sessions, and room for so many jobs.
    pub(crate) fn new(most: Room) -> Sessions<J> {
        let used = Room { bytes: 0, jobs: 0 };
        Sessions {
            waiting: HashMap::default(),
            used,
            most,
        }
    }

    /// Makes room for a job of that size until it has ended; false where there is none. One job always fits.
    pub(crate) fn reserve(&mut self, size: usize) -> bool {
        let full = self.used.bytes + size > self.most.bytes || self.used.jobs >= self.most.jobs;
        if full && self.used.jobs > 0 {
            return false;
        }
        self.used.bytes += size;
        self.used.jobs += 1;
        true
    }

    /// Gives back the room of a job that ends without having been put anywhere.
    pub(crate) fn release(&mut self, size: usize) {
        self.used.bytes -= size;
        self.used.jobs -= 1;
    }

    /// Puts a job, for which there is room, behind those of its session.
    pub(crate) fn push(&mut self, session: u64, job: J) -> Placed<J> {
        match self.waiting.get_mut(&session) {
            Some(queue) => {
                queue.push_back(Next::Send(job));
                Placed::Waits
            }
            None => {
                self.waiting.insert(session, VecDeque::new());
                Placed::Start(job)
            }
        }
    }

    /// Puts the end of its connection behind a session's jobs. False where it has none: then the connection is idle.
    pub(crate) fn close(&mut self, session: u64) -> bool {
        let Some(queue) = self.waiting.get_mut(&session) else {
            return false;
        };
        // So there are never more of them than jobs.
        if !matches!(queue.back(), Some(Next::Close)) {
            queue.push_back(Next::Close);
        }
        true
    }

    /// The job under way has ended and its room was released, or the connection is closed: the session's next, or nothing, and
    /// the session is idle.
    pub(crate) fn next(&mut self, session: u64) -> Option<Next<J>> {
        let next = self.waiting.get_mut(&session).and_then(VecDeque::pop_front);
        if next.is_none() {
            self.waiting.remove(&session);
        }
        next
    }

    /// Sessions with a job under way, and jobs that wait behind them or are not due yet.
    pub(crate) fn load(&self) -> (usize, usize) {
        let under_way = self.waiting.len();
        // A session that only closes its connection has no job.
        (under_way, self.used.jobs.saturating_sub(under_way))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        bytes: 100,
        jobs: 10,
    };

    fn place(sessions: &mut Sessions<char>, session: u64, job: char) -> Placed<char> {
        assert!(sessions.reserve(10));
        sessions.push(session, job)
    }

    /// The job under way has ended.
    fn next(sessions: &mut Sessions<char>, session: u64) -> Option<Next<char>> {
        sessions.release(10);
        sessions.next(session)
    }

    #[test]
    fn a_connection_is_closed_behind_the_jobs_before_it_and_ahead_of_those_behind_it() {
        let mut sessions = Sessions::new(ROOM);
        assert!(!sessions.close(1));
        place(&mut sessions, 1, 'a');
        place(&mut sessions, 1, 'b');
        assert!(sessions.close(1) && sessions.close(1));
        place(&mut sessions, 1, 'c');
        assert_eq!(sessions.load(), (1, 2));
        assert_eq!(next(&mut sessions, 1), Some(Next::Send('b')));
        assert_eq!(next(&mut sessions, 1), Some(Next::Close));
        assert_eq!(sessions.next(1), Some(Next::Send('c')));
        assert!(sessions.close(1) && !sessions.close(2));
        assert_eq!(next(&mut sessions, 1), Some(Next::Close));
        assert_eq!(sessions.next(1), None);
        assert_eq!(sessions.load(), (0, 0));
    }

    #[test]
    fn a_session_goes_one_by_one_and_others_pass() {
        let mut sessions = Sessions::new(ROOM);
        assert_eq!(place(&mut sessions, 1, 'a'), Placed::Start('a'));
        assert_eq!(place(&mut sessions, 1, 'b'), Placed::Waits);
        assert_eq!(place(&mut sessions, 1, 'c'), Placed::Waits);
        assert_eq!(place(&mut sessions, 2, 'x'), Placed::Start('x'));
        assert_eq!(sessions.load(), (2, 2));
        assert_eq!(next(&mut sessions, 1), Some(Next::Send('b')));
        assert_eq!(next(&mut sessions, 1), Some(Next::Send('c')));
        assert_eq!(next(&mut sessions, 1), None);
        assert_eq!(place(&mut sessions, 1, 'd'), Placed::Start('d'));
    }

    #[test]
    fn room_is_bounded_in_bytes_and_jobs() {
        let mut sessions = Sessions::<char>::new(Room { bytes: 15, jobs: 2 });
        assert!(sessions.reserve(100) && !sessions.reserve(10));
        assert_eq!(sessions.push(1, 'a'), Placed::Start('a'));
        sessions.release(100);
        assert_eq!(sessions.next(1), None);
        assert!(sessions.reserve(1) && sessions.reserve(1) && !sessions.reserve(1));
    }
}
