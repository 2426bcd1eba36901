//! Redirects and retries: as often as asked for, where they do no harm, and never anywhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reprise_traffic::Disposition::{self, Replayed, Unknown};
use reprise_traffic::Fault;

use crate::server::{GET, OK, POST, Server, client_of, deliver, outcome};

const NETWORK: Disposition = Disposition::Failed(Fault::Network);
const TARGET: Disposition = Disposition::Failed(Fault::Target);

/// Answers `/N` with a redirect to `/N-1`, and `/0` with 200. All else is `/9`.
async fn staircase(status: u16) -> Server {
    Server::start(move |mut peer| async move {
        while let Some(request) = peer.request().await {
            let step = request.split(['/', ' ']).nth(2).unwrap_or_default();
            let step: u32 = step.parse().unwrap_or(9);
            if step == 0 {
                peer.send(OK).await;
                continue;
            }
            let next = step - 1;
            let answer = format!(
                "HTTP/1.1 {status} There\r\nLocation: /{next}\r\nContent-Length: 3\r\n\r\nbye"
            );
            peer.send(answer.as_bytes()).await;
        }
    })
    .await
}

fn request(method: &str, step: u32) -> Vec<u8> {
    format!("{method} /{step} HTTP/1.1\r\nHost: s\r\nX-A: b\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn so_many_redirects_are_followed_and_not_one_more() {
    for (redirects, steps, end, sent) in [
        (0, 1, 302, 1),
        (1, 1, 200, 2),
        (1, 2, 302, 2),
        (3, 3, 200, 4),
        (3, 4, 302, 4),
    ] {
        let server = staircase(302).await;
        let client = server.client_with(|document| document.redirects = redirects);
        let delivery = deliver(&client, &request("GET", steps)).await;
        let what = format!("{redirects} of {steps}");
        assert_eq!(delivery.disposition, Replayed(end), "{what}");
        assert_eq!(
            (delivery.attempts, server.requests().len()),
            (sent, sent as usize),
            "{what}"
        );
        // One connection for all, and the same request but for its target.
        assert_eq!(server.connections(), 1);
        let requests = server.requests();
        let rest = |request: &String| request.split_once(" HTTP").unwrap().1.to_owned();
        assert!(
            requests.iter().all(|r| rest(r) == rest(&requests[0])),
            "{requests:?}"
        );
    }
}

#[tokio::test]
async fn only_safe_requests_follow_and_only_to_the_same_host() {
    let post = b"POST /3 HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\n\r\nhi";
    for (status, request, end, sent) in [
        (303, request("HEAD", 1), 200, 2),
        (308, request("OPTIONS", 2), 200, 3),
        (302, request("OPTIONS", 2), 302, 1),
        (307, post.to_vec(), 307, 1),
        (304, request("GET", 2), 304, 1),
    ] {
        let server = Server::start(move |mut peer| async move {
            while let Some(request) = peer.request().await {
                let step = request
                    .split(['/', ' '])
                    .nth(2)
                    .unwrap()
                    .parse::<u32>()
                    .unwrap();
                let next = step.saturating_sub(1);
                let answer = match step {
                    0 => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
                    _ => format!(
                        "HTTP/1.1 {status} X\r\nLocation: {next}\r\nContent-Length: 0\r\n\r\n"
                    ),
                };
                peer.send(answer.as_bytes()).await;
            }
        })
        .await;
        let client = server.client_with(|document| document.redirects = 9);
        assert_eq!(outcome(&client, &request).await, Replayed(end), "{status}");
        assert_eq!(server.requests().len(), sent, "{status}");
    }
    let elsewhere = Server::answering(OK).await;
    let port = elsewhere.port;
    let server = Server::start(move |mut peer| async move {
        while peer.request().await.is_some() {
            let to = format!("http://127.0.0.1:{port}/x");
            let answer = format!("HTTP/1.1 302 X\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
            peer.send(answer.as_bytes()).await;
        }
    })
    .await;
    let client = server.client_with(|document| document.redirects = 9);
    assert_eq!(outcome(&client, GET).await, Replayed(302));
    assert_eq!((server.requests().len(), elsewhere.connections()), (1, 0));
}

#[tokio::test]
async fn a_redirect_that_ends_in_silence_reached_the_target_all_the_same() {
    let server = Server::start(|mut peer| async move {
        peer.request().await;
        peer.send(
            b"HTTP/1.1 302 X\r\nLocation: /gone\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
    })
    .await;
    let client = server.client_with(|document| document.redirects = 2);
    // Each answer ends its connection; the third asks no further.
    assert_eq!(outcome(&client, GET).await, Replayed(302));
    assert_eq!(server.requests().len(), 3);

    let count = Arc::new(AtomicUsize::new(0));
    let server = Server::start(move |mut peer| {
        let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            peer.request().await;
            if is_first {
                let answer = b"HTTP/1.1 302 X\r\nLocation: /x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                peer.send(answer).await;
            }
        }
    })
    .await;
    let client = server.client_with(|document| document.redirects = 1);
    assert_eq!(outcome(&client, GET).await, TARGET);
}

/// Closes the first connections after their request, then answers.
async fn failing(first: usize) -> Server {
    let count = Arc::new(AtomicUsize::new(0));
    Server::start(move |mut peer| {
        let answers = count.fetch_add(1, Ordering::SeqCst) >= first;
        async move {
            while peer.request().await.is_some() && answers {
                peer.send(OK).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_safe_request_is_sent_again_as_often_as_asked_for() {
    for (retries, failures, end, sent) in [
        (0, 1, TARGET, 1),
        (1, 1, Replayed(200), 2),
        (2, 2, Replayed(200), 3),
        (2, 3, TARGET, 3),
    ] {
        let server = failing(failures).await;
        let client = server.client_with(|document| document.retries = retries);
        let delivery = deliver(&client, GET).await;
        assert_eq!(
            (delivery.disposition, delivery.attempts),
            (end, sent),
            "{retries}"
        );
        assert_eq!(server.requests().len(), sent as usize);
    }
}

#[tokio::test]
async fn an_unsafe_request_that_may_have_arrived_is_never_sent_again() {
    let server = failing(1).await;
    let client = server.client_with(|document| document.retries = 5);
    assert_eq!(outcome(&client, POST).await, Unknown);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn what_never_connected_is_tried_again_whatever_its_method() {
    let port = {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        gone.local_addr().unwrap().port()
    };
    let client = client_of(&format!("http://127.0.0.1:{port}"), |d| d.retries = 2);
    for request in [GET, POST] {
        let delivery = deliver(&client, request).await;
        assert_eq!((delivery.disposition, delivery.attempts), (NETWORK, 3));
    }
}

#[tokio::test]
async fn an_answer_is_an_answer_and_nonsense_is_not_asked_for_twice() {
    for (answer, end) in [
        (
            &b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"[..],
            Replayed(503),
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", TARGET),
    ] {
        let server = Server::answering(answer).await;
        let client = server.client_with(|document| document.retries = 5);
        let delivery = deliver(&client, GET).await;
        assert_eq!((delivery.disposition, delivery.attempts), (end, 1));
    }
}

#[tokio::test]
async fn retries_keep_within_their_budget() {
    let server = Server::start(|mut peer| async move {
        peer.request().await;
    })
    .await;
    let client = server.client_with(|document| document.retries = 1);
    for _ in 0..200 {
        assert_eq!(outcome(&client, GET).await, TARGET);
    }
    // 30 are free within 10 s, and one in ten is earned. The requests take a second, or a few on a busy machine.
    let sent = server.requests().len();
    assert!((230..=200 + 50 + 40).contains(&sent), "{sent}");
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_ends_in_time() {
    let silent = Server::start(|peer| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(peer);
    })
    .await;
    let client = client_of(&format!("https://localhost:{}", silent.port), |document| {
        document.skip_verify = true;
        document.connect_timeout = Duration::from_millis(100);
    });
    let started = Instant::now();
    assert_eq!(outcome(&client, POST).await, NETWORK);
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(100) && took < Duration::from_secs(2),
        "{took:?}"
    );
}
