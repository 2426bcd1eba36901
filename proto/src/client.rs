//! The sender's end of a delivery stream over gRPC.
//!
//! What enters: batches from an [`Outlet`]'s holder. What leaves: what the taker answers. A peer that falls silent
//! is noticed by keep-alive pings within [`PING_EVERY`] + [`PING_TIMEOUT`]. What may be lost: what was sent and not
//! settled when the connection breaks; the holder knows it and decides.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::codec::{Decoder, encode_down, encode_hello};
use crate::message::{Hello, LinkError, Upstream};
use crate::stream::{DEPTH, Outlet};
use crate::wire;
use crate::wire::delivery_client::DeliveryClient;

/// Pause between keep-alive pings, also while nothing else is sent.
pub const PING_EVERY: Duration = Duration::from_secs(1);

/// A peer that leaves a ping unanswered for so long is taken for gone.
pub const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Largest message, bytes: the largest exchange and room for what surrounds it.
pub const MAX_MESSAGE: usize = 80 << 20;

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
        let mut client = DeliveryClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let (down, messages) = mpsc::channel(DEPTH);
        let first = tokio_stream::once(encode_hello(&hello));
        let messages = first.chain(ReceiverStream::new(messages).map(encode_down));
        let response = client.deliver(messages).await;
        let mut inbound = response
            .map_err(|s| refused(s.message().to_owned()))?
            .into_inner();
        let first = inbound
            .message()
            .await
            .map_err(|s| refused(s.message().to_owned()))?;
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

async fn read(
    mut inbound: tonic::Streaming<wire::Upstream>,
    mut decoder: Decoder,
    to_holder: mpsc::Sender<Result<Upstream, LinkError>>,
) {
    loop {
        let message = tokio::select! {
            message = inbound.message() => message,
            // The holder let go of the stream: dropping `inbound` resets it.
            () = to_holder.closed() => return,
        };
        let message = match message {
            Ok(Some(message)) => decoder.up(message).transpose(),
            Ok(None) => return,
            Err(status) => Some(Err(LinkError::Lost(status.message().to_owned()))),
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
