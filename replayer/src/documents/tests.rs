//! Documents against a server that answers as it is told, and writes down what it was asked.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full as Whole};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use reprise_traffic::Head;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// What was asked: method and path, the value of `Authorization`, body.
type Asked = (String, Option<String>, String);

type Answers = VecDeque<(u16, String)>;

#[derive(Default)]
struct Played {
    asked: Vec<Asked>,
    /// For bulk requests, in turn; then all is taken.
    answers: Answers,
    /// For composable templates: 200 where not said.
    template: Option<(u16, &'static str)>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Played>>);

impl Fake {
    async fn start(&self, tls: Option<TlsAcceptor>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fake = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (fake, tls) = (fake.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => fake.serve(stream).await,
                        Some(tls) => fake.serve(tls.accept(stream).await.unwrap()).await,
                    }
                });
            }
        });
        address
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request| self.answer(request));
        let serving = hyper::server::conn::http1::Builder::new();
        let _ = serving
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Whole<Bytes>>, Infallible> {
        let what = format!("{} {}", request.method(), request.uri().path());
        let authorization = request.headers().get("authorization");
        let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        let count = body.lines().count() / 2;
        let mut played = self.0.lock().unwrap();
        let (status, text) = match what.split_once("/_").unwrap().1 {
            "bulk" => played.answers.pop_front().unwrap_or((200, taken(count))),
            _ if what.starts_with("GET") => (404, "{}".to_owned()),
            rest => match played
                .template
                .filter(|_| rest.starts_with("index_template"))
            {
                Some((status, text)) => (status, text.to_owned()),
                None => (200, "{}".to_owned()),
            },
        };
        played.asked.push((what, authorization, body));
        let answer = Response::builder().status(status);
        Ok(answer.body(Whole::new(text.into())).unwrap())
    }

    fn answering(answers: impl IntoIterator<Item = (u16, String)>) -> Fake {
        let fake = Fake::default();
        fake.0.lock().unwrap().answers = answers.into_iter().collect();
        fake
    }

    fn asked(&self, what: &str) -> Vec<Asked> {
        let played = self.0.lock().unwrap();
        let asked = played.asked.iter();
        asked
            .filter(|(w, _, _)| w.starts_with(what))
            .cloned()
            .collect()
    }
}

fn taken(count: usize) -> String {
    items(&vec![201; count])
}

fn items(statuses: &[u16]) -> String {
    let item = |status: &u16| format!("{{\"index\":{{\"status\":{status}}}}}");
    let items: Vec<_> = statuses.iter().map(item).collect();
    format!("{{\"items\":[{}]}}", items.join(","))
}

fn document(number: usize) -> Document {
    let head = format!("GET /{number} HTTP/1.1\r\n\r\n");
    let head = Head::parse(Bytes::from(head)).unwrap();
    Document::new(&head, None, Duration::from_millis(1), 0)
}

const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    documents: 1000,
};

const LIMIT: Duration = Duration::from_secs(20);

async fn send(url: &str, trust: &Trust, count: usize) -> Counts {
    let documents = Documents::start(Address::parse(url).unwrap(), trust, LIMITS).unwrap();
    for number in 0..count {
        documents.put(document(number)).unwrap();
    }
    documents.close(LIMIT).await
}

fn indexed(indexed: u64) -> Counts {
    Counts {
        indexed,
        ..Counts::default()
    }
}

#[tokio::test]
async fn documents_leave_in_batches_with_the_password() {
    let fake = Fake::default();
    let address = fake.start(None).await;
    let url = format!("Aladdin:open%20sesame@{address}/i");
    assert_eq!(send(&url, &Trust::default(), 3).await, indexed(3));
    let bulk = fake.asked("POST");
    let (what, authorization, body) = &bulk[0];
    assert_eq!((bulk.len(), what.as_str()), (1, "POST /i/_bulk"));
    let basic = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
    assert_eq!(authorization.as_deref(), Some(basic));
    assert_eq!(body.lines().count(), 6);
    let templates = fake.asked("PUT");
    assert_eq!(templates.len(), 1);
    assert_eq!(templates[0].0, "PUT /_index_template/reprise-i");
    assert_eq!(templates[0].1.as_deref(), Some(basic));
}

