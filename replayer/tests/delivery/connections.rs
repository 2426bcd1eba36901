//! Connections are used again where that is safe, and only there.

use std::time::Duration;

use reprise_traffic::Disposition::{self, Replayed, Unknown};
use reprise_traffic::target::Connections;
use tokio::io::AsyncWriteExt;

use crate::server::{GET, OK, POST, Server, captured, deliver, outcome};

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let server = Server::answering(OK).await;
    let client = server.client();
    let close = b"GET / HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n";
    for request in [GET, POST, close, GET] {
        let delivery = deliver(&client, request).await;
        assert_eq!(delivery.disposition, Replayed(200));
        assert!(delivery.latency > Duration::ZERO && delivery.attempts == 1);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn bodies_of_answers_are_read_to_their_end() {
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n";
    for answer in [
        &chunked[..],
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
    ] {
        let server = Server::answering(answer).await;
        let client = server.client();
        for _ in 0..3 {
            assert!(matches!(
                outcome(&client, GET).await,
                Replayed(200 | 204 | 304)
            ));
        }
        assert_eq!(server.connections(), 1, "{}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn head_has_no_body() {
    let server = Server::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n").await;
    let client = server.client();
    for _ in 0..2 {
        let head = b"HEAD / HTTP/1.1\r\nHost: s\r\n\r\n";
        assert_eq!(outcome(&client, head).await, Replayed(200));
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_may_not_be_used_again_is_not() {
    for (request, answer) in [
        (
            GET,
            &b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"[..],
        ),
        (GET, b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            GET,
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        ),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx!"),
        (
            GET,
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: timeout=0\r\n\r\n",
        ),
        (b"GET / HTTP/1.0\r\n\r\n", OK),
    ] {
        let server = Server::answering(answer).await;
        let client = server.client();
        for _ in 0..2 {
            let status = if answer.starts_with(b"HTTP/1.1 101") {
                101
            } else {
                200
            };
            assert_eq!(outcome(&client, request).await, Replayed(status));
        }
        assert_eq!(server.connections(), 2, "{}", answer.escape_ascii());
    }
}

/// Answers and closes, without having said so.
async fn server_that_closes() -> Server {
    Server::start(|mut peer| async move {
        if peer.request().await.is_some() {
            peer.send(OK).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_stale_connection_costs_no_request() {
    for request in [GET, POST] {
        let server = server_that_closes().await;
        let client = server.client();
        for sent in 1..=20 {
            let delivery = deliver(&client, request).await;
            assert_eq!(delivery.disposition, Replayed(200));
            assert_eq!(server.requests().len(), sent);
            server.closed(sent).await;
        }
        assert_eq!(server.connections(), 20);
    }
}

#[tokio::test]
async fn without_a_pause_a_stale_connection_loses_no_get_and_doubles_no_post() {
    // Closes a moment after its answer, so that the next request is on its way.
    let start = || {
        Server::start(|mut peer| async move {
            if peer.request().await.is_some() {
                peer.send(OK).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    let server = start().await;
    let client = server.client();
    for _ in 0..200 {
        assert_eq!(outcome(&client, GET).await, Replayed(200));
    }
    assert_eq!(server.requests().len(), 200);

    // The race is lost once or so; from then on POSTs go over connections that are known to last.
    let (server, mut unknown) = (start().await, 0);
    let client = server.client();
    for _ in 0..200 {
        match outcome(&client, POST).await {
            Replayed(200) => {}
            Unknown => unknown += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(server.requests().len(), 200 - unknown);
    assert!(unknown <= 5, "{unknown} unknown");
}

#[tokio::test]
async fn a_request_that_is_read_and_not_answered_goes_out_again_only_if_safe() {
    // The first request of a connection is answered, the second is read, and the connection closed.
    let start = || {
        Server::start(|mut peer| async move {
            if peer.request().await.is_some() {
                peer.send(OK).await;
                peer.request().await;
            }
        })
    };
    let server = start().await;
    let client = server.client();
    assert_eq!(outcome(&client, GET).await, Replayed(200));
    let retried = deliver(&client, GET).await;
    assert_eq!((retried.disposition, retried.attempts), (Replayed(200), 2));
    assert_eq!((server.requests().len(), server.connections()), (3, 2));

    let server = start().await;
    let client = server.client();
    assert_eq!(outcome(&client, POST).await, Replayed(200));
    let doubtful = deliver(&client, POST).await;
    assert_eq!((doubtful.disposition, doubtful.attempts), (Unknown, 1));
    assert_eq!((server.requests().len(), server.connections()), (2, 1));
}

#[tokio::test]
async fn on_a_new_connection_nothing_is_sent_twice() {
    let server = Server::start(|mut peer| async move {
        peer.request().await;
    })
    .await;
    let client = server.client();
    let target = Disposition::Failed(reprise_traffic::Fault::Target);
    assert_eq!(outcome(&client, GET).await, target);
    assert_eq!(outcome(&client, POST).await, Unknown);
    assert_eq!((server.requests().len(), server.connections()), (2, 2));
}

#[tokio::test]
async fn an_old_connection_is_not_for_posts() {
    let server = Server::answering(OK).await;
    let client = server.client();
    assert_eq!(outcome(&client, POST).await, Replayed(200));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(outcome(&client, POST).await, Replayed(200));
    assert_eq!(server.connections(), 2);
    assert_eq!(outcome(&client, GET).await, Replayed(200));
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn an_early_answer_of_a_server_that_reads_on_cuts_no_body() {
    let server = Server::start(|mut peer| async move {
        peer.send(OK).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        while peer.request().await.is_some() {
            peer.send(OK).await;
        }
        let _ = peer.stream.shutdown().await;
    })
    .await;
    let body = "x".repeat(8 << 20);
    let request = format!(
        "POST / HTTP/1.1\r\nHost: s\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(
        outcome(&server.client(), request.as_bytes()).await,
        Replayed(200)
    );
    server.seen(1).await;
    assert!(server.requests()[0].ends_with(&body));
}

/// As many connections as production had, which end with the same request; an answer says so and the next is another.
#[tokio::test]
async fn each_session_has_a_connection_of_its_own_where_that_is_asked_for() {
    let server = Server::start(|mut peer| async move {
        while let Some(request) = peer.request().await {
            peer.send(OK).await;
            if request.contains("Connection: close") {
                return;
            }
        }
    })
    .await;
    let client = server.client_with(|document| document.connections = Connections::PerSession);
    let close = b"GET / HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n";
    for request in [GET, POST, GET, close] {
        for session in 1..=5 {
            let delivery = client.send(&captured(request), session).await;
            assert_eq!(delivery.disposition, Replayed(200));
        }
    }
    server.closed(5).await;
    assert_eq!(server.connections(), 5);
    assert_eq!(
        client.send(&captured(GET), 1).await.disposition,
        Replayed(200)
    );
    assert_eq!(server.connections(), 6);
    // As production's has ended. The others have none.
    (1..=5).for_each(|session| client.close(session));
    server.closed(6).await;
}
