//! TCP segments of many connections, put together to requests.
//!
//! What enters: segments as captured, in any order, with the time; the passing of time. What leaves: whole requests,
//! and the ends of connections that had some. What may be lost, and is counted: requests that lack a byte, that were
//! cut off by a reset, that stood still too long, or that had to go to keep the memory budget.
//!
//! Nothing here opens a socket or reads a clock.

mod answers;
mod begin;
mod earlier;
mod flow;
mod pace;
mod pending;
mod place;
mod stream;
mod table;

use std::sync::Arc;
use std::time::Duration;

use reprise_traffic::exchange::{Captured, Closed};

use crate::budget::Budget;
use crate::edge::{Edge, EdgeEvent};
use crate::http::{Begin, Incomplete, request_begin};
use crate::packet::Segment;
use crate::shed::Shed;
use flow::{Flow, Roles, Surroundings, Way};
use table::{Class, Id, Key, Table};

/// Bounds of one [`Reassembler`].
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of head and body over which a request is passed over, and counted.
    pub max_exchange: usize,
    /// Bytes of one connection's early segments; past it the hole before them is taken for final. Has to be
    /// more than what is in flight on a fast, long line.
    pub early: usize,
    /// Connections that are followed at a time.
    pub connections: usize,
    /// After so long a hole is taken for final: by then TCP has sent its bytes again several times.
    pub hole: Duration,
    /// After so long without a byte an unfinished request is given up. Servers wait as long for a body:
    /// nginx's `client_body_timeout` and Apache's `Timeout` are 60 s.
    pub incomplete: Duration,
    /// So long after its last byte a request leaves without the rest of its answer, where answers are kept: a stream of
    /// events, or a poll that waits for news, may take hours. On a connection where nothing comes it may take twice as long.
    pub answer: Duration,
    /// After so long without a packet a connection is forgotten. If it goes on with a request, it is found again;
    /// until then what is known of it guards against mistaking a tunnel's content for one.
    pub idle: Duration,
    /// For so long late packets of a closed connection are known as such.
    pub closed: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_exchange: 24 << 20,
            early: 8 << 20,
            connections: 65_536,
            hole: Duration::from_secs(2),
            incomplete: Duration::from_secs(60),
            answer: Duration::from_secs(30),
            idle: Duration::from_secs(600),
            closed: Duration::from_secs(10),
        }
    }
}

/// The ports that servers listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Not known: whoever sends requests is a client.
    Any,
    /// These, in ascending order.
    Only(Vec<u16>),
}

impl Ports {
    /// These and no others.
    pub fn only(ports: &[u16]) -> Ports {
        let mut ports = ports.to_vec();
        ports.sort_unstable();
        ports.dedup();
        Ports::Only(ports)
    }

    /// Whether a server may listen there.
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Ports::Any => true,
            Ports::Only(ports) => ports.contains(&port),
        }
    }
}

/// What is done about the answers that servers send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// They are not in the capture, or not looked at.
    Unseen,
    /// Of them only those are in the capture that agree to another protocol (101).
    Switches,
    /// They decide whether a tunnel or an upgrade begins, and are let go.
    Watched,
    /// They leave with their requests; each exchange waits for its answer.
    Kept {
        /// Bytes of an answer's body that are kept.
        max_body: usize,
    },
}

/// What a [`Reassembler`] looks for, and its bounds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bounds.
    pub limits: Limits,
    /// Where servers are.
    pub ports: Ports,
    /// What they say.
    pub answers: Answers,
    /// Bytes of unfinished requests, of early segments and of the connections themselves; others may draw on it too.
    pub budget: Arc<Budget>,
    /// Which sessions' requests are only counted, where memory or time is short.
    pub shed: Option<Arc<Shed>>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            limits: Limits::default(),
            ports: Ports::Any,
            answers: Answers::Unseen,
            budget: Arc::new(Budget::new(64 << 20)),
            shed: None,
        }
    }
}

/// Takes what comes of segments, in order.
pub trait Sink {
    /// A request is whole.
    fn take(&mut self, request: Captured);

    /// A connection ended of which requests were taken.
    fn closed(&mut self, _closed: Closed) {}
}

impl<F: FnMut(Captured)> Sink for F {
    fn take(&mut self, request: Captured) {
        self(request);
    }
}

/// Puts segments together.
#[derive(Debug)]
pub struct Reassembler {
    table: Table<Flow>,
    limits: Limits,
    ports: Ports,
    answers: Answers,
    budget: Arc<Budget>,
    shed: Option<Arc<Shed>>,
    edge: Arc<Edge>,
    /// Bytes on the heap that belong to requests, of all connections.
    held: usize,
    now_ns: u64,
}

/// What a connection costs that holds nothing.
const SLOT: usize = Table::<Flow>::slot_size();

impl Reassembler {
    /// With no connections.
    pub fn new(settings: Settings, edge: Arc<Edge>) -> Reassembler {
        Reassembler {
            table: Table::new(),
            limits: settings.limits,
            ports: settings.ports,
            answers: settings.answers,
            budget: settings.budget,
            shed: settings.shed,
            edge,
            held: 0,
            now_ns: 0,
        }
    }

