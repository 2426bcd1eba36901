//! Requests as odd as clients make them come out of a recording with the bytes with which they went in.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use reprise_integration_tests::Place;

use crate::rig;
use crate::tape::{self, MS, assert_all, record, replay};

/// A server that keeps whole requests, byte for byte. Its threads end with the connections, and with the process.
struct Server {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind(Place::loopback().free().unwrap()).unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
        };
        let received = server.received.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let received = received.clone();
                thread::spawn(move || serve(&stream, &received));
            }
        });
        server
    }
}

/// Answers requests until the client goes.
fn serve(mut stream: &TcpStream, received: &Mutex<Vec<Vec<u8>>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut raw = Vec::new();
        until_empty_line(&mut reader, &mut raw)?;
        let head = String::from_utf8_lossy(&raw).to_lowercase();
        if head.contains("\r\nexpect: 100-continue\r\n") {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if head.contains("\r\ntransfer-encoding:") {
            while more_chunks(&mut reader, &mut raw)? {}
            until_empty_line(&mut reader, &mut raw)?;
        } else if let Some((_, rest)) = head.split_once("\r\ncontent-length:") {
            let length = rest
                .split("\r\n")
                .next()
                .and_then(|n| n.trim().parse().ok());
            read(&mut reader, length.unwrap_or(0), &mut raw)?;
        }
        received.lock().unwrap().push(raw);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}

fn until_empty_line(reader: &mut impl BufRead, raw: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        let before = raw.len();
        match reader.read_until(b'\n', raw)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ if raw[before..] == *b"\r\n" => return Ok(()),
            _ => {}
        }
    }
}

/// Reads a chunk, or the size line of the last.
fn more_chunks(reader: &mut impl BufRead, raw: &mut Vec<u8>) -> std::io::Result<bool> {
    let before = raw.len();
    reader.read_until(b'\n', raw)?;
    let size = String::from_utf8_lossy(&raw[before..]);
    let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
    if size > 0 {
        read(reader, size + 2, raw)?;
    }
    Ok(size > 0)
}

fn read(reader: &mut impl Read, length: usize, raw: &mut Vec<u8>) -> std::io::Result<()> {
    let before = raw.len();
    raw.resize(before + length, 0);
    reader.read_exact(&mut raw[before..])
}

/// A request as it is recorded, and as it is to arrive but for the line of `Reprise-Id` at the end of its head.
struct Odd {
    recorded: Vec<u8>,
    /// Up to that line, and behind it.
    arrives: (Vec<u8>, Vec<u8>),
}

