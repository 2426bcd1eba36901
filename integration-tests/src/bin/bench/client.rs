//! A client of production that costs little itself: one thread, many connections.
//!
//! What enters: where to, what to send, how fast, for how long. What leaves: how many were answered, and how long each
//! took from the instant at which it was meant to be sent, so that a late client hides nothing. What may be lost:
//! nothing; an answer that is not a 200, or none at all, is an error.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use reprise_integration_tests::Place;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use crate::numbered::Numbered;
use crate::stop;

/// As many as the acceptance of the capture names.
pub(crate) const CONNECTIONS: usize = 50;

/// Bytes of a request's head.
const HEAD: usize = 600;
/// Time for the last answers.
const FAREWELL: Duration = Duration::from_secs(10);
/// The longest wait between two looks at the clock.
const TICK: Duration = Duration::from_millis(50);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Of the pauses of [`Pace::Poisson`].
const SEED: u64 = 7;
/// Three significant figures.
const PRECISION: u8 = 3;

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The next request as soon as an answer is there.
    Closed,
    /// So many a second, whatever becomes of the answers.
    Open(u32),
    /// The same on average, each after a pause of its own that no clock of ours or the kernel's divides: production has no
    /// beat. Exponential, and the same in each run.
    Poisson(u32),
}

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A GET with a head of 600 bytes.
    Get,
    /// A POST with 10 KB of body.
    Post,
    /// The same GET but for a number in its URL, from 0 on.
    Numbered,
}

/// What a client is to do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) place: Place,
    pub(crate) to: SocketAddr,
    pub(crate) shape: Shape,
    pub(crate) pace: Pace,
    pub(crate) time: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Answers {
    /// Requests sent, each of which was answered 200.
    pub(crate) sent: u64,
    pub(crate) elapsed: Duration,
    /// Nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Answers {
    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.sent as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

impl Pace {
    pub(crate) fn name(self) -> String {
        match self {
            Pace::Closed => "closed loop".to_owned(),
            Pace::Open(rate) | Pace::Poisson(rate) => format!("{rate}/s"),
        }
    }
}

impl Shape {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Shape::Get => "GET, 600 B",
            Shape::Post => "POST, 10 KB",
            Shape::Numbered => "GET with a number, 600 B",
        }
    }

    fn requests(self, to: SocketAddr) -> Requests {
        match self {
            Shape::Get => Requests::Same(same("GET /items/17?q=abc", to, 0)),
            Shape::Post => Requests::Same(same("POST /items/17", to, 10_240)),
            Shape::Numbered => Requests::Numbered(Numbered::new(&to.to_string(), HEAD)),
        }
    }
}

/// The bytes of one request after the other.
#[derive(Debug)]
enum Requests {
    Same(Vec<u8>),
    Numbered(Numbered),
}

impl Requests {
    /// The one before which so many were sent.
    fn next(&mut self, sent: u64) -> &[u8] {
        match self {
            Requests::Same(request) => request,
            Requests::Numbered(request) => request.with(sent as u32),
        }
    }
}

/// A request with a head of [`HEAD`] bytes and a body.
fn same(line: &str, to: SocketAddr, body: usize) -> Vec<u8> {
    let mut head = format!(
        "{line} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: bench\r\nAccept: text/html,*/*;q=0.8\r\n"
    );
    if body > 0 {
        head.push_str(&format!("Content-Length: {body}\r\n"));
    }
    head.push_str("Cookie: sid=");
    let missing = HEAD.saturating_sub(head.len() + 4);
    head.push_str(&"c".repeat(missing));
    head.push_str("\r\n\r\n");
    let mut request = head.into_bytes();
    request.resize(request.len() + body, b'b');
    request
}

impl Plan {
    /// Sends for as long as planned, and waits for the last answers.
    ///
    /// # Errors
    /// When production doesn't answer one of them with 200, or the user interrupts.
    pub(crate) fn run(&self) -> Result<Answers> {
        self.place.enter(|| self.drive())?
    }

    fn drive(&self) -> Result<Answers> {
        let mut requests = self.shape.requests(self.to);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::new();
        for number in 0..CONNECTIONS {
            let connection = Connection::open(self.to)?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&epoll, &connection.stream, data, epoll::EventFlags::IN)?;
            connections.push(connection);
        }
        let mut latency = Histogram::new(PRECISION)?;
        let mut schedule = Schedule::new(self.pace, self.time, Instant::now());
        // Each connection has its turn.
        let mut idle: VecDeque<usize> = (0..CONNECTIONS).collect();
        let mut events = Vec::with_capacity(CONNECTIONS);
        loop {
            stop::check()?;
            let now = Instant::now();
            while let Some(free) = idle.front().copied()
                && let Some(due) = schedule.next(now)
            {
                idle.pop_front();
                let request = requests.next(schedule.taken - 1);
                connections[free].send(request, due)?;
            }
            if schedule.is_over(now) {
                if idle.len() == CONNECTIONS {
                    break;
                }
                anyhow::ensure!(now < schedule.end + FAREWELL, "answers are missing");
            }
            wait(&epoll, &mut events, schedule.wait(now, !idle.is_empty()))?;
            for event in events.drain(..) {
                let number = event.data.u64() as usize;
                if let Some(due) = connections[number].receive()? {
                    latency.record(due.elapsed().as_nanos() as u64)?;
                    idle.push_back(number);
                }
            }
        }
        Ok(Answers {
            sent: schedule.taken,
            elapsed: schedule.start.elapsed(),
            latency,
        })
    }
}

