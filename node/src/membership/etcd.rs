//! The connection to etcd, and what is known of its state.
//!
//! What enters: endpoints; successes and failures of everybody who uses the connection. What leaves: a client, log
//! lines and a health condition about etcd's coming and going, the time until which removals are held back.
//! What may be lost: nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error, GetOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::registration::{self, Registration};
use super::watching;
use super::{GRACE, Member, Members, Role, Targets};
use crate::{Backoff, Health, LogLimit};

/// Everything of ours in etcd.
const ROOT: &str = "/reprise/v1/";

/// How long etcd may be unreachable at start.
const START: Duration = Duration::from_secs(5);
/// For one call.
pub(super) const CALL: Duration = Duration::from_secs(3);
/// etcd closes connections that are pinged more often than every 5 s (`--grpc-keepalive-min-time`).
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// For lists; a target's document is some hundred bytes.
pub(super) const MESSAGE_BYTES: usize = 64 << 20;

/// Where etcd is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdSettings {
    /// `http://HOST:PORT` of each of etcd's members.
    pub endpoints: Vec<String>,
}

impl Default for EtcdSettings {
    fn default() -> EtcdSettings {
        EtcdSettings {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
        }
    }
}

/// Why etcd can't be used. One line.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// An endpoint isn't one.
    #[error("etcd endpoint {endpoint:?}: {reason}; write http://HOST:PORT")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It doesn't answer, or not as etcd does.
    #[error("etcd at {endpoints} can't be reached: {reason}; start it, or correct --etcd")]
    Unreachable {
        /// As given.
        endpoints: String,
        /// Of the last attempt.
        reason: String,
    },
}

/// A connection to etcd; clones share it.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    link: Arc<Link>,
}

impl Etcd {
    /// Connects, and waits a few seconds for etcd to answer. Its later comings and goings show in `health` as the
    /// informational condition `etcd`.
    ///
    /// # Errors
    /// When an endpoint isn't one, or none answers.
    pub async fn connect(settings: &EtcdSettings, health: Health) -> Result<Etcd, EtcdError> {
        let link = Arc::new(Link::new(settings.endpoints.join(", "), health));
        for endpoint in &settings.endpoints {
            check(endpoint)?;
        }
        let options = ConnectOptions::new()
            .with_connect_timeout(CALL)
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            .with_require_leader(true);
        let client = Client::connect(&settings.endpoints, Some(options))
            .await
            .map_err(|error| link.unreachable(describe(&error)))?;
        let etcd = Etcd { client, link };
        let mut last = "no answer".to_owned();
        let answered = tokio::time::timeout(START, async {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(500));
            while let Err(error) = etcd.probe().await {
                last = error;
                backoff.wait().await;
            }
        });
        match answered.await {
            Ok(()) => {
                etcd.link.working();
                Ok(etcd)
            }
            Err(_) => Err(etcd.link.unreachable(last)),
        }
    }

    /// Registers a member and keeps it registered, until [`Registration::leave`]. Returns at once; whether it is
    /// registered is [`Registration::held`].
    pub fn register(&self, role: Role, id: &str, member: Member) -> Registration {
        registration::start(
            self.client.clone(),
            Arc::clone(&self.link),
            format!("{}{id}", role.prefix()),
            member,
        )
    }

    /// The members of a role: the first list is there when this returns.
    ///
    /// # Errors
    /// When the first list can't be had.
    pub async fn watch_members(&self, role: Role) -> Result<watch::Receiver<Members>, EtcdError> {
        watching::members(self.client.clone(), Arc::clone(&self.link), role).await
    }

    /// The targets: the first list is there when this returns. A malformed document costs one warning and leaves the
    /// target's last good version in force.
    ///
    /// # Errors
    /// When the first list can't be had.
    pub async fn watch_targets(&self) -> Result<watch::Receiver<Targets>, EtcdError> {
        watching::targets(self.client.clone(), Arc::clone(&self.link)).await
    }

    /// The client itself, for tools that write.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> (Client, Arc<Link>) {
        (self.client.clone(), Arc::clone(&self.link))
    }

    async fn probe(&self) -> Result<(), String> {
        let options = GetOptions::new().with_prefix().with_count_only();
        call(self.client.kv_client().get(ROOT, Some(options)))
            .await
            .map(|_| ())
    }
}

