//! The cluster's API server, as a pod finds it.
//!
//! What enters: the environment and the files that Kubernetes gives every pod. What leaves: where the API is, and
//! answers of it over TLS. What may be lost: nothing; what fails is an error.
//!
//! Each request has a connection of its own, for which the files are read again: tokens live for an hour, and few
//! requests are made.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::super::CaptureError;

/// Where Kubernetes puts the files of a pod's service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An API server that doesn't answer for so long is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A watch may say nothing for minutes; that its server is gone shows within 20 s.
const PROBE: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// A node has some hundred pods, each of which takes 5 to 20 KB.
const LONGEST_ANSWER: usize = 8 << 20;
const LONGEST_COMPLAINT: usize = 64 << 10;

/// Where a cluster's API is, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// A name or an address.
    pub host: String,
    /// For HTTPS.
    pub port: u16,
    /// The directory with `token`, `ca.crt` and `namespace`.
    pub account: PathBuf,
    /// Of whose pods the traffic passes here; all, where that isn't known.
    pub node: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The API says that there is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// Whatever else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// The API's own words.
#[derive(Deserialize)]
struct Status {
    message: String,
}

impl Cluster {
    /// That of this process's pod.
    ///
    /// # Errors
    /// If this process is in none.
    pub fn of_this_pod() -> Result<Cluster, CaptureError> {
        let of = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let host = of("KUBERNETES_SERVICE_HOST");
        let port = of("KUBERNETES_SERVICE_PORT").map_or(Some(443), |port| port.parse().ok());
        let (Some(host), Some(port)) = (host, port) else {
            return Err(CaptureError::Setting(
                "pods are captured by a listener that runs in the cluster itself: KUBERNETES_SERVICE_HOST is not set"
                    .to_owned(),
            ));
        };
        Ok(Cluster {
            host,
            port,
            account: PathBuf::from(ACCOUNT),
            node: of("NODE_NAME"),
        })
    }

    /// The namespace of this process's pod.
    pub(super) fn namespace(&self) -> anyhow::Result<String> {
        Ok(read(&self.account.join("namespace"))?.trim().to_owned())
    }

    /// The whole answer to a question.
    pub(super) async fn ask(&self, path: &str) -> Result<Bytes, ApiError> {
        let whole = async {
            let answer = self.get(path).await?;
            body(answer, LONGEST_ANSWER).await.map_err(ApiError::Other)
        };
        let within = tokio::time::timeout(PATIENCE, whole).await;
        within.unwrap_or_else(|_| Err(silent()))
    }

    /// An answer of which more and more comes.
    pub(super) async fn listen(&self, path: &str) -> Result<Incoming, ApiError> {
        let answer = tokio::time::timeout(PATIENCE, self.get(path)).await;
        Ok(answer.unwrap_or_else(|_| Err(silent()))?.into_body())
    }

    async fn get(&self, path: &str) -> Result<Response<Incoming>, ApiError> {
        let request = self.request(path)?;
        let stream = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .context("speak to the API server")?;
        // What ends the connection is seen by those who read the answer.
        tokio::spawn(connection);
        let answer = sender.send_request(request).await;
        let answer = answer.context("ask the API server")?;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let said = body(answer, LONGEST_COMPLAINT).await?;
        let said = match serde_json::from_slice::<Status>(&said) {
            Ok(said) => format!("the API server answers {status}: {}", said.message),
            Err(_) => format!("the API server answers {status}"),
        };
        Err(match status {
            StatusCode::NOT_FOUND => ApiError::NotFound(said),
            _ => ApiError::Other(anyhow!(said)),
        })
    }

    fn request(&self, path: &str) -> anyhow::Result<Request<Empty<Bytes>>> {
        let token = read(&self.account.join("token"))?;
        let mut token = HeaderValue::try_from(format!("Bearer {}", token.trim()))
            .context("the service account's token is no header value")?;
        token.set_sensitive(true);
        let host = match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        };
        let request = Request::get(path)
            .header(HOST, host)
            .header(AUTHORIZATION, token)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "reprise-listener");
        request.body(Empty::new()).context("make a request")
    }

    async fn connect(&self) -> anyhow::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from(self.host.clone())
            .with_context(|| format!("{:?} is no host name", self.host))?;
        let tls = self.tls()?;
        let address = (self.host.as_str(), self.port);
        let stream = TcpStream::connect(address).await;
        let stream = stream
            .with_context(|| format!("connect to the API server, {}:{}", self.host, self.port))?;
        let probing = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE);
        SockRef::from(&stream)
            .set_tcp_keepalive(&probing.with_retries(PROBES))
            .context("set keep-alive")?;
        let stream = tls.connect(name, stream).await;
        stream.context("open TLS to the API server")
    }

    fn tls(&self) -> anyhow::Result<TlsConnector> {
        let file = self.account.join("ca.crt");
        let pem = read(&file)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.with_context(|| format!("read {}", file.display()))?;
            let added = roots.add(certificate);
            added.with_context(|| format!("trust {}", file.display()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("set up TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn silent() -> ApiError {
    ApiError::Other(anyhow!("the API server doesn't answer"))
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

async fn body(answer: Response<Incoming>, most: usize) -> anyhow::Result<Bytes> {
    let body = Limited::new(answer.into_body(), most).collect().await;
    let body = body.map_err(|error| anyhow!(error).context("read the API server's answer"))?;
    Ok(body.to_bytes())
}
