//! The mirror endpoint: an HTTP server for copies of requests, as nginx, Envoy and HAProxy send them.
//!
//! What enters: connections of proxies. What leaves: whole requests, into a sink that must not wait; to the proxy at
//! once `204 No Content`, or `200 OK` where asked for, whatever becomes of the request.
//! What may be lost: what the parser loses, counted the same way; connections past a limit; unfinished requests past
//! the budget that all parts of the listener share. A proxy never waits for anything behind this endpoint.

mod connection;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reprise_node::LogLimit;
use reprise_traffic::exchange::Captured;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::edge::{Edge, EdgeEvent};
use connection::Connection;

const WARN_EVERY: Duration = Duration::from_secs(10);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What a proxy is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Status {
    /// `204 No Content`.
    #[default]
    NoContent,
    /// `200 OK`, with an empty body, as GoReplay does.
    Ok,
}

/// Bounds of the mirror endpoint.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes of head and body over which a request is passed over (answered 413) and counted.
    pub max_exchange: usize,
    /// Connections at a time; more are turned away.
    pub connections: usize,
    /// A connection on which nothing comes for so long is closed.
    pub idle: Duration,
    /// A head that takes longer is given up.
    pub head: Duration,
    /// What is answered to whatever was understood.
    pub status: Status,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            max_exchange: 24 << 20,
            connections: 1024,
            idle: Duration::from_secs(75),
            head: Duration::from_secs(10),
            status: Status::default(),
        }
    }
}

/// What the connections share.
struct Shared {
    settings: Settings,
    edge: Arc<Edge>,
    budget: Arc<Budget>,
    refusals: LogLimit,
    stop: CancellationToken,
}

/// A running endpoint. It ends when this is dropped.
#[derive(Debug)]
pub struct Mirror {
    address: SocketAddr,
    stop: DropGuard,
    serving: JoinHandle<()>,
}

/// Takes requests from the connections to `socket`; what is not complete comes out of `budget`.
///
/// # Errors
/// If the socket has no address.
pub fn start<S>(
    socket: TcpListener,
    settings: Settings,
    budget: Arc<Budget>,
    edge: Arc<Edge>,
    sink: S,
) -> io::Result<Mirror>
where
    S: FnMut(Captured) + Clone + Send + 'static,
{
    let address = socket.local_addr()?;
    let stop = CancellationToken::new();
    let shared = Arc::new(Shared {
        settings,
        edge,
        budget,
        refusals: LogLimit::every(WARN_EVERY),
        stop: stop.clone(),
    });
    let serving = tokio::spawn(serve(socket, address, shared, sink));
    Ok(Mirror {
        address,
        stop: stop.drop_guard(),
        serving,
    })
}

impl Mirror {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends; requests that are under way have a second to become complete.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "mirror endpoint failed");
        }
    }
}

async fn serve<S>(socket: TcpListener, address: SocketAddr, shared: Arc<Shared>, sink: S)
where
    S: FnMut(Captured) + Clone + Send + 'static,
{
    tracing::info!(%address, "mirror endpoint started");
    let places = Arc::new(Semaphore::new(shared.settings.connections));
    let (troubles, crowds) = (LogLimit::every(WARN_EVERY), LogLimit::every(WARN_EVERY));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = shared.stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(suppressed) = troubles.allow() {
                    tracing::warn!(%error, suppressed, "mirror endpoint: can't accept connections");
                }
                // Out of file descriptors, most likely: others have to end first.
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            shared.edge.count(EdgeEvent::MirrorTurnedAway, 1);
            if let Some(suppressed) = crowds.allow() {
                tracing::warn!(%peer, suppressed, "mirror endpoint: too many connections");
            }
            continue;
        };
        shared.edge.count(EdgeEvent::MirrorConnections, 1);
        let connection = Connection::new(stream, peer, shared.clone());
        let sink = sink.clone();
        tasks.spawn(async move {
            connection.serve(sink).await;
            drop(place);
        });
    }
    drop(socket);
    tasks.close();
    tasks.wait().await;
    tracing::info!(%address, "mirror endpoint stopped");
}

#[cfg(test)]
mod tests;
