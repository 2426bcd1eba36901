//! Records as tests write and read them, by their definition and not by the code under test.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use memchr::memmem;

/// A line of three monkeys, with the line ends around it.
pub(crate) const SEPARATOR: &[u8] = b"\n\xf0\x9f\x90\xb5\xf0\x9f\x99\x88\xf0\x9f\x99\x89\n";

/// When what is recorded here began, unix nanoseconds.
pub(crate) const BEGIN: u64 = 1_700_000_000_000_000_000;

/// The request's or answer's id: 24 hexadecimal digits.
pub(crate) fn id(number: u64) -> String {
    format!("{number:024x}")
}

/// A record, with its separator.
pub(crate) fn record(kind: u8, number: u64, at_ns: u64, payload: &[u8]) -> Vec<u8> {
    let latency = if kind == 1 { "-1" } else { "1000" };
    let header = format!("{kind} {} {} {latency}\n", id(number), BEGIN + at_ns);
    [header.as_bytes(), payload, SEPARATOR].concat()
}

/// A request's record.
pub(crate) fn request(number: u64, at_ns: u64, line: &str, headers: &[&str]) -> Vec<u8> {
    record(1, number, at_ns, &head(number, line, headers))
}

/// A request without a body: `METHOD TARGET`, and header lines. Its number is in a header.
pub(crate) fn head(number: u64, line: &str, headers: &[&str]) -> Vec<u8> {
    let mut head = format!("{line} HTTP/1.1\r\nX-Number: {number}\r\n");
    if !headers.iter().any(|line| line.starts_with("Host:")) {
        head += "Host: shop.example\r\n";
    }
    for line in headers {
        head += line;
        head += "\r\n";
    }
    head += "\r\n";
    head.into_bytes()
}

/// So many GETs, one every `gap` nanoseconds.
pub(crate) fn gets(requests: std::ops::Range<u64>, gap: u64) -> Vec<u8> {
    let get = |n: u64| request(n, n * gap, &format!("GET /items?id={n}"), &[]);
    requests.flat_map(get).collect()
}

/// A record that came: its header's fields, and its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Came {
    pub(crate) kind: u8,
    pub(crate) id: String,
    pub(crate) at_ns: u64,
    pub(crate) latency_ns: i64,
    pub(crate) payload: Vec<u8>,
}

impl Came {
    /// The number that [`head`] gave it, or the id of a [`Load`](reprise_integration_tests::Load).
    pub(crate) fn number(&self) -> u64 {
        let text = String::from_utf8_lossy(&self.payload);
        let behind = |mark: &str| {
            let (_, rest) = text.split_once(mark)?;
            let end = rest.find(|c: char| !c.is_ascii_digit());
            rest[..end.unwrap_or(rest.len())].parse().ok()
        };
        let number = behind("X-Number: ").or_else(|| behind("id="));
        number.unwrap_or_else(|| panic!("no number in {text}"))
    }
}

/// The whole records in these bytes, separators left out.
pub(crate) fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let mut from = 0;
    let mut all = Vec::new();
    for at in memmem::find_iter(bytes, SEPARATOR) {
        all.push(&bytes[from..at]);
        from = at + SEPARATOR.len();
    }
    all
}

/// The same, read; nothing may stand behind the last one.
pub(crate) fn read(bytes: &[u8]) -> Vec<Came> {
    assert!(bytes.is_empty() || bytes.ends_with(SEPARATOR), "cut off");
    split(bytes).into_iter().map(came).collect()
}

pub(crate) fn came(record: &[u8]) -> Came {
    let end = record.iter().position(|byte| *byte == b'\n').unwrap();
    let header = std::str::from_utf8(&record[..end]).unwrap();
    let fields: Vec<&str> = header.split(' ').collect();
    let [kind, id, at, latency] = fields[..] else {
        panic!("{header}");
    };
    Came {
        kind: kind.parse().unwrap(),
        id: id.to_owned(),
        at_ns: at.parse().unwrap(),
        latency_ns: latency.parse().unwrap(),
        payload: record[end + 1..].to_vec(),
    }
}

/// Sends bytes over a connection of its own.
pub(crate) fn send(to: SocketAddr, bytes: &[u8]) {
    let mut connection = TcpStream::connect(to).unwrap();
    connection.write_all(bytes).unwrap();
}
