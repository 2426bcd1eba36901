//! The thread that reads: from files to requests in the window, each in its time.
//!
//! What enters: files and pipes. What leaves: requests with the instants at which they are due, and the ends of connections
//! between them; as fast as the window takes them where no pace is asked for. What may be lost: see [`crate::reading`].

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reprise_traffic::Closed;
use reprise_traffic::exchange::Captured;
use tracing::{debug, error, info};

use super::crowd::{Crowd, Users};
use super::found::Found;
use super::merge::{self, Files, Merge};
use super::pace::{Pacing, Repeat};
use super::recording::{Recording, Wanted};
use super::timetable::{Leaves, Timetable};
use super::{Entrance, WhenFull};
use crate::intake::Due;

/// Requests are on their way to the replayers so long before they are due. It covers what relays and busy processors may
/// hold them up, and is little enough to be kept in memory at 100,000 requests a second.
const AHEAD: Duration = Duration::from_millis(250);

/// Once so far ahead, the reader sleeps until it is so much less ahead, rather than wake up for each request.
const STEP: Duration = Duration::from_millis(20);

/// Ends of connections that wait for the request behind them.
const MOST_CLOSING: usize = 1 << 14;

/// A connection that ended so long after the last request of all is left to the end of the replay: replayers keep nothing
/// that is due later.
const TRAILING: Duration = Duration::from_secs(10);

/// What is read one after the other.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// As one stream.
    Files(Files),
    /// As it comes.
    Pipe(PathBuf),
}

pub(super) struct Reader {
    pub(super) wanted: Wanted,
    pub(super) pacing: Pacing,
    pub(super) when_full: WhenFull,
    pub(super) users: Users,
    pub(super) entrance: Entrance,
}

/// When a replay began, by two clocks.
#[derive(Clone, Copy)]
struct Start {
    instant: Instant,
    unix: Duration,
}

impl Start {
    /// The first request has as much time to its replayer as all others.
    fn soon() -> Start {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Start {
            instant: Instant::now() + AHEAD,
            unix: unix.unwrap_or_default() + AHEAD,
        }
    }

    /// All that is not due yet is due later by so much.
    fn put_off(&mut self, by: Duration) {
        self.instant += by;
        self.unix += by;
    }

    fn due(self, after: Duration) -> Due {
        Due {
            instant: self.instant + after,
            unix_ns: (self.unix + after).as_nanos() as u64,
        }
    }
}

/// Files on their way into the window.
struct Stage<'a> {
    reader: &'a Reader,
    crowd: Crowd,
    /// When the first request leaves.
    start: Option<Start>,
    /// When no further one is read, where there is neither a schedule nor an end.
    until: Option<Instant>,
    /// Connections that ended behind the last request, and when. They wait for the next: what ends behind the last of all
    /// must not hold up the end.
    closing: VecDeque<(Closed, Duration)>,
    /// When the last request left.
    last: Duration,
    is_over: bool,
}

