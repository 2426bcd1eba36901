//! Makes several users of each that was recorded.
//!
//! What enters: requests and ends of connections with the instants at which they leave, in order. What leaves: each
//! of them, and its clones, in order of their instants. What may be lost: nothing. No clock is read and no dice are
//! thrown here: the same recording gives the same crowd.
//!
//! A clone of a session is a user of its own: it comes from an address of its own, the values that tell users apart
//! have `~N` behind them, and all its requests leave later than the session's by the same time, up to the jitter.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reprise_traffic::exchange::Captured;
use reprise_traffic::{Closed, Head, SessionKey};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::found::Found;
use super::record::NOBODY;
use crate::budget::Budget;

/// How many users each recorded one becomes, written `10x` or `2.5x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times(f64);

impl Default for Times {
    fn default() -> Times {
        Times(1.0)
    }
}

impl FromStr for Times {
    type Err = String;

    fn from_str(text: &str) -> Result<Times, String> {
        let number = text.strip_suffix('x').unwrap_or(text).parse::<f64>();
        number
            .ok()
            .filter(|times| (0.0..=10_000.0).contains(times) && *times > 0.0)
            .map(Times)
            .ok_or_else(|| format!("{text:?} users: write a factor up to 10000, as 10x or 0.5x"))
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x", self.0)
    }
}

/// How the users of a recording are multiplied.
#[derive(Debug, Clone, PartialEq)]
pub struct Users {
    /// By how many.
    pub times: Times,
    /// What tells recorded users apart.
    pub session: SessionKey,
    /// Where the values are that clones have of their own.
    pub unique: Vec<SessionKey>,
    /// Clones begin up to so much later than their original.
    pub jitter: Duration,
}

impl Default for Users {
    fn default() -> Users {
        Users {
            times: Times::default(),
            session: SessionKey::default(),
            unique: Vec::new(),
            jitter: Duration::from_secs(1),
        }
    }
}

impl Users {
    /// True where everybody stays as they are.
    pub(super) fn are_as_recorded(&self) -> bool {
        self.times == Times::default()
    }

    /// How many users a session becomes. Of a part, the sessions that are drawn are always the same.
    fn of(&self, session: u64) -> u64 {
        let whole = self.times.0.floor();
        let mixed = xxh3_64(&session.to_le_bytes()) as f64 / u64::MAX as f64;
        whole as u64 + u64::from(mixed < self.times.0 - whole)
    }

    /// How much later a clone leaves.
    fn later(&self, session: u64, clone: u64) -> Duration {
        if clone == 0 {
            return Duration::ZERO;
        }
        let drawn = xxh3_64_with_seed(&session.to_le_bytes(), clone) as f64 / u64::MAX as f64;
        self.jitter.mul_f64(drawn)
    }
}

struct Waiting {
    leaves: Duration,
    number: u64,
    clone: u64,
    found: Arc<Found>,
    /// Its part of the bytes, out of the budget.
    bytes: usize,
}

