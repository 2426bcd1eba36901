//! Requests arrive as captured but for the documented changes.

use reprise_traffic::Disposition;

use crate::server::{OK, Server, captured, outcome};

/// What arrives for a captured request, the mark's value replaced by `ID`.
async fn arrives(raw: &[u8], original_host: bool) -> String {
    let server = Server::answering(OK).await;
    let client = server.client_with(|document| document.original_host = original_host);
    let exchange = captured(raw);
    let delivery = client.send(&exchange, 0).await;
    assert_eq!(delivery.disposition, Disposition::Replayed(200));
    assert_eq!(delivery.attempts, 1);
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    requests[0]
        .replace(&format!("127.0.0.1:{}", server.port), "TARGET")
        .replace(&format!("Reprise-Id: {}\r\n", exchange.id), "MARK\r\n")
}

#[tokio::test]
async fn odd_requests_arrive_byte_for_byte() {
    for (captured, expected) in [
        // Header case, repetition, order, empty values, white space.
        (
            "gEt /a%2F%zz?b=%00&&=#f HTTP/1.1\r\nX-A: 1\r\nhOsT:shop:80\r\nx-a: 2\r\nX-A:\r\nCookie: a=b;  c\r\nCookie: d\r\nEmpty: \r\nTab:\tv \r\n\r\n",
            "gEt /a%2F%zz?b=%00&&=#f HTTP/1.1\r\nX-A: 1\r\nhOsT:TARGET\r\nx-a: 2\r\nX-A:\r\nCookie: a=b;  c\r\nCookie: d\r\nEmpty: \r\nTab:\tv \r\nMARK\r\n\r\n",
        ),
        // Absolute form, asterisk form.
        (
            "GET http://shop.example/p?q HTTP/1.1\r\nHost: shop.example\r\n\r\n",
            "GET http://shop.example/p?q HTTP/1.1\r\nHost: TARGET\r\nMARK\r\n\r\n",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: s\r\nConnection: keep-alive\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: TARGET\r\nConnection: keep-alive\r\nMARK\r\n\r\n",
        ),
        // HTTP/1.0, without a Host and with one.
        (
            "GET / HTTP/1.0\r\nConnection: close\r\n\r\n",
            "GET / HTTP/1.0\r\nConnection: close\r\nMARK\r\n\r\n",
        ),
        (
            "POST / HTTP/1.0\r\nHost: s\r\nContent-Length: 3\r\n\r\nabc",
            "POST / HTTP/1.0\r\nHost: TARGET\r\nContent-Length: 3\r\nMARK\r\n\r\nabc",
        ),
        // Chunks become one; the trailers stay.
        (
            "POST /c HTTP/1.1\r\nHost: s\r\ntransfer-encoding: Chunked\r\nTrailer: X\r\n\r\n2;e=f\r\nab\r\n1\r\nc\r\n0\r\nX: 1\r\nx:2\r\n\r\n",
            "POST /c HTTP/1.1\r\nHost: TARGET\r\ntransfer-encoding: Chunked\r\nTrailer: X\r\nMARK\r\n\r\n3\r\nabc\r\n0\r\nX: 1\r\nx:2\r\n\r\n",
        ),
        (
            "PUT /c HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "PUT /c HTTP/1.1\r\nHost: TARGET\r\nTransfer-Encoding: chunked\r\nMARK\r\n\r\n0\r\n\r\n",
        ),
        // A body of bytes that are no text, and one of a method that has none.
        (
            "DELETE /x HTTP/1.1\r\nHost: s\r\nConnection: close\r\nContent-Length: 1\r\n\r\n\0",
            "DELETE /x HTTP/1.1\r\nHost: TARGET\r\nContent-Length: 1\r\nMARK\r\n\r\n\0",
        ),
    ] {
        assert_eq!(arrives(captured.as_bytes(), false).await, expected);
    }
}

#[tokio::test]
async fn the_captured_host_is_kept_where_asked() {
    let captured = "GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    let arrived = arrives(captured.as_bytes(), true).await;
    assert_eq!(
        arrived,
        "GET / HTTP/1.1\r\nHost: shop.example\r\nMARK\r\n\r\n"
    );
}

#[tokio::test]
async fn a_large_body_arrives_whole_in_both_framings() {
    let body = "0123456789abcdef".repeat(200_000);
    let size = body.len();
    for (captured, end) in [
        (
            format!("POST / HTTP/1.1\r\nHost: s\r\nContent-Length: {size}\r\n\r\n{body}"),
            format!("\r\n\r\n{body}"),
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"
            ),
            format!("\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"),
        ),
    ] {
        assert!(arrives(captured.as_bytes(), false).await.ends_with(&end));
    }
}

#[tokio::test]
async fn a_request_that_contradicts_itself_is_not_sent() {
    let server = Server::answering(OK).await;
    let mut exchange = captured(crate::server::POST);
    exchange.request.body = reprise_traffic::Body::from(&b"longer"[..]);
    let delivery = server.client().send(&exchange, 0).await;
    let ours = Disposition::Failed(reprise_traffic::Fault::Ours);
    assert_eq!((delivery.disposition, delivery.attempts), (ours, 0));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_name_serves_as_well_as_an_address() {
    let server = Server::answering(OK).await;
    let client = crate::server::client_of(&format!("http://localhost:{}", server.port), |_| {});
    assert_eq!(
        outcome(&client, crate::server::GET).await,
        Disposition::Replayed(200)
    );
    assert!(server.requests()[0].contains(&format!("Host: localhost:{}\r\n", server.port)));
}
