//! A target's addresses.
//!
//! What enters: a host name. What leaves: its addresses, looked up every ten seconds while there is traffic.
//! What may be lost: freshness; while the name service is away, the last known addresses go on serving.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::Instant;
use tracing::debug;

/// Addresses are looked up again after this time, in the background.
const TTL: Duration = Duration::from_secs(10);

/// Addresses that are older are not used before they were looked up again.
const STALE: Duration = Duration::from_secs(60);

/// Looks up one host.
#[derive(Debug)]
pub(crate) struct Resolver {
    host: String,
    port: u16,
    known: Mutex<Option<Known>>,
    /// One lookup at a time.
    lookup: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct Known {
    addresses: Arc<[SocketAddr]>,
    since: Instant,
}

impl Resolver {
    /// For a name, or an address, which is its own answer.
    pub(crate) fn new(host: &str, port: u16) -> Arc<Resolver> {
        Arc::new(Resolver {
            host: host.to_owned(),
            port,
            known: Mutex::default(),
            lookup: tokio::sync::Mutex::default(),
        })
    }

    /// The host's addresses, at least one.
    ///
    /// # Errors
    /// When they can't be looked up and never could.
    pub(crate) async fn addresses(self: &Arc<Resolver>) -> io::Result<Arc<[SocketAddr]>> {
        let known = self.known().clone();
        match known {
            Some(known) if known.since.elapsed() < TTL => Ok(known.addresses),
            Some(known) if known.since.elapsed() < STALE => {
                self.refresh();
                Ok(known.addresses)
            }
            known => match (self.look_up().await, known) {
                (Ok(addresses), _) => Ok(addresses),
                (Err(_), Some(known)) => Ok(known.addresses),
                (Err(error), None) => Err(error),
            },
        }
    }

    fn refresh(self: &Arc<Resolver>) {
        if self.lookup.try_lock().is_ok() {
            let resolver = Arc::clone(self);
            // A failure is logged there, and changes nothing.
            tokio::spawn(async move { resolver.look_up().await.map(drop) });
        }
    }

    async fn look_up(&self) -> io::Result<Arc<[SocketAddr]>> {
        let asked = Instant::now();
        let _one_at_a_time = self.lookup.lock().await;
        if let Some(known) = self.known().clone().filter(|known| known.since >= asked) {
            return Ok(known.addresses);
        }
        let found = match lookup_host((self.host.as_str(), self.port)).await {
            Ok(found) => found.collect::<Arc<[SocketAddr]>>(),
            Err(error) => {
                debug!(host = self.host, %error, "name lookup failed");
                return Err(error);
            }
        };
        if found.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        *self.known() = Some(Known {
            addresses: Arc::clone(&found),
            since: Instant::now(),
        });
        Ok(found)
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_its_own_answer() {
        let found = Resolver::new("::1", 80).addresses().await.unwrap();
        assert_eq!(*found, ["[::1]:80".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_name_that_is_none_is_an_error() {
        let resolver = Resolver::new("no such host", 80);
        assert!(resolver.addresses().await.is_err());
    }

    #[tokio::test]
    async fn last_known_addresses_serve_while_lookups_fail() {
        let resolver = Resolver::new("no such host", 80);
        let addresses: Arc<[SocketAddr]> = ["127.0.0.1:80".parse().unwrap()].into();
        *resolver.known() = Some(Known {
            addresses: Arc::clone(&addresses),
            since: Instant::now(),
        });
        tokio::time::pause();
        for age in [TTL, STALE] {
            tokio::time::advance(age).await;
            assert_eq!(resolver.addresses().await.unwrap(), addresses);
        }
    }
}
