//! Opens the connections of a stream.
//!
//! What enters: a target that is a stream. What leaves: connections that are ready for their first record. What may be lost:
//! time; every failure here means that certainly nothing was delivered.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use reprise_traffic::target::{Stream, StreamKind};
use reprise_traffic::{Target, TargetDocument};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tracing::debug;

use super::counted::Counted;
use super::unsent::Form;
use super::wire::{Layered, Wire};
use crate::dial::{DialError, Dialer};
use crate::tls::{HTTP1, Tls};

/// A host that is gone without a word is noticed after 35 s also where there is nothing to send.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(20))
    .with_interval(Duration::from_secs(5))
    .with_retries(3);

/// Nobody has to say anything to us; what is said is read in pieces up to this.
const MAX_MESSAGE: usize = 1 << 20;

/// Of a WebSocket, each way.
const BUFFER: usize = 16 << 10;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// Not even below the WebSocket.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Whoever answered speaks no WebSocket, or not with us.
    #[error("WebSocket handshake: {0}")]
    Upgrade(String),
}

/// Opens connections to one target.
pub(super) struct Opener {
    dialer: Dialer,
    form: Form,
    /// What to ask of a WebSocket's server.
    upgrade: Option<ClientRequestBuilder>,
}

impl Opener {
    /// As the target says.
    ///
    /// # Errors
    /// One line, when TLS can't be set up.
    pub(super) fn new(target: &Target, stream: &Stream) -> Result<Opener, String> {
        let Stream {
            kind, host, port, ..
        } = stream;
        let (form, upgrade) = match kind {
            StreamKind::Records => (Form::Whole, None),
            StreamKind::Binary => (Form::Payload, None),
            StreamKind::WebSocket { path, user } => {
                let upgrade = upgrade(stream, path, user.as_deref())?;
                (Form::Unseparated, Some(upgrade))
            }
        };
        let document: &TargetDocument = &target.document;
        let protocols = if upgrade.is_some() { HTTP1 } else { &[] };
        let tls = stream.tls.then(|| Tls::new(host, document, protocols));
        let tls = tls.transpose().map_err(|error| error.to_string())?;
        Ok(Opener {
            dialer: Dialer::to(host, *port, tls, document.connect_timeout),
            form,
            upgrade,
        })
    }

    /// What its connections take of a record.
    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// [`OpenError`]; certainly nothing was delivered.
    pub(super) async fn open(&self) -> Result<Wire, OpenError> {
        let opening = async {
            let layered = self.dialer.open(watched).await?;
            match &self.upgrade {
                None => Ok(Wire::of_bytes(layered)),
                Some(upgrade) => shake_hands(upgrade.clone(), layered).await,
            }
        };
        self.dialer.within_limit(opening).await
    }
}

/// A connection whose far end is asked now and then whether it is there.
fn watched(stream: TcpStream) -> Counted {
    if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE) {
        debug!(%error, "a stream's connection has no keep-alive");
    }
    Counted::new(stream)
}

/// What to ask of a WebSocket's server.
fn upgrade(
    stream: &Stream,
    path: &str,
    user: Option<&str>,
) -> Result<ClientRequestBuilder, String> {
    let Stream {
        host, port, tls, ..
    } = stream;
    let scheme = if *tls { "wss" } else { "ws" };
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.clone(),
    };
    let uri = match (*tls, *port) {
        (false, 80) | (true, 443) => format!("{scheme}://{host}{path}"),
        _ => format!("{scheme}://{host}:{port}{path}"),
    };
    let uri: Uri = uri.parse().map_err(|error| format!("url: {error}"))?;
    let request = ClientRequestBuilder::new(uri);
    Ok(match user {
        None => request,
        Some(user) => {
            let user: Vec<u8> = percent_decode_str(user).collect();
            let value = format!("Basic {}", STANDARD.encode(user));
            request.with_header("Authorization", value)
        }
    })
}

async fn shake_hands(upgrade: ClientRequestBuilder, layered: Layered) -> Result<Wire, OpenError> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER);
    let shaken = client_async_with_config(upgrade, layered, Some(config)).await;
    let (socket, _) = shaken.map_err(|error| OpenError::Upgrade(error.to_string()))?;
    Ok(Wire::of_frames(socket))
}
