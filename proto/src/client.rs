//! The sender's end of a delivery stream over gRPC.
//!
//! What enters: batches from an [`Outlet`]'s holder. What leaves: what the taker answers. A peer that falls silent
//! is noticed by keep-alive pings within [`PING_EVERY`] + [`PING_TIMEOUT`]. What may be lost: what was sent and not
//! settled when the connection breaks; the holder knows it and decides.

use std::time::Duration;

use http::{HeaderValue, header};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::Service as _;

use crate::codec::{Decoder, encode_down, encode_hello};
use crate::frames::{Incoming, Outgoing};
use crate::message::{Downstream, Hello, LinkError, Upstream};
use crate::stream::{DEPTH, Outlet};

/// Pause between keep-alive pings, also while nothing else is sent.
pub const PING_EVERY: Duration = Duration::from_secs(1);

/// A peer that leaves a ping unanswered for so long is taken for gone.
pub const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// The method's path (`Deliver` of the service in `delivery.proto`).
pub(crate) const PATH: &str = "/reprise.v1.Delivery/Deliver";

/// What gRPC bodies are (gRPC over HTTP/2, "Content-Type").
pub(crate) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// HTTP/2 flow-control windows, bytes: a batch never waits for a window update on a fast network.
pub(crate) const FLOW_WINDOW: u32 = 8 << 20;

/// HTTP/2 frames, bytes: the default of 16 KiB costs a header and a wake-up each.
pub(crate) const FRAME: u32 = 1 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why no stream came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not `HOST:PORT`.
    #[error("{0:?} is not HOST:PORT")]
    Address(String),
    /// Nobody there.
    #[error("connect to {address}: {reason}")]
    Unreachable {
        /// Where to.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// Somebody is there who doesn't speak this protocol, or refused.
    #[error("{address} does not accept the stream: {reason}")]
    Refused {
        /// Where to.
        address: String,
        /// What it said.
        reason: String,
    },
}

/// Opens a stream to `HOST:PORT`.
///
/// # Errors
/// When nobody answers there within two seconds, or not in this protocol.
pub async fn connect(address: &str, hello: Hello) -> Result<Outlet, ConnectError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| ConnectError::Address(address.to_owned()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .max_frame_size(FRAME)
        .initial_stream_window_size(FLOW_WINDOW)
        .initial_connection_window_size(FLOW_WINDOW);
    let refused = |reason: String| ConnectError::Refused {
        address: address.to_owned(),
        reason,
    };
    let opening = async {
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| ConnectError::Unreachable {
                address: address.to_owned(),
                reason: root_cause(&error),
            })?;
        let (down, messages) = mpsc::channel(DEPTH);
        let outgoing = Outgoing::request(&encode_hello(&hello), messages, encode_down);
        let mut inbound = deliver(channel, outgoing).await.map_err(refused)?;
        let first = inbound.next().await.map_err(said).map_err(refused)?;
        let decoder = Decoder::default();
        let welcome = decoder
            .welcome(first)
            .map_err(|error| refused(error.to_string()))?;
        let (to_holder, up) = mpsc::channel(DEPTH);
        tokio::spawn(read(inbound, decoder, to_holder));
        Ok(Outlet { welcome, down, up })
    };
    tokio::time::timeout(2 * CONNECT_TIMEOUT, opening)
        .await
        .unwrap_or_else(|_| Err(refused("no answer in time".to_owned())))
}

/// Calls the method; the error is what went wrong, in words.
async fn deliver(mut channel: Channel, outgoing: Outgoing<Downstream>) -> Result<Incoming, String> {
    let request = http::Request::post(PATH)
        .version(http::Version::HTTP_2)
        .header(header::CONTENT_TYPE, GRPC)
        .header(header::TE, "trailers")
        .body(Body::new(outgoing))
        .map_err(|error| error.to_string())?;
    std::future::poll_fn(|context| channel.poll_ready(context))
        .await
        .map_err(|error| root_cause(&error))?;
    let response = channel.call(request).await.map_err(|e| root_cause(&e))?;
    if let Some(status) = Status::from_header_map(response.headers()) {
        return Err(said(status));
    }
    match response.status() {
        http::StatusCode::OK => Ok(Incoming::new(response.into_body())),
        status => Err(format!("it answered {status}")),
    }
}

fn said(status: Status) -> String {
    status.message().to_owned()
}

async fn read(
    mut inbound: Incoming,
    mut decoder: Decoder,
    to_holder: mpsc::Sender<Result<Upstream, LinkError>>,
) {
    loop {
        let message = tokio::select! {
            message = inbound.next() => message,
            // The holder let go of the stream: dropping `inbound` resets it.
            () = to_holder.closed() => return,
        };
        let message = match message {
            Ok(Some(message)) => decoder.up(message).transpose(),
            Ok(None) => return,
            Err(status) => Some(Err(LinkError::Lost(said(status)))),
        };
        let Some(message) = message else { continue };
        let broken = message.is_err();
        if to_holder.send(message).await.is_err() || broken {
            return;
        }
    }
}

/// The innermost cause says what to do about it; the layers around it repeat "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
