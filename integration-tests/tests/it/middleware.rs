//! Middleware: real programs between a recording and what is made of it; the samples that are shipped among them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reprise_integration_tests::process::{Finished, run};
use reprise_integration_tests::{Place, Process, eventually};
use reprise_traffic::gor::{Kind, Reader, SEPARATOR};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig;

const LIMIT: Duration = Duration::from_secs(60);

/// A message: its kind, its id, and its payload.
type Message = (Kind, String, Vec<u8>);

fn record(kind: u8, id: usize, at_ns: u64, payload: &[u8]) -> Vec<u8> {
    let header = format!("{kind} {id:024x} {at_ns} 1000\n");
    [header.as_bytes(), payload, SEPARATOR].concat()
}

fn messages(file: &Path) -> Vec<Message> {
    let mut reader = Reader::new(BufReader::new(fs::File::open(file).unwrap()));
    let mut messages = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        let record = record.unwrap();
        let id = String::from_utf8(record.id.to_vec()).unwrap();
        messages.push((record.kind, id, record.payload.to_vec()));
    }
    messages
}

fn sample(name: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/middleware");
    format!("{path}/{name}")
}

/// Ten thousand small requests, and two whose bodies are 10 MB, each with its answer; all due at once.
fn many(file: &Path) {
    let mut out = Vec::new();
    for id in 0..10_000 {
        let body = match id % 5000 {
            17 => 10 << 20,
            _ => id % 100,
        };
        let request = format!("POST /{id} HTTP/1.1\r\nContent-Length: {body}\r\n\r\n");
        let body: Vec<u8> = (0..body).map(|at| (at % 251) as u8).collect();
        let at = 1_000_000_000 + id as u64;
        out.extend(record(1, id, at, &[request.as_bytes(), &body].concat()));
        let answer = format!("HTTP/1.1 200 OK\r\nX-Id: {id}\r\nContent-Length: 0\r\n\r\n");
        out.extend(record(2, id, at, answer.as_bytes()));
    }
    fs::write(file, out).unwrap();
}

fn through(middleware: &str, from: &Path, to: &Path) -> Finished {
    let mut command = Place::loopback().command(rig::binary());
    command.args(["gor", "--input-file"]).arg(from);
    command
        .args(["--middleware", middleware, "--output-file"])
        .arg(to);
    command.arg("--output-file-append");
    run(command, 3 * LIMIT).unwrap()
}

/// What a line of the summary says of something that was seen at the edge.
fn at_edge(summary: &str, event: &str) -> u64 {
    let counted = summary.split(&format!("{event} ")).nth(1).map(|rest| {
        rest.chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
    });
    counted.map_or(0, |digits| digits.parse().unwrap())
}

#[test]
fn the_samples_pass_everything_on_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from.gor");
    many(&from);
    let expected = messages(&from);
    for name in ["leave_out_health.sh", "rewrite_token.py", "add_header.js"] {
        let to = dir.path().join(name).with_extension("gor");
        let ended = through(&sample(name), &from, &to);
        let mut came = messages(&to);
        let added = b"X-Replayed-By: reprise\r\n";
        for (kind, _, payload) in &mut came {
            if name == "add_header.js" && *kind == Kind::Request {
                let at = payload.windows(added.len()).position(|part| part == added);
                let at = at.expect("it adds a header");
                payload.drain(at..at + added.len());
            }
        }
        assert_eq!(came.len(), expected.len(), "{name}: {}", ended.stderr);
        assert!(came == expected, "{name} changed a message, or their order");
        for event in ["middleware_full", "middleware_lost", "middleware_left_out"] {
            assert_eq!(at_edge(&ended.stderr, event), 0, "{name}: {}", ended.stderr);
        }
    }
}

#[test]
fn what_a_middleware_leaves_out_is_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.gor"), dir.path().join("to.gor"));
    let mut out = Vec::new();
    for id in 0..100 {
        let path = ["health", "shop"][id % 2];
        let request = format!("GET /{path} HTTP/1.1\r\nA: GET /health\r\n\r\n");
        out.extend(record(1, id, 1_000, request.as_bytes()));
    }
    fs::write(&from, out).unwrap();
    let ended = through(&sample("leave_out_health.sh"), &from, &to);
    let came = messages(&to);
    assert_eq!(came.len(), 50);
    assert!(came.iter().all(|(_, _, p)| p.starts_with(b"GET /shop ")));
    assert_eq!(at_edge(&ended.stderr, "middleware_left_out"), 50);
}

/// A staging server that gives out tokens of its own, and remembers which ones it was shown.
fn staging(listener: TcpListener) -> std::thread::JoinHandle<Vec<String>> {
    std::thread::spawn(move || {
        let mut shown = Vec::new();
        while shown.len() < 3 {
            let (stream, _) = listener.accept().unwrap();
            answer(stream, &mut shown);
        }
        shown
    })
}

fn answer(stream: TcpStream, shown: &mut Vec<String>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut token = None;
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        while !line.trim_end().is_empty() {
            if let Some(value) = line.strip_prefix("X-Token: ") {
                token = Some(value.trim_end().to_owned());
            }
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        let answer = match token {
            Some(token) => {
                shown.push(token);
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            }
            None => "HTTP/1.1 200 OK\r\nX-Token: staging-token\r\nContent-Length: 0\r\n\r\n",
        };
        stream.write_all(answer.as_bytes()).unwrap();
        if shown.len() == 3 {
            return;
        }
    }
}

