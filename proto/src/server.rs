//! The taker's end of delivery streams over gRPC.
//!
//! What enters: TCP connections. What leaves: an [`Inlet`] for each stream whose sender said Hello. A connection
//! that does not begin as HTTP/2 is closed with one warning and costs nobody else anything. What may be lost:
//! what was taken and not settled when a connection breaks; its sender has it still.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use reprise_node::LogLimit;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use crate::client::{FLOW_WINDOW, FRAME, MAX_MESSAGE, PING_EVERY, PING_TIMEOUT};
use crate::codec::{Decoder, encode_up, encode_welcome};
use crate::message::{Downstream, LinkError, Welcome};
use crate::stream::{DEPTH, Inlet};
use crate::wire;
use crate::wire::delivery_server::{Delivery, DeliveryServer};

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

/// Serves streams on a bound socket; each stream's first answer is `welcome`.
pub fn serve(listener: TcpListener, welcome: Welcome) -> Server {
    let (accepted, inlets) = mpsc::channel(DEPTH);
    let (opened, connections) = mpsc::channel(DEPTH);
    let stop = CancellationToken::new();
    tokio::spawn(accept(listener, opened, stop.clone()));
    let service = DeliveryServer::new(Service { welcome, accepted })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
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

struct Service {
    welcome: Welcome,
    accepted: mpsc::Sender<Inlet>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<wire::Upstream, Status>> + Send>>;

#[tonic::async_trait]
impl Delivery for Service {
    type DeliverStream = Answers;

    async fn deliver(
        &self,
        request: Request<Streaming<wire::Downstream>>,
    ) -> Result<Response<Answers>, Status> {
        let peer = request
            .remote_addr()
            .map_or_else(String::new, |a: SocketAddr| a.to_string());
        let mut inbound = request.into_inner();
        let decoder = Decoder::default();
        let first = inbound.message().await?;
        let hello = decoder.hello(first).map_err(|error| {
            warn!(%peer, %error, "refused a stream");
            Status::invalid_argument(error.to_string())
        })?;
        let (to_taker, down) = mpsc::channel(DEPTH);
        let (up, answers) = mpsc::channel(DEPTH);
        tokio::spawn(read(inbound, decoder, to_taker));
        let inlet = Inlet {
            hello,
            peer,
            down,
            up,
        };
        let stopping = |_| Status::unavailable("stopping");
        self.accepted.send(inlet).await.map_err(stopping)?;
        let first = tokio_stream::once(encode_welcome(&self.welcome));
        let answers = first
            .chain(ReceiverStream::new(answers).map(encode_up))
            .map(Ok);
        Ok(Response::new(Box::pin(answers)))
    }
}

async fn read(
    mut inbound: Streaming<wire::Downstream>,
    mut decoder: Decoder,
    to_taker: mpsc::Sender<Result<Downstream, LinkError>>,
) {
    loop {
        let message = tokio::select! {
            message = inbound.message() => message,
            () = to_taker.closed() => return,
        };
        let message = match message {
            Ok(Some(message)) => decoder.down(message).transpose(),
            Ok(None) => return,
            Err(status) => Some(Err(LinkError::Lost(status.message().to_owned()))),
        };
        let Some(message) = message else { continue };
        let broken = message.is_err();
        if to_taker.send(message).await.is_err() || broken {
            return;
        }
    }
}
