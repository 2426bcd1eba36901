//! Ports that take streams of records of GoReplay's format, as its `--output-tcp` sends them.
//!
//! What enters: connections, plain or by TLS. What leaves: each record as a message of its own ([`crate::records`]), into the
//! window, those of one connection in order. What may be lost: records that can't be read, are too large or cut off, and
//! connections past a limit, all counted. A port can wait: while the window has no room nothing is read, so that TCP
//! holds the sender up, and nothing is dropped for want of room. Records that are under way have a bound of their own
//! ([`under_way`]), so that senders that stop within one hold up nobody else for long.

mod connection;
pub mod cutter;
mod tls;
mod under_way;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use reprise_node::{ListenAddress, LogLimit};
use reprise_traffic::exchange::Captured;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::budget::Budget;
use crate::edge::{Edge, EdgeEvent};
use crate::intake::Intake;
use crate::limit::Limiter;
use crate::records::Turns;
use connection::Connection;
use under_way::Pool;

pub use tls::TlsFiles;

const WARN_EVERY: Duration = Duration::from_secs(10);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A sender whose host is gone is noticed after this time without a byte, and a minute.
const SILENCE: Duration = Duration::from_secs(60);
/// Connections that read at a time: what each has read is in the window before the next one reads, so that all together
/// pass its bounds by little.
const AT_ONCE: usize = 4;

/// Ports, and what holds for each.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where senders connect to.
    pub addresses: Vec<ListenAddress>,
    /// Who we are, where senders speak TLS.
    pub tls: Option<TlsFiles>,
    /// Connections at a time, of each port; more are turned away.
    pub connections: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            addresses: Vec::new(),
            tls: None,
            connections: 1024,
        }
    }
}

/// Ports that are bound, and read nothing yet.
pub(crate) struct Opened {
    sockets: Vec<TcpListener>,
    tls: Option<TlsAcceptor>,
    connections: usize,
}

/// Binds all ports.
///
/// # Errors
/// One line, when one can't be had or a file can't be used.
pub(crate) fn open(settings: &Settings) -> anyhow::Result<Opened> {
    let bind = |address: &ListenAddress| address.bind("record port", "--input-tcp");
    Ok(Opened {
        tls: settings.tls.as_ref().map(TlsFiles::acceptor).transpose()?,
        sockets: settings
            .addresses
            .iter()
            .map(bind)
            .collect::<anyhow::Result<_>>()?,
        connections: settings.connections,
    })
}

impl Opened {
    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

/// Where records go, of all ports of a listener.
#[derive(Debug)]
pub(crate) struct Entry {
    intake: Arc<Intake>,
    discards: bool,
    turns: Arc<Turns>,
    edge: Arc<Edge>,
    /// A larger record is passed over.
    max_exchange: usize,
    pool: Pool,
    reading: Semaphore,
}

impl Entry {
    /// Into `intake`, or only counted where that `discards`.
    pub(crate) fn new(
        (intake, discards): (Arc<Intake>, bool),
        turns: Arc<Turns>,
        budget: Arc<Budget>,
        edge: Arc<Edge>,
        max_exchange: usize,
    ) -> Entry {
        Entry {
            intake,
            discards,
            turns,
            pool: Pool::new(budget, max_exchange),
            edge,
            max_exchange,
            reading: Semaphore::new(AT_ONCE),
        }
    }

    async fn room(&self) {
        if !self.discards {
            self.intake.room(self.pool.held()).await;
        }
    }

    fn take(&self, mut messages: Vec<Captured>) {
        match self.discards {
            true => messages
                .drain(..)
                .for_each(|message| self.intake.discard(message)),
            false => self.intake.admit_all(&mut messages),
        }
    }
}

/// What the connections to a port share.
struct Shared {
    entry: Arc<Entry>,
    limiter: Limiter,
    /// Flaws that were told, of all connections.
    told: AtomicU64,
    flaws: LogLimit,
    stop: CancellationToken,
}

/// A running port. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct RecordPort {
    address: SocketAddr,
    stop: DropGuard,
    serving: JoinHandle<()>,
}

/// Takes records from all connections to these ports; `limiter` makes the limit of each.
///
/// # Errors
/// If a socket has no address.
pub(crate) fn start(
    opened: Opened,
    entry: &Arc<Entry>,
    limiter: impl Fn() -> Limiter,
) -> io::Result<Vec<RecordPort>> {
    let mut ports = Vec::new();
    for socket in opened.sockets {
        let address = socket.local_addr()?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            entry: entry.clone(),
            limiter: limiter(),
            told: AtomicU64::new(0),
            flaws: LogLimit::every(WARN_EVERY),
            stop: stop.clone(),
        });
        let serving = serve(
            socket,
            address,
            opened.tls.clone(),
            opened.connections,
            shared,
        );
        ports.push(RecordPort {
            address,
            stop: stop.drop_guard(),
            serving: tokio::spawn(serving),
        });
    }
    Ok(ports)
}

impl RecordPort {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends; what senders have sent already has a moment to come.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.serving.await {
            error!(%error, "record port failed");
        }
    }
}

async fn serve(
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    connections: usize,
    shared: Arc<Shared>,
) {
    info!(%address, tls = tls.is_some(), "record port started");
    let places = Arc::new(Semaphore::new(connections));
    let (troubles, crowds) = (LogLimit::every(WARN_EVERY), LogLimit::every(WARN_EVERY));
    let edge = shared.entry.edge.clone();
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
                    warn!(%error, suppressed, "record port: can't accept connections");
                }
                // Out of file descriptors, most likely: others have to end first.
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            edge.count(EdgeEvent::RecordsTurnedAway, 1);
            if let Some(suppressed) = crowds.allow() {
                warn!(%peer, suppressed, "record port: too many connections");
            }
            continue;
        };
        edge.count(EdgeEvent::RecordConnections, 1);
        let keepalive = TcpKeepalive::new().with_time(SILENCE);
        // Without it a dead sender keeps its place for longer.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        let serving = connect(stream, peer, tls.clone(), shared.clone());
        tasks.spawn(async move {
            serving.await;
            drop(place);
        });
    }
    drop(socket);
    tasks.close();
    tasks.wait().await;
    info!(%address, "record port stopped");
}

async fn connect(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
) {
    let connection = Connection::new(peer, shared.clone());
    let Some(tls) = tls else {
        return connection.serve(stream).await;
    };
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(HANDSHAKE, tls.accept(stream)) => shaken,
        () = shared.stop.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => connection.serve(stream).await,
        Ok(Err(error)) => debug!(%peer, %error, "record port: no TLS"),
        Err(_) => debug!(%peer, "record port: no TLS in time"),
    }
}

#[cfg(test)]
mod tests;