impl Stage<'_> {
    /// Reads all files once. Returns how many requests were in them, or nothing once the time is over.
    fn pass(&mut self, merge: &mut Merge, timetable: &mut Timetable) -> Option<u64> {
        let is_timed = self.reader.pacing.is_timed();
        let mut requests = 0;
        loop {
            if !is_timed {
                self.reader.wait_for_room(merge.held());
            }
            let request = match merge.next() {
                Some(Found::Request(request)) => request,
                Some(Found::Closed(closed)) => {
                    self.hold(closed, timetable);
                    continue;
                }
                None => return Some(requests),
            };
            requests += 1;
            let after = match timetable.next(request.captured_ns) {
                Leaves::AtOnce if self.until.is_some_and(|until| Instant::now() >= until) => {
                    return None;
                }
                Leaves::AtOnce => Duration::ZERO,
                Leaves::After(after) => after,
                Leaves::Over => return None,
            };
            self.close_held(after);
            if self.reader.users.are_as_recorded() {
                self.send(request, after, merge.held());
                continue;
            }
            self.crowd.add(request, after);
            // Without a schedule clones leave with their originals.
            let by = if is_timed { after } else { Duration::MAX };
            self.leave(by, merge.held());
        }
    }

    /// Has those of the crowd leave that leave by then, and those that there is no room for: then the reader is late, and
    /// those behind them. Whoever reads holds so many bytes.
    fn leave(&mut self, by: Duration, held: usize) {
        let room = self.reader.wanted.reassembly.budget.limit() / 4;
        // What was not due when the replay was stopped does not take place.
        while !self.reader.wanted.stop.is_asked() {
            let is_full = self.crowd.held() > room;
            let by = if is_full { Duration::MAX } else { by };
            let Some((found, after)) = self.crowd.next(by) else {
                return;
            };
            let request = match found {
                Found::Request(request) => request,
                Found::Closed(closed) => {
                    self.close(closed, after);
                    continue;
                }
            };
            let held = held + self.crowd.held();
            if !self.reader.pacing.is_timed() {
                self.reader.wait_for_room(held);
            }
            self.send(request, after, held);
        }
    }

    fn send(&mut self, request: Captured, after: Duration, held: usize) {
        if !self.reader.pacing.is_timed() {
            return self.reader.take(request);
        }
        let start = self.start.get_or_insert_with(Start::soon);
        self.last = after;
        if self.reader.when_full == WhenFull::Wait {
            let due = start.due(after);
            self.reader.wait_until(due);
            if self.reader.wait_for_plenty(held) {
                start.put_off(Instant::now().saturating_duration_since(due.instant));
            }
        }
        self.reader.take_due(request, start.due(after), held);
    }

    fn hold(&mut self, closed: Closed, timetable: &Timetable) {
        match self.closing.len() < MOST_CLOSING {
            true => self
                .closing
                .push_back((closed, timetable.closes(closed.closed_ns))),
            false => self.reader.entrance.intake.drop_closed(1),
        }
    }

    /// Has those leave that were held, by then at the latest.
    fn close_held(&mut self, by: Duration) {
        while let Some((closed, after)) = self.closing.pop_front() {
            let after = after.min(by);
            match self.reader.users.are_as_recorded() {
                true => self.close(closed, after),
                false => self.crowd.close(closed, after),
            }
        }
    }

    fn close(&mut self, closed: Closed, after: Duration) {
        if !self.reader.pacing.is_timed() {
            return self.reader.close(closed);
        }
        let due = self.start.get_or_insert_with(Start::soon).due(after);
        if !self.is_over {
            self.reader.wait_until(due);
        } else if after > self.last + TRAILING {
            return;
        }
        self.reader.close(Closed {
            due_ns: Some(due.unix_ns),
            ..closed
        });
    }
}

impl Reader {
    /// Reads all, or until it is told to stop. Returns the number of files that could not be read.
    pub(super) fn read_all(&mut self, parts: Vec<Part>) -> usize {
        let mut unreadable = 0;
        for part in parts {
            unreadable += match part {
                Part::Files(files) => self.replay(&files),
                Part::Pipe(path) => self.follow(&path),
            };
        }
        self.entrance.intake.announce();
        unreadable
    }

