//! Asks another node's admin port.
//!
//! What enters: an address and a path. What leaves: the answer's body. What may be lost: nothing; a node that does
//! not answer in time, or with more than [`MOST`], is an error that names it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// For the whole answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an answer.
const MOST: usize = 64 << 20;

/// Gets a page of the admin port at `HOST:PORT`.
///
/// # Errors
/// One line that names the node.
pub(crate) async fn page(address: &str, path: &str) -> anyhow::Result<Bytes> {
    tokio::time::timeout(TIMEOUT, get(address, path))
        .await
        .unwrap_or_else(|_| bail!("no answer within {} s", TIMEOUT.as_secs()))
        .with_context(|| format!("ask http://{address}{path}"))
}

async fn get(address: &str, path: &str) -> anyhow::Result<Bytes> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(header::HOST, address)
        .body(Empty::<Bytes>::new())?;
    let asking = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            bail!("answered {}", response.status());
        }
        let body = Limited::new(response.into_body(), MOST).collect().await;
        body.map(|body| body.to_bytes())
            .map_err(|error| anyhow::anyhow!(error))
    };
    tokio::select! {
        answer = asking => answer,
        Err(error) = connection => Err(error.into()),
    }
}
