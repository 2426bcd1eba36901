//! What a client says on one connection, and how, out of a generator of random numbers.
//!
//! What enters: random numbers. What leaves: requests, byte for byte, and the way in which they are sent.
//! What may be lost: nothing; the same numbers give the same conversation.

use fastrand::Rng;

/// What the last conversation's answer has in it, and no other.
pub(super) const LAST_ANSWER: &str = "X-Answer: last";

/// A conversation from the client's side.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) asks: Vec<Ask>,
    pub(super) no_delay: bool,
    /// Send a request only when the one before is answered.
    pub(super) in_turn: bool,
    /// Bytes handed to the socket at a time.
    pub(super) piece: usize,
    pub(super) ending: Ending,
}

/// A request, or what follows one that asked for a tunnel.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) head: Vec<u8>,
    pub(super) body: Vec<u8>,
    /// Wait for `100 Continue` between head and body.
    pub(super) expects: bool,
    /// The client has to have read this before it goes on; nothing for what isn't answered.
    pub(super) answer: Option<String>,
}

/// How a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The client closes its half as soon as it has sent all.
    HalfClose,
    /// It closes once all is answered.
    Close,
    /// The server closes.
    Server,
    /// All is answered; then half a request, and a reset.
    Reset,
}

/// What a generated request may be.
#[derive(Debug, Clone, Copy)]
struct Shape {
    id: u64,
    part: usize,
    last: bool,
}

impl Talk {
    /// Everything that RFC 9112 allows and few clients do.
    pub(super) fn odd(id: u64, random: &mut Rng) -> Talk {
        let ending = random.choice([
            Ending::HalfClose,
            Ending::Close,
            Ending::Server,
            Ending::Reset,
        ]);
        let ending = ending.unwrap_or(Ending::Close);
        let count = random.usize(1..10);
        let mut asks = Vec::new();
        for part in 0..count {
            let last = part + 1 == count && ending == Ending::Server;
            asks.push(odd(Shape { id, part, last }, random));
        }
        if random.u8(..4) == 0 && ending != Ending::Server {
            switch(id, &mut asks, random);
        }
        if ending == Ending::Reset {
            asks.push(Ask::silent(
                b"POST /half HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf",
            ));
        }
        Talk {
            asks,
            no_delay: random.bool(),
            in_turn: random.bool(),
            piece: random.choice([1, 7, 1000, 100_000]).unwrap_or(1),
            ending,
        }
    }

    /// What nginx too takes as it is.
    pub(super) fn plain(id: u64, random: &mut Rng) -> Talk {
        let count = random.usize(1..8);
        let ask = |part| {
            let body = body(random, 40_000);
            let method = random.choice(["GET", "PUT", "DELETE", "PROPFIND", "POST"]);
            let mut head = format!(
                "{} /n{id}/{part}?{} HTTP/1.1\r\nHost: nginx\r\nX-Filler: {}\r\n",
                method.unwrap_or("GET"),
                random.u32(..),
                "f".repeat(random.usize(1..3000)),
            );
            if !body.is_empty() {
                head += &format!("Content-Length: {}\r\n", body.len());
            }
            head += "\r\n";
            Ask {
                head: head.into(),
                body,
                expects: false,
                answer: Some("HTTP/1.1 ".to_owned()),
            }
        };
        Talk {
            asks: (0..count).map(ask).collect(),
            no_delay: random.bool(),
            in_turn: random.bool(),
            piece: random.choice([11, 1000, 100_000]).unwrap_or(11),
            ending: Ending::Close,
        }
    }

    /// A conversation whose answer ends the capture.
    pub(super) fn last() -> Talk {
        Talk {
            asks: vec![Ask {
                head: b"GET /last?answer=last HTTP/1.1\r\nHost: last\r\n\r\n".to_vec(),
                body: Vec::new(),
                expects: false,
                answer: Some(LAST_ANSWER.to_owned()),
            }],
            no_delay: true,
            in_turn: true,
            piece: 1000,
            ending: Ending::Close,
        }
    }
}

impl Ask {
    /// Bytes that nobody answers.
    fn silent(bytes: &[u8]) -> Ask {
        Ask {
            head: bytes.to_vec(),
            body: Vec::new(),
            expects: false,
            answer: None,
        }
    }
}

/// What a request asks our server to answer: status, framing, length.
pub(super) fn answer(random: &mut Rng) -> String {
    let status = random
        .choice([200, 200, 200, 201, 204, 304, 404, 500])
        .unwrap_or(200);
    let framing = random.choice(["length", "chunked"]).unwrap_or("length");
    let length = random.choice([0, 1, 100, 5_000, 60_000]).unwrap_or(0);
    format!("status={status}&framing={framing}&length={length}")
}