    /// Replays files, as often as asked for.
    fn replay(&self, files: &Files) -> usize {
        let mut timetable = Timetable::new(self.pacing.clone());
        let budget = self.wanted.reassembly.budget.clone();
        let mut stage = Stage {
            reader: self,
            crowd: Crowd::new(self.users.clone(), budget),
            start: None,
            until: match self.pacing.repeat {
                Repeat::For(time) => Instant::now().checked_add(time),
                Repeat::Times(_) | Repeat::Forever => None,
            },
            closing: VecDeque::new(),
            last: Duration::ZERO,
            is_over: false,
        };
        let mut passes = 0_u32;
        let unreadable = loop {
            let wanted = Wanted {
                // What is to be said of a file was said when it was read first.
                tells: passes == 0,
                ..self.wanted.clone()
            };
            let mut merge = Merge::new(files.clone(), wanted);
            let requests = stage.pass(&mut merge, &mut timetable);
            passes += 1;
            let is_over = match (requests, self.pacing.repeat) {
                (None | Some(0), _) => true,
                _ if self.wanted.stop.is_asked() => true,
                _ if !self.pacing.stages.is_empty() => false,
                (_, Repeat::Times(times)) => passes >= times,
                (_, Repeat::For(_) | Repeat::Forever) => false,
            };
            if is_over {
                break merge.unreadable();
            }
            debug!(passes, "reading from the beginning");
            timetable.begin_again();
            stage.close_held(timetable.pass_begins());
        };
        stage.is_over = true;
        stage.close_held(Duration::MAX);
        stage.leave(Duration::MAX, 0);
        if passes > 1 {
            info!(passes, "read again and again");
        }
        unreadable
    }

    /// Reads a pipe, whose requests leave as they come.
    fn follow(&self, path: &std::path::Path) -> usize {
        let read = || -> anyhow::Result<()> {
            let mut pipe = Recording::open(path, &self.wanted)?;
            loop {
                self.wait_for_room(pipe.held());
                // Nothing is at hand that an answer could be given to: requests leave as they come.
                match pipe.next(None)? {
                    Some((_, Found::Request(request))) => self.take(request),
                    Some((_, Found::Closed(closed))) => self.close(closed),
                    None => return Ok(()),
                }
                // The next may be long in coming.
                self.entrance.intake.announce();
            }
        };
        let Err(error) = read() else {
            return 0;
        };
        if self.wanted.stop.is_asked() {
            return 0;
        }
        error!("{:#}", merge::of_file(path, &error));
        1
    }

    fn wait_for_room(&self, held: usize) {
        if !self.entrance.discards {
            self.entrance
                .intake
                .wait_for_room(held, self.wanted.stop.flag());
        }
    }

    /// Gives what is within the source's limit its turn.
    fn let_in(&self, mut request: Captured, leaves: Instant) -> Option<Captured> {
        if !self.entrance.limiter.takes(&request, leaves) {
            return None;
        }
        self.entrance.turns.number(&mut request);
        Some(request)
    }

    fn take(&self, request: Captured) {
        let Some(request) = self.let_in(request, Instant::now()) else {
            return;
        };
        match self.entrance.discards {
            true => self.entrance.intake.discard(request),
            false => self.entrance.intake.admit_waited(request),
        }
    }

    fn close(&self, closed: Closed) {
        if !self.entrance.discards {
            self.entrance.intake.admit_closed(closed);
        }
    }

    fn take_due(&self, request: Captured, due: Due, held: usize) {
        let Some(request) = self.let_in(request, due.instant) else {
            return;
        };
        if self.entrance.discards {
            return self.entrance.intake.discard(request);
        }
        self.wait_until(due);
        // What was not due when the replay was stopped does not take place.
        if !self.wanted.stop.is_asked() {
            self.entrance
                .intake
                .admit_due(request, due, held, self.wanted.stop.flag());
        }
    }

    /// Waits while more is unsettled than a schedule needs; true where it had to.
    fn wait_for_plenty(&self, held: usize) -> bool {
        let Entrance {
            intake, discards, ..
        } = &self.entrance;
        !discards && intake.wait_for_plenty(held, self.wanted.stop.flag())
    }

    /// Sleeps until it is time for what is due then to be on its way.
    fn wait_until(&self, due: Due) {
        if self.entrance.discards {
            return;
        }
        let ahead = due.instant.saturating_duration_since(Instant::now());
        if ahead > AHEAD {
            self.entrance.intake.announce();
            let until = due.instant - (AHEAD - STEP);
            while let Some(left) = until.checked_duration_since(Instant::now())
                && !left.is_zero()
                && !self.wanted.stop.is_asked()
            {
                self.wanted.stop.wait(left);
            }
        }
    }
}