    /// Takes a segment in either direction, captured at `now_ns` (unix nanoseconds).
    pub fn push(&mut self, segment: &Segment<'_>, now_ns: u64, sink: &mut impl Sink) {
        self.expire(now_ns, sink);
        self.take(segment, now_ns, sink);
        self.keep_budget(sink);
    }

    fn take(&mut self, segment: &Segment<'_>, now_ns: u64, sink: &mut impl Sink) {
        if segment.missing > 0 {
            self.edge.count(EdgeEvent::Truncated, 1);
        }
        let (key, source_first) = Key::of(segment.source, segment.destination);
        let Some((id, way)) = self.flow(key, source_first, segment, sink) else {
            return;
        };
        if way == Way::ToClient && self.answers == Answers::Unseen {
            return;
        }
        let progress = self.table.value(id).progress();
        let early = self.limits.early;
        let client = match way {
            Way::ToServer => segment.source,
            Way::ToClient => segment.destination,
        };
        let skip = self.shed.as_ref().and_then(|s| s.turned_away(client));
        let overdue = self.overdue();
        self.with(id, sink, |flow, around| {
            around.skip = skip;
            flow.push(way, segment, now_ns, around);
            flow.end_overdue(overdue, around);
            let mut held = flow.held_behind_hole();
            while held > early {
                flow.give_up_hole(around);
                let left = flow.held_behind_hole();
                if left >= held {
                    flow.give_up_answers(around);
                    break;
                }
                held = left;
            }
        });
        self.classify(id, progress);
    }

    /// The connection that a segment belongs to, and its way on it.
    fn flow(
        &mut self,
        key: Key,
        source_first: bool,
        segment: &Segment<'_>,
        sink: &mut impl Sink,
    ) -> Option<(Id, Way)> {
        if let Some(id) = self.table.find(&key) {
            let flow = self.table.value(id);
            let way = flow.way(source_first);
            if way == Way::ToServer || !flow.is_reversed_by(segment) {
                return Some((id, way));
            }
            if !self.ports.contains(segment.destination.port()) {
                return None;
            }
            self.remove(id, Incomplete::ClosedEarly, sink);
        }
        // An acknowledgement or an end of a connection of which no byte was seen.
        if segment.rst || (segment.payload.is_empty() && !segment.syn) {
            return None;
        }
        let (way, roles) = self.guess_way(segment)?;
        self.make_room(sink);
        let id = self.table.insert(key, self.now_ns);
        self.hold(SLOT);
        let client_first = source_first == (way == Way::ToServer);
        let answers = self.answers;
        self.with(id, sink, |flow, _| {
            flow.begin(client_first, roles, answers);
        });
        Some((id, way))
    }

    /// Which way the first segment of a connection goes, and how certain that is. None when it is of no interest.
    fn guess_way(&self, segment: &Segment<'_>) -> Option<(Way, Roles)> {
        let to_server = self.ports.contains(segment.destination.port());
        let to_client = self.ports.contains(segment.source.port());
        if segment.syn {
            let (way, wanted) = match segment.acknowledgment {
                None => (Way::ToServer, to_server),
                Some(_) => (Way::ToClient, to_client),
            };
            return wanted.then_some((way, Roles::Certain));
        }
        match (to_server, to_client) {
            (true, false) => Some((Way::ToServer, Roles::Certain)),
            (false, true) => Some((Way::ToClient, Roles::Certain)),
            (false, false) => None,
            (true, true) => Some(match request_begin(segment.payload) {
                Begin::No if segment.payload.starts_with(b"HTTP/1.") => {
                    (Way::ToClient, Roles::Guessed)
                }
                _ => (Way::ToServer, Roles::Guessed),
            }),
        }
    }

    /// Lets time pass: holes become final, unfinished requests are given up, connections are forgotten.
    pub fn expire(&mut self, now_ns: u64, sink: &mut impl Sink) {
        // Captures are merged of several queues, and clocks are set back.
        self.now_ns = self.now_ns.max(now_ns);
        for class in Class::ALL {
            let after = match class {
                Class::Fleeting => self.limits.closed,
                Class::Idle => self.limits.idle,
                Class::Incomplete => self.limits.incomplete,
                Class::Answer => self.limits.answer,
                Class::Holed => self.limits.hole,
            };
            let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
            while let Some((id, since)) = self.table.oldest(class)
                && since.saturating_add(after) <= self.now_ns
            {
                match class {
                    Class::Fleeting | Class::Idle => self.remove(id, Incomplete::Expired, sink),
                    Class::Incomplete => self.give_up(id, Incomplete::Expired, sink),
                    Class::Answer => self.end_overdue(id, sink),
                    Class::Holed => self.give_up_hole(id, sink),
                }
            }
        }
        // What was held may have become a request that is under way.
        self.keep_budget(sink);
    }

