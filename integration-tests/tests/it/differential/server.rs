//! A server that writes down what it received, and answers as it is asked to.
//!
//! What enters: connections. What leaves: a log of the requests that were received whole, and answers. What may be lost:
//! requests that end early aren't logged.
//!
//! It shares no code with what it is the judge of, and knows no more of HTTP than the clients here use.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest as _, Sha256};

const LIMIT: Duration = Duration::from_secs(15);

/// A running server. It ends with the process.
pub(super) struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Entry>>>,
}

/// A request that was received whole, and answered.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    client: String,
    request: String,
    status: u16,
}

/// A request as it is read.
struct Request {
    method: String,
    target: String,
    version: String,
    /// Bytes as characters of the same numbers.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Server {
    pub(super) fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let entries = log.clone();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let entries = entries.clone();
                // A connection may end as it likes; what counts is in the log by then.
                thread::spawn(move || serve(&connection?, &entries));
            }
        });
        Server { address, log }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far, those of each client in order.
    pub(super) fn logged(&self) -> Vec<Entry> {
        self.log.lock().unwrap().clone()
    }
}

impl Entry {
    /// The client and what it sent, in the words of `reprise inspect`; with the answer's status on request.
    pub(super) fn shown(&self, answers: bool) -> (String, String) {
        let request = match answers {
            true => format!("{} {}", self.request, self.status),
            false => self.request.clone(),
        };
        (self.client.clone(), request)
    }
}

fn serve(connection: &TcpStream, log: &Mutex<Vec<Entry>>) -> io::Result<()> {
    connection.set_read_timeout(Some(LIMIT))?;
    connection.set_write_timeout(Some(LIMIT))?;
    let client = connection.peer_addr()?.to_string();
    let mut input = BufReader::new(connection);
    while let Some(request) = read(&mut input, connection)? {
        let answer = Answer::to(&request);
        log.lock().unwrap().push(Entry {
            client: client.clone(),
            request: request.shown(),
            status: answer.status,
        });
        let mut output = connection;
        output.write_all(&answer.bytes)?;
        if answer.switches {
            io::copy(&mut input, &mut io::sink())?;
            return Ok(());
        }
        if answer.closes {
            return Ok(());
        }
    }
    Ok(())
}

/// The next request; nothing at the end of the connection.
fn read(input: &mut impl BufRead, mut output: &TcpStream) -> io::Result<Option<Request>> {
    let mut first = String::new();
    while first.is_empty() {
        match line(input)? {
            Some(line) => first = line,
            None => return Ok(None),
        }
    }
    let mut words = first.split(' ').map(str::to_owned);
    let mut word = || words.next().ok_or(io::ErrorKind::InvalidData);
    let mut request = Request {
        method: word()?,
        target: word()?,
        version: word()?,
        headers: headers(input)?,
        body: Vec::new(),
    };
    if request.header("expect").is_some() {
        output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if let Some(length) = request.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        request.body = bytes(input, length)?;
    } else if request.header("transfer-encoding").is_some() {
        request.body = chunks(input)?;
    }
    Ok(Some(request))
}

/// A line without its end; nothing at the end of the connection.
fn line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(Some(line.iter().map(|byte| char::from(*byte)).collect())),
        None if line.is_empty() => Ok(None),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn headers(input: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let line = line(input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let Some((name, value)) = line.split_once(':') else {
            return Ok(headers);
        };
        headers.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
}

fn bytes(input: &mut impl BufRead, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn chunks(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let size = size.split([';', ' ']).next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
        if size == 0 {
            headers(input)?;
            return Ok(body);
        }
        body.extend(bytes(input, size)?);
        line(input)?;
    }
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// A part `name=value` of the target's query.
    fn asked(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        let mut parts = query.split('&').filter_map(|part| part.split_once('='));
        parts.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    fn shown(&self) -> String {
        let digest = Sha256::digest(&self.body);
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        [
            json!(self.method),
            json!(self.target),
            json!(self.version),
            json!(self.headers),
            json!(self.body.len()),
            json!(digest),
        ]
        .map(|field| field.to_string())
        .join(" ")
    }
}

/// What is sent back.
struct Answer {
    status: u16,
    bytes: Vec<u8>,
    closes: bool,
    /// What follows isn't HTTP.
    switches: bool,
}

impl Answer {
    fn to(request: &Request) -> Answer {
        let old = request.version == "HTTP/1.0";
        let connection = request
            .header("connection")
            .unwrap_or_default()
            .to_lowercase();
        let closes = connection == "close" || old && connection != "keep-alive";
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        let status = request.header("x-status").or(request.asked("status"));
        let status = number(status).unwrap_or(200) as u16;
        let connects = request.method == "CONNECT" && status < 300;
        let switches = status == 101 || connects;
        let length = number(request.asked("length")).unwrap_or(0);
        let mark = request.header("x-want").or(request.asked("answer"));
        let chunked = request.asked("framing") == Some("chunked");
        let has_body = status >= 200 && !matches!(status, 204 | 304) && !connects;

        let mut head = format!(
            "HTTP/1.1 {status} Said\r\nX-Answer: {}\r\n",
            mark.unwrap_or("none")
        );
        let mut body = vec![b'a'; length];
        if has_body && chunked && !old {
            head += "Transfer-Encoding: chunked\r\n";
            body = match length {
                0 => b"0\r\n\r\n".to_vec(),
                _ => [
                    format!("{length:x};e\r\n").into_bytes(),
                    body,
                    b"\r\n0\r\nT: t\r\n\r\n".to_vec(),
                ]
                .concat(),
            };
        } else if has_body && !(chunked && closes) {
            // Otherwise its end is that of the connection.
            head += &format!("Content-Length: {length}\r\n");
        }
        head += match (switches, closes, old) {
            (true, ..) => "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            (false, true, _) => "Connection: close\r\n\r\n",
            (false, false, true) => "Connection: keep-alive\r\n\r\n",
            (false, false, false) => "\r\n",
        };
        let mut bytes = head.into_bytes();
        if has_body && request.method != "HEAD" {
            bytes.extend(body);
        }
        Answer {
            status,
            bytes,
            closes,
            switches,
        }
    }
}
