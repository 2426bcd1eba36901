//! A target's addresses.
//!
//! What enters: a host name. What leaves: its addresses, looked up again when their time is over and there is a connection
//! to open. What may be lost: freshness; while the name service is away, the last known addresses go on serving.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reprise_node::LogLimit;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::names::{Names, Sources};

/// Addresses serve at least so long, whatever their records say: 0 says that nobody may keep them.
const FLOOR: Duration = Duration::from_secs(1);

/// They are looked up again after this time at the latest. Records that last for days are those that are changed without
/// a thought of who keeps them.
const CEILING: Duration = Duration::from_secs(60);

/// Addresses whose time was over no longer ago serve while they are looked up.
const GRACE: Duration = Duration::from_secs(1);

/// Those whose time was over before are waited for so long, and serve then.
const PATIENCE: Duration = Duration::from_millis(500);

/// A failed lookup is repeated after this time.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks up one host.
pub(crate) struct Resolver {
    host: String,
    port: u16,
    names: Names,
    state: Mutex<State>,
    log: LogLimit,
}

#[derive(Default)]
struct State {
    known: Option<Known>,
    /// The lookup that is under way. It goes on when nobody waits for it any more.
    under_way: Option<watch::Receiver<Option<Outcome>>>,
    /// The last lookup failed.
    failed: Option<Failed>,
}

#[derive(Clone)]
struct Known {
    addresses: Arc<[SocketAddr]>,
    /// `None`: for ever.
    until: Option<Instant>,
}

#[derive(Clone)]
struct Failed {
    error: Arc<io::Error>,
    at: Instant,
}

type Outcome = Result<Arc<[SocketAddr]>, Arc<io::Error>>;

impl Resolver {
    /// For a name, or an address, which is its own answer.
    pub(crate) fn new(host: &str, port: u16, sources: Sources) -> Arc<Resolver> {
        let address = host.parse::<IpAddr>().ok();
        let known = address.map(|address| Known {
            addresses: [SocketAddr::new(address, port)].into(),
            until: None,
        });
        Arc::new(Resolver {
            host: host.to_owned(),
            port,
            names: Names::new(sources),
            state: Mutex::new(State {
                known,
                ..State::default()
            }),
            log: LogLimit::every(CEILING),
        })
    }

    /// The host's addresses, at least one. Has to be called on a tokio runtime.
    ///
    /// # Errors
    /// When they can't be looked up and never could.
    pub(crate) async fn addresses(self: &Arc<Resolver>) -> io::Result<Arc<[SocketAddr]>> {
        let now = Instant::now();
        let (known, failed, under_way) = {
            let mut state = self.state();
            if let Some(known) = &state.known
                && known.until.is_none_or(|until| now < until)
            {
                return Ok(known.addresses.clone());
            }
            let under_way = self.look_up(&mut state, now);
            (state.known.clone(), state.failed.clone(), under_way)
        };
        let Some(known) = known else {
            return match (under_way, failed) {
                (Some(under_way), _) => outcome(under_way).await,
                (None, Some(failed)) => Err(copy(&failed.error)),
                (None, None) => Err(io::ErrorKind::NotFound.into()),
            };
        };
        let is_recent = known.until.is_none_or(|until| now < until + GRACE);
        if let Some(under_way) = under_way
            && !is_recent
            && failed.is_none()
            && let Ok(Ok(addresses)) = timeout(PATIENCE, outcome(under_way)).await
        {
            return Ok(addresses);
        }
        Ok(known.addresses)
    }

    /// The lookup that is under way, or a new one; `None` shortly after one that failed.
    fn look_up(
        self: &Arc<Resolver>,
        state: &mut State,
        now: Instant,
    ) -> Option<watch::Receiver<Option<Outcome>>> {
        if let Some(under_way) = &state.under_way {
            return Some(under_way.clone());
        }
        if let Some(failed) = &state.failed
            && now < failed.at + PAUSE
        {
            return None;
        }
        let (tell, under_way) = watch::channel(None);
        state.under_way = Some(under_way.clone());
        let resolver = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = resolver.ask().await;
            tell.send_replace(Some(outcome));
        });
        Some(under_way)
    }

    /// Asks, and keeps the answer.
    async fn ask(&self) -> Outcome {
        let found = self.names.look_up(&self.host).await;
        let now = Instant::now();
        let mut state = self.state();
        state.under_way = None;
        match found {
            Ok(found) => {
                let lasts = found.lasts.clamp(FLOOR, CEILING);
                let with_port = |address| SocketAddr::new(address, self.port);
                let addresses: Arc<[SocketAddr]> =
                    found.addresses.into_iter().map(with_port).collect();
                debug!(host = self.host, ?addresses, ?lasts, "name looked up");
                state.failed = None;
                state.known = Some(Known {
                    addresses: addresses.clone(),
                    until: Some(now + lasts),
                });
                Ok(addresses)
            }
            Err(error) => {
                // Without any, the one who asked has the error.
                if state.known.is_some()
                    && let Some(suppressed) = self.log.allow()
                {
                    warn!(
                        host = self.host, %error, suppressed,
                        "name lookup failed: the last known addresses serve on"
                    );
                }
                let error = Arc::new(error);
                state.failed = Some(Failed {
                    error: error.clone(),
                    at: now,
                });
                Err(error)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a lookup ends.
async fn outcome(mut under_way: watch::Receiver<Option<Outcome>>) -> io::Result<Arc<[SocketAddr]>> {
    match under_way.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(Ok(addresses))) => Ok(addresses.clone()),
        Ok(Some(Err(error))) => Err(copy(error)),
        // The runtime ends.
        Ok(None) | Err(_) => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// The same once more, for each who waits.
fn copy(error: &Arc<io::Error>) -> io::Error {
    io::Error::new(error.kind(), error.clone())
}

#[cfg(test)]
mod tests;
