//! Whatever a server does, a delivery ends in time and says what is certain.

use std::time::{Duration, Instant};

use reprise_traffic::Disposition::{self, Replayed, Unknown};
use reprise_traffic::Fault;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::{GET, POST, Peer, Server, client_of, deliver, outcome};

const NETWORK: Disposition = Disposition::Failed(Fault::Network);
const TARGET: Disposition = Disposition::Failed(Fault::Target);

fn large_post() -> Vec<u8> {
    let head = "POST /large HTTP/1.1\r\nHost: s\r\nExpect: 100-continue\r\nContent-Length: 33554432\r\n\r\n";
    [head.as_bytes(), &vec![b'x'; 32 << 20]].concat()
}

/// Sends as is after the first bytes of each request, then does nothing more.
async fn saying(answer: &'static [u8]) -> Server {
    Server::start(move |mut peer| async move {
        let _ = peer.stream.read(&mut [0; 1024]).await;
        peer.send(answer).await;
        // Until the client closes.
        while peer.stream.read(&mut [0; 1024]).await.is_ok_and(|n| n > 0) {}
    })
    .await
}

#[tokio::test]
async fn a_black_hole_ends_at_the_timeout() {
    let server = Server::start(|peer| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(peer);
    })
    .await;
    let client = server.client_with(|document| document.timeout = Duration::from_millis(200));
    for (request, end) in [(GET, TARGET), (POST, Unknown), (&large_post()[..], Unknown)] {
        let start = Instant::now();
        let delivery = deliver(&client, request).await;
        assert_eq!((delivery.disposition, delivery.attempts), (end, 1));
        assert!(delivery.latency >= Duration::from_millis(200));
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn who_is_not_there_certainly_got_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for url in [
        format!("http://127.0.0.1:{port}"),
        format!("https://127.0.0.1:{port}"),
        "http://no-such-host.invalid".to_owned(),
    ] {
        let client = client_of(&url, |document| {
            document.skip_verify = true;
            document.timeout = Duration::from_secs(1);
        });
        for request in [GET, POST] {
            let delivery = deliver(&client, request).await;
            assert_eq!(
                (delivery.disposition, delivery.latency),
                (NETWORK, Duration::ZERO),
                "{url}"
            );
        }
    }
}

#[tokio::test]
async fn a_refused_body_neither_blocks_nor_hides_the_answer() {
    // Answers before the body is in, and closes at once: the kernel resets what still comes.
    let server = Server::start(|mut peer| async move {
        let _ = peer.stream.read(&mut [0; 1024]).await;
        peer.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
            .await;
        let _ = peer.stream.shutdown().await;
    })
    .await;
    let client = server.client();
    for _ in 0..20 {
        assert_eq!(outcome(&client, &large_post()).await, Replayed(413));
    }
    // Both sides write much before they read: nobody may wait for the other.
    let server = Server::start(|mut peer| async move {
        let _ = peer.stream.read(&mut [0; 1024]).await;
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 33554432\r\n\r\n")
            .await;
        peer.send(&vec![b'y'; 32 << 20]).await;
        while peer.stream.read(&mut [0; 65536]).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    assert_eq!(
        outcome(&server.client(), &large_post()).await,
        Replayed(200)
    );
}

#[tokio::test]
async fn an_answer_to_a_body_that_nobody_reads_counts() {
    let server = Server::start(|mut peer| async move {
        peer.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
            .await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    })
    .await;
    let client = server.client_with(|document| document.timeout = Duration::from_millis(300));
    assert_eq!(outcome(&client, &large_post()).await, Replayed(202));
}

#[tokio::test]
async fn interim_answers_are_passed_over() {
    let server = Server::start(|mut peer: Peer| async move {
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        while peer.request().await.is_some() {
            peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let client = server.client();
    for _ in 0..3 {
        let expecting =
            b"POST / HTTP/1.1\r\nHost: s\r\nexpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(outcome(&client, expecting).await, Replayed(201));
    }
    assert_eq!(server.connections(), 1);
    assert!(server.requests()[0].contains("\r\nexpect: 100-continue\r\n"));
}

#[tokio::test]
async fn what_is_no_answer_is_the_target_s_fault() {
    for answer in [
        &b"220 mail.example ESMTP\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HTTP/1.1 99 \r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        let server = saying(answer).await;
        let client = server.client_with(|document| document.timeout = Duration::from_millis(200));
        assert_eq!(outcome(&client, GET).await, TARGET);
        assert_eq!(outcome(&client, POST).await, Unknown);
        assert_eq!(server.connections(), 2);
    }
}

#[tokio::test]
async fn a_status_without_its_body_proves_that_a_post_arrived() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ] {
        let server = saying(answer).await;
        let client = server.client_with(|document| document.timeout = Duration::from_millis(200));
        assert_eq!(outcome(&client, GET).await, TARGET);
        assert_eq!(outcome(&client, POST).await, Replayed(200));
    }
}

#[tokio::test]
async fn an_endless_answer_ends_at_the_timeout_in_bounded_memory() {
    for head in [
        &b"HTTP/1.1 200 OK\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nA: ",
        b"\r\n\r\n",
    ] {
        let server = Server::start(move |mut peer| async move {
            peer.send(head).await;
            let more = if head == b"\r\n\r\n" {
                b"\r\n".repeat(32768)
            } else {
                vec![b'z'; 65536]
            };
            while peer.stream.write_all(&more).await.is_ok() {}
        })
        .await;
        let client = server.client_with(|document| document.timeout = Duration::from_millis(200));
        let start = Instant::now();
        assert_eq!(outcome(&client, GET).await, TARGET);
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{}",
            head.escape_ascii()
        );
    }
}
