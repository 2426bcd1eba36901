//! The admin port: what people, probes and Prometheus may ask of a node.
//!
//! What enters: HTTP requests from anybody who can reach the port. What leaves: metrics, health, the ledger; nothing
//! can be changed here. What may be lost: connections past a limit and those that dawdle, so that a stranger can't
//! use up the node's memory or descriptors.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use reprise_traffic::ledger::LedgerReport;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::{Health, ListenAddress, LogLimit};

/// Connections at a time; a probe, a few scrapers and people with a browser need no more.
const CONNECTIONS: usize = 64;
/// From the connection, or the last answer, to the end of the next request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection's life; a scraper that keeps it opens another.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// Memory for a request's head.
const HEAD_BYTES: usize = 16 << 10;

/// Media type of what prometheus-client encodes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const INDEX: &str = "\
/metrics  counters for Prometheus
/healthz  200 while the process is alive
/readyz   200 when this node can do its job, 503 with the reasons when not
/ledger   what became of every exchange, as JSON
";

/// Gives a node's ledger at the time of the call.
pub type LedgerSource = Arc<dyn Fn() -> LedgerReport + Send + Sync>;

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    /// The node's id.
    pub node: String,
    /// Its role.
    pub role: &'static str,
    /// Its metrics.
    pub registry: Arc<Registry>,
    /// Its conditions.
    pub health: Health,
    /// Its ledger.
    pub ledger: LedgerSource,
}

/// An admin port that is bound and not served yet: a node learns that it can't have it before it begins anything.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// Binds the admin port.
///
/// # Errors
/// One line, when the address can't be bound.
pub fn bind(address: &ListenAddress) -> anyhow::Result<Bound> {
    let listener = address.bind("admin", "--admin")?;
    let address = listener.local_addr().context("read the admin address")?;
    Ok(Bound { listener, address })
}

impl Bound {
    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the task is aborted.
    pub fn serve(self, admin: Admin) -> JoinHandle<()> {
        tokio::spawn(accept(self.listener, router(admin)))
    }
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/ledger", get(ledger))
        .with_state(admin)
}

async fn index(State(admin): State<Admin>) -> String {
    format!("reprise {} {}\n\n{INDEX}", admin.role, admin.node)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let readiness = admin.health.readiness();
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness)).into_response()
}

async fn ledger(State(admin): State<Admin>) -> Json<LedgerReport> {
    Json((admin.ledger)())
}

async fn accept(listener: TcpListener, router: Router) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let strangers = Arc::new(LogLimit::every(Duration::from_secs(10)));
    let troubles = LogLimit::every(Duration::from_secs(10));
    // Aborted with this task.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(suppressed) = troubles.allow() {
                    tracing::warn!(%error, suppressed, "admin: can't accept connections");
                }
                // Out of descriptors, most likely: don't spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            if let Some(suppressed) = troubles.allow() {
                tracing::warn!(
                    suppressed,
                    "admin: {CONNECTIONS} connections open, {peer} refused"
                );
            }
            continue;
        };
        let (router, strangers) = (router.clone(), Arc::clone(&strangers));
        connections.spawn(async move {
            if let Err(error) = connection(stream, router).await {
                if !(error.is_parse() || error.is_incomplete_message()) {
                    tracing::debug!(%error, %peer, "admin: connection ended");
                } else if let Some(suppressed) = strangers.allow() {
                    tracing::warn!(suppressed, "admin: not HTTP from {peer}");
                }
            }
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, router: Router) -> hyper::Result<()> {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::time::timeout(CONNECTION_LIFE, connection)
        .await
        .unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn admin(health: &Health) -> Admin {
        let mut registry = Registry::default();
        let captured: Counter = Counter::default();
        registry.register("reprise_captured", "Requests captured", captured.clone());
        captured.inc();
        Admin {
            node: "n1".to_owned(),
            role: "relay",
            registry: Arc::new(registry),
            health: health.clone(),
            ledger: Arc::new(|| LedgerReport {
                node: "n1".to_owned(),
                ..LedgerReport::default()
            }),
        }
    }

    fn serve(admin: Admin) -> (SocketAddr, JoinHandle<()>) {
        let bound = bind(&ListenAddress::loopback(0)).unwrap();
        (bound.address(), bound.serve(admin))
    }

    async fn ask(address: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // A peer that closed early is a fine answer to garbage.
        stream.write_all(bytes).await.ok();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(60), read)
            .await
            .unwrap()
            .ok();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        ask(address, request.as_bytes()).await
    }

    #[tokio::test]
    async fn answers_people_and_probes() {
        let health = Health::new();
        let (address, task) = serve(admin(&health));
        assert!(fetch(address, "/").await.contains("/ledger"));
        assert!(
            fetch(address, "/metrics")
                .await
                .contains("reprise_captured_total 1")
        );
        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/ledger").await.contains("\"node\":\"n1\""));
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        health.set("relay", Err("none found".to_owned()));
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("none found"), "{answer}");
        assert!(fetch(address, "/nothing").await.starts_with("HTTP/1.1 404"));
        task.abort();
    }

    #[tokio::test]
    async fn garbage_disturbs_nobody() {
        let (address, task) = serve(admin(&Health::new()));
        let long = vec![b'a'; 1 << 20];
        for garbage in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\0\0\0\0\r\n\r\n",
            &long,
        ] {
            let answer = ask(address, garbage).await;
            assert!(!answer.contains("200 OK"), "{answer}");
        }
        assert!(fetch(address, "/healthz").await.contains("ok"));
        task.abort();
    }

    #[tokio::test]
    async fn connections_are_limited() {
        let (address, task) = serve(admin(&Health::new()));
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        assert_eq!(fetch(address, "/healthz").await, "");
        idle.clear();
        tokio::time::timeout(Duration::from_secs(30), async {
            while !fetch(address, "/healthz").await.contains("ok") {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        task.abort();
    }

    #[tokio::test]
    async fn a_port_in_use_is_one_line() {
        let (address, task) = serve(admin(&Health::new()));
        let again = ListenAddress::loopback(address.port());
        let error = bind(&again).unwrap_err().to_string();
        assert!(
            error.contains("already in use; choose another with --admin"),
            "{error}"
        );
        task.abort();
    }
}
