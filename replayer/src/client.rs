//! Delivery of one request to a target.
//!
//! What enters: an exchange. What leaves: how it ended, after how long, in how many attempts. What may be lost: the
//! request, and the [`Disposition`] says so:
//!
//! | What happened                                   | safe method             | unsafe method   |
//! |-------------------------------------------------|-------------------------|-----------------|
//! | no whole request can be made, nothing sent      | `failed` (ours)         | the same        |
//! | no name, no connection, no TLS: nothing sent    | `failed` (network)      | the same        |
//! | closed, silent or no HTTP before a final status | `failed` (target)       | `unknown`       |
//! | the same in the response's body                 | `failed` (target)       | `replayed`      |
//! | the response is complete                        | `replayed`              | `replayed`      |
//!
//! An unsafe request whose response broke off has reached the target, and its status is known; `failed` would say
//! that it had no effect. A request goes out a second time, over a new connection, where the first went over a
//! used connection that broke before any answer; and where the document asks for retries, as often as those and their budget
//! allow ([`crate::retry`]). Both only where that does no harm: the method is safe, or not one byte was sent.
//!
//! Redirects of safe requests are followed as often as the document says ([`crate::redirect`]); the last answer counts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reprise_node::LogLimit;
use reprise_traffic::measure::Cause;
use reprise_traffic::target::{Connections, Endpoint, Target, TargetName};
use reprise_traffic::{Disposition, Exchange, ExchangeId, Fault};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::connection::{Connection, Trip, TripError};
use crate::credentials::CredentialsError;
use crate::dial::{DialError, Dialer};
use crate::pool::Pool;
use crate::redirect::follow;
use crate::replayed::{Keeper, Kept};
use crate::response::{Redirect, ResponseError};
use crate::retry::Retries;
use crate::rewrite::{Outgoing, RewriteError, Rewriter};
use crate::tls::TlsError;

/// Why a target can't be served by this replayer. One line for the target's owner.
#[derive(Debug, thiserror::Error)]
#[error("target {target}: {source}")]
pub struct ClientError {
    /// Its name.
    pub target: TargetName,
    /// What is wrong with it.
    pub source: SetUpError,
}

/// What a target needs and this replayer hasn't got.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// For https.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The user and password.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// How the delivery of one exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// `Replayed`, `Failed` or `Unknown`.
    pub disposition: Disposition,
    /// From the first byte sent to the last byte of the response, of the last attempt; where there was no whole
    /// response, to the moment in which it was given up; zero where nothing could be sent.
    pub latency: Duration,
    /// Why there was no whole answer.
    pub cause: Option<Cause>,
    /// How often something was sent or tried, redirects included; 0 where it can't be sent at all.
    pub attempts: u32,
    /// The last answer, where it was whole and the document asks that answers be kept.
    pub answer: Option<Kept>,
}

/// Sends requests to one target.
pub struct TargetClient {
    name: TargetName,
    rewriter: Rewriter,
    dialer: Dialer,
    pool: Arc<Pool>,
    /// From the first byte sent to the last received.
    timeout: Duration,
    endpoint: Endpoint,
    /// That are followed.
    redirects: u32,
    connections: Connections,
    retries: Option<Retries>,
    /// Kinds of errors that were logged since the last answer, a bit for each.
    logged: AtomicU32,
    unsendable: LogLimit,
    /// Bytes of an answer's body that are kept; `None` where nobody wants to see answers.
    keeps: Option<usize>,
}

/// Between two lines about requests that can't be sent.
const UNSENDABLE_EVERY: Duration = Duration::from_secs(10);

impl TargetClient {
    /// A client without connections for a target that is that web server; it reads the files that the document names.
    ///
    /// # Errors
    /// When one of them can't be used, or this machine knows no authorities for https.
    pub fn new(target: &Target, endpoint: &Endpoint) -> Result<TargetClient, ClientError> {
        let refuse = |source: SetUpError| ClientError {
            target: target.name.clone(),
            source,
        };
        Ok(TargetClient {
            name: target.name.clone(),
            rewriter: Rewriter::new(target, endpoint).map_err(|e| refuse(e.into()))?,
            dialer: Dialer::new(target, endpoint).map_err(|e| refuse(e.into()))?,
            pool: Pool::new(target.document.concurrency.get() as usize),
            timeout: target.document.timeout,
            endpoint: endpoint.clone(),
            redirects: target.document.redirects,
            connections: target.document.connections,
            retries: Retries::new(&target.document),
            logged: AtomicU32::new(0),
            unsendable: LogLimit::every(UNSENDABLE_EVERY),
            keeps: target.document.keeps_of_answers(),
        })
    }

