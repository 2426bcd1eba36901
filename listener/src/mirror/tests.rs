use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

struct Endpoint {
    address: SocketAddr,
    edge: Arc<Edge>,
    budget: Arc<Budget>,
    found: Arc<Mutex<Vec<Captured>>>,
    mirror: Mirror,
}

impl Endpoint {
    async fn start(settings: Settings) -> Endpoint {
        Endpoint::within(Budget::new(64 << 20), settings).await
    }

    async fn within(budget: Budget, settings: Settings) -> Endpoint {
        let budget = Arc::new(budget);
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let edge = Arc::new(Edge::default());
        let found = Arc::new(Mutex::new(Vec::new()));
        let sink = found.clone();
        let sink = move |request| sink.lock().unwrap().push(request);
        let mirror = start(socket, settings, budget.clone(), edge.clone(), sink).unwrap();
        Endpoint {
            address: mirror.address(),
            edge,
            budget,
            found,
            mirror,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What is answered until the connection closes.
    async fn answer(&self, input: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(input.as_ref()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn targets(&self) -> Vec<String> {
        let target = |r: &Captured| String::from_utf8_lossy(r.head.target()).into_owned();
        self.found.lock().unwrap().iter().map(target).collect()
    }
}

fn statuses(answer: &str) -> Vec<&str> {
    let lines = answer
        .split("\r\n")
        .filter(|line| line.starts_with("HTTP/1.1 "));
    lines.map(|line| &line[9..12]).collect()
}

#[tokio::test]
async fn requests_are_answered_at_once_and_in_order() {
    let endpoint = Endpoint::start(Settings::default()).await;
    let answer = endpoint
        .answer(
            "GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\nContent-Length: 2\r\n\r\nab\
             GET /marked HTTP/1.1\r\nReprise-Id: a/b/1\r\n\r\n\
             GET /3 HTTP/1.1\r\nConnection: close\r\n\r\nGET /after HTTP/1.1\r\n\r\n",
        )
        .await;
    assert_eq!(statuses(&answer), ["204"; 4]);
    assert_eq!(endpoint.targets(), ["/1", "/2", "/3"]);
    let found = endpoint.found.lock().unwrap();
    assert_eq!(found[1].body, "ab");
    assert_eq!(found[0].source, reprise_traffic::Source::Mirror);
    assert_eq!(found[0].server, endpoint.address);
    assert_eq!(endpoint.edge.get(EdgeEvent::Marked), 1);
}

#[tokio::test]
async fn an_http_1_0_proxy_is_served() {
    let endpoint = Endpoint::start(Settings::default()).await;
    let nginx = "GET /a HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&endpoint.answer(nginx).await), ["204"]);
    assert_eq!(endpoint.targets(), ["/a"]);
}

#[tokio::test]
async fn permission_to_send_a_body_is_given() {
    let endpoint = Endpoint::start(Settings::default()).await;
    let mut stream = endpoint.connect().await;
    let head = b"POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut buffer = [0; 100];
    let read = stream.read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..read], b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"x").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(statuses(&answer), ["204"]);
}

#[tokio::test]
async fn garbage_is_refused_and_disturbs_nobody() {
    let endpoint = Endpoint::start(Settings::default()).await;
    let mut good = endpoint.connect().await;
    good.write_all(b"GET /good HT").await.unwrap();
    let smuggled = "POST /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for garbage in [
        &b"\x16\x03\x01\x02\x00"[..],
        &[0xff; 200_000],
        smuggled.as_bytes(),
    ] {
        assert_eq!(statuses(&endpoint.answer(garbage).await), ["400"]);
    }
    good.write_all(b"TP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    good.read_to_string(&mut answer).await.unwrap();
    assert_eq!(statuses(&answer), ["204"]);
    assert_eq!(endpoint.targets(), ["/good"]);
    assert_eq!(endpoint.edge.get(EdgeEvent::NotHttp), 2);
}

#[tokio::test]
async fn bounds_hold() {
    let settings = Settings {
        max_exchange: 100_000,
        connections: 2,
        idle: Duration::from_millis(300),
        head: Duration::from_millis(200),
        ..Settings::default()
    };
    let endpoint = Endpoint::within(Budget::new(50_000), settings).await;
    let post = |length: usize| {
        let head = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        [head.into_bytes(), vec![b'x'; length]].concat()
    };
    assert_eq!(statuses(&endpoint.answer(post(150_000)).await), ["413"]);
    assert_eq!(statuses(&endpoint.answer(post(90_000)).await), ["503"]);
    // A head that never ends, and one that never begins.
    assert_eq!(endpoint.answer("GET /").await, "");
    assert_eq!(endpoint.answer("").await, "");
    let two = (endpoint.connect().await, endpoint.connect().await);
    while endpoint.edge.get(EdgeEvent::MirrorConnections) < 6 {
        tokio::task::yield_now().await;
    }
    let mut third = endpoint.connect().await;
    assert_eq!(third.read(&mut [0; 9]).await.unwrap_or(0), 0);
    for event in [
        EdgeEvent::TooLarge,
        EdgeEvent::IncompleteBudget,
        EdgeEvent::IncompleteExpired,
        EdgeEvent::MirrorTurnedAway,
    ] {
        assert_eq!(endpoint.edge.get(event), 1, "{event:?}");
    }
    assert!(endpoint.targets().is_empty());
    drop(two);
    let Endpoint { budget, mirror, .. } = endpoint;
    mirror.stop().await;
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_stop_lets_what_is_under_way_become_complete() {
    let endpoint = Endpoint::start(Settings::default()).await;
    let _idle = endpoint.connect().await;
    let mut stream = endpoint.connect().await;
    stream
        .write_all(b"POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nx")
        .await
        .unwrap();
    while endpoint.edge.get(EdgeEvent::MirrorConnections) < 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let answered = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(b"y").await.unwrap();
    };
    let began = std::time::Instant::now();
    tokio::join!(endpoint.mirror.stop(), answered);
    assert!(began.elapsed() < Duration::from_millis(900));
    assert_eq!(endpoint.found.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn who_asks_for_it_is_answered_200() {
    let settings = Settings {
        status: Status::Ok,
        ..Settings::default()
    };
    let endpoint = Endpoint::start(settings).await;
    let answer = endpoint
        .answer(
            "GET /1 HTTP/1.1\r\n\r\nGET /marked HTTP/1.1\r\nReprise-Id: a/b/1\r\n\r\n\
             GET /2 HTTP/1.1\r\nConnection: close\r\n\r\n",
        )
        .await;
    assert_eq!(statuses(&answer), ["200"; 3]);
    assert_eq!(answer.matches("Content-Length: 0\r\n").count(), 3);
    assert_eq!(endpoint.targets(), ["/1", "/2"]);
}
