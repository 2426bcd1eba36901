//! Records from `--input-tcp` to `--output-tcp` arrive byte for byte, none lost and none twice; and what is lost when the far
//! end dies is counted.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use reprise_integration_tests::{Place, eventually, nginx};

use super::far::Far;
use super::records::{self, SEPARATOR};
use super::run::{Gor, LIMIT, Style, beside_each_other};
use crate::rig;

const SENDERS: usize = 10;
const LARGE: usize = 5_000_000;

/// Records of all sorts, each with a header of its own; separators included.
fn all_sorts(count: usize) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..count).map(|n| sort(n, count, &mut random)).collect()
}

fn sort(n: usize, count: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut garbage = |length: usize| -> Vec<u8> { (0..length).map(|_| random.u8(..)).collect() };
    let (kind, payload) = match n % 10 {
        _ if n % (count / 4) == 99 => (1, post(&garbage(64).repeat(LARGE / 64))),
        0 => (1, b"GET /a?b=%20 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        1 => (2, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()),
        2 => (
            1,
            b"POST /c HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n00A\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n".to_vec(),
        ),
        3 => (2, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab\r\n0\r\n0\r\n\r\n".to_vec()),
        4 => (
            1,
            b"gEt  /a b  HTTP/1.0\nhost:a\n X-Folded : 1\r\n\t2\r\nX-\xff: \xfe\r\nx-twice: 1\r\nX-Twice:\r\n\r\nbehind the end".to_vec(),
        ),
        5 => (1, garbage(n % 700)),
        6 => (2, garbage(n % 300)),
        7 => (1, post(&garbage(n % 900))),
        8 => (1, b"\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n".to_vec()),
        _ => (2, b"HTTP/1.0 500\r\n\r\n\n\n".to_vec()),
    };
    let latency = match n % 3 {
        0 => " -1",
        1 => " 12345",
        _ => "",
    };
    let width = if n.is_multiple_of(7) { 40 } else { 24 };
    let header = format!(
        "{kind} {n:0width$x} {}{latency}\n",
        records::BEGIN + n as u64
    );
    [header.as_bytes(), &payload, SEPARATOR].concat()
}

fn post(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Sends them over ten connections in turn.
fn send(to: SocketAddr, records: &[Vec<u8>]) {
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            scope.spawn(move || {
                let connection = TcpStream::connect(to).unwrap();
                let mut connection = std::io::BufWriter::with_capacity(1 << 16, connection);
                for record in records.iter().skip(sender).step_by(SENDERS) {
                    connection.write_all(record).unwrap();
                }
                connection.flush().unwrap();
            });
        }
    });
}

/// The far end has exactly these.
fn assert_same(sent: &[Vec<u8>], far: &Far) {
    let heard = far.heard();
    let mut came: Vec<&[u8]> = heard.iter().flat_map(|part| records::split(part)).collect();
    let bytes: usize = came
        .iter()
        .map(|record| record.len() + SEPARATOR.len())
        .sum();
    assert_eq!(
        bytes,
        heard.iter().map(Vec::len).sum::<usize>(),
        "a part of a record"
    );
    let mut expected: Vec<&[u8]> = sent
        .iter()
        .map(|r| &r[..r.len() - SEPARATOR.len()])
        .collect();
    came.sort_unstable();
    expected.sort_unstable();
    assert_eq!(came.len(), expected.len());
    for (came, expected) in came.iter().zip(&expected) {
        let shown =
            |record: &[u8]| String::from_utf8_lossy(&record[..record.len().min(300)]).into_owned();
        assert!(
            came == expected,
            "{:?}\ninstead of\n{:?}",
            shown(came),
            shown(expected)
        );
    }
}

#[test]
fn two_hundred_thousand_records_keep_their_bytes() {
    const RECORDS: usize = 200_000;
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    let (far, here) = (Far::start(), Place::loopback().free().unwrap());
    let line = format!("--input-tcp {here} --output-tcp {}", far.address());
    let gor = Gor::start(Style::Written, &line, dir.path());
    let sent = all_sorts(RECORDS);
    send(here, &sent);
    far.until(RECORDS, LIMIT);
    assert_eq!(gor.stop().output(1).replayed_total(), RECORDS as u64);
    assert_same(&sent, &far);
}

