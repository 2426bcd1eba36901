//! As much of a Kubernetes API server as lists and watches pods, over HTTPS, with a certificate and a token of its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use reprise_listener::capture::Cluster;
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

const TOKEN: &str = "a.service.account's-token";
const NAMESPACE: &str = "shop";
pub(crate) const NODE: &str = "node-1";

/// What there is in the cluster.
#[derive(Default)]
struct State {
    revision: u64,
    pods: BTreeMap<String, Value>,
    /// With their selectors.
    deployments: BTreeMap<String, Value>,
    /// Their queries, and where what happens is told.
    watches: Vec<(String, mpsc::Sender<Bytes>)>,
    fails: bool,
    asked: Vec<String>,
}

/// A running server.
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    pub(crate) cluster: Cluster,
    account: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Api {
    /// Starts it on this thread's host.
    pub(crate) fn start() -> Api {
        let account = tempfile::tempdir().unwrap();
        let acceptor = identity(account.path());
        std::fs::write(account.path().join("namespace"), NAMESPACE).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        // Its threads are on the same host.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        runtime.spawn(serve(listener, acceptor, state.clone()));
        let api = Api {
            state,
            cluster: Cluster {
                host: address.ip().to_string(),
                port: address.port(),
                account: account.path().to_owned(),
                node: Some(NODE.to_owned()),
            },
            account,
            _runtime: runtime,
        };
        api.renew_token();
        api
    }

    /// A pod comes, or changes.
    pub(crate) fn put(&self, name: &str, app: &str, address: &str, node: &str) {
        let pod = json!({
            "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [{"name": "web"}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
        });
        let mut state = self.state.lock().unwrap();
        let kind = match state.pods.insert(name.to_owned(), pod.clone()) {
            None => "ADDED",
            Some(_) => "MODIFIED",
        };
        state.tell(kind, &pod);
    }

    pub(crate) fn delete(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        let pod = state.pods.remove(name).unwrap();
        state.tell("DELETED", &pod);
    }

    pub(crate) fn deploy(&self, name: &str, app: &str) {
        let selector = json!({"matchLabels": {"app": app}});
        let mut state = self.state.lock().unwrap();
        state.deployments.insert(name.to_owned(), selector);
    }

    /// From now on each question is answered 500, and watches end; or that is over.
    pub(crate) fn fail(&self, fails: bool) {
        let mut state = self.state.lock().unwrap();
        state.fails = fails;
        state.watches.clear();
    }

    /// Watches can't be resumed, as after the API server has forgotten what happened.
    pub(crate) fn expire(&self) {
        let mut state = self.state.lock().unwrap();
        let gone = json!({"kind": "Status", "code": 410, "message": "too old resource version"});
        let line = event("ERROR", &gone);
        for (_, watch) in state.watches.drain(..) {
            watch.try_send(line.clone()).unwrap();
        }
    }

    pub(crate) fn forget_token(&self) {
        self.write_token("another");
    }

    pub(crate) fn renew_token(&self) {
        self.write_token(TOKEN);
    }

    fn write_token(&self, token: &str) {
        std::fs::write(self.account.path().join("token"), format!("{token}\n")).unwrap();
    }

    /// The questions so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    /// Waits until so many questions were asked.
    pub(crate) fn wait_until_asked(&self, times: usize) {
        let until = std::time::Instant::now() + super::PATIENCE;
        while self.asked().len() < times && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl State {
    fn tell(&mut self, kind: &str, pod: &Value) {
        self.revision += 1;
        let line = event(kind, pod);
        self.watches
            .retain(|(query, watch)| !matches(query, pod) || watch.try_send(line.clone()).is_ok());
    }
}

/// A certificate for the address, which signs itself, and the acceptor that shows it.
fn identity(account: &Path) -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(account.join("ca.crt"), made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, state) = (acceptor.clone(), state.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let answer = service_fn(|request| {
                let answer = answer(&request, &state);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

type Body = BoxBody<Bytes, Infallible>;

fn answer(request: &Request<Incoming>, state: &Mutex<State>) -> Response<Body> {
    let mut state = state.lock().unwrap();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let query = percent_encoding::percent_decode_str(&query)
        .decode_utf8()
        .unwrap();
    state
        .asked
        .push(format!("{}?{query}", request.uri().path()));
    let token = format!("Bearer {TOKEN}");
    if request.headers()["authorization"] != token.as_str() {
        return whole(
            StatusCode::UNAUTHORIZED,
            &json!({"message": "Unauthorized"}),
        );
    }
    if state.fails {
        return whole(
            StatusCode::INTERNAL_SERVER_ERROR,
            &json!({"message": "etcd is away"}),
        );
    }
    let not_found = || whole(StatusCode::NOT_FOUND, &json!({"message": "not found"}));
    let deployments = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/");
    if let Some(name) = request.uri().path().strip_prefix(&deployments) {
        return match state.deployments.get(name) {
            Some(selector) => whole(StatusCode::OK, &json!({"spec": {"selector": selector}})),
            None => not_found(),
        };
    }
    if request.uri().path() != format!("/api/v1/namespaces/{NAMESPACE}/pods") {
        return not_found();
    }
    if !query.contains("watch=true") {
        let items: Vec<&Value> = state
            .pods
            .values()
            .filter(|pod| matches(&query, pod))
            .collect();
        let version = state.revision.to_string();
        let list =
            json!({"kind": "PodList", "metadata": {"resourceVersion": version}, "items": items});
        return whole(StatusCode::OK, &list);
    }
    let version = format!("resourceVersion={}", state.revision);
    if !query.split('&').any(|part| part == version) {
        let status = json!({"message": format!("{query} is not at {version}")});
        return whole(StatusCode::GONE, &status);
    }
    let (sender, receiver) = mpsc::channel(64);
    state.watches.push((query.into_owned(), sender));
    let frames = tokio_stream::StreamExt::map(ReceiverStream::new(receiver), |line| {
        Ok::<_, Infallible>(Frame::data(line))
    });
    Response::new(BodyExt::boxed(StreamBody::new(frames)))
}

fn whole(status: StatusCode, json: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(json.to_string()));
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    response
}

fn event(kind: &str, object: &Value) -> Bytes {
    let line = json!({"type": kind, "object": object});
    Bytes::from(format!("{line}\n"))
}

/// Whether the selectors of a query take a pod; of comparisons, equality alone.
fn matches(query: &str, pod: &Value) -> bool {
    query.split('&').all(|part| {
        let (key, selector) = part.split_once('=').unwrap();
        let value = |field: &str| match (key, field) {
            ("labelSelector", label) => pod["metadata"]["labels"][label].as_str(),
            (_, "metadata.name") => pod["metadata"]["name"].as_str(),
            (_, "spec.nodeName") => pod["spec"]["nodeName"].as_str(),
            _ => None,
        };
        let is_equal = |pair: &str| {
            let (field, wanted) = pair.split_once('=').unwrap();
            value(field) == Some(wanted)
        };
        !matches!(key, "labelSelector" | "fieldSelector") || selector.split(',').all(is_equal)
    })
}
