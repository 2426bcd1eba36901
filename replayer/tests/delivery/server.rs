//! A server that records every byte of every request, and behaves as badly as a test asks for.

use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reprise_replayer::{Delivery, TargetClient};
use reprise_traffic::exchange::Captured;
use reprise_traffic::framing::{self, ChunkedDecoder, Framing};
use reprise_traffic::target::{Target, TargetDocument, TargetName};
use reprise_traffic::{Disposition, Epoch, Exchange, ExchangeId, Head, Source};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
pub(crate) const GET: &[u8] = b"GET /get HTTP/1.1\r\nHost: shop\r\n\r\n";
pub(crate) const POST: &[u8] = b"POST /post HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi";

pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<String>>,
    connections: AtomicUsize,
    closed: AtomicUsize,
}

pub(crate) struct Server {
    pub(crate) port: u16,
    seen: Arc<Seen>,
}

/// One accepted connection.
pub(crate) struct Peer {
    pub(crate) stream: Box<dyn Duplex>,
    held: Vec<u8>,
    seen: Arc<Seen>,
}

impl Server {
    pub(crate) async fn start<R>(serve: impl Fn(Peer) -> R + Send + 'static) -> Server
    where
        R: Future<Output = ()> + Send + 'static,
    {
        Server::over(None, serve).await
    }

    pub(crate) async fn over<R>(
        tls: Option<tokio_rustls::TlsAcceptor>,
        serve: impl Fn(Peer) -> R + Send + 'static,
    ) -> Server
    where
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let stream: Box<dyn Duplex> = match &tls {
                    None => Box::new(tcp),
                    Some(tls) => match tls.accept(tcp).await {
                        Ok(stream) => Box::new(stream),
                        Err(_) => continue,
                    },
                };
                let seen = Arc::clone(&shared);
                let peer = Peer {
                    stream,
                    held: Vec::new(),
                    seen: Arc::clone(&seen),
                };
                let serving = serve(peer);
                tokio::spawn(async move {
                    serving.await;
                    seen.closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Server { port, seen }
    }

    /// Answers each request with the same bytes, and keeps the connection as long as the client.
    pub(crate) async fn answering(answer: &'static [u8]) -> Server {
        Server::start(move |mut peer| async move {
            while peer.request().await.is_some() {
                peer.send(answer).await;
            }
        })
        .await
    }

    pub(crate) fn client(&self) -> TargetClient {
        self.client_with(|_| {})
    }

    pub(crate) fn client_with(&self, change: impl FnOnce(&mut TargetDocument)) -> TargetClient {
        client_of(&format!("http://127.0.0.1:{}", self.port), change)
    }

    /// Waits until so many whole requests were seen; some are answered before they are in.
    pub(crate) async fn seen(&self, count: usize) {
        until(|| self.requests().len() >= count).await;
    }

    /// Waits until so many connections were closed by the server.
    pub(crate) async fn closed(&self, count: usize) {
        until(|| self.seen.closed.load(Ordering::SeqCst) >= count).await;
    }

    /// The whole requests seen so far, raw.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

impl Peer {
    /// Reads one whole request and records it; `None` at the end of the connection.
    pub(crate) async fn request(&mut self) -> Option<String> {
        let mut piece = vec![0; 64 * 1024];
        loop {
            if let Some(length) = request_length(&self.held) {
                let raw: Vec<u8> = self.held.drain(..length).collect();
                let raw = String::from_utf8(raw).unwrap();
                self.seen.requests.lock().unwrap().push(raw.clone());
                return Some(raw);
            }
            match self.stream.read(&mut piece).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.held.extend_from_slice(&piece[..read]),
            }
        }
    }

    pub(crate) async fn send(&mut self, answer: &[u8]) {
        // The client may be gone, which is what some tests are about.
        let _ = self.stream.write_all(answer).await;
        let _ = self.stream.flush().await;
    }
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn head_length(raw: &[u8]) -> Option<usize> {
    raw.windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|at| at + 4)
}

fn request_length(raw: &[u8]) -> Option<usize> {
    let head_length = head_length(raw)?;
    let head = Head::parse(Bytes::copy_from_slice(&raw[..head_length])).unwrap();
    let body = &raw[head_length..];
    match framing::of_request(&head).unwrap() {
        Framing::Chunked => {
            let mut decoder = ChunkedDecoder::default();
            let taken = decoder.push(body, |_| {}).unwrap();
            decoder.is_done().then_some(head_length + taken)
        }
        Framing::Length(length) => {
            (body.len() >= length as usize).then_some(head_length + length as usize)
        }
        Framing::UntilClose => unreachable!("a request"),
    }
}

/// What a listener would make of these bytes.
pub(crate) fn captured(raw: &[u8]) -> Exchange {
    static SEQUENCE: AtomicU64 = AtomicU64::new(0);
    let (head, rest) = raw.split_at(head_length(raw).unwrap());
    let head = Head::parse(Bytes::copy_from_slice(head)).unwrap();
    let (mut body, mut trailers) = (rest.to_vec(), Bytes::new());
    if framing::of_request(&head) == Ok(Framing::Chunked) {
        let mut decoder = ChunkedDecoder::default();
        body.clear();
        let taken = decoder.push(rest, |b| body.extend_from_slice(b)).unwrap();
        assert_eq!(taken, rest.len());
        trailers = decoder.into_trailers().freeze();
    }
    Exchange {
        id: ExchangeId {
            epoch: Arc::new(Epoch::new("web", 1)),
            sequence: SEQUENCE.fetch_add(1, Ordering::SeqCst),
        },
        due_ns: None,
        request: Captured {
            captured_ns: 0,
            client: ([127, 0, 0, 1], 1).into(),
            server: ([127, 0, 0, 1], 2).into(),
            source: Source::Wire,
            head,
            body: body.into(),
            trailers,
            answer: None,
            label: None,
        },
    }
}

pub(crate) fn client_of(url: &str, change: impl FnOnce(&mut TargetDocument)) -> TargetClient {
    let mut document = TargetDocument::new(url);
    change(&mut document);
    let target = Target::new(TargetName::new("team/target").unwrap(), 1, document).unwrap();
    TargetClient::new(&target, target.endpoint().unwrap()).unwrap()
}

pub(crate) async fn deliver(client: &TargetClient, raw: &[u8]) -> Delivery {
    client.send(&captured(raw), 0).await
}

pub(crate) async fn outcome(client: &TargetClient, raw: &[u8]) -> Disposition {
    deliver(client, raw).await.disposition
}
