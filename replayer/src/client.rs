//! Delivery of one request to a target.
//!
//! What enters: an exchange. What leaves: how it ended, after how long, in how many attempts. What may be lost: the
//! request, and the [`Disposition`] says so:
//!
//! | What happened                                   | safe method             | unsafe method   |
//! |-------------------------------------------------|-------------------------|-----------------|
//! | head and body don't fit together, nothing sent  | `failed` (ours)         | the same        |
//! | no name, no connection, no TLS: nothing sent    | `failed` (network)      | the same        |
//! | closed, silent or no HTTP before a final status | `failed` (target)       | `unknown`       |
//! | the same in the response's body                 | `failed` (target)       | `replayed`      |
//! | the response is complete                        | `replayed`              | `replayed`      |
//!
//! An unsafe request whose response broke off has reached the target, and its status is known; `failed` would say
//! that it had no effect. A request goes out a second time, over a new connection, only where the first went over a
//! used connection that broke before any answer, and where that does no harm: the method is safe, or not one byte was sent.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reprise_traffic::target::{Endpoint, Target, TargetName};
use reprise_traffic::{Disposition, Exchange, ExchangeId, Fault};
use tokio::time::timeout;
use tracing::debug;

use crate::connection::{Connection, Trip, TripError};
use crate::dial::{DialError, Dialer};
use crate::pool::Pool;
use crate::response::ResponseError;
use crate::rewrite::{Outgoing, RewriteError, Rewriter};
use crate::tls::TlsError;

/// Why a target can't be served by this replayer. One line for the target's owner.
#[derive(Debug, thiserror::Error)]
#[error("target {target}: {source}")]
pub struct ClientError {
    /// Its name.
    pub target: TargetName,
    /// What is wrong with it.
    pub source: TlsError,
}

/// How the delivery of one exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// `Replayed`, `Failed` or `Unknown`.
    pub disposition: Disposition,
    /// From the first byte sent to the last byte of the response, of the last attempt; where there was no whole
    /// response, to the moment in which it was given up; zero where nothing could be sent.
    pub latency: Duration,
    /// How often it was tried: 1 or 2; 0 where it can't be sent at all.
    pub attempts: u32,
}

/// Sends requests to one target.
pub struct TargetClient {
    name: TargetName,
    rewriter: Rewriter,
    dialer: Dialer,
    pool: Arc<Pool>,
    /// From the first byte sent to the last received.
    timeout: Duration,
    /// Kinds of errors that were logged since the last answer, a bit for each.
    logged: AtomicU32,
}

impl TargetClient {
    /// A client without connections for a target that is that web server; for https it reads the authorities to trust.
    ///
    /// # Errors
    /// When the `ca_file` can't be used, or this machine knows no authorities.
    pub fn new(target: &Target, endpoint: &Endpoint) -> Result<TargetClient, ClientError> {
        let dialer = Dialer::new(target, endpoint).map_err(|source| ClientError {
            target: target.name.clone(),
            source,
        })?;
        Ok(TargetClient {
            name: target.name.clone(),
            rewriter: Rewriter::new(target, endpoint),
            dialer,
            pool: Pool::new(target.document.concurrency.get() as usize),
            timeout: target.document.timeout,
            logged: AtomicU32::new(0),
        })
    }

    /// Sends one exchange and reads the whole answer. Each attempt is bounded by the target's `timeout`, and by at
    /// most two seconds before that where it needs a new connection. Must be called on a tokio runtime.
    pub async fn send(&self, exchange: &Exchange) -> Delivery {
        let is_safe = exchange.request.head.is_safe();
        let outgoing = match self.rewriter.rewrite(exchange) {
            Ok(outgoing) => outgoing,
            Err(error) => {
                let failure = Failure::before_sending(SendError::Unsendable(error));
                self.report(&failure, &exchange.id);
                return failure.delivery(is_safe, 0);
            }
        };
        let method = exchange.request.head.method();
        let idle = (!outgoing.alone).then(|| self.pool.take(is_safe)).flatten();
        let mut attempts = 1;
        let mut tried = match idle {
            Some(connection) => self.attempt(connection, &outgoing, method).await,
            None => self.attempt_anew(&outgoing, method).await,
        };
        if let Err(failure) = &tried
            && failure.broke_idle_connection()
        {
            self.pool.distrust();
            if failure.is_repeatable(is_safe) {
                attempts = 2;
                tried = self.attempt_anew(&outgoing, method).await;
            }
        }
        match tried {
            Ok(delivered) => {
                if self.logged.load(Ordering::Relaxed) != 0 {
                    self.logged.store(0, Ordering::Relaxed);
                }
                Delivery {
                    disposition: Disposition::Replayed(delivered.status),
                    latency: delivered.latency,
                    attempts,
                }
            }
            Err(failure) => {
                self.report(&failure, &exchange.id);
                failure.delivery(is_safe, attempts)
            }
        }
    }

