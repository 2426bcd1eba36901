//! A staging server that remembers what it was sent.
//!
//! What enters: HTTP requests. What leaves: for each a [`Received`], its head as it came over the wire. What may be
//! lost: nothing; a request counts once its body has come to its end.

mod tee;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::place::Place;
use crate::wait::eventually;
use tee::{Tape, Tee};

/// How much of a body is remembered: enough for the id at its start.
const BODY_START: usize = 64;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Request line and headers with their line ends, byte for byte.
    pub head: Bytes,
    /// The first bytes of the body.
    pub body_start: Bytes,
    /// Bytes in the body.
    pub body_length: usize,
    /// SHA-256 of the body.
    pub body_sha256: [u8; 32],
    /// When it had come to its end.
    pub at: Instant,
    /// The connection that it came on, counted from 0.
    pub connection: usize,
}

impl Received {
    /// Method, target and version, without the line end.
    pub fn request_line(&self) -> &[u8] {
        let end = self.head.iter().position(|byte| *byte == b'\r');
        &self.head[..end.unwrap_or(self.head.len())]
    }

    /// The values of a header, in the order in which they came.
    pub fn header(&self, name: &str) -> Vec<String> {
        let head = String::from_utf8_lossy(&self.head);
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    }

    /// The id that [`Load`](crate::Load) gave it: `id=ID` in the target's query or at the body's start.
    pub fn id(&self) -> Option<u64> {
        let line = String::from_utf8_lossy(self.request_line());
        let body = String::from_utf8_lossy(&self.body_start);
        let digits = |text: &str| {
            let end = text.find(|c: char| !c.is_ascii_digit());
            text[..end.unwrap_or(text.len())].parse().ok()
        };
        match line.split_once("id=") {
            Some((_, id)) => digits(id),
            None => digits(body.strip_prefix("id=")?),
        }
    }
}

/// The end of a connection: its client closed it between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// When that was read.
    pub at: Instant,
    /// The connection, counted from 0.
    pub connection: usize,
}

/// What the server does with a request once it has read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// It answers so.
    Answer(StatusCode),
    /// It answers 200 after a while.
    Slow(Duration),
    /// It never answers.
    Silent,
}

/// A running staging server, on a thread of ours.
#[derive(Debug)]
pub struct Staging {
    address: SocketAddr,
    records: Arc<Mutex<Vec<Received>>>,
    ends: Arc<Mutex<Vec<End>>>,
    behaviour: watch::Sender<Behaviour>,
    thread: Option<JoinHandle<()>>,
}

impl Staging {
    /// Starts one.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn start(place: &Place) -> Result<Staging> {
        let socket = place.listen()?;
        let address = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        let records = Arc::new(Mutex::new(Vec::new()));
        let ends = Arc::new(Mutex::new(Vec::new()));
        let (behaviour, orders) = watch::channel(Behaviour::Answer(StatusCode::OK));
        // The thread inherits the network of the one that starts it.
        let thread = place.enter(|| -> Result<JoinHandle<()>> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let socket = {
                let _entered = runtime.enter();
                TcpListener::from_std(socket)?
            };
            let (records, ends) = (Arc::clone(&records), Arc::clone(&ends));
            Ok(thread::spawn(move || {
                runtime.block_on(serve(&socket, &records, &ends, &orders));
            }))
        })??;
        Ok(Staging {
            address,
            records,
            ends,
            behaviour,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS`, for `--to`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what it does, from now on and for requests that wait.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// What it has received until now.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.records).clone()
    }

    /// How much it has received until now.
    pub fn count(&self) -> usize {
        lock(&self.records).len()
    }

    /// How often each id arrived.
    pub fn ids(&self) -> HashMap<u64, usize> {
        let mut ids = HashMap::new();
        for id in lock(&self.records).iter().filter_map(Received::id) {
            *ids.entry(id).or_default() += 1;
        }
        ids
    }

    /// Connections that their clients have closed so far. One that the server closes, or that is reset, is none of them.
    pub fn ends(&self) -> Vec<End> {
        lock(&self.ends).clone()
    }

    /// Waits until it has received so many.
    ///
    /// # Errors
    /// When fewer came within `limit`.
    pub fn until(&self, count: usize, limit: Duration) -> Result<()> {
        eventually("requests at staging", limit, || {
            let now = self.count();
            anyhow::ensure!(now >= count, "{now} of {count} came");
            Ok(())
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // The server ends when it has nobody to take orders from.
        self.behaviour = watch::channel(Behaviour::Silent).0;
        if let Some(thread) = self.thread.take() {
            // What it had to say it has said.
            let _ = thread.join();
        }
    }
}

type Records = Arc<Mutex<Vec<Received>>>;

fn lock<T>(records: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves until the orders' sender is gone; then the runtime's drop closes all connections.
async fn serve(
    socket: &TcpListener,
    records: &Records,
    ends: &Arc<Mutex<Vec<End>>>,
    orders: &watch::Receiver<Behaviour>,
) {
    let mut over = orders.clone();
    for connection in 0.. {
        let stream = tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    eprintln!("staging: accept: {error}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
            () = gone(&mut over) => return,
        };
        let (records, ends, orders) = (Arc::clone(records), Arc::clone(ends), orders.clone());
        tokio::spawn(async move {
            // A client that closes in the middle of a request is seen by what is missing.
            if converse(stream, connection, records, orders).await.is_ok() {
                let at = Instant::now();
                lock(&ends).push(End { at, connection });
            }
        });
    }
}

async fn gone(orders: &mut watch::Receiver<Behaviour>) {
    while orders.changed().await.is_ok() {}
}

async fn converse(
    stream: TcpStream,
    connection: usize,
    records: Records,
    orders: watch::Receiver<Behaviour>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let tape = Tape::default();
    let io = TokioIo::new(Tee::new(stream, tape.clone()));
    let service = service_fn(|request: Request<Incoming>| {
        let (tape, records, orders) = (tape.clone(), Arc::clone(&records), orders.clone());
        async move {
            let received = receive(request, &tape, connection).await?;
            lock(&records).push(received);
            Ok::<_, hyper::Error>(answer(orders).await)
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(io, service)
        .await?;
    Ok(())
}

async fn receive(
    request: Request<Incoming>,
    tape: &Tape,
    connection: usize,
) -> Result<Received, hyper::Error> {
    let head = tape.head();
    let mut body = request.into_body();
    let (mut hash, mut length, mut start) = (Sha256::new(), 0, Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let missing = BODY_START.saturating_sub(start.len()).min(data.len());
        start.extend_from_slice(&data[..missing]);
        hash.update(&data);
        length += data.len();
    }
    tape.rewind();
    Ok(Received {
        head,
        body_start: start.into(),
        body_length: length,
        body_sha256: hash.finalize().into(),
        at: Instant::now(),
        connection,
    })
}

async fn answer(mut orders: watch::Receiver<Behaviour>) -> Response<Empty<Bytes>> {
    let start = Instant::now();
    let mut response = Response::new(Empty::new());
    loop {
        let wait = match *orders.borrow_and_update() {
            Behaviour::Answer(status) => {
                *response.status_mut() = status;
                return response;
            }
            Behaviour::Slow(delay) => delay.saturating_sub(start.elapsed()),
            Behaviour::Silent => Duration::MAX,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => return response,
            change = orders.changed() => if change.is_err() { return response },
        }
    }
}
