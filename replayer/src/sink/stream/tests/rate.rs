use super::*;

/// cpu seconds of this process
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn thread_cpu(name: &str) -> f64 {
    let mut all = 0.0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let stat = std::fs::read_to_string(path.join("stat")).unwrap();
        if !stat.contains(&format!("({name})")) {
            continue;
        }
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        all += (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0;
    }
    all
}

#[test]
#[ignore = "measures"]
fn rate() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::Builder::new()
        .name("far".into())
        .spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::Builder::new()
                    .name("far".into())
                    .spawn(move || {
                        let mut buffer = vec![0; 256 << 10];
                        while std::io::Read::read(&mut stream, &mut buffer).unwrap() > 0 {}
                    })
                    .unwrap();
            }
        })
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_name("sender")
        .build()
        .unwrap();
    let kind = std::env::var("KIND").unwrap_or("tcp".into());
    let paced: u64 = std::env::var("PACE").map_or(0, |p| p.parse().unwrap());
    let count: u64 = std::env::var("COUNT").map_or(1_000_000, |p| p.parse().unwrap());
    runtime.block_on(async move {
        let mut feed = Feed::start(&format!("{kind}://{address}"), "");
        let many: Vec<_> = (0..1000).map(|n| exchange(n, &[b'x'; 300])).collect();
        println!("record {}", record_of(&many[0]).len());
        let (started, before) = (Instant::now(), cpu());
        let end = feed.end.clone();
        let (mut sent, mut ended) = (0, 0);
        let mut dropped = 0;
        while ended < count {
            while sent < count && sent - ended < 20_000 && (paced == 0 || (sent as f64) < started.elapsed().as_secs_f64() * paced as f64) {
                let end = end.clone();
                let done = move |exchange: Arc<Exchange>, disposition| { let _ = end.send((exchange.id.sequence, disposition)); };
                feed.streamer.take(Entry { exchange: many[sent as usize % 1000].clone(), end: Box::new(done) }, ROOM);
                sent += 1;
            }
            if paced > 0 { sleep(Duration::from_millis(1)).await; }
            let mut got = Vec::new();
            if sent > ended {
            tokio::select! { n = feed.ended.recv_many(&mut got, 10_000) => { ended += n as u64; dropped += got.iter().filter(|g| g.1 != TAKEN_IT).count(); }
              () = sleep(Duration::from_millis(1)), if paced > 0 => {} }
            }
        }
        let took = started.elapsed().as_secs_f64();
        println!("{kind}: {count} in {took:.2} s: {:.0}/s, cpu {:.2} of which sender task {:.2} us/record {:.2}, dropped {dropped}", count as f64 / took, cpu() - before, thread_cpu("sender"), thread_cpu("sender") / count as f64 * 1e6);
    });
}
