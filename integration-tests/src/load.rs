//! Clients of production: `hey` for plain GETs, and one of ours where each request must be told from the others.
//!
//! What enters: where to, how many, how fast. What leaves: each request that was answered, as it was sent. What may
//! be lost: nothing; production is not to be disturbed, so that a request without an answer is an error.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::place::Place;
use crate::process::output;

/// Time for one answer.
const LIMIT: Duration = Duration::from_secs(10);
const HEY_LIMIT: Duration = Duration::from_secs(120);

/// What the requests are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// GETs with `id=ID` in the query.
    Get,
    /// POSTs with `id=ID` at the body's start; every other one is chunked.
    Post {
        /// Bytes in the body.
        size: usize,
    },
}

/// Requests to send.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where the clients are.
    pub place: Place,
    /// Where production listens.
    pub to: SocketAddr,
    /// What the requests are.
    pub shape: Shape,
    /// Connections, each with one request at a time, kept alive.
    pub connections: usize,
    /// Requests a second over all connections; without it, as fast as they are answered.
    pub rate: Option<u32>,
    /// Requests in all.
    pub requests: u64,
}

/// A request that production has answered.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Unique in this process.
    pub id: u64,
    /// Request line and headers with their line ends.
    pub head: Vec<u8>,
    /// SHA-256 of the body without its chunking.
    pub body_sha256: [u8; 32],
    /// When its first byte was sent.
    pub at: Instant,
    /// What production answered.
    pub status: u16,
}

impl Load {
    /// Requests from `place` to production at `to`: 50 connections, as fast as they are answered.
    pub fn new(place: &Place, to: SocketAddr, shape: Shape, requests: u64) -> Load {
        Load {
            place: place.clone(),
            to,
            shape,
            connections: 50,
            rate: None,
            requests,
        }
    }

    /// Sends them all.
    ///
    /// # Errors
    /// When production doesn't answer one of them.
    pub fn run(self) -> Result<Vec<Sent>> {
        self.start()?.join()
    }

    /// Begins to send them.
    ///
    /// # Errors
    /// When the place can't be entered.
    pub fn start(self) -> Result<Running> {
        let over = Arc::new(AtomicBool::new(false));
        let state = Arc::new(Shared {
            started: Instant::now(),
            next: AtomicU64::new(0),
            over: Arc::clone(&over),
            filler: filler(self.shape),
            load: self,
        });
        // The clients inherit the network of the thread that starts them.
        let clients = state.load.place.enter(|| {
            let client = |_| {
                let state = Arc::clone(&state);
                thread::spawn(move || state.client())
            };
            (0..state.load.connections).map(client).collect()
        })?;
        Ok(Running { over, clients })
    }
}

/// Requests that are being sent.
#[derive(Debug)]
pub struct Running {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<Vec<Sent>>>>,
}

impl Running {
    /// Waits until all are answered.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub fn join(mut self) -> Result<Vec<Sent>> {
        let mut all = Vec::new();
        for client in self.clients.drain(..) {
            let sent = client.join().ok().context("a client panicked")?;
            all.append(&mut sent?);
        }
        all.sort_unstable_by_key(|sent| sent.id);
        Ok(all)
    }

    /// Sends no more, and waits until those on their way are answered.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub fn stop(self) -> Result<Vec<Sent>> {
        self.over.store(true, Ordering::Relaxed);
        self.join()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Shared {
    load: Load,
    started: Instant,
    next: AtomicU64,
    over: Arc<AtomicBool>,
    /// What bodies are cut out of.
    filler: Vec<u8>,
}

