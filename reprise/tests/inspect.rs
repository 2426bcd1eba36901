//! `reprise inspect` as users run it, on files and pipes that are made here.
#![expect(
    clippy::unwrap_used,
    reason = "a test that can't set the stage has to fail"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use etherparse::PacketBuilder;
use serde_json::{Value, json};

/// SHA-256 of nothing and of `abc` (FIPS 180-2, appendix B.1).
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 1], 40_000);
const SERVER: ([u8; 4], u16) = ([10, 0, 0, 2], 8080);

/// A client's segment as an IP packet.
fn segment(client_port: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(CLIENT.0, SERVER.0, 64)
        .tcp(client_port, SERVER.1, sequence, 1000)
        .ack(9)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

/// A pcap file of IP packets, a second apart.
fn pcap(packets: &[Vec<u8>]) -> Vec<u8> {
    pcap_of_link(101, packets)
}

fn pcap_of_link(link: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for field in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, link] {
        file.extend(u32::to_le_bytes(field));
    }
    for (second, packet) in packets.iter().enumerate() {
        let length = packet.len() as u32;
        for field in [1_700_000_000 + second as u32, 7, length, length] {
            file.extend(field.to_le_bytes());
        }
        file.extend(packet);
    }
    file
}

/// A pcapng file with one packet of each interface.
fn pcapng(packets: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let block = |kind: u32, body: &[u8]| {
        let mut body = body.to_vec();
        body.resize(body.len().next_multiple_of(4), 0);
        let length = (body.len() as u32 + 12).to_be_bytes();
        [&kind.to_be_bytes(), &length, &body[..], &length].concat()
    };
    let header = [
        0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];
    let mut file = block(0x0a0d_0d0a, &header);
    for (link, _) in packets {
        let [high, low] = link.to_be_bytes();
        file.extend(block(1, &[high, low, 0, 0, 0, 0, 0, 0]));
    }
    for (number, (_, packet)) in packets.iter().enumerate() {
        let length = packet.len() as u32;
        let fields = [number as u32, 0, 1_000_000, length, length];
        let mut body = fields.map(u32::to_be_bytes).concat();
        body.extend(packet);
        file.extend(block(6, &body));
    }
    file
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn record(header: &str, payload: &str) -> String {
    format!("{header}\n{payload}\n🐵🙈🙉\n")
}

struct Ended {
    status: ExitStatus,
    out: String,
    summary: String,
}

impl Ended {
    fn rows(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap();
        self.out.lines().map(parse).collect()
    }

    fn expect_summary(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.summary.contains(part), "{part}:\n{}", self.summary);
        }
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reprise"));
    command.arg("inspect").args(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn ended(child: Child) -> Ended {
    let output = child.wait_with_output().unwrap();
    Ended {
        status: output.status,
        out: String::from_utf8(output.stdout).unwrap(),
        summary: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs on files of these contents.
fn inspect(args: &[&str], files: &[(&str, &[u8])]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    inspect_in(folder.path(), args, files)
}

fn inspect_in(folder: &Path, args: &[&str], files: &[(&str, &[u8])]) -> Ended {
    let mut command = command(args);
    command.args(files.iter().map(|(name, _)| name));
    ended(command.current_dir(folder).spawn().unwrap())
}

/// Runs on standard input.
fn inspect_pipe(args: &[&str], input: &[u8]) -> Ended {
    let mut child = command(args).arg("-").spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    ended(child)
}

#[test]
fn a_request_is_one_json_object() {
    let head = b"POST /caf\xc3\xa9 HTTP/1.1\r\nHost: x\r\nN: \xfcber\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = b"3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n";
    let behind = 1 + head.len() as u32;
    let file = pcap(&[segment(40_000, 1, head), segment(40_000, behind, body)]);
    let expected = json!({
        "file": "-",
        "client": "10.0.0.1:40000",
        "server": "10.0.0.2:8080",
        "time_ns": 1_700_000_000_000_007_000_u64,
        "method": "POST",
        "target": "/caf\u{c3}\u{a9}",
        "version": "HTTP/1.1",
        "headers": [["Host", "x"], ["N", "\u{fc}ber"], ["Transfer-Encoding", "chunked"]],
        "body_len": 3,
        "body_sha256": OF_ABC,
    });
    for input in [
        file.clone(),
        gzip(&file),
        zstd::encode_all(&file[..], 0).unwrap(),
    ] {
        for args in [
            &["--json"][..],
            &["--json", "--port", "1", "--port", "8080"],
        ] {
            let ended = inspect_pipe(args, &input);
            assert!(ended.status.success(), "{}", ended.summary);
            assert_eq!(
                ended.rows(),
                std::slice::from_ref(&expected),
                "{}",
                ended.summary
            );
            ended.expect_summary(&["-: 2 packets, ", "1 request\n"]);
        }
        let elsewhere = inspect_pipe(&["--json", "--port", "80"], &input);
        assert_eq!((elsewhere.status.code(), &*elsewhere.out), (Some(0), ""));
    }
    let answered = inspect_pipe(&["--json", "--responses"], &file);
    assert!(answered.rows()[0].get("response").is_some());
}

#[test]
fn interfaces_of_several_link_types_meet_in_one_file() {
    let mut ipv6 = Vec::new();
    PacketBuilder::ethernet2([1; 6], [2; 6])
        .ipv6([0; 16], [0xfd; 16], 64)
        .tcp(1, 80, 1, 1000)
        .write(&mut ipv6, b"GET /six HTTP/1.0\r\n\r\n")
        .unwrap();
    let ipv4 = segment(40_000, 1, b"GET /four HTTP/1.1\r\nHost: a\r\n\r\n");
    let file = pcapng(&[(1, ipv6), (101, ipv4), (147, b"what?".to_vec())]);
    let ended = inspect(&["--json"], &[("two.pcapng", &file)]);
    let rows = ended.rows();
    assert_eq!(rows.len(), 2, "{}", ended.summary);
    assert_eq!(rows[0]["client"], "[::]:1");
    assert_eq!(
        (&rows[0]["version"], &rows[0]["time_ns"]),
        (&json!("HTTP/1.0"), &json!(1_000_000_000))
    );
    assert_eq!(rows[1]["target"], "/four");
    ended.expect_summary(&["two.pcapng: 3 packets", "1 packets of link type 147"]);
}

#[test]
fn one_bad_file_does_not_keep_from_the_others() {
    let request = |n: u16| {
        segment(
            n,
            1,
            format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(),
        )
    };
    let file = pcap(&[request(1), request(2)]);
    let cut = &file[..file.len() - 5];
    let garbage = [&file[..], &[0xff; 40]].concat();
    let files: [(&str, &[u8]); 4] = [
        ("whole", &file),
        ("cut", cut),
        ("garbage", &garbage),
        ("other", b"GIF89a"),
    ];
    let ended = inspect(&[], &files);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.summary);
    let second = file.len() / 2 + 12;
    ended.expect_summary(&[
        "whole: 2 packets, ",
        &format!("reprise: cut: cut off at byte {}, within what begins at byte {second}, after 1 whole packets", cut.len()),
        &format!("reprise: garbage: garbage at byte {}, after 2 packets: a packet of more than 16 MiB", file.len()),
        "reprise: other: neither a capture (pcap, pcapng) nor a recording (.gor)\n",
        "3 files: 5 packets",
        "5 requests; 1 file could not be read\n",
    ]);
    let targets = ended
        .out
        .lines()
        .filter(|line| line.contains(" GET "))
        .count();
    assert_eq!(targets, 5, "{}", ended.out);
    assert!(ended.out.starts_with("whole:\ntime "), "{}", ended.out);

    // What was cut off or went bad was read as far as it goes.
    let ended = inspect(&[], &files[..3]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.summary);
    let missing = inspect_in(Path::new("/"), &[], &[("not-there", b"")]);
    assert_eq!(missing.status.code(), Some(1));
    missing.expect_summary(&["reprise: not-there: No such file"]);
}

#[test]
fn recordings_give_requests_and_pairs() {
    let file = [
        record("1 aa 1000 -1", "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        record("1 bb 2000 1", "GET /b HTTP/1.1\r\nHost: x\r\n\r\n"),
        record("1 cc", "GET /c HTTP/1.1\r\nHost: x\r\n\r\n"),
        record("2 bb 2500 40", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
        record("1 dd 3000 1", "SSH-2.0-OpenSSH_9.2\r\n"),
        record("1 ee 3000 1", "POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"),
        "1 ff 4000 0\nGET /f HTTP/1.0\r\n\r\n".to_owned(),
    ]
    .concat();
    for content in [file.clone().into_bytes(), gzip(file.as_bytes())] {
        let ended = inspect(&["--json"], &[("x.gor", &content)]);
        assert_eq!(ended.status.code(), Some(0));
        let rows = ended.rows();
        let targets: Vec<&str> = rows
            .iter()
            .filter_map(|row| row["target"].as_str())
            .collect();
        assert_eq!(targets, ["/a", "/b", "/f"], "{}", ended.summary);
        assert_eq!(rows[0]["body_sha256"], OF_ABC);
        assert_eq!(
            (&rows[1]["client"], &rows[1]["time_ns"]),
            (&Value::Null, &json!(2000))
        );
        assert_eq!(rows[1].get("response"), None);
        ended.expect_summary(&[
            "reprise: x.gor:18: a record is skipped, at byte 151: its header has fewer than 3 fields\n",
            "x.gor: 6 records, 3 requests\n",
            "1 records without a header",
            "1 requests that are not HTTP/1",
            "1 requests that are not whole",
        ]);
    }
    let ended = inspect(&["--json", "--responses"], &[("x.gor", file.as_bytes())]);
    let rows = ended.rows();
    let answers: Vec<&Value> = rows.iter().map(|row| &row["response"]).collect();
    let answer = json!({
        "time_ns": 2500,
        "last_byte_ns": 2540,
        "status": 200,
        "version": "HTTP/1.1",
        "headers": [["Content-Length", "3"]],
        "body_len": 3,
        "body_sha256": OF_ABC,
        "complete": true,
    });
    assert_eq!(answers, [&Value::Null, &answer, &Value::Null]);
    assert_eq!(rows[2]["body_sha256"], OF_NOTHING);
    ended.expect_summary(&["3 requests, 1 with their answers\n"]);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let request = segment(1, 1, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let many: Vec<Vec<u8>> = (0..50_000_u32)
        .map(|n| segment(1, 1 + n * 27, &request[40..]))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.pcap");
    std::fs::write(&path, pcap(&many)).unwrap();
    let mut child = command(&["--json"]).arg(&path).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("\"GET\""), "{line}");
    let ended = ended(child);
    assert_eq!((ended.status.code(), &*ended.summary), (Some(0), ""));
}

#[test]
fn a_summary_that_nobody_reads_is_no_failure() {
    let file = pcap(&[segment(1, 1, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")]);
    let mut child = command(&["-"]).spawn().unwrap();
    drop(child.stderr.take());
    child.stdin.take().unwrap().write_all(&file).unwrap();
    assert!(ended(child).status.success());
}

/// Lines that a child prints, as they come; an end where there are no more.
fn lines(out: impl std::io::Read + Send + 'static) -> impl FnMut() -> Option<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    move || receiver.recv_timeout(Duration::from_secs(20)).ok()
}

fn feed(stdin: &mut ChildStdin, bytes: &[u8]) {
    stdin.write_all(bytes).unwrap();
    stdin.flush().unwrap();
}

#[test]
fn a_request_is_shown_while_the_pipe_is_still_open() {
    let file = pcap(&[segment(40_000, 1, b"GET /now HTTP/1.1\r\nHost: x\r\n\r\n")]);
    let mut child = command(&["-"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut next = lines(child.stdout.take().unwrap());
    feed(&mut stdin, &file[..30]);
    feed(&mut stdin, &file[30..]);
    assert!(next().unwrap().starts_with("time "));
    let row = next().unwrap();
    assert!(row.ends_with("  /now"), "{row}");
    drop(stdin);
    assert!(ended(child).status.success());
}

/// Says why a test can't run here; where it has to, fails.
fn skip(why: &str) {
    println!("skipped: {why}");
    assert!(std::env::var_os("CI").is_none(), "{why}");
}

#[test]
fn what_tcpdump_captures_on_loopback_is_shown() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let filter = format!("tcp port {port}");
    let tcpdump = Command::new("tcpdump")
        .args(["-i", "lo", "--immediate-mode", "-U", "-w", "-", &filter])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tcpdump) = tcpdump else {
        skip("there is no tcpdump");
        return;
    };
    let mut said = lines(tcpdump.stderr.take().unwrap());
    let mut all = String::new();
    let listens = std::iter::from_fn(&mut said).any(|line| {
        all.push_str(&line);
        line.contains("listening on lo")
    });
    if !listens {
        skip(&all);
        tcpdump.wait().unwrap();
        return;
    }
    let mut inspect = command(&["--json", "-"]);
    let mut inspect = inspect
        .stdin(tcpdump.stdout.take().unwrap())
        .spawn()
        .unwrap();
    let mut next = lines(inspect.stdout.take().unwrap());

    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client
        .write_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let (mut served, _) = server.accept().unwrap();
    served.read_exact(&mut [0; 10]).unwrap();
    served
        .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .unwrap();
    client.read_exact(&mut [0; 10]).unwrap();

    let row: Value = serde_json::from_str(&next().unwrap()).unwrap();
    assert_eq!(
        (&row["target"], &row["server"]),
        (&json!("/live"), &json!(format!("127.0.0.1:{port}")))
    );
    tcpdump.kill().unwrap();
    tcpdump.wait().unwrap();
    assert!(ended(inspect).status.success());
}
