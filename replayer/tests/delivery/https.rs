//! HTTPS: whom a target's document trusts, and nobody else.

use std::io::Write;
use std::sync::Arc;

use reprise_traffic::Disposition::{self, Replayed};
use reprise_traffic::Fault;
use reprise_traffic::target::{Connections, TargetDocument};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;

use crate::server::{GET, OK, POST, Server, captured, client_of, outcome};

struct Authority {
    acceptor: TlsAcceptor,
    pem: tempfile::NamedTempFile,
}

fn authority() -> Authority {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut pem = tempfile::NamedTempFile::new().unwrap();
    pem.write_all(made.cert.pem().as_bytes()).unwrap();
    let acceptor = acceptor(made.cert.der().clone(), key, None);
    Authority { acceptor, pem }
}

/// With that certificate; of clients it wants one that is `known`, where that is given.
fn acceptor(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    known: Option<CertificateDer<'static>>,
) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match known {
        None => builder.with_no_client_auth(),
        Some(known) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(known).unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots),
                provider,
            );
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn server(authority: &Authority) -> Server {
    Server::over(Some(authority.acceptor.clone()), |mut peer| async move {
        while peer.request().await.is_some() {
            peer.send(OK).await;
        }
    })
    .await
}

fn trusting(authority: &Authority) -> impl FnOnce(&mut TargetDocument) {
    let path = authority.pem.path().to_str().unwrap().to_owned();
    move |document| document.ca_file = Some(path)
}

/// With a goodbye of TLS, and no reset, whatever TLS has sent between requests.
#[tokio::test]
async fn the_connection_of_a_session_that_ended_is_closed_cleanly() {
    let authority = authority();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let acceptor = authority.acceptor.clone();
    let server = Server::over(Some(acceptor), move |mut peer| {
        let told = told.clone();
        async move {
            assert!(peer.request().await.is_some());
            peer.send(OK).await;
            let read = peer.stream.read(&mut [0]).await;
            told.send(read.map_err(|error| error.to_string())).unwrap();
        }
    })
    .await;
    let trusts = trusting(&authority);
    let client = client_of(
        &format!("https://localhost:{}", server.port),
        |document: &mut TargetDocument| {
            document.connections = Connections::PerSession;
            trusts(document);
        },
    );
    let delivery = client.send(&captured(GET), 1).await;
    assert_eq!(delivery.disposition, Replayed(200));
    client.close(1);
    assert_eq!(heard.recv().await, Some(Ok(0)));
}

#[tokio::test]
async fn a_ca_file_is_trusted_and_connections_are_kept() {
    let authority = authority();
    let server = server(&authority).await;
    let client = client_of(
        &format!("https://localhost:{}", server.port),
        trusting(&authority),
    );
    let body = "b".repeat(3 << 20);
    let large = format!(
        "PUT / HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for request in [GET, POST, large.as_bytes(), GET] {
        assert_eq!(outcome(&client, request).await, Replayed(200));
    }
    assert_eq!(server.connections(), 1);
    assert!(server.requests()[2].ends_with(&body));
    assert!(server.requests()[0].contains(&format!("Host: localhost:{}\r\n", server.port)));
}

#[tokio::test]
async fn any_certificate_will_do_with_skip_verify() {
    let server = server(&authority()).await;
    let client = client_of(&format!("https://127.0.0.1:{}", server.port), |document| {
        document.skip_verify = true;
    });
    assert_eq!(outcome(&client, POST).await, Replayed(200));
}

#[tokio::test]
async fn the_name_to_look_for_can_be_another_than_the_host() {
    let authority = authority();
    let server = server(&authority).await;
    let url = format!("https://127.0.0.1:{}", server.port);
    let trust = trusting(&authority);
    let client = client_of(&url, |document| {
        trust(document);
        document.server_name = Some("localhost".to_owned());
    });
    assert_eq!(outcome(&client, POST).await, Replayed(200));
    assert!(server.requests()[0].contains(&format!("Host: 127.0.0.1:{}\r\n", server.port)));
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_the_document_names_one() {
    let pem = |text: String| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    };
    let path = |file: &tempfile::NamedTempFile| Some(file.path().to_str().unwrap().to_owned());
    let made = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let (ours, theirs) = (made("replayer"), made("localhost"));
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(theirs.signing_key.serialize_der()));
    let known = Some(ours.cert.der().clone());
    let acceptor = acceptor(theirs.cert.der().clone(), key, known);
    let server = Server::over(Some(acceptor), |mut peer| async move {
        while peer.request().await.is_some() {
            peer.send(OK).await;
        }
    })
    .await;
    let url = format!("https://localhost:{}", server.port);
    let (ca, certificate) = (pem(theirs.cert.pem()), pem(ours.cert.pem()));
    let key = pem(ours.signing_key.serialize_pem());

    let nobody = client_of(&url, |document| document.ca_file = path(&ca));
    assert_ne!(outcome(&nobody, GET).await, Replayed(200));
    assert!(server.requests().is_empty());
    let known = client_of(&url, |document| {
        document.ca_file = path(&ca);
        document.client_cert_file = path(&certificate);
        document.client_key_file = path(&key);
    });
    assert_eq!(outcome(&known, GET).await, Replayed(200));
}

#[tokio::test]
async fn nobody_else_gets_a_byte() {
    let network = Disposition::Failed(Fault::Network);
    let authority_of_server = authority();
    let server = server(&authority_of_server).await;
    // Another authority; the right one under another name; the system's; and a server without TLS.
    let others = client_of(
        &format!("https://localhost:{}", server.port),
        trusting(&authority()),
    );
    assert_eq!(outcome(&others, POST).await, network);
    let misnamed = client_of(
        &format!("https://127.0.0.1:{}", server.port),
        trusting(&authority_of_server),
    );
    assert_eq!(outcome(&misnamed, POST).await, network);
    assert!(server.requests().is_empty());

    let plain = Server::answering(OK).await;
    let client = client_of(
        &format!("https://localhost:{}", plain.port),
        trusting(&authority_of_server),
    );
    // The plain server waits for the end of a head that never comes.
    let client = tokio::time::timeout(std::time::Duration::from_secs(3), outcome(&client, POST));
    assert_eq!(client.await.unwrap(), network);
}

#[tokio::test]
async fn a_missing_ca_file_is_said_in_one_line() {
    let mut document = TargetDocument::new("https://localhost");
    document.ca_file = Some("/nowhere.pem".to_owned());
    let name = reprise_traffic::TargetName::new("a/b").unwrap();
    let target = reprise_traffic::Target::new(name, 1, document).unwrap();
    let error =
        reprise_replayer::TargetClient::new(&target, target.endpoint().unwrap()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("target a/b: read ca_file /nowhere.pem: "),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1);
}