    /// Sends one exchange of a session and reads the whole answer, following redirects. Each attempt is bounded by the target's
    /// `timeout`, and by its `connect_timeout` before that where it needs a new connection. Must be called on a tokio runtime.
    pub async fn send(&self, exchange: &Exchange, session: u64) -> Delivery {
        let is_safe = exchange.request.head.is_safe();
        let mut outgoing = match self.rewriter.rewrite(exchange) {
            Ok(outgoing) => outgoing,
            Err(error) => {
                if let Some(suppressed) = self.unsendable.allow() {
                    warn!(target = %self.name, exchange = %exchange.id, suppressed, "not sent: {error}");
                }
                return Failure::before_sending(SendError::Unsendable(error)).delivery(is_safe, 0);
            }
        };
        outgoing.session = (self.connections == Connections::PerSession).then_some(session);
        let method = exchange.request.head.method();
        let redirects = if is_safe { self.redirects } else { 0 };
        let mut attempts = 0;
        let mut tried = self
            .deliver(&outgoing, method, is_safe, &mut attempts)
            .await;
        for _ in 0..redirects {
            let redirect = tried.as_ref().ok().and_then(|d| d.redirect.as_ref());
            let next = redirect.and_then(|r| follow(r, method, &outgoing.head, &self.endpoint));
            let Some(head) = next else {
                break;
            };
            outgoing.head = head;
            tried = self
                .deliver(&outgoing, method, is_safe, &mut attempts)
                .await;
            // Whatever became of this one, the request arrived with the first.
            tried = tried.map_err(|failure| Failure {
                may_have_arrived: true,
                ..failure
            });
        }
        match tried {
            Ok(delivered) => {
                if self.logged.load(Ordering::Relaxed) != 0 {
                    self.logged.store(0, Ordering::Relaxed);
                }
                Delivery {
                    disposition: Disposition::Replayed(delivered.status),
                    latency: delivered.latency,
                    cause: None,
                    attempts,
                    answer: delivered.answer,
                }
            }
            Err(failure) => {
                self.report(&failure, &exchange.id);
                failure.delivery(is_safe, attempts)
            }
        }
    }

    /// Closes the connection of a session that sends nothing now, if it has one of its own.
    pub fn close(&self, session: u64) {
        self.pool.close_own(session);
    }

    /// Sends one request, and again where the document asks for that and it does no harm.
    async fn deliver(
        &self,
        outgoing: &Outgoing<'_>,
        method: &str,
        is_safe: bool,
        attempts: &mut u32,
    ) -> Result<Delivered, Failure> {
        let mut retries = self.retries.as_ref().map(Retries::begin);
        loop {
            let tried = self.try_once(outgoing, method, is_safe, attempts).await;
            match (&tried, &mut retries) {
                (Err(failure), Some(retries)) if failure.is_retried(is_safe) => {
                    if !retries.another().await {
                        return tried;
                    }
                }
                _ => return tried,
            }
        }
    }

    /// Sends one request; if that went over a connection that the server had closed, over a new one.
    async fn try_once(
        &self,
        outgoing: &Outgoing<'_>,
        method: &str,
        is_safe: bool,
        attempts: &mut u32,
    ) -> Result<Delivered, Failure> {
        *attempts += 1;
        let idle = match outgoing.session {
            _ if outgoing.alone => None,
            None => self.pool.take(is_safe),
            Some(session) => self.pool.take_own(session, is_safe),
        };
        let Some(connection) = idle else {
            return self.attempt_anew(outgoing, method).await;
        };
        let tried = self.attempt(connection, outgoing, method).await;
        if let Err(failure) = &tried
            && failure.broke_idle_connection()
        {
            self.pool.distrust();
            if failure.is_repeatable(is_safe) {
                *attempts += 1;
                return self.attempt_anew(outgoing, method).await;
            }
        }
        tried
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
        let mut trip = Trip::new(outgoing, method, self.keeps.map(Keeper::of));
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
                    match outgoing.session {
                        None => self.pool.put(connection),
                        Some(session) => self.pool.put_own(session, connection),
                    }
                }
                let redirect = trip.response().redirect().cloned();
                Ok(Delivered {
                    status,
                    redirect,
                    latency,
                    answer: trip.take_keeper().map(Keeper::into_kept),
                })
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
    redirect: Option<Redirect>,
    latency: Duration,
    answer: Option<Kept>,
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
    /// As in measures and reports.
    fn cause(&self) -> Cause {
        match self {
            SendError::Unsendable(_) => Cause::Unsendable,
            SendError::Dial(DialError::Resolve(_)) => Cause::Name,
            SendError::Dial(DialError::Connect { .. }) => Cause::Connect,
            SendError::Dial(DialError::Handshake(_)) => Cause::Tls,
            SendError::Dial(DialError::Timeout(_)) => Cause::ConnectTimeout,
            SendError::Trip(TripError::Write(_) | TripError::Read(_)) => Cause::Broken,
            SendError::Trip(TripError::Response(ResponseError::Truncated)) => Cause::Broken,
            SendError::Trip(TripError::Response(_)) => Cause::Malformed,
            SendError::Timeout(_) => Cause::Timeout,
        }
    }

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

    /// Worth another attempt, and without harm. What is no HTTP would only come back again.
    fn is_retried(&self, is_safe: bool) -> bool {
        let is_nonsense = match &self.error {
            SendError::Trip(TripError::Response(error)) => *error != ResponseError::Truncated,
            _ => false,
        };
        !is_nonsense && (is_safe || !self.may_have_arrived)
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
            cause: Some(self.error.cause()),
            attempts,
            answer: None,
        }
    }
}
