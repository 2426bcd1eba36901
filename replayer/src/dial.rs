//! Opening connections to a target.
//!
//! What enters: an endpoint. What leaves: a connection that is ready for its first request. What may be lost: time;
//! every failure here means that certainly nothing was delivered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reprise_traffic::target::{Endpoint, Target};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::{Connection, Stream};
use crate::names::Sources;
use crate::resolve::Resolver;
use crate::tls::{Tls, TlsError};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Its name has no address.
    #[error("resolve the target's name: {0}")]
    Resolve(io::Error),
    /// No address took the connection; this is the last one's answer.
    #[error("connect to {address}: {source}")]
    Connect {
        /// Of the target.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It took the connection, but not the handshake.
    #[error("TLS handshake: {0}")]
    Handshake(io::Error),
    /// All of it together took too long.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

/// Opens connections to one target.
pub(crate) struct Dialer {
    resolver: Arc<Resolver>,
    tls: Option<Tls>,
    /// For name, connection and TLS together.
    limit: Duration,
    /// Connections opened; each starts at another of the target's addresses.
    opened: AtomicUsize,
}

impl Dialer {
    /// For the target's endpoint.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub(crate) fn new(target: &Target, endpoint: &Endpoint) -> Result<Dialer, TlsError> {
        let tls = endpoint
            .tls
            .then(|| Tls::new(endpoint, &target.document))
            .transpose()?;
        Ok(Dialer {
            resolver: Resolver::new(&endpoint.host, endpoint.port, Sources::system()),
            tls,
            limit: target.document.connect_timeout.min(target.document.timeout),
            opened: AtomicUsize::new(0),
        })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// [`DialError`]; certainly nothing was delivered.
    pub(crate) async fn dial(&self) -> Result<Connection, DialError> {
        let opening = async {
            let stream = self.connect(Instant::now() + self.limit).await?;
            let Some(tls) = &self.tls else {
                return Ok(Connection::new(Stream::Plain(stream)));
            };
            let shaken = tls.connector.connect(tls.name.clone(), stream).await;
            let stream = shaken.map_err(DialError::Handshake)?;
            Ok(Connection::new(Stream::Tls(Box::new(stream))))
        };
        timeout(self.limit, opening)
            .await
            .unwrap_or(Err(DialError::Timeout(self.limit)))
    }

    /// Tries each address in turn, each for its part of the time that is left.
    async fn connect(&self, deadline: Instant) -> Result<TcpStream, DialError> {
        let addresses = self
            .resolver
            .addresses()
            .await
            .map_err(DialError::Resolve)?;
        let first = self.opened.fetch_add(1, Ordering::Relaxed);
        let mut last = DialError::Resolve(io::ErrorKind::NotFound.into());
        for tried in 0..addresses.len() {
            let address = addresses[first.wrapping_add(tried) % addresses.len()];
            let now = Instant::now();
            let part = deadline.saturating_duration_since(now) / (addresses.len() - tried) as u32;
            let connecting = timeout_at(now + part, TcpStream::connect(address));
            let connected = connecting
                .await
                .unwrap_or(Err(io::ErrorKind::TimedOut.into()));
            match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
                Ok(stream) => return Ok(stream),
                Err(source) => last = DialError::Connect { address, source },
            }
        }
        Err(last)
    }
}