fn odd(random: &mut fastrand::Rng, n: u64, host: &str) -> Odd {
    fn one<'a>(random: &mut fastrand::Rng, of: &[&'a str]) -> &'a str {
        of[random.usize(..of.len())]
    }
    let method = one(
        random,
        &[
            "GET", "HEAD", "POST", "PUT", "PURGE", "QUERY", "x-Y", "DELETE", "OPTIONS",
        ],
    );
    let path = one(
        random,
        &[
            "/",
            "//a//b/../c/./d",
            "/%2F%2f%00%zz%",
            "/a;v=1,2?q=%C3%A9+&&=&x",
            "http://other.example:81/abs?a=b",
            "/|^`{}\"<>\\",
            "/caf\u{e9}?\u{1f4a5}",
        ],
    );
    let version = if random.u8(..20) == 0 { "1.0" } else { "1.1" };
    let line = format!("{method} {path} HTTP/{version}\r\n");
    // Lines as recorded and as they are to arrive.
    let mut lines = vec![(line.clone(), line)];
    let mut add = |line: String| lines.push((format!("{line}\r\n"), format!("{line}\r\n")));
    for _ in 0..random.usize(..12) {
        let name = one(
            random,
            &[
                "X-Twice",
                "x-twice",
                "X_UNDER",
                "aCCept",
                "Cookie",
                "Via",
                "!#$%&'*+-.^_`|~9",
                "Keep-Alive",
            ],
        );
        let space = one(random, &["", " ", "\t", "   "]);
        let value = one(
            random,
            &[
                "",
                "1",
                "a, b ,, c",
                "\"q\\\"uoted\"",
                "caf\u{e9}",
                "a=b; sid=7; c",
                "\u{1f4a5}",
            ],
        );
        let end = one(random, &["", " ", "\t "]);
        add(format!("{name}:{space}{value}{end}"));
    }
    add(format!("X-Number: {n}"));
    if random.u8(..50) == 0 {
        add(format!(
            "X-Long: {}",
            "l".repeat(random.usize(1000..20_000))
        ));
    }
    let has_host = random.u8(..20) > 0;
    if has_host {
        let name = one(random, &["Host", "host", "HOST"]);
        let (space, end) = (one(random, &["", " ", "  "]), one(random, &["", " \t"]));
        lines.push((
            format!("{name}:{space}shop.example{end}\r\n"),
            format!("{name}:{space}{host}\r\n"),
        ));
    }
    match random.u8(..10) {
        0 if version == "1.1" => lines.push(("Connection: close\r\n".into(), String::new())),
        1 if version == "1.1" => lines.push((
            "connection: TE , Close\r\n".into(),
            "connection: TE\r\n".into(),
        )),
        _ => {}
    }
    let mut body = vec![0; random.usize(1..3000)];
    random.fill(&mut body);
    let (recorded, arrives) = match random.u8(..4) {
        0 => (Vec::new(), Vec::new()),
        1 if version == "1.1" => {
            add_both(
                &mut lines,
                "Trailer: X-Sum\r\ntransfer-ENCODING:  chunked\r\n",
            );
            let (first, second) = body.split_at(random.usize(1..=body.len()).min(body.len() - 1));
            let trailers = one(random, &["", "X-Sum: 5\r\nx-sum:6 \r\n"]);
            let end = format!("0\r\n{trailers}\r\n");
            let chunks: Vec<&[u8]> = [first, second]
                .into_iter()
                .filter(|c| !c.is_empty())
                .collect();
            let mut in_chunks = Vec::new();
            for chunk in chunks {
                // As some write sizes: with zeros in front and in capitals.
                in_chunks.extend_from_slice(format!("0{:X}\r\n", chunk.len()).as_bytes());
                in_chunks.extend_from_slice(chunk);
                in_chunks.extend_from_slice(b"\r\n");
            }
            in_chunks.extend_from_slice(end.as_bytes());
            let size = format!("{:x}\r\n", body.len());
            (
                in_chunks,
                [size.as_bytes(), &body, b"\r\n", end.as_bytes()].concat(),
            )
        }
        kind => {
            if kind == 2 && version == "1.1" {
                add_both(&mut lines, "Expect: 100-continue\r\n");
            }
            add_both(&mut lines, &format!("content-LENGTH:{}\r\n", body.len()));
            (body.clone(), body)
        }
    };
    let (mut was, mut is) = (Vec::new(), Vec::new());
    for (recorded, arrives) in &lines {
        was.extend_from_slice(recorded.as_bytes());
        is.extend_from_slice(arrives.as_bytes());
    }
    was.extend_from_slice(b"\r\n");
    if !has_host && version == "1.1" {
        is.extend_from_slice(format!("Host: {host}\r\n").as_bytes());
    }
    was.extend_from_slice(&recorded);
    Odd {
        recorded: was,
        arrives: (is, [&b"\r\n"[..], &arrives].concat()),
    }
}

fn add_both(lines: &mut Vec<(String, String)>, text: &str) {
    lines.push((text.to_owned(), text.to_owned()));
}

/// The changes that are documented (docs/delivery.md), and none else.
#[test]
fn a_thousand_odd_requests_arrive_as_they_were_recorded() {
    let _alone = rig::alone();
    let server = Server::start();
    let host = server.address.to_string();
    let mut random = fastrand::Rng::with_seed(7);
    let odd: Vec<Odd> = (0..1000).map(|n| odd(&mut random, n, &host)).collect();
    let records = odd.iter().zip(0..);
    let records: Vec<u8> = records
        .flat_map(|(odd, n)| record(1, n, n * MS, &odd.recorded))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let tape = tape::write(dir.path(), "odd.gor", &records);
    let more = ["--methods", "any", "--speed", "max"];
    let finished = replay(&[&tape], &format!("http://{host}"), &more);
    assert_all(&finished, 1000);
    let received = server.received.lock().unwrap();
    assert_eq!(received.len(), 1000, "{}", finished.stderr);
    for (n, (odd, came)) in odd.iter().zip(received.iter()).enumerate() {
        let (front, back) = &odd.arrives;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let what = || format!("{n}: recorded\n{}came\n{}", text(&odd.recorded), text(came));
        assert!(came.starts_with(front), "{}", what());
        let rest = &came[front.len()..];
        assert!(rest.starts_with(b"Reprise-Id: "), "{}", what());
        let end = rest.iter().position(|b| *b == b'\n').unwrap();
        assert!(rest[end + 1..] == back[..], "{}", what());
    }
}
