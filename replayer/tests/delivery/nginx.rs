//! A real server: many requests, few connections.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reprise_traffic::Disposition::Replayed;

use crate::server::{client_of, outcome};

const NGINX: &str = "/usr/sbin/nginx";

struct Nginx {
    process: Child,
    home: tempfile::TempDir,
    port: u16,
}

impl Nginx {
    fn start() -> Nginx {
        let home = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let dir = home.path().display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {dir}/{kind};"))
            .concat();
        let config = format!(
            "daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
             events {{ worker_connections 512; }}
             http {{ {paths} client_max_body_size 8m;
                     log_format line '$connection $request_method $request_uri $status';
                     access_log {dir}/access.log line;
                     server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }} }}"
        );
        let file = home.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let process = Command::new(NGINX)
            .args(["-e", "stderr", "-p"])
            .arg(home.path())
            .arg("-c")
            .arg(&file)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "nginx doesn't listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Nginx {
            process,
            home,
            port,
        }
    }

    /// The access log, once it is complete.
    fn stop(mut self) -> String {
        let stopped = Command::new("kill")
            .args(["-QUIT", &self.process.id().to_string()])
            .status();
        assert!(stopped.unwrap().success());
        self.process.wait().unwrap();
        std::fs::read_to_string(self.home.path().join("access.log")).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_gets_over_few_connections() {
    if !Path::new(NGINX).exists() {
        eprintln!("skipped: {NGINX} is not installed");
        return;
    }
    let nginx = Nginx::start();
    let client = Arc::new(client_of(
        &format!("http://127.0.0.1:{}", nginx.port),
        |_| {},
    ));
    let begun = Instant::now();
    let workers: Vec<_> = (0..50)
        .map(|worker| {
            let client = Arc::clone(&client);
            tokio::spawn(async move {
                for number in 0..200 {
                    let get = format!("GET /{worker}/{number} HTTP/1.1\r\nHost: shop\r\n\r\n");
                    assert_eq!(outcome(&client, get.as_bytes()).await, Replayed(200));
                }
                // nginx answers before it has read these, and reads them nevertheless.
                for number in 0..2 {
                    let body = "x".repeat(1 << 20);
                    let post = format!("POST /{worker}/{number} HTTP/1.1\r\nHost: shop\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    assert_eq!(outcome(&client, post.as_bytes()).await, Replayed(200));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let took = begun.elapsed();
    let log = nginx.stop();
    let lines: Vec<Vec<&str>> = log.lines().map(|line| line.split(' ').collect()).collect();
    let of = |method: &str| lines.iter().filter(|line| line[1] == method).count();
    assert_eq!((of("GET"), of("POST")), (10_000, 100), "each exactly once");
    let distinct: HashSet<(&str, &str)> = lines.iter().map(|line| (line[1], line[2])).collect();
    assert_eq!(distinct.len(), 10_100);
    let connections: HashSet<&str> = lines.iter().map(|line| line[0]).collect();
    assert!(connections.len() <= 60, "{} connections", connections.len());
    eprintln!(
        "10,100 requests in {took:?} over {} connections",
        connections.len()
    );
}
