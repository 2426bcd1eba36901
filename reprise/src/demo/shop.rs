//! A shop that listens: production, or a copy of it that is staging.
//!
//! What enters: requests on loopback. What leaves: replies; a count of what came; and, where it is asked for, a copy
//! of each request to a mirror endpoint, as nginx does with `mirror`. What may be lost: a copy that the mirror
//! endpoint doesn't take, which is counted; the customer gets the reply all the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use fastrand::Rng;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use reprise_traffic::MARKER;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::{JoinHandle, JoinSet};

use super::arrivals::{Arrivals, Register};
use super::catalogue::{Asked, Edition, Reply};
use super::wire::Wire;

/// A shop, until it is dropped.
#[derive(Debug)]
pub(crate) struct Shop {
    address: SocketAddr,
    counter: Arc<Counter>,
    serving: JoinHandle<()>,
}

/// What all connections share.
#[derive(Debug)]
struct Counter {
    edition: Edition,
    arrivals: Mutex<Register>,
    mirror: OnceLock<SocketAddr>,
    /// Copies that the mirror endpoint didn't take.
    not_mirrored: AtomicU64,
}

impl Shop {
    /// Opens a shop on a free port of this host.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn open(edition: Edition) -> anyhow::Result<Shop> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let socket = socket.context("listen for a shop on 127.0.0.1")?;
        let counter = Arc::new(Counter {
            edition,
            arrivals: Mutex::default(),
            mirror: OnceLock::new(),
            not_mirrored: AtomicU64::new(0),
        });
        Ok(Shop {
            address: socket.local_addr().context("read the address of a shop")?,
            serving: tokio::spawn(serve(socket, counter.clone())),
            counter,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From the next connection on, sends a copy of each request there.
    pub(crate) fn mirror_to(&self, endpoint: SocketAddr) {
        // One cluster, one endpoint: a second call would change nothing.
        let _ = self.counter.mirror.set(endpoint);
    }

    /// What came until now.
    pub(crate) fn arrivals(&self) -> Arrivals {
        self.counter
            .arrivals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .arrivals()
    }

    /// Copies that the mirror endpoint didn't take.
    pub(crate) fn not_mirrored(&self) -> u64 {
        self.counter.not_mirrored.load(Ordering::Relaxed)
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Serves until the task is aborted, which ends its connections too.
async fn serve(socket: TcpListener, counter: Arc<Counter>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match socket.accept().await {
            Ok((stream, _)) => drop(connections.spawn(converse(stream, counter.clone()))),
            // Out of descriptors, most likely: don't spin.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn converse(stream: TcpStream, counter: Arc<Counter>) {
    if stream.set_nodelay(true).is_err() {
        return; // It is gone already.
    }
    // Copies keep the order of the connection that they came on, on one of their own.
    let mirror = counter
        .mirror
        .get()
        .map(|endpoint| Arc::new(AsyncMutex::new(Wire::new(*endpoint))));
    let dice = Mutex::new(Rng::new());
    let service = service_fn(async |request: Request<Incoming>| {
        answer(request, &counter, mirror.as_ref(), &dice).await
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    // A peer that goes away in the middle is counted by nobody, as nothing whole came.
    let _ = connection.await;
}

async fn answer(
    request: Request<Incoming>,
    counter: &Arc<Counter>,
    mirror: Option<&Arc<AsyncMutex<Wire>>>,
    dice: &Mutex<Rng>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    counter.note(&head);
    let (delay, reply) = {
        let mut dice = dice.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = asked(&head, &body);
        (
            counter.edition.delay(&mut dice),
            counter.edition.reply(&asked, &mut dice),
        )
    };
    if let Some(mirror) = mirror {
        // As with nginx: the reply doesn't wait for the copy, but the connection's next request does.
        let mut mirror = mirror.clone().lock_owned().await;
        let (copy, counter) = (copy(&head, body), counter.clone());
        tokio::spawn(async move {
            if mirror.ask(copy).await.is_err() {
                counter.not_mirrored.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tokio::time::sleep(delay).await;
    Ok(response(reply))
}

impl Counter {
    fn note(&self, head: &Parts) {
        let mark = head.headers.get(MARKER).and_then(|mark| mark.to_str().ok());
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.note(mark, head.method.is_safe());
    }
}

fn asked<'a>(head: &'a Parts, body: &'a [u8]) -> Asked<'a> {
    let cookies = head.headers.get_all(header::COOKIE).iter();
    let signed_in = cookies
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("sid="));
    Asked {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        signed_in,
        body,
    }
}

fn copy(head: &Parts, body: Bytes) -> Request<Full<Bytes>> {
    let mut copy = Request::new(Full::new(body));
    *copy.method_mut() = head.method.clone();
    *copy.uri_mut() = head.uri.clone();
    *copy.headers_mut() = head.headers.clone();
    // The body is whole now, and goes with its length.
    copy.headers_mut().remove(header::TRANSFER_ENCODING);
    copy
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(reply.body));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(reply.content_type),
    );
    if let Some(location) = reply.location {
        headers.insert(header::LOCATION, header::HeaderValue::from_static(location));
    }
    // The shop's own cookies are plain ASCII.
    if let Some(cookie) = reply.cookie.and_then(|cookie| cookie.try_into().ok()) {
        headers.insert(header::SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    fn get(path: &str) -> Request<Full<Bytes>> {
        let request = Request::get(path)
            .header(header::HOST, "shop")
            .header(MARKER, "l/1/1");
        request.body(Full::default()).unwrap()
    }

    async fn until(mut so: impl FnMut() -> bool) {
        let waiting = async {
            while !so() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_copy_of_each_request_reaches_the_mirror() {
        let (shop, mirror) = (
            Shop::open(Edition::Production).await.unwrap(),
            Shop::open(Edition::V2).await.unwrap(),
        );
        shop.mirror_to(mirror.address());
        let mut wire = Wire::new(shop.address());
        for _ in 0..3 {
            let status = wire.ask(get("/static/none")).await.unwrap().status();
            assert!(status == StatusCode::NOT_FOUND || status.is_server_error());
        }
        until(|| mirror.arrivals().requests == 3).await;
        assert_eq!(shop.arrivals(), mirror.arrivals());
        assert_eq!(
            mirror.arrivals(),
            Arrivals {
                requests: 3,
                different: 1,
                safe_again: 2,
                ..Arrivals::default()
            }
        );
        assert_eq!(shop.not_mirrored(), 0);
    }

    #[tokio::test]
    async fn a_mirror_that_is_not_there_harms_no_customer() {
        let shop = Shop::open(Edition::Production).await.unwrap();
        let nobody = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        shop.mirror_to(nobody);
        Wire::new(shop.address()).ask(get("/")).await.unwrap();
        until(|| shop.not_mirrored() == 1).await;
    }
}
