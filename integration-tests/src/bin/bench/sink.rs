//! A relay that only notes what arrives, and settles it at once.
//!
//! What enters: streams of listeners, by the same gRPC service as a real relay's. What leaves: how long each request
//! was on its way since its first byte passed the capture, and on demand the SHA-256 of each body. What may be lost:
//! nothing; what was not taken when it ends is the listener's still.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use reprise_integration_tests::Place;
use reprise_proto::{Downstream, Inlet, Parcel, Settlement, Upstream, Welcome};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// As a real relay's credit (`listener_window`).
const WINDOW_BYTES: u64 = 64 << 20;
const WINDOW_EXCHANGES: u64 = 65_536;
/// Three significant figures.
const PRECISION: u8 = 3;

/// What arrived.
#[derive(Debug)]
pub(crate) struct Arrivals {
    pub(crate) requests: u64,
    /// From the capture's time stamp to here, nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Of each body, where asked for.
    pub(crate) bodies: Vec<[u8; 32]>,
}

impl Arrivals {
    fn none() -> Result<Arrivals> {
        Ok(Arrivals {
            requests: 0,
            latency: Histogram::new(PRECISION)?,
            bodies: Vec::new(),
        })
    }

    fn note(&mut self, parcel: &Parcel, now_ns: u64, bodies: bool) {
        let request = &parcel.exchange.request;
        self.requests += 1;
        // A histogram that grows by itself refuses nothing.
        let _ = self
            .latency
            .record(now_ns.saturating_sub(request.captured_ns));
        if bodies {
            let mut hash = Sha256::new();
            for chunk in request.body.chunks() {
                hash.update(chunk);
            }
            self.bodies.push(hash.finalize().into());
        }
    }
}

/// A running one.
#[derive(Debug)]
pub(crate) struct Sink {
    address: SocketAddr,
    arrivals: Arc<Mutex<Arrivals>>,
    stop: CancellationToken,
    runtime: Option<Runtime>,
}

impl Sink {
    /// Listens at `place`; with `bodies`, hashes what arrives.
    ///
    /// # Errors
    /// When it can't listen.
    pub(crate) fn start(place: &Place, bodies: bool) -> Result<Sink> {
        let free = place.free()?;
        let socket = place.enter(|| TcpListener::bind(free))?.context("listen")?;
        socket.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start the runtime of the sink")?;
        let arrivals = Arc::new(Mutex::new(Arrivals::none()?));
        let stop = CancellationToken::new();
        let (noted, stopped) = (arrivals.clone(), stop.clone());
        let inside = runtime.enter();
        let socket = tokio::net::TcpListener::from_std(socket)?;
        drop(inside);
        runtime.spawn(async move {
            let mut server = reprise_proto::serve(socket, welcome(), None);
            let take = |inlet| {
                tokio::spawn(take(inlet, noted.clone(), bodies));
            };
            // It ends with this process's interest in it.
            let _ = server.until(&stopped, take).await;
        });
        Ok(Sink {
            address: free,
            arrivals,
            stop,
            runtime: Some(runtime),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn requests(&self) -> u64 {
        lock(&self.arrivals).requests
    }

    /// What arrived since the last call.
    pub(crate) fn take(&self) -> Result<Arrivals> {
        let none = Arrivals::none()?;
        Ok(std::mem::replace(&mut *lock(&self.arrivals), none))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lock(arrivals: &Mutex<Arrivals>) -> MutexGuard<'_, Arrivals> {
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

fn welcome() -> Welcome {
    Welcome {
        node: "bench".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: now_ns(),
        window_exchanges: WINDOW_EXCHANGES,
        window_bytes: WINDOW_BYTES,
    }
}

async fn take(mut inlet: Inlet, arrivals: Arc<Mutex<Arrivals>>, bodies: bool) {
    while let Some(Ok(message)) = inlet.down.recv().await {
        let now_ns = now_ns();
        let Downstream::Batch(batch) = message else {
            continue;
        };
        {
            let mut arrivals = lock(&arrivals);
            for parcel in &batch.parcels {
                arrivals.note(parcel, now_ns, bodies);
            }
        }
        let settled = batch.parcels.iter().map(|parcel| Settlement {
            id: parcel.exchange.id.clone(),
            outcomes: Default::default(),
        });
        let answers = [
            Upstream::Accepted(batch.id),
            Upstream::Settled(settled.collect()),
        ];
        for answer in answers {
            if inlet.up.send(answer).await.is_err() {
                return;
            }
        }
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
