//! Opening connections to a target.
//!
//! What enters: a host and port. What leaves: a connection that is ready for its first byte. What may be lost: time;
//! every failure here means that certainly nothing was delivered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reprise_traffic::target::{Endpoint, Target};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::connection::{Connection, Stream};
use crate::names::Sources;
use crate::resolve::Resolver;
use crate::tls::{HTTP1, Tls, TlsError};

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

/// No kernel tries for longer.
const LONGEST: Duration = Duration::from_secs(3600);

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
        let Endpoint {
            host, port, tls, ..
        } = endpoint;
        let tls = tls.then(|| Tls::new(host, &target.document, HTTP1));
        let limit = target.document.connect_timeout.min(target.document.timeout);
        Ok(Dialer::to(host, *port, tls.transpose()?, limit))
    }

    /// For that host.
    pub(crate) fn to(host: &str, port: u16, tls: Option<Tls>, limit: Duration) -> Dialer {
        Dialer {
            resolver: Resolver::new(host, port, Sources::system()),
            tls,
            limit: limit.min(LONGEST),
            opened: AtomicUsize::new(0),
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// [`DialError`]; certainly nothing was delivered.
    pub(crate) async fn dial(&self) -> Result<Connection, DialError> {
        let opening = async {
            Ok(Connection::new(match self.open(|stream| stream).await? {
                Either::Left(stream) => Stream::Plain(stream),
                Either::Right(stream) => Stream::Tls(stream),
            }))
        };
        self.within_limit(opening).await
    }

    /// What takes longer than a connection may has failed.
    pub(crate) async fn within_limit<C, E: From<DialError>>(
        &self,
        opening: impl Future<Output = Result<C, E>>,
    ) -> Result<C, E> {
        timeout(self.limit, opening)
            .await
            .unwrap_or_else(|_| Err(DialError::Timeout(self.limit).into()))
    }

    /// Opens a connection whose TCP stream is in `wrap`, below TLS where there is any.
    ///
    /// # Errors
    /// As [`Dialer::dial`], but for the time of a handshake.
    pub(crate) async fn open<W>(
        &self,
        wrap: impl FnOnce(TcpStream) -> W,
    ) -> Result<Either<W, Box<TlsStream<W>>>, DialError>
    where
        W: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = wrap(self.connect(Instant::now() + self.limit).await?);
        let Some(tls) = &self.tls else {
            return Ok(Either::Left(stream));
        };
        let shaken = tls.connector.connect(tls.name.clone(), stream).await;
        let stream = shaken.map_err(DialError::Handshake)?;
        Ok(Either::Right(Box::new(stream)))
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