#[tokio::test]
async fn what_failed_is_sent_again_and_nothing_else() {
    let fake = Fake::answering([
        (503, String::new()),
        (429, String::new()),
        (200, items(&[201, 429, 400, 503])),
        (200, items(&[201, 429])),
        (200, items(&[201])),
    ]);
    let address = fake.start(None).await;
    let counts = send(&format!("http://{address}/i"), &Trust::default(), 4).await;
    let expected = Counts {
        refused: 1,
        ..indexed(3)
    };
    assert_eq!(counts, expected);
    let bodies: Vec<_> = fake
        .asked("POST")
        .into_iter()
        .map(|(_, _, body)| body)
        .collect();
    let sizes: Vec<_> = bodies.iter().map(|body| body.lines().count() / 2).collect();
    assert_eq!(sizes, [4, 4, 4, 2, 1]);
    assert_eq!(bodies[0], bodies[2], "with the same ids");
    assert!(bodies[4].contains("/3\""), "{}", bodies[4]);
}

#[tokio::test]
async fn a_batch_that_is_too_large_leaves_in_parts() {
    let too_large = || (413, String::new());
    let fake = Fake::answering([too_large(), too_large(), too_large()]);
    let address = fake.start(None).await;
    let counts = send(&format!("http://{address}/i"), &Trust::default(), 5).await;
    // 5, 2, 1: that one alone is too large.
    let expected = Counts {
        refused: 1,
        ..indexed(4)
    };
    assert_eq!(counts, expected);
}

#[tokio::test]
async fn older_servers_get_the_older_template() {
    for (answer, second) in [
        ((405, "{}"), true),
        ((404, "{}"), true),
        ((400, "{\"error\":\"no handler found for uri\"}"), true),
        ((400, "{\"error\":\"overlaps\"}"), false),
        ((403, "{}"), false),
    ] {
        let fake = Fake::default();
        fake.0.lock().unwrap().template = Some(answer);
        let address = fake.start(None).await;
        let counts = send(&format!("http://{address}/i"), &Trust::default(), 1).await;
        assert_eq!(counts, indexed(1), "{answer:?}");
        let templates = fake.asked("PUT /_template/reprise-i");
        assert_eq!(templates.len(), usize::from(second), "{answer:?}");
    }
}

#[tokio::test]
async fn what_waits_is_bounded_and_given_up_at_the_end() {
    // Nobody listens at port 1.
    let address = || Address::parse("http://127.0.0.1:1/i").unwrap();
    let start = |limits| Documents::start(address(), &Trust::default(), limits).unwrap();
    let by_count = start(Limits {
        documents: 2,
        ..LIMITS
    });
    by_count.put(document(1)).unwrap();
    by_count.put(document(2)).unwrap();
    assert_eq!(by_count.put(document(3)), Err(Full));
    let by_bytes = start(Limits {
        bytes: 1000,
        ..LIMITS
    });
    let fits = (0..10).take_while(|n| by_bytes.put(document(*n)).is_ok());
    let fits = fits.count() as u64;
    assert!((2..5).contains(&fits), "{fits}");
    let counts = by_bytes.close(Duration::from_millis(50)).await;
    let expected = Counts {
        waiting: fits,
        ..Counts::default()
    };
    assert_eq!(counts, expected);
}

#[tokio::test]
async fn https_is_spoken_to_who_is_trusted() {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    let fake = Fake::default();
    let address = fake.start(Some(TlsAcceptor::from(Arc::new(config)))).await;
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), pair.cert.pem()).unwrap();
    let trust = Trust {
        ca_file: Some(ca.path().to_str().unwrap().to_owned()),
        skip_verify: false,
    };
    let url = format!("https://localhost:{}/i", address.port());
    assert_eq!(send(&url, &trust, 1).await, indexed(1));
    let anybody = Trust {
        ca_file: None,
        skip_verify: true,
    };
    assert_eq!(send(&url, &anybody, 1).await, indexed(1));
    let documents = Documents::start(Address::parse(&url).unwrap(), &Trust::default(), LIMITS);
    let documents = documents.unwrap();
    documents.put(document(1)).unwrap();
    let counts = documents.close(Duration::from_millis(500)).await;
    assert_eq!(counts.waiting, 1, "a stranger");
}