impl Waiting {
    fn key(&self) -> (Duration, u64) {
        (self.leaves, self.number)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Requests and clones that are yet to leave.
pub(super) struct Crowd {
    users: Users,
    waiting: BinaryHeap<Reverse<Waiting>>,
    came: u64,
    bytes: usize,
    budget: Arc<Budget>,
}

impl Crowd {
    pub(super) fn new(users: Users, budget: Arc<Budget>) -> Crowd {
        Crowd {
            users,
            waiting: BinaryHeap::new(),
            came: 0,
            bytes: 0,
            budget,
        }
    }

    /// Bytes of what is yet to leave.
    pub(super) fn held(&self) -> usize {
        self.bytes
    }

    /// A recorded request, which leaves then. None that is added later leaves earlier.
    pub(super) fn add(&mut self, request: Captured, leaves: Duration) {
        let session = self.users.session.hash(&request);
        let users = self.users.of(session);
        let later = |users: &Users, clone| users.later(session, clone);
        self.add_each(Found::Request(request), leaves, users, later);
    }

    /// The end of a recorded connection, then. That of a clone's leaves as much later as its requests; where what tells users
    /// apart is in the requests, it is behind all that the clone can have sent.
    pub(super) fn close(&mut self, closed: Closed, leaves: Duration) {
        if self.users.session == SessionKey::Connection
            && let Some(session) = self.users.session.hash_of_connection(&closed)
        {
            let users = self.users.of(session);
            let later = |users: &Users, clone| users.later(session, clone);
            return self.add_each(Found::Closed(closed), leaves, users, later);
        }
        let most = self.users.times.0.ceil() as u64;
        let later = |users: &Users, clone| match clone {
            0 => Duration::ZERO,
            _ => users.jitter,
        };
        self.add_each(Found::Closed(closed), leaves, most, later);
    }

    fn add_each(
        &mut self,
        found: Found,
        leaves: Duration,
        users: u64,
        later: impl Fn(&Users, u64) -> Duration,
    ) {
        let bytes = size_of::<Waiting>() + found.size() / users.max(1) as usize;
        let found = Arc::new(found);
        for clone in 0..users {
            self.came += 1;
            self.bytes += bytes;
            self.budget.take(bytes);
            self.waiting.push(Reverse(Waiting {
                leaves: leaves + later(&self.users, clone),
                number: self.came,
                clone,
                found: found.clone(),
                bytes,
            }));
        }
    }

    /// The next that leaves, if it leaves by then.
    pub(super) fn next(&mut self, by: Duration) -> Option<(Found, Duration)> {
        let Reverse(first) = self.waiting.peek()?;
        if first.leaves > by {
            return None;
        }
        let Reverse(first) = self.waiting.pop()?;
        self.bytes -= first.bytes;
        self.budget.give(first.bytes);
        let found = match Arc::try_unwrap(first.found) {
            Ok(found) => found,
            Err(shared) => (*shared).clone(),
        };
        let found = match (first.clone, found) {
            (0, found) => found,
            (clone, Found::Request(request)) => {
                Found::Request(clone_of(request, clone, &self.users.unique))
            }
            (clone, Found::Closed(closed)) => Found::Closed(Closed {
                client: address_of(closed.client, clone),
                ..closed
            }),
        };
        Some((found, first.leaves))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

/// Where a clone of who is there comes from.
fn address_of(client: SocketAddr, clone: u64) -> SocketAddr {
    let number = xxh3_64_with_seed(client.to_string().as_bytes(), clone);
    let ip = Ipv6Addr::from(u128::from(NOBODY) | u128::from(number));
    SocketAddr::from((ip, client.port()))
}

/// The same request by another user.
fn clone_of(mut request: Captured, clone: u64, unique: &[SessionKey]) -> Captured {
    request.client = address_of(request.client, clone);
    let mut places: Vec<usize> = unique
        .iter()
        .flat_map(|key| key.value_ends(&request.head))
        .collect();
    if places.is_empty() {
        return request;
    }
    places.sort_unstable();
    places.dedup();
    let raw = request.head.raw();
    let suffix = format!("~{clone}");
    let mut changed = Vec::with_capacity(raw.len() + places.len() * suffix.len());
    let mut copied = 0;
    for place in places {
        changed.extend_from_slice(&raw[copied..place]);
        changed.extend_from_slice(suffix.as_bytes());
        copied = place;
    }
    changed.extend_from_slice(&raw[copied..]);
    // What is added can stand in any value, so it is as good a head as before.
    if let Ok(head) = Head::parse(Bytes::from(changed)) {
        request.head = head;
    }
    request
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use reprise_traffic::{Body, Source};

    use super::*;

    fn request(head: &str, user: u8) -> Captured {
        Captured {
            captured_ns: 0,
            client: ([10, 0, 0, user], 7).into(),
            server: ([10, 0, 0, 1], 80).into(),
            source: Source::Wire,
            head: Head::parse(Bytes::from(head.to_owned())).unwrap(),
            body: Body::default(),
            trailers: Bytes::new(),
            answer: None,
            label: None,
        }
    }

    fn crowd(times: &str, unique: &[&str]) -> Crowd {
        let users = Users {
            times: times.parse().unwrap(),
            unique: unique.iter().map(|key| key.parse().unwrap()).collect(),
            ..Users::default()
        };
        Crowd::new(users, Arc::new(Budget::new(1 << 30)))
    }

    /// The next request of those who leave by then; ends of connections are passed over.
    fn next(crowd: &mut Crowd, by: Duration) -> Option<(Captured, Duration)> {
        loop {
            if let (Found::Request(request), leaves) = crowd.next(by)? {
                return Some((request, leaves));
            }
        }
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_clone_is_a_user_of_its_own() {
        let mut crowd = crowd("3x", &["cookie:sid", "header:X-User", "query:u"]);
        let head = "GET /?a=1&u=7&b HTTP/1.1\r\nCookie: a=b; sid=s1; c=d\r\nx-user: me\r\nSid: sid=s1\r\n\r\n";
        crowd.add(request(head, 1), S);
        let mut all: Vec<(Captured, Duration)> =
            std::iter::from_fn(|| next(&mut crowd, 3 * S)).collect();
        all.sort_by_key(|(request, _)| request.head.raw().len());
        let heads: Vec<&[u8]> = all
            .iter()
            .map(|(request, _)| &request.head.raw()[..])
            .collect();
        assert_eq!(heads[0], head.as_bytes());
        for (n, clone) in heads[1..].iter().enumerate() {
            let mark = |text: &str| text.replace("~", &format!("~{}", n + 1));
            let expected = mark(
                "GET /?a=1&u=7~&b HTTP/1.1\r\nCookie: a=b; sid=s1~; c=d\r\nx-user: me~\r\nSid: sid=s1\r\n\r\n",
            );
            assert!(
                heads[1..].contains(&expected.as_bytes()),
                "{}",
                clone.escape_ascii()
            );
        }
        let clients: HashSet<SocketAddr> = all.iter().map(|(request, _)| request.client).collect();
        assert_eq!(clients.len(), 3);
        assert_eq!((crowd.held(), crowd.budget.used()), (0, 0));
    }

    #[test]
    fn each_user_keeps_the_pauses_of_the_original_and_all_leave_in_order() {
        let mut crowd = crowd("5x", &[]);
        let mut left: Vec<(SocketAddr, Duration)> = Vec::new();
        for n in 0..100 {
            let leaves = n * S / 20;
            crowd.add(request("GET / HTTP/1.1\r\n\r\n", (n % 3) as u8), leaves);
            left.extend(
                std::iter::from_fn(|| next(&mut crowd, leaves)).map(|(r, at)| (r.client, at)),
            );
        }
        left.extend(
            std::iter::from_fn(|| next(&mut crowd, Duration::MAX)).map(|(r, at)| (r.client, at)),
        );
        assert!(left.is_sorted_by_key(|(_, at)| *at) && left.len() == 500);
        let users: HashSet<SocketAddr> = left.iter().map(|(client, _)| *client).collect();
        assert_eq!(users.len(), 15);
        for user in users {
            let own: Vec<Duration> = left
                .iter()
                .filter(|(c, _)| *c == user)
                .map(|(_, at)| *at)
                .collect();
            assert!(own.windows(2).all(|pair| pair[1] - pair[0] == 3 * S / 20));
        }
    }

    /// Behind each user's last request stands the end of that user's connection, whatever tells users apart.
    #[test]
    fn a_clone_s_connection_ends_behind_its_requests() {
        for session in ["connection", "client", "cookie:sid"] {
            let mut crowd = crowd("4.5x", &[]);
            crowd.users.session = session.parse().unwrap();
            for n in 0..10 {
                let head = format!("GET / HTTP/1.1\r\nCookie: sid={n}\r\n\r\n");
                crowd.add(request(&head, (n % 5) as u8), n * S / 20);
            }
            for user in 0..5 {
                let of = request("GET / HTTP/1.1\r\n\r\n", user);
                let closed = Closed {
                    closed_ns: 0,
                    client: of.client,
                    server: of.server,
                    due_ns: None,
                };
                crowd.close(closed, S);
            }
            let mut open: HashSet<SocketAddr> = HashSet::new();
            let mut last: HashMap<SocketAddr, bool> = HashMap::new();
            while let Some((found, _)) = crowd.next(Duration::MAX) {
                let (client, is_end) = match found {
                    Found::Request(request) => (request.client, false),
                    Found::Closed(closed) => (closed.client, true),
                };
                if !is_end {
                    open.insert(client);
                }
                last.insert(client, is_end);
            }
            assert!(open.len() >= 20, "{session}: {}", open.len());
            assert!(open.iter().all(|client| last[client]), "{session}");
            assert_eq!((crowd.held(), crowd.budget.used()), (0, 0));
        }
    }

    #[test]
    fn a_part_of_the_users_is_always_the_same() {
        let users = |times: &str| -> u64 {
            let users = crowd(times, &[]).users.clone();
            (0..1000).map(|session| users.of(session)).sum()
        };
        assert!((430..570).contains(&users("0.5x")) && (2430..2570).contains(&users("2.5x")));
        assert_eq!((users("1x"), users("4")), (1000, 4000));
        assert!("0x".parse::<Times>().is_err() && "many".parse::<Times>().is_err());
    }
}