impl Shared {
    fn client(&self) -> Result<Vec<Sent>> {
        let mut all = Vec::new();
        let mut connection = None;
        while let Some(due) = self.next() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let connection = match &mut connection {
                Some(connection) => connection,
                None => connection.insert(self.connect()?),
            };
            all.push(self.exchange(connection)?);
        }
        Ok(all)
    }

    /// When the next request is due; nothing when all are sent.
    fn next(&self) -> Option<Instant> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.load.requests || self.over.load(Ordering::Relaxed) {
            return None;
        }
        let offset = self
            .load
            .rate
            .map_or(0.0, |rate| number as f64 / f64::from(rate));
        Some(self.started + Duration::from_secs_f64(offset))
    }

    fn connect(&self) -> Result<TcpStream> {
        let connection = TcpStream::connect_timeout(&self.load.to, LIMIT)
            .with_context(|| format!("connect to {}", self.load.to))?;
        connection.set_nodelay(true)?;
        connection.set_read_timeout(Some(LIMIT))?;
        connection.set_write_timeout(Some(LIMIT))?;
        Ok(connection)
    }

    fn exchange(&self, connection: &mut TcpStream) -> Result<Sent> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (head, body) = self.request(id)?;
        let chunked = head.windows(7).any(|word| word == b"chunked");
        let mut bytes = head.clone();
        if chunked {
            chunk(&mut bytes, &body)?;
        } else {
            bytes.extend_from_slice(&body);
        }
        let at = Instant::now();
        connection.write_all(&bytes).context("send a request")?;
        Ok(Sent {
            id,
            status: read_answer(connection).context("read an answer")?,
            body_sha256: Sha256::digest(&body).into(),
            head,
            at,
        })
    }

    /// Head and body; the head has what replay must leave alone: case, order, repetition, escapes.
    fn request(&self, id: u64) -> Result<(Vec<u8>, Vec<u8>)> {
        let to = self.load.to;
        let (body, line, length) = match self.load.shape {
            Shape::Get => {
                let line = format!("GET /items/{}//a%2Fb%20c;v=1?q=%C3%A9+&id={id}&&=", id % 97);
                (Vec::new(), line, String::new())
            }
            Shape::Post { size } => {
                let mut body = format!("id={id}\n").into_bytes();
                let from = (id as usize).wrapping_mul(31) % 1000;
                let missing = size.saturating_sub(body.len());
                body.extend_from_slice(&self.filler[from..from + missing]);
                let length = match id.is_multiple_of(2) {
                    true => "Transfer-Encoding: chunked\r\n".to_owned(),
                    false => format!("Content-Length: {}\r\n", body.len()),
                };
                (body, format!("POST /items/{}", id % 97), length)
            }
        };
        let mut head = String::new();
        write!(
            head,
            "{line} HTTP/1.1\r\nHost: {to}\r\nuser-agent: load\r\nX-Twice: 1\r\nx-twice:  2 \r\n\
             Cookie: sid={}; theme=dark\r\n{length}X-CASE: Kept\r\n\r\n",
            id % 53
        )?;
        Ok((head.into_bytes(), body))
    }
}

/// Bytes without a pattern that a compressor or a lost packet could hide behind (xorshift).
fn filler(shape: Shape) -> Vec<u8> {
    let Shape::Post { size } = shape else {
        return Vec::new();
    };
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..size / 8 + 126).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

/// Appends the body in chunks of many sizes.
fn chunk(bytes: &mut Vec<u8>, mut body: &[u8]) -> Result<()> {
    let mut size = 1;
    while !body.is_empty() {
        let (now, rest) = body.split_at(size.min(body.len()));
        write!(bytes, "{:x}\r\n", now.len())?;
        bytes.extend_from_slice(now);
        bytes.extend_from_slice(b"\r\n");
        body = rest;
        size = size * 3 % 9973;
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    Ok(())
}

/// Reads one answer, with its body by Content-Length, to its end.
fn read_answer(connection: &mut TcpStream) -> Result<u16> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let mut expected = None;
    loop {
        if expected.is_some_and(|length| answer.len() >= length) {
            break;
        }
        let n = connection.read(&mut buffer)?;
        anyhow::ensure!(n > 0, "the connection was closed");
        answer.extend_from_slice(&buffer[..n]);
        if expected.is_none() {
            let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
            expected = end.map(|end| end + 4 + content_length(&answer[..end]));
        }
    }
    let status = answer.get(9..12).and_then(|s| std::str::from_utf8(s).ok());
    status.and_then(|s| s.parse().ok()).context("no status")
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head);
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    fields
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .find_map(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// Runs `hey -n REQUESTS -c CONNECTIONS URL`: GETs over kept connections. All must be answered 200.
///
/// # Errors
/// When they aren't, or without `hey`.
pub fn hey(place: &Place, url: &str, requests: u64, connections: u64) -> Result<()> {
    let mut command = place.command("hey");
    command.args(["-n", &requests.to_string(), "-c", &connections.to_string()]);
    command.arg(url);
    let report = output(command, HEY_LIMIT)?;
    let expected = format!("[200]\t{requests} responses");
    anyhow::ensure!(
        report.contains(&expected) && !report.contains("Error distribution"),
        "not all were answered 200:\n{report}"
    );
    Ok(())
}
