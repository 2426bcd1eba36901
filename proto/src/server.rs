//! The taker's end of delivery streams over gRPC.
//!
//! What enters: TCP connections. What leaves: an [`Inlet`] for each stream whose sender said Hello. A connection
//! that does not begin as HTTP/2 is closed with one warning and costs nobody else anything. What may be lost:
//! what was taken and not settled when a connection breaks; its sender has it still.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header;
use reprise_node::LogLimit;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tracing::{debug, warn};

use crate::budget::Budget;
use crate::client::{FLOW_WINDOW, FRAME, GRPC, PATH, PING_EVERY, PING_TIMEOUT};
use crate::codec::{Decoder, encode_up, encode_welcome};
use crate::frames::{Incoming, Outgoing};
use crate::message::Welcome;
use crate::receiver::Receiver;
use crate::stream::{DEPTH, Inlet};

/// A connection must show its first bytes within this time.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Anybody can send garbage; a log line for each would fill the disk.
const STRANGERS_EVERY: Duration = Duration::from_secs(10);

/// Peers have this time to take the last answers.
const FAREWELL: Duration = Duration::from_secs(2);

/// What every HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Connections that wait for their first bytes at the same time.
const MAX_NASCENT: usize = 1024;

/// Serves delivery streams on a socket.
#[derive(Debug)]
pub struct Server {
    inlets: mpsc::Receiver<Inlet>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// Serves streams on a bound socket; each stream's first answer is `welcome`. With a budget, what comes waits until
/// there is room for it, and each parcel holds its claim.
pub fn serve(listener: TcpListener, welcome: Welcome, budget: Option<Budget>) -> Server {
    let (accepted, inlets) = mpsc::channel(DEPTH);
    let (opened, connections) = mpsc::channel(DEPTH);
    let stop = CancellationToken::new();
    tokio::spawn(accept(listener, opened, stop.clone()));
    let service = Service {
        welcome,
        accepted,
        budget,
    };
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .max_frame_size(FRAME)
        .initial_stream_window_size(FLOW_WINDOW)
        .initial_connection_window_size(FLOW_WINDOW)
        .add_service(service)
        .serve_with_incoming_shutdown(
            ReceiverStream::new(connections),
            stop.clone().cancelled_owned(),
        );
    let serving = tokio::spawn(async move {
        if let Err(error) = server.await {
            warn!(%error, "delivery server ended");
        }
    });
    Server {
        inlets,
        stop,
        serving,
    }
}

/// The server is gone although nobody stopped it.
#[derive(Debug, thiserror::Error)]
#[error("the delivery server ended")]
pub struct Ended;

impl Server {
    /// Hands each new stream to `take`, until `stop` is cancelled.
    ///
    /// # Errors
    /// When the server ends before that.
    pub async fn until(
        &mut self,
        stop: &CancellationToken,
        mut take: impl FnMut(Inlet),
    ) -> Result<(), Ended> {
        loop {
            tokio::select! {
                inlet = self.inlets.recv() => take(inlet.ok_or(Ended)?),
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Turns newcomers away. Who was welcomed a moment ago is handed to `take` still.
    pub fn close(&mut self, mut take: impl FnMut(Inlet)) {
        self.inlets.close();
        while let Ok(inlet) = self.inlets.try_recv() {
            take(inlet);
        }
    }

    /// Ends; waits until the last answers are sent, for two seconds at most.
    pub async fn end(self) {
        self.stop.cancel();
        match tokio::time::timeout(FAREWELL, self.serving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the delivery server failed"),
            Err(_) => debug!("a peer kept its connection open"),
        }
    }
}

async fn accept(
    listener: TcpListener,
    opened: mpsc::Sender<std::io::Result<TcpStream>>,
    stop: CancellationToken,
) {
    let strangers = Arc::new(LogLimit::every(STRANGERS_EVERY));
    let nascent = Arc::new(tokio::sync::Semaphore::new(MAX_NASCENT));
    loop {
        let connection = tokio::select! {
            connection = listener.accept() => connection,
            () = stop.cancelled() => return,
        };
        let (connection, peer) = match connection {
            Ok(connection) => connection,
            Err(error) => {
                // Out of file descriptors, for example: it passes, and trying at once would only burn CPU.
                warn!(%error, "accept a delivery connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = nascent.clone().try_acquire_owned() else {
            debug!(%peer, "too many connections that send nothing");
            continue;
        };
        let (opened, strangers) = (opened.clone(), strangers.clone());
        tokio::spawn(async move {
            let speaks = tokio::time::timeout(PREFACE_TIMEOUT, begins_as_http2(&connection)).await;
            drop(permit);
            match speaks {
                Ok(true) => {
                    if let Err(error) = connection.set_nodelay(true) {
                        debug!(%peer, %error, "set TCP_NODELAY");
                    }
                    // The server is gone only when the process stops.
                    let _ = opened.send(Ok(connection)).await;
                }
                Ok(false) => {
                    if let Some(suppressed) = strangers.allow() {
                        warn!(%peer, suppressed, "not a Reprise peer: its first bytes are not HTTP/2; closed");
                    }
                }
                Err(_) => debug!(%peer, "sent nothing in time; closed"),
            }
        });
    }
}

/// Looks at the first bytes without taking them. A connection that closes before it says anything is nobody's concern.
async fn begins_as_http2(connection: &TcpStream) -> bool {
    let mut seen = [0; PREFACE.len()];
    let mut before = 0;
    loop {
        match connection.peek(&mut seen).await {
            Ok(0) | Err(_) => return before == 0,
            Ok(n) if seen[..n] != PREFACE[..n] => return false,
            Ok(n) if n == PREFACE.len() => return true,
            // `peek` returns at once while there is anything: don't spin until the rest comes.
            Ok(n) => {
                before = n;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Service {
    welcome: Welcome,
    accepted: mpsc::Sender<Inlet>,
    budget: Option<Budget>,
}

impl tonic::server::NamedService for Service {
    const NAME: &'static str = "reprise.v1.Delivery";
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let answer = match request.uri().path() {
                PATH => service.deliver(request).await,
                _ => Err(Status::unimplemented("no such method")),
            };
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

impl Service {
    async fn deliver(self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let connection = request.extensions().get::<TcpConnectInfo>();
        let peer = connection
            .and_then(TcpConnectInfo::remote_addr)
            .map_or_else(String::new, |address| address.to_string());
        let mut inbound = Incoming::new(request.into_body());
        let decoder = Decoder::default();
        let first = inbound.next().await?;
        let hello = decoder.hello(first).map_err(|error| {
            warn!(%peer, %error, "refused a stream");
            Status::invalid_argument(error.to_string())
        })?;
        let (to_taker, down) = mpsc::channel(DEPTH);
        let (up, answers) = mpsc::channel(DEPTH);
        let receiver = Receiver::new(inbound, decoder, self.budget);
        tokio::spawn(receiver.run(to_taker));
        let inlet = Inlet {
            hello,
            peer,
            down,
            up,
        };
        let stopping = |_| Status::unavailable("stopping");
        self.accepted.send(inlet).await.map_err(stopping)?;
        let outgoing = Outgoing::response(&encode_welcome(&self.welcome), answers, encode_up);
        let mut response = http::Response::new(Body::new(outgoing));
        response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
        Ok(response)
    }
}