/// Plain, then TLS with a certificate that is checked, then TLS with any, then plain: the one in the middle has TLS on both
/// sides.
#[test]
fn a_chain_over_tls_keeps_them_too() {
    const RECORDS: usize = 20_000;
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    nginx::certify(&Place::loopback(), dir.path()).unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
    let far = Far::start();
    let [first, second, third] = [(); 3].map(|()| Place::loopback().free().unwrap());
    let secure = format!(
        "--input-tcp-secure --input-tcp-certificate {} --input-tcp-certificate-key {}",
        certificate.display(),
        key.display()
    );
    let lines = [
        format!(
            "--input-tcp {third} {secure} --output-tcp {}",
            far.address()
        ),
        format!(
            "--input-tcp {second} {secure} --output-tcp {third} --output-tcp-secure --output-tcp-skip-verify"
        ),
        format!(
            "--input-tcp {first} --output-tcp localhost:{} --output-tcp-secure",
            second.port()
        ),
    ];
    let chain =
        lines.map(|line| Gor::start_trusting(&certificate, Style::Written, &line, dir.path()));
    let sent = all_sorts(RECORDS);
    send(first, &sent);
    far.until(RECORDS, LIMIT);
    assert_same(&sent, &far);
    for gor in chain {
        assert_eq!(gor.stop().output(1).replayed_total(), RECORDS as u64);
    }
}

#[test]
fn a_far_end_that_dies_and_comes_back_costs_what_the_summary_says() {
    let _alone = rig::alone();
    // At once, and after a while in which records go on to come.
    beside_each_other(vec![
        ("back at once".to_owned(), Box::new(|| die_and_come_back(0))),
        (
            "back later".to_owned(),
            Box::new(|| die_and_come_back(2000)),
        ),
    ]);
}

/// It is back when so many more records were sent.
fn die_and_come_back(later: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (far, here) = (Far::start(), Place::loopback().free().unwrap());
    let address = far.address();
    let line = format!("--input-tcp {here} --output-tcp {address}");
    let gor = Gor::start(Style::Written, &line, dir.path());
    let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let more = |count: u64| {
        let from = sent.load(Ordering::SeqCst);
        let more = eventually("more records", LIMIT, || {
            let now = sent.load(Ordering::SeqCst);
            anyhow::ensure!(now >= from + count, "{now}");
            Ok(())
        });
        more.unwrap();
    };
    let mut heard = Vec::new();
    let again = thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = TcpStream::connect(here).unwrap();
            let start = Instant::now();
            while !over.load(Ordering::SeqCst) {
                let n = sent.load(Ordering::SeqCst);
                let due = start + Duration::from_micros(500 * n);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let record = records::request(n, n, &format!("GET /{n}"), &[]);
                connection.write_all(&record).unwrap();
                sent.store(n + 1, Ordering::SeqCst);
            }
        });
        far.until(2000, LIMIT);
        heard.extend(far.kill());
        more(later);
        let again = Far::start_at(address);
        let back = Instant::now();
        let connected = eventually("a connection", LIMIT, || {
            again.began().ok_or_else(|| anyhow::anyhow!("none"))
        });
        let took = connected.unwrap().saturating_duration_since(back);
        assert!(took < Duration::from_secs(1), "it took {took:?}");
        more(4000);
        over.store(true, Ordering::SeqCst);
        again
    });
    let sent = sent.into_inner();
    gor.settled(sent);
    let in_doubt = gor.metric("reprise_stream_in_doubt_total");
    let account = gor.stop().output(1);
    heard.extend(again.kill());
    let mut came: Vec<u64> = heard
        .iter()
        .flat_map(|part| records::split(part))
        .map(|record| records::came(record).number())
        .collect();
    came.sort_unstable();
    assert!(
        came.windows(2).all(|pair| pair[0] < pair[1]),
        "one came twice"
    );
    let lost = sent - came.len() as u64;
    let counted = account.unknown + account.dropped_total() + account.failed_total();
    assert_eq!(account.total(), sent, "{account:?}");
    // What is unknown may have come; what was acknowledged just before the end may not.
    assert!(
        lost <= counted + in_doubt,
        "{lost} lost, {in_doubt} in doubt, {account:?}"
    );
    assert!(
        came.len() as u64 >= account.replayed_total() - in_doubt,
        "{account:?}"
    );
    assert!(
        came.len() as u64 <= account.replayed_total() + account.unknown,
        "{account:?}"
    );
    // No more than what was on its way over a few connections.
    assert!(lost < sent / 2, "{lost} of {sent}");
}