fn body(random: &mut Rng, most: usize) -> Vec<u8> {
    let length = match random.u8(..4) {
        0 => 0,
        1 => random.usize(1..20),
        2 => random.usize(1..2000),
        _ => random.usize(1..most),
    };
    let looks_like_a_request = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    match random.bool() {
        true => looks_like_a_request
            .iter()
            .copied()
            .cycle()
            .take(length)
            .collect(),
        false => (0..length).map(|_| random.u8(..)).collect(),
    }
}

fn odd(shape: Shape, random: &mut Rng) -> Ask {
    let Shape { id, part, last } = shape;
    let mark = format!("{id}.{part}.");
    let methods = [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "PURGE",
        "QUERY",
        "M-SEARCH",
        "x!#$%&'*+-.^_`|~9",
    ];
    let method = random.choice(methods).unwrap_or("GET");
    let query = format!("answer={mark}&{}", answer(random));
    let (method, target) = match random.u8(..8) {
        0 => (method, format!("http://host:80/absolute?{query}")),
        1 => ("OPTIONS", "*".to_owned()),
        2 => (
            method,
            format!(
                "/a%2Fb;c=d/{}?{query}&[]|^\"",
                "long".repeat(random.usize(..2000))
            ),
        ),
        _ => (method, format!("/{id}/{part}?{query}")),
    };
    let old = random.u8(..6) == 0 && !target.starts_with('*');
    let mut body = body(random, 60_000);
    let chunked = !old && !body.is_empty() && random.bool();
    let expects = !old && !body.is_empty() && random.u8(..4) == 0;

    let mut head = format!("{method} {target} HTTP/1.{}\r\n", u8::from(!old)).into_bytes();
    if part > 0 && random.u8(..8) == 0 {
        // An empty line ahead of a request is ignored (RFC 9112 §2.2).
        head.splice(0..0, *b"\r\n");
    }
    let mut add = |line: &str| head.extend(format!("{line}\r\n").into_bytes());
    // Where the target has no place for it.
    add(&format!("X-Want: {mark}"));
    if last && !old {
        add("Connection: close");
    } else if !last && old {
        add("connection: Keep-Alive");
    }
    for n in 0..random.choice([0, 3, 50]).unwrap_or(0) {
        add(&format!("X-{n}:  value {n}\t "));
    }
    if random.u8(..8) == 0 {
        add(&format!("Cookie: {}", "c".repeat(random.usize(..30_000))));
    }
    if expects {
        add("Expect: 100-continue");
    }
    if chunked {
        add("transfer-encoding: gzip , Chunked");
        body = in_chunks(&body, random);
    } else if !body.is_empty() || random.bool() {
        add(&format!("Content-Length:{}", body.len()));
    }
    add("X-Bytes: \u{e9}");
    head.extend_from_slice(b"\r\n");
    Ask {
        head,
        body,
        expects,
        answer: Some(format!("X-Answer: {mark}\r\n")),
    }
}

fn in_chunks(body: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(random.usize(1..=rest.len()));
        let extension = random
            .choice(["", ";a", "; b=\"c;d\"", ";e=f ; g"])
            .unwrap_or("");
        let size = match random.bool() {
            true => format!("{:X}", chunk.len()),
            false => format!("00{:x}", chunk.len()),
        };
        wire.extend(format!("{size}{extension}\r\n").into_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
        rest = behind;
    }
    let trailers = random
        .choice(["", "T: 1\r\n", "Sum: x\r\nEmpty:\r\n"])
        .unwrap_or("");
    wire.extend(format!("0\r\n{trailers}\r\n").into_bytes());
    wire
}

/// A request for a tunnel or another protocol. Where the server agrees, nothing that follows is a request.
fn switch(id: u64, asks: &mut Vec<Ask>, random: &mut Rng) {
    let part = asks.len();
    let agreed = random.bool();
    let (line, upgrade, yes, no) = match random.bool() {
        true => ("CONNECT host:443".to_owned(), "", 200, 407),
        false => (
            format!("GET /switch{id}"),
            "Connection: upgrade\r\nUpgrade: websocket\r\n",
            101,
            426,
        ),
    };
    let status = if agreed { yes } else { no };
    let mark = format!("{id}.{part}.");
    let head = format!(
        "{line} HTTP/1.1\r\nHost: h\r\n{upgrade}X-Want: {mark}\r\nX-Status: {status}\r\n\r\n"
    );
    asks.push(Ask {
        head: head.into(),
        body: Vec::new(),
        expects: false,
        answer: Some(format!("X-Answer: {mark}\r\n")),
    });
    if agreed {
        asks.push(Ask::silent(
            b"GET /in-the-tunnel HTTP/1.1\r\nHost: x\r\n\r\n",
        ));
        asks.push(Ask::silent(b"\x81\x05frame"));
    } else {
        let shape = Shape {
            id,
            part: part + 1,
            last: false,
        };
        asks.push(odd(shape, random));
    }
}