    /// Ends all connections, as at the end of a capture.
    pub fn finish(&mut self, sink: &mut impl Sink) {
        while let Some((id, _)) = self.table.oldest(Class::Holed) {
            self.give_up_hole(id, sink);
        }
        for class in Class::ALL {
            while let Some((id, _)) = self.table.oldest(class) {
                self.remove(id, Incomplete::Stopped, sink);
            }
        }
    }

    /// Connections that are followed.
    pub fn connections(&self) -> usize {
        self.table.len()
    }

    /// Bytes of unfinished requests and early segments, and of the connections themselves.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Calls `act` on a connection and keeps the account of what is held.
    fn with<S: Sink>(
        &mut self,
        id: Id,
        sink: &mut S,
        act: impl FnOnce(&mut Flow, &mut Surroundings<'_, S>),
    ) {
        let key = self.table.key(id);
        let flow = self.table.value(id);
        let held_before = flow.held();
        let mut around = Surroundings {
            edge: &self.edge,
            key,
            answers: self.answers,
            max_exchange: self.limits.max_exchange,
            now_ns: self.now_ns,
            skip: None,
            sink,
        };
        act(flow, &mut around);
        flow.tell_end(&mut around);
        // What moved on was counted there before it is given back here.
        let held = flow.held();
        match held.checked_sub(held_before) {
            Some(0) => {}
            Some(more) => self.hold(more),
            None => self.let_go(held_before - held),
        }
    }

    fn hold(&mut self, bytes: usize) {
        self.held += bytes;
        self.budget.take(bytes);
    }

    fn let_go(&mut self, bytes: usize) {
        self.held -= bytes;
        self.budget.give(bytes);
    }

    /// Files a connection under what it waits for. A hole's age isn't changed by what arrives behind it.
    fn classify(&mut self, id: Id, progress: u64) {
        let flow = self.table.value(id);
        let class = flow.class();
        let stalled = flow.progress() == progress;
        let same = self.table.class(id) == class;
        // An answer's time runs from its request, whatever of it comes.
        if same && (class == Class::Answer || (class == Class::Holed && stalled)) {
            return;
        }
        self.table.touch(id, class, self.now_ns);
    }

    fn give_up_hole(&mut self, id: Id, sink: &mut impl Sink) {
        let progress = self.table.value(id).progress();
        self.with(id, sink, |flow, around| flow.give_up_hole(around));
        self.classify(id, progress);
        if self.table.class(id) == Class::Holed {
            // Another hole, whose time begins now.
            self.table.touch(id, Class::Holed, self.now_ns);
        }
    }

    /// Requests that were complete by this time wait for their answers no longer, unix nanoseconds.
    fn overdue(&self) -> u64 {
        let wait = u64::try_from(self.limits.answer.as_nanos()).unwrap_or(u64::MAX);
        self.now_ns.saturating_sub(wait)
    }

    fn end_overdue(&mut self, id: Id, sink: &mut impl Sink) {
        let overdue = self.overdue();
        self.with(id, sink, |flow, around| flow.end_overdue(overdue, around));
        let class = self.table.value(id).class();
        self.table.touch(id, class, self.now_ns);
    }

    fn give_up(&mut self, id: Id, cause: Incomplete, sink: &mut impl Sink) {
        self.with(id, sink, |flow, around| flow.give_up(cause, around));
        let class = self.table.value(id).class();
        self.table.touch(id, class, self.now_ns);
    }

    fn remove(&mut self, id: Id, cause: Incomplete, sink: &mut impl Sink) {
        self.with(id, sink, |flow, around| flow.end(cause, around));
        let left = self.table.remove(id).held();
        self.let_go(left + SLOT);
    }

    fn keep_budget(&mut self, sink: &mut impl Sink) {
        while self.held > 0 && self.budget.is_over() {
            let holed = self.table.oldest(Class::Holed);
            let incomplete = self.table.oldest(Class::Incomplete);
            let answer = self.table.oldest(Class::Answer);
            let stalest = [holed, incomplete, answer]
                .into_iter()
                .flatten()
                .min_by_key(|(_, since)| *since);
            let Some((id, _)) = stalest else {
                if !self.forget_one(sink) {
                    return;
                }
                continue;
            };
            let before = self.held;
            self.give_up(id, Incomplete::Budget, sink);
            if self.held >= before {
                self.remove(id, Incomplete::Budget, sink);
            }
        }
    }

    fn make_room(&mut self, sink: &mut impl Sink) {
        while self.table.len() >= self.limits.connections && self.forget_one(sink) {}
    }

    /// Forgets the connection that is missed least.
    fn forget_one(&mut self, sink: &mut impl Sink) -> bool {
        let Some((id, _)) = Class::ALL.into_iter().find_map(|c| self.table.oldest(c)) else {
            return false;
        };
        self.edge.count(EdgeEvent::Forgotten, 1);
        self.remove(id, Incomplete::Budget, sink);
        true
    }
}

#[cfg(test)]
mod doubt_tests;
#[cfg(test)]
mod ending_tests;
#[cfg(test)]
mod pairing_tests;
#[cfg(test)]
mod tests;
