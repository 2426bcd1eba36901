//! Far ends that go, come back, or never read.

use tokio::net::TcpSocket;

use super::*;

/// Reads records until it has so many, and then goes: with a reset, as there is more that it didn't read.
async fn hear_some(stream: &mut TcpStream, most: usize, heard: &mut Vec<Vec<u8>>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1000];
    let mut count = 0;
    while count < most {
        let Ok(length @ 1..) = stream.read(&mut buffer).await else {
            return;
        };
        bytes.extend_from_slice(&buffer[..length]);
        while let Some(length) = memchr::memmem::find(&bytes, gor::SEPARATOR) {
            let rest = bytes.split_off(length + gor::SEPARATOR.len());
            heard.push(std::mem::replace(&mut bytes, rest));
            count += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_end_that_dies_costs_what_was_on_its_way_and_that_is_said() {
    const COUNT: u64 = 30_000;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let mut feed = Feed::start(&url, "stream: {connections: 3}");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = heard.clone();
    let far = tokio::spawn(async move {
        for connection in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let hearing = hearing.clone();
            tokio::spawn(async move {
                let mut some = Vec::new();
                let most = if connection < 12 { 300 } else { usize::MAX };
                hear_some(&mut stream, most, &mut some).await;
                // While there is something unread this resets the connection.
                drop(stream);
                hearing.lock().unwrap().extend(some);
            });
        }
    });
    let mut ends = BTreeMap::<Disposition, u64>::new();
    for sequence in 0..COUNT {
        feed.send(half(sequence));
        if sequence % 100 == 0 {
            sleep(Duration::from_millis(3)).await;
        }
    }
    for _ in 0..COUNT {
        *ends.entry(feed.end().await.1).or_default() += 1;
    }
    assert!(
        timeout(Duration::from_millis(50), feed.ended.recv())
            .await
            .is_err()
    );
    drop(feed.streamer);
    let quiet = async {
        while feed.meter.connections.get() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, quiet).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    far.abort();
    let of = |end| ends.get(&end).copied().unwrap_or(0);
    let (taken, unknown) = (of(TAKEN_IT), of(Disposition::Unknown));
    assert_eq!(taken + unknown, COUNT, "{ends:?}");
    let heard = heard.lock().unwrap();
    let in_doubt = feed.meter.in_doubt.get();
    assert!(feed.meter.reconnects.get() >= 12);
    assert!(in_doubt > 0, "{ends:?}");
    let arrived = heard.len() as u64;
    assert!(
        arrived + in_doubt >= taken,
        "{arrived} of {ends:?}, {in_doubt} in doubt"
    );
    let distinct: BTreeSet<&Vec<u8>> = heard.iter().collect();
    assert_eq!(distinct.len() as u64, arrived, "some came twice");
    let expected: BTreeSet<Vec<u8>> = (0..COUNT).map(|n| record_of(&half(n))).collect();
    assert!(heard.iter().all(|record| expected.contains(record)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_goes_over_the_next_connection_in_order() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut feed = Feed::start(&format!("tcp://{address}"), "stream: {connections: 1}");
    let (first, _) = listener.accept().await.unwrap();
    assert_eq!(feed.one(half(0)).await, TAKEN_IT);
    // Nobody listens for a while.
    drop((first, listener));
    while feed.meter.connections.get() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    for sequence in 1..1000 {
        feed.send(half(sequence));
    }
    sleep(Duration::from_millis(300)).await;
    assert_eq!(feed.streamer.load(), 999);
    let listener = TcpListener::bind(address).await.unwrap();
    let back = Instant::now();
    let (stream, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    assert!(back.elapsed() < Duration::from_secs(5));
    let far = Far::default();
    tokio::spawn(far.clone().hear(0, stream));
    for sequence in 1..1000 {
        assert_eq!(feed.end().await, (sequence, TAKEN_IT));
    }
    assert_eq!(feed.meter.reconnects.get(), 1);
    drop(feed.streamer);
    let expected: Vec<_> = (1..1000).map(|n| record_of(&half(n))).collect();
    assert!(records(&far.all(1).await[0]) == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_end_that_never_reads_holds_no_more_than_its_room_and_not_for_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let mut feed = Feed::start(&url, "max_age: 500ms, stream: {connections: 2}");
    let room = Room { jobs: 500, ..ROOM };
    let body = vec![b'x'; 60_000];
    let mut most = 0;
    for sequence in 0..1000 {
        feed.send_with(exchange(sequence, &body), room);
        most = most.max(feed.streamer.load());
    }
    assert!((100..=500).contains(&most), "{most}");
    let mut ends = BTreeMap::<Disposition, u64>::new();
    for _ in 0..1000 {
        *ends.entry(feed.end().await.1).or_default() += 1;
    }
    for end in [
        TAKEN_IT,
        Disposition::Unknown,
        Disposition::Dropped(DropReason::ReplayerFull),
        Disposition::Dropped(DropReason::Expired),
    ] {
        assert!(ends.contains_key(&end), "{end}: {ends:?}");
    }
    assert_eq!(feed.streamer.load(), 0);
}

/// What our own kernel keeps because the far one has no room for it has not been taken.
#[tokio::test(flavor = "multi_thread")]
async fn taken_is_what_the_far_kernel_has() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(20_000).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let mut feed = Feed::start(&url, "max_age: 2s, stream: {connections: 1}");
    let (mut far, _) = listener.accept().await.unwrap();
    let sent: Vec<_> = (0..200).map(|n| exchange(n, &[b'x'; 1000])).collect();
    sent.iter().for_each(|exchange| feed.send(exchange.clone()));
    let mut taken = 0;
    while let Ok(end) = timeout(Duration::from_millis(300), feed.ended.recv()).await {
        let (sequence, disposition) = end.unwrap();
        assert_eq!(disposition, TAKEN_IT);
        taken += record_of(&sent[sequence as usize]).len();
    }
    let has = far.peek(&mut vec![0; 1 << 20]).await.unwrap();
    assert!(
        0 < taken && taken <= has && has < taken + 1100,
        "{taken} of {has}"
    );
    assert!(feed.streamer.load() > 0);
    // What is given up doesn't arrive behind what goes over the next connection.
    let t0 = Instant::now();
    let mut what = BTreeMap::<String, u64>::new();
    while feed.streamer.load() > 0 {
        let e = feed.end().await.1;
        *what.entry(format!("{e:?} {}", t0.elapsed().as_millis() / 100)).or_default() += 1;
    }
    let mut p = vec![0; 1 << 20];
    let pk = far.peek(&mut p).await;
    eprintln!("DBG {what:?} {:?} taken {taken} has {has} peek {pk:?} ", t0.elapsed());
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap_err();
    assert_eq!(heard.len(), has);
}

#[tokio::test]
async fn where_nobody_listens_what_waits_expires() {
    let mut feed = Feed::start("tcp://127.0.0.1:1", "max_age: 200ms");
    for sequence in 0..100 {
        feed.send(half(sequence));
    }
    for _ in 0..100 {
        let expired = Disposition::Dropped(DropReason::Expired);
        assert_eq!(feed.end().await.1, expired);
    }
    assert_eq!((feed.streamer.load(), feed.meter.connections.get()), (0, 0));
}

/// One of two connections is read, the other isn't.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_stuck_holds_up_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let yaml = "session_key: client, stream: {connections: 2, sticky: false}";
    let mut feed = Feed::start(&url, yaml);
    let (stuck, _) = listener.accept().await.unwrap();
    let far = Far::default();
    let hearing = far.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        hearing.hear(0, stream).await;
    });
    // More than sockets buffer.
    let body = vec![b'x'; 1 << 20];
    let (mut to_stuck, mut to_other) = (0, 0);
    let room = Room { jobs: 100, ..ROOM };
    for sequence in 0..400 {
        let exchange = exchange(sequence, &body);
        let is_stuck = feed.streamer.part_of(&exchange) == 0;
        feed.send_with(exchange, room);
        if is_stuck {
            to_stuck += 1;
            continue;
        }
        to_other += 1;
        loop {
            let (ended, disposition) = feed.end().await;
            if ended == sequence {
                assert_eq!(disposition, TAKEN_IT);
                break;
            }
        }
    }
    assert!(to_stuck > 100 && to_other > 100);
    assert!(feed.streamer.load() > 5);
    drop(stuck);
}