/// The client's own words for these are about URI grammar.
fn check(endpoint: &str) -> Result<(), EtcdError> {
    let wrong = |reason: &str| EtcdError::Endpoint {
        endpoint: endpoint.to_owned(),
        reason: reason.to_owned(),
    };
    let rest = match endpoint.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        Some(_) => return Err(wrong("the scheme is neither http nor https")),
        None => endpoint,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    match rest.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty()
                && !host.contains(['/', ' ', '@'])
                && port.parse().is_ok_and(|port: u16| port > 0) =>
        {
            Ok(())
        }
        _ => Err(wrong("not a host and port")),
    }
}

/// One call with its time limit; the error is one line.
pub(super) async fn call<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match tokio::time::timeout(CALL, work).await {
        Ok(result) => result.map_err(|error| describe(&error)),
        Err(_) => Err(format!("no answer within {CALL:?}")),
    }
}

/// What went wrong, in the words of the innermost cause: "Connection refused", not "transport error".
pub(super) fn describe(error: &Error) -> String {
    let text = match error {
        Error::GRpcStatus(status) => innermost(status).unwrap_or(status.message().to_owned()),
        Error::TransportError(error) => innermost(error).unwrap_or(error.to_string()),
        error => error.to_string(),
    };
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() {
        "no answer".to_owned()
    } else {
        line.to_owned()
    }
}

fn innermost(error: &dyn std::error::Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Some(cause.to_string())
}

/// What all users of one connection know of it together.
#[derive(Debug)]
pub(super) struct Link {
    endpoints: String,
    health: Health,
    /// A line while etcd stays away.
    reminder: LogLimit,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when it's away.
    down: Option<Instant>,
    /// The last moment of the last interruption.
    trouble: Option<Instant>,
}

impl Link {
    fn new(endpoints: String, health: Health) -> Link {
        Link {
            endpoints,
            health,
            reminder: LogLimit::every(Duration::from_secs(15)),
            state: Mutex::default(),
        }
    }

    /// A call failed or a stream broke.
    pub(super) fn broken(&self, reason: &str) {
        let now = Instant::now();
        let down_for = {
            let mut state = self.state();
            state.trouble = Some(now);
            now - *state.down.get_or_insert(now)
        };
        self.health.inform("etcd", Err(reason.to_owned()));
        if self.reminder.allow().is_some() {
            tracing::warn!(
                reason,
                down_s = down_for.as_secs(),
                "etcd at {} is away: going on with the members and targets known",
                self.endpoints
            );
        }
    }

    /// A call succeeded.
    pub(super) fn working(&self) {
        let down = {
            let mut state = self.state();
            let down = state.down.take();
            if down.is_some() {
                state.trouble = Some(Instant::now());
            }
            down
        };
        self.health.inform("etcd", Ok(()));
        if let Some(since) = down {
            tracing::info!(
                down_s = since.elapsed().as_secs(),
                "etcd at {} is back",
                self.endpoints
            );
        }
    }

    /// Until when removals are held back; `None` in normal operation.
    pub(super) fn hold_until(&self) -> Option<Instant> {
        let trouble = self.state().trouble?;
        Some(trouble + GRACE).filter(|until| *until > Instant::now())
    }

    pub(super) fn unreachable(&self, reason: String) -> EtcdError {
        EtcdError::Unreachable {
            endpoints: self.endpoints.clone(),
            reason,
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked_in_one_line() {
        for good in [
            "http://127.0.0.1:2379",
            "https://[::1]:2379/",
            "etcd-0:2379",
        ] {
            check(good).unwrap();
        }
        for wrong in [
            "",
            "127.0.0.1",
            "ftp://h:1",
            "http://:1",
            "http://h:x",
            "h:0",
            "a b:1",
        ] {
            let error = check(wrong).unwrap_err().to_string();
            assert!(error.ends_with("write http://HOST:PORT"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn removals_are_held_back_after_an_interruption() {
        let health = Health::new();
        let link = Link::new("http://h:1".to_owned(), health.clone());
        link.working();
        assert_eq!(link.hold_until(), None);
        link.broken("connection refused");
        assert!(!health.readiness().conditions["etcd"].ok);
        assert!(health.readiness().ready);
        tokio::time::advance(3 * GRACE).await;
        // The time counts from etcd's return, whoever notices it.
        link.working();
        assert_eq!(link.hold_until(), Some(Instant::now() + GRACE));
        link.working();
        tokio::time::advance(GRACE).await;
        assert_eq!(link.hold_until(), None);
        assert!(health.readiness().conditions["etcd"].ok);
    }
}
