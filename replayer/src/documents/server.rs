//! The server that keeps the documents.
//!
//! What enters: bulk requests, the wish for an index template. What leaves: status and body of its answers. What may be
//! lost: nothing; who gets an error doesn't know whether the server got the request.
//!
//! The template has effect where the index is made: of itself, by the first document. A template of that name which is
//! there is somebody's own, and stays.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use reprise_traffic::TargetDocument;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Address;
use super::bulk::reason;
use super::{StartError, Trust};
use crate::tls::Tls;

/// For a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// For a request and its answer.
const ANSWER: Duration = Duration::from_secs(30);

/// An answer to a batch has a line or two for each document that is refused.
const LARGEST_ANSWER: usize = 16 << 20;

/// Ahead of a server's own templates for broad patterns.
const PRIORITY: u32 = 500;

/// Of a longer text only words are found, and not the whole. Lucene's bound is 32,766 bytes.
const LONGEST_KEYWORD: u32 = 8191;

/// Why there is no answer. One line.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("no answer within {ANSWER:?}")]
    Timeout,
    #[error("{0}")]
    Failed(String),
}

/// What became of the template.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Template {
    There,
    Made,
    /// One line.
    Refused(String),
}

pub(super) struct Server {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    address: Address,
    authorization: Option<HeaderValue>,
}

impl Server {
    /// # Errors
    /// When TLS can't be set up.
    pub(super) fn new(address: Address, trust: &Trust) -> Result<Server, StartError> {
        let mut document = TargetDocument::new(&address.base());
        document.ca_file.clone_from(&trust.ca_file);
        // Without TLS nobody is trusted, and this machine needs no authorities.
        document.skip_verify = trust.skip_verify || !address.endpoint.tls;
        // Which protocols there are is the connector's to say.
        let tls = Tls::new(&address.endpoint.host, &document, &[])?;
        let config = tls.connector.config().as_ref().clone();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        let authorization = address.authorization.as_deref().map(|value| {
            let mut value = HeaderValue::from_str(value).map_err(|_| StartError::Authorization)?;
            value.set_sensitive(true);
            Ok::<_, StartError>(value)
        });
        Ok(Server {
            client,
            address,
            authorization: authorization.transpose()?,
        })
    }

    /// Sends a batch.
    ///
    /// # Errors
    /// When there is no answer; it may have come all the same.
    pub(super) async fn bulk(&self, lines: Vec<u8>) -> Result<(u16, Bytes), AskError> {
        // No more is told of each than is needed.
        let path = format!(
            "/{}/_bulk?filter_path=items.*.status,items.*.error,error",
            self.address.index
        );
        let body = Bytes::from(lines);
        self.ask(Method::POST, &path, "application/x-ndjson", body)
            .await
    }

    /// Makes the index template, where it isn't there.
    ///
    /// # Errors
    /// When there is no answer, or one that another time may be different.
    pub(super) async fn template(&self) -> Result<Template, AskError> {
        let index = &self.address.index;
        let mut refusal = String::new();
        for (kind, template) in [
            ("_index_template", composable(index)),
            // Before Elasticsearch 7.8.
            ("_template", legacy(index)),
        ] {
            let path = format!("/{kind}/reprise-{index}");
            let (status, _) = self.json(Method::GET, &path, None).await?;
            if status == 200 {
                return Ok(Template::There);
            }
            let (status, body) = self.json(Method::PUT, &path, Some(&template)).await?;
            match status {
                200..=299 => return Ok(Template::Made),
                429 | 500.. => return Err(AskError::Failed(reason(status, &body))),
                // Not known there. The reason that counts is the first.
                404 | 405 => {}
                400 if unknown(&body) => {}
                _ => return Ok(Template::Refused(reason(status, &body))),
            }
            if refusal.is_empty() {
                refusal = reason(status, &body);
            }
        }
        Ok(Template::Refused(refusal))
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Bytes), AskError> {
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        self.ask(method, path, "application/json", body).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<(u16, Bytes), AskError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.address.base()))
            .header(CONTENT_TYPE, content_type);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| AskError::Failed(error.to_string()))?;
        let asking = async {
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| AskError::Failed(whole(&error)))?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), LARGEST_ANSWER)
                .collect()
                .await;
            let body = body.map_err(|error| AskError::Failed(whole(&*error)))?;
            Ok((status, body.to_bytes()))
        };
        timeout(ANSWER, asking)
            .await
            .unwrap_or(Err(AskError::Timeout))
    }
}

/// An error with what it comes from.
fn whole(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Elasticsearch's way to say 404 where it knows no such path.
fn unknown(body: &[u8]) -> bool {
    memchr::memmem::find(body, b"no handler found").is_some()
}

fn mappings() -> Value {
    let text = json!({
        "type": "text",
        "fields": {"keyword": {"type": "keyword", "ignore_above": LONGEST_KEYWORD}},
    });
    json!({
        "dynamic_templates": [{"texts": {"match_mapping_type": "string", "mapping": text}}],
        "properties": {"RTT": {"type": "long"}, "Timestamp": {"type": "date"}},
        "date_detection": false,
    })
}

fn composable(index: &str) -> Value {
    json!({
        "index_patterns": [index],
        "priority": PRIORITY,
        "template": {"mappings": mappings()},
    })
}

fn legacy(index: &str) -> Value {
    json!({"index_patterns": [index], "order": PRIORITY, "mappings": mappings()})
}
