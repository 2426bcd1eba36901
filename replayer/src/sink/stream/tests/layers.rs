//! TLS, WebSockets, and bare requests.

use std::io::Write as _;

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use super::*;

/// For "far.test", with its certificate in a file.
fn tls() -> (TlsAcceptor, tempfile::NamedTempFile) {
    let pair = rcgen::generate_simple_self_signed(vec!["far.test".to_owned()]).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(pair.cert.pem().as_bytes()).unwrap();
    let key = PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), file)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_arrive_over_tls_where_the_certificate_is_good() {
    const COUNT: u64 = 2000;
    let (acceptor, certificate) = tls();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tls://{}", listener.local_addr().unwrap());
    let far = Far::default();
    let hearing = far.clone();
    tokio::spawn(async move {
        for connection in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that doesn't trust us goes.
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(hearing.clone().hear(connection, stream));
            }
        }
    });
    let ca_file = certificate.path().display();
    let mut wary = Feed::start(&url, &format!("ca_file: '{ca_file}', max_age: 300ms"));
    let expired = Disposition::Dropped(DropReason::Expired);
    assert_eq!(wary.one(half(0)).await, expired);
    let yaml = format!("ca_file: '{ca_file}', server_name: far.test, stream: {{connections: 1}}");
    let mut connections = 0;
    for (from, yaml) in [
        (0, yaml.as_str()),
        (COUNT, "skip_verify: true, stream: {connections: 1}"),
    ] {
        let mut feed = Feed::start(&url, yaml);
        // Some of many records, larger than what TLS buffers, and each by itself.
        let of = |n| match n % 50 {
            0 => exchange(n, &vec![b'x'; 100_000]),
            _ => half(n),
        };
        (from..from + COUNT).for_each(|n| feed.send(of(n)));
        for n in from..from + COUNT {
            assert_eq!(feed.end().await, (n, TAKEN_IT));
        }
        assert_eq!(feed.one(half(from)).await, TAKEN_IT);
        drop(feed.streamer);
        connections += 1;
        let heard = far.all(connections).await.pop().unwrap();
        let numbers = (from..from + COUNT).map(of).chain([half(from)]);
        assert!(records(&heard) == numbers.map(|e| record_of(&e)).collect::<Vec<_>>());
    }
}

/// Accepts WebSockets, and tells each one's path, user and messages; says something to each now and then.
async fn web(listener: TcpListener, told: UnboundedSender<(usize, String, Vec<u8>)>) {
    for connection in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        let told = told.clone();
        tokio::spawn(async move {
            let mut who = String::new();
            #[expect(clippy::result_large_err, reason = "the signature is the crate's")]
            let look = |request: &Request, response: Response| {
                let user = request.headers().get("Authorization").unwrap();
                who = format!("{} {}", request.uri(), user.to_str().unwrap());
                Ok(response)
            };
            let mut socket = accept_hdr_async(stream, look).await.unwrap();
            socket
                .send(Message::Ping("are you there".into()))
                .await
                .unwrap();
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Binary(frame) => {
                        told.send((connection, who.clone(), frame.to_vec()))
                            .unwrap();
                        if frame.ends_with(b"/17 HTTP/1.1\r\nHost: a\r\n\r\n") {
                            socket.close(None).await.unwrap();
                        }
                    }
                    Message::Pong(pong) => {
                        assert_eq!(&pong[..], b"are you there");
                        told.send((connection, who.clone(), b"pong".to_vec()))
                            .unwrap();
                        socket
                            .send(Message::text("x".repeat(100_000)))
                            .await
                            .unwrap();
                    }
                    Message::Close(_) => {
                        told.send((connection, who.clone(), b"close".to_vec()))
                            .unwrap();
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_gets_each_record_as_a_frame() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, mut hears) = mpsc::unbounded_channel();
    tokio::spawn(web(listener, told));
    let url = format!("ws://me:p%40ss@{address}/in?a=b");
    let mut feed = Feed::start(&url, "stream: {connections: 1}");
    let mut heard = Vec::new();
    let number = |n: u64| {
        let line = format!("1 {n:024x} {n}  -1");
        let head = format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n");
        labelled(line.as_bytes(), n, head.as_bytes())
    };
    for n in 0..20 {
        assert_eq!(feed.one(number(n)).await, TAKEN_IT, "{n}");
        if n == 17 {
            // The server closes, properly.
            while feed.meter.connections.get() > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
    let large = exchange(20, &vec![b'x'; 3 << 20]);
    // Frames need no separator, so what contains one is no trouble.
    let upload = exchange(21, "\n🐵🙈🙉\n".as_bytes());
    for exchange in [&large, &upload] {
        assert_eq!(feed.one(exchange.clone()).await, TAKEN_IT);
    }
    assert_eq!(
        (feed.meter.reconnects.get(), feed.meter.in_doubt.get()),
        (1, 0)
    );
    drop(feed.streamer);
    let mut pongs = 0;
    while let Some((connection, who, frame)) = timeout(LIMIT, hears.recv()).await.unwrap() {
        assert_eq!(who, "/in?a=b Basic bWU6cEBzcw==");
        match &frame[..] {
            b"pong" => pongs += 1,
            b"close" if connection == 1 => break,
            b"close" => {}
            _ => heard.push(frame),
        }
    }
    assert_eq!(pongs, 2);
    let frame = |exchange: Arc<Exchange>| {
        let record = gor::messages(&exchange, &exchange.request.head).unwrap().0;
        let parts: Vec<_> = record.parts().collect();
        parts[..parts.len() - 1].concat()
    };
    let expected: Vec<_> = (0..20)
        .map(number)
        .chain([large, upload])
        .map(frame)
        .collect();
    assert!(heard == expected);
}

#[tokio::test]
async fn a_server_that_speaks_no_web_socket_takes_nothing() {
    let (_far, address) = Far::listen().await;
    let yaml = "max_age: 300ms, connect_timeout: 50ms";
    let mut feed = Feed::start(&format!("ws://{address}"), yaml);
    let expired = Disposition::Dropped(DropReason::Expired);
    assert_eq!(feed.one(half(0)).await, expired);
}

#[tokio::test]
async fn bare_requests_leave_without_header_and_separator() {
    let (far, address) = Far::listen().await;
    let yaml = "set_headers: {A: b}, stream: {connections: 1}";
    let mut feed = Feed::start(&format!("binary://{address}"), yaml);
    let answered = crate::sink::tests::answered(1);
    assert_eq!(feed.one(answered).await, TAKEN_IT);
    let upload = "\n🐵🙈🙉\n";
    assert_eq!(feed.one(exchange(2, upload.as_bytes())).await, TAKEN_IT);
    drop(feed.streamer);
    let heard = String::from_utf8(far.all(1).await.remove(0)).unwrap();
    let expected = format!(
        "POST /1 HTTP/1.1\r\nContent-Length: 0\r\nA: b\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 14\r\nA: b\r\n\r\n{upload}"
    );
    assert_eq!(heard, expected);
}