    async fn attempt_anew(
        &self,
        outgoing: &Outgoing<'_>,
        method: &str,
    ) -> Result<Delivered, Failure> {
        let dialed = self.dialer.dial().await;
        let connection = dialed.map_err(|e| Failure::before_sending(SendError::Dial(e)))?;
        self.attempt(connection, outgoing, method).await
    }

    async fn attempt(
        &self,
        mut connection: Connection,
        outgoing: &Outgoing<'_>,
        method: &str,
    ) -> Result<Delivered, Failure> {
        let is_reused = connection.is_used();
        let mut trip = Trip::new(outgoing, method);
        let made = match timeout(self.timeout, connection.make(&mut trip)).await {
            Ok(made) => made.map_err(SendError::Trip),
            // The whole answer is there, and only the server's patience for the rest of the request was missing.
            Err(_) if trip.response().is_done() => Ok(()),
            Err(_) => Err(SendError::Timeout(self.timeout)),
        };
        let (latency, status) = (trip.latency(), trip.response().status());
        match (made, status) {
            (Ok(()), Some(status)) => {
                if !outgoing.alone && trip.leaves_connection_usable() {
                    connection.rest(trip.response());
                    self.pool.put(connection);
                }
                Ok(Delivered { status, latency })
            }
            (made, status) => Err(Failure {
                error: made.err().unwrap_or(SendError::NO_STATUS),
                is_reused,
                may_have_arrived: trip.may_have_arrived(),
                is_answered: trip.response().has_begun(),
                status,
                latency,
            }),
        }
    }

    fn report(&self, failure: &Failure, id: &ExchangeId) {
        let kind = failure.error.kind();
        if self.logged.fetch_or(kind, Ordering::Relaxed) & kind == 0 {
            let error = &failure.error;
            debug!(target = %self.name, exchange = %id, %error, "delivery failed; further ones of the kind are only counted");
        }
    }
}

impl fmt::Debug for TargetClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client of {}", self.name)
    }
}

struct Delivered {
    status: u16,
    latency: Duration,
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("not sent: {0}")]
    Unsendable(RewriteError),
    #[error(transparent)]
    Dial(DialError),
    #[error(transparent)]
    Trip(TripError),
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
}

impl SendError {
    /// A trip that succeeds has a status; that is checked here rather than believed.
    const NO_STATUS: SendError = SendError::Trip(TripError::Response(ResponseError::Truncated));

    /// A bit for each kind.
    fn kind(&self) -> u32 {
        match self {
            SendError::Unsendable(_) => 1,
            SendError::Dial(DialError::Resolve(_)) => 1 << 1,
            SendError::Dial(DialError::Connect { .. }) => 1 << 2,
            SendError::Dial(DialError::Handshake(_)) => 1 << 3,
            SendError::Dial(DialError::Timeout(_)) => 1 << 4,
            SendError::Trip(TripError::Write(_)) => 1 << 5,
            SendError::Trip(TripError::Read(_)) => 1 << 6,
            SendError::Trip(TripError::Response(_)) => 1 << 7,
            SendError::Timeout(_) => 1 << 8,
        }
    }
}

/// An attempt that ended without a whole response, and what is certain about it.
#[derive(Debug)]
struct Failure {
    error: SendError,
    /// Its connection had carried another request before.
    is_reused: bool,
    /// False where certainly not one byte was sent.
    may_have_arrived: bool,
    /// A byte came back.
    is_answered: bool,
    /// A final status came back.
    status: Option<u16>,
    latency: Duration,
}

impl Failure {
    fn before_sending(error: SendError) -> Failure {
        Failure {
            error,
            is_reused: false,
            may_have_arrived: false,
            is_answered: false,
            status: None,
            latency: Duration::ZERO,
        }
    }

    /// The server closed a connection that it had promised to keep.
    fn broke_idle_connection(&self) -> bool {
        self.is_reused && !self.is_answered && matches!(self.error, SendError::Trip(_))
    }

    fn is_repeatable(&self, is_safe: bool) -> bool {
        self.broke_idle_connection() && (is_safe || !self.may_have_arrived)
    }

    fn delivery(&self, is_safe: bool, attempts: u32) -> Delivery {
        let disposition = match (&self.error, self.status) {
            (SendError::Unsendable(_), _) => Disposition::Failed(Fault::Ours),
            _ if !self.may_have_arrived => Disposition::Failed(Fault::Network),
            _ if is_safe => Disposition::Failed(Fault::Target),
            (_, Some(status)) => Disposition::Replayed(status),
            (_, None) => Disposition::Unknown,
        };
        Delivery {
            disposition,
            latency: self.latency,
            attempts,
        }
    }
}
