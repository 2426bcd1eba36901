//! A kept-alive HTTP/1.1 connection to one server: a customer's, or a shop's to a mirror endpoint.
//!
//! What enters: requests. What leaves: whole answers. What may be lost: a request on a connection that breaks, which
//! is an error; nothing is sent a second time.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// For one answer; servers here need milliseconds.
const LIMIT: Duration = Duration::from_secs(10);

/// A connection that is opened when it is needed.
#[derive(Debug)]
pub(crate) struct Wire {
    to: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Wire {
    /// A connection to `to`, not open yet.
    pub(crate) fn new(to: SocketAddr) -> Wire {
        Wire { to, sender: None }
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection can't be had or breaks, or no answer comes in time. The next request opens another one.
    pub(crate) async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<Response<Bytes>> {
        let answer = tokio::time::timeout(LIMIT, self.converse(request)).await;
        let answer = answer.context("no answer in time").flatten();
        if answer.is_err() {
            self.close();
        }
        answer.with_context(|| format!("ask {}", self.to))
    }

    /// Closes the connection.
    pub(crate) fn close(&mut self) {
        self.sender = None;
    }

    async fn converse(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => open(self.to).await?,
        };
        sender.ready().await?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.sender = Some(sender);
        Ok(Response::from_parts(head, body))
    }
}

async fn open(to: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // How it broke is what the request in it says.
        let _ = connection.await;
    });
    Ok(sender)
}