#[test]
fn a_sample_gives_staging_its_own_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from.gor");
    let second = 1_000_000_000;
    let login = b"GET /login HTTP/1.1\r\nHost: shop\r\n\r\n";
    let given = b"HTTP/1.1 200 OK\r\nX-Token: production-token\r\nContent-Length: 0\r\n\r\n";
    let mut out = record(1, 1, second, login);
    out.extend(record(2, 1, second + 1000, given));
    for id in 2..5 {
        let request = b"GET /cart HTTP/1.1\r\nHost: shop\r\nX-Token: production-token\r\n\r\n";
        out.extend(record(1, id, 3 * second + id as u64, request));
    }
    fs::write(&from, out).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let shown = staging(listener);
    let mut command = Place::loopback().command(rig::binary());
    command.args(["gor", "--input-file"]).arg(&from);
    command.args(["--output-http", &target, "--output-http-track-response"]);
    command.args(["--middleware", &sample("rewrite_token.py")]);
    run(command, LIMIT).unwrap();
    assert_eq!(shown.join().unwrap(), ["staging-token"; 3]);
}

/// A pipe into a run that goes on, and the file of what came out.
struct Live {
    process: Process,
    to: PathBuf,
    port: u16,
    stream: Option<TcpStream>,
}

impl Live {
    fn start(dir: &Path, middleware: &str) -> Live {
        let place = Place::loopback();
        let port = place.free().unwrap().port();
        let to = dir.join("to.gor");
        let mut command = place.command(rig::binary());
        command.args(["gor", "--input-tcp", &format!("127.0.0.1:{port}")]);
        command
            .args(["--middleware", middleware, "--output-file"])
            .arg(&to);
        command.args([
            "--output-file-append",
            "--output-file-flush-interval",
            "10ms",
        ]);
        let process = Process::start("gor", command, &dir.join("log")).unwrap();
        let stream = eventually("the port", LIMIT, || {
            Ok(TcpStream::connect(("127.0.0.1", port))?)
        });
        Live {
            process,
            to,
            port,
            stream: Some(stream.unwrap()),
        }
    }

    fn send(&mut self, ids: std::ops::Range<usize>, body: usize) {
        let stream = self.stream.as_mut().unwrap();
        for id in ids {
            let head = format!("POST /{id} HTTP/1.1\r\nContent-Length: {body}\r\n\r\n");
            let payload = [head.as_bytes(), &vec![b'x'; body]].concat();
            stream.write_all(&record(1, id, 1000, &payload)).unwrap();
        }
    }

    fn came(&self) -> Vec<usize> {
        let id = |message: &Message| usize::from_str_radix(&message.1, 16).unwrap();
        match self.to.exists() {
            true => messages(&self.to).iter().map(id).collect(),
            false => Vec::new(),
        }
    }

    /// Ends the run, and returns its summary.
    fn end(mut self) -> String {
        drop(self.stream.take());
        self.process.signal(Signal::TERM).unwrap();
        assert!(self.process.wait(LIMIT).unwrap().success());
        self.process.log().unwrap()
    }
}

/// It is killed between messages that it had answered, so that what it had is known.
#[test]
fn a_middleware_that_is_killed_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!("sh -c 'echo $$ >> {}; exec cat'", pids.display());
    let mut live = Live::start(dir.path(), &script);
    let program = |life: usize| -> i32 {
        eventually("the program's number", LIMIT, || {
            let lives = fs::read_to_string(&pids)?;
            let pid = lives.lines().nth(life).map(str::parse);
            pid.transpose()?.ok_or_else(|| anyhow::anyhow!("{lives}"))
        })
        .unwrap()
    };
    for life in 0..3 {
        let pid = program(life);
        live.send(100 * life..100 * (life + 1), 10);
        eventually("all of a life's messages", LIMIT, || {
            let came = live.came().len();
            anyhow::ensure!(came == 100 * (life + 1), "{came}");
            Ok(())
        })
        .unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    program(3);
    live.send(300..400, 10);
    eventually("the messages of the last life", LIMIT, || {
        let came = live.came();
        anyhow::ensure!(came.len() == 400, "{}", came.len());
        Ok(())
    })
    .unwrap();
    assert_eq!(live.came(), (0..400).collect::<Vec<_>>());
    let log = live.end();
    assert_eq!(log.matches("started again").count(), 3, "{log}");
    assert_eq!(at_edge(&log, "middleware_lost"), 0, "{log}");
}

/// With messages of 100 KB its queue of 32 MiB and its pipe are full soon; the sender is held up no longer than so.
#[test]
fn a_middleware_that_hangs_holds_nobody_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let mut live = Live::start(dir.path(), "sleep 1000");
    live.send(0..1000, 100_000);
    let port = live.port;
    let mut other = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let payload = b"GET / HTTP/1.1\r\n\r\n";
    other.write_all(&record(1, 7000, 1000, payload)).unwrap();
    other.shutdown(std::net::Shutdown::Write).unwrap();
    // Its end is read, so nobody waits for the program by then.
    assert_eq!(other.read(&mut [0]).unwrap(), 0);
    let log = live.end();
    let counted = ["middleware_full", "middleware_lost", "middleware_left_out"]
        .map(|event| at_edge(&log, event));
    assert_eq!(counted.iter().sum::<u64>(), 1001, "{log}");
    assert!(counted[0] > 100, "{log}");
}