/// `epoll_wait` counts in milliseconds, which is too coarse for 5,000 a second; `ppoll` on it in nanoseconds.
fn wait(epoll: &OwnedFd, events: &mut Vec<epoll::Event>, at_most: Duration) -> Result<()> {
    let timeout = Timespec::try_from(at_most)?;
    match poll(&mut [PollFd::new(epoll, PollFlags::IN)], Some(&timeout)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let now = Timespec::default();
    epoll::wait(epoll, rustix::buffer::spare_capacity(events), Some(&now))?;
    Ok(())
}

/// When requests are due.
#[derive(Debug)]
struct Schedule {
    pace: Pace,
    start: Instant,
    end: Instant,
    taken: u64,
    /// When the next of [`Pace::Poisson`] is due.
    next: Instant,
    random: fastrand::Rng,
}

impl Schedule {
    fn new(pace: Pace, time: Duration, start: Instant) -> Schedule {
        Schedule {
            pace,
            start,
            end: start + time,
            taken: 0,
            next: start,
            random: fastrand::Rng::with_seed(SEED),
        }
    }

    fn due(&self, now: Instant) -> Instant {
        match self.pace {
            Pace::Closed => now,
            Pace::Open(rate) => {
                self.start + Duration::from_secs_f64(self.taken as f64 / f64::from(rate))
            }
            Pace::Poisson(_) => self.next,
        }
    }

    /// The instant at which the next was meant to be sent, once that is here.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        let due = self.due(now);
        if due > now || due >= self.end {
            return None;
        }
        self.taken += 1;
        if let Pace::Poisson(rate) = self.pace {
            let pause = -(1.0 - self.random.f64()).ln() / f64::from(rate);
            self.next += Duration::from_secs_f64(pause);
        }
        Some(due)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.due(now) >= self.end
    }

    fn wait(&self, now: Instant, may_send: bool) -> Duration {
        match self.pace {
            Pace::Open(_) | Pace::Poisson(_) if may_send && !self.is_over(now) => {
                self.due(now).saturating_duration_since(now).min(TICK)
            }
            _ => TICK,
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    due: Instant,
    answer: Vec<u8>,
}

impl Connection {
    fn open(to: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&to, CONNECT_LIMIT)
            .with_context(|| format!("connect to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Connection {
            stream,
            due: Instant::now(),
            answer: Vec::new(),
        })
    }

    fn send(&mut self, mut request: &[u8], due: Instant) -> Result<()> {
        self.due = due;
        while !request.is_empty() {
            match self.stream.write(request) {
                Ok(written) => request = &request[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut writable = [PollFd::new(&self.stream, PollFlags::OUT)];
                    poll(&mut writable, Some(&Timespec::try_from(TICK)?))?;
                    stop::check()?;
                }
                Err(error) => return Err(error).context("send a request"),
            }
        }
        Ok(())
    }

    /// When the answer is whole: the instant at which its request was due.
    fn receive(&mut self) -> Result<Option<Instant>> {
        let mut buffer = [0; 4096];
        let n = match self.stream.read(&mut buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("read an answer"),
        };
        anyhow::ensure!(n > 0, "production closed a connection");
        self.answer.extend_from_slice(&buffer[..n]);
        let Some(length) = answer_length(&self.answer) else {
            return Ok(None);
        };
        if self.answer.len() < length {
            return Ok(None);
        }
        let is_good = self.answer.starts_with(b"HTTP/1.1 200 ") && self.answer.len() == length;
        anyhow::ensure!(is_good, "production answered something else than 200");
        self.answer.clear();
        Ok(Some(self.due))
    }
}

/// Head and body; nothing before the head is whole.
fn answer_length(answer: &[u8]) -> Option<usize> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let length = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let body = length.map_or(Some(0), |(_, value)| value.parse::<usize>().ok())?;
    Some(end + 4 + body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_size_that_is_written_beside_them() {
        let to = "127.0.0.1:10000".parse().unwrap();
        for (shape, size) in [
            (Shape::Get, 600),
            (Shape::Post, 600 + 10_240),
            (Shape::Numbered, 600),
        ] {
            assert_eq!(shape.requests(to).next(7).len(), size, "{}", shape.name());
        }
    }

    #[test]
    fn an_open_loop_keeps_its_schedule_however_late_it_is_asked() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace::Open(10), Duration::from_secs(1), start);
        let late = start + Duration::from_millis(250);
        let due: Vec<_> = std::iter::from_fn(|| schedule.next(late)).collect();
        assert_eq!(
            due,
            [0, 100, 200].map(|ms| start + Duration::from_millis(ms))
        );
        assert_eq!(schedule.wait(late, true), Duration::from_millis(50));
        assert!(!schedule.is_over(late));
        let end = start + Duration::from_secs(9);
        assert_eq!(std::iter::from_fn(|| schedule.next(end)).count(), 7);
        assert!(schedule.is_over(end));
    }

    #[test]
    fn answers_are_as_long_as_they_say() {
        assert_eq!(
            answer_length(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"),
            None
        );
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
        assert_eq!(answer_length(answer), Some(answer.len()));
    }
}
