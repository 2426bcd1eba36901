//! A client on a raw socket.
//!
//! What enters: a conversation. What leaves: its bytes, as it says. What may be lost: nothing; what the server sends
//! is looked at only as far as to know that a request was answered.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use super::talk::{Ending, Talk};

const LIMIT: Duration = Duration::from_secs(15);

/// What came from the server, and how much of it is known.
struct Answers<'a> {
    socket: &'a TcpStream,
    bytes: Vec<u8>,
    seen: usize,
}

/// Has a conversation with a server.
pub(super) fn talk(talk: &Talk, server: SocketAddr) {
    let socket = TcpStream::connect_timeout(&server, LIMIT).unwrap();
    socket.set_nodelay(talk.no_delay).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.set_write_timeout(Some(LIMIT)).unwrap();
    let mut answers = Answers {
        socket: &socket,
        bytes: Vec::new(),
        seen: 0,
    };
    let mut waiting: Vec<&str> = Vec::new();
    let mut unsent = Vec::new();
    for ask in &talk.asks {
        // Nothing may be lost by a reset, and nothing is for the server's parser until it has agreed to a tunnel.
        let alone = ask.answer.is_none() || ask.expects || talk.in_turn;
        if alone {
            send(&socket, talk.piece, &mut unsent);
            waiting.drain(..).for_each(|answer| answers.wait(answer));
        }
        unsent.extend_from_slice(&ask.head);
        if ask.expects {
            send(&socket, talk.piece, &mut unsent);
            answers.wait("HTTP/1.1 100 Continue\r\n\r\n");
        }
        unsent.extend_from_slice(&ask.body);
        waiting.extend(ask.answer.as_deref());
    }
    send(&socket, talk.piece, &mut unsent);
    if talk.ending == Ending::HalfClose {
        socket.shutdown(Shutdown::Write).unwrap();
    }
    waiting.drain(..).for_each(|answer| answers.wait(answer));
    end(talk, answers);
}

fn end(talk: &Talk, mut answers: Answers<'_>) {
    let socket = answers.socket;
    match talk.ending {
        Ending::Reset => {
            set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
            return;
        }
        Ending::Close => socket.shutdown(Shutdown::Write).unwrap(),
        Ending::HalfClose | Ending::Server => {}
    }
    // A socket that is closed with bytes to be read sends a reset.
    while answers.read() {}
}

/// Sends what is there, in pieces of so many bytes.
fn send(mut socket: &TcpStream, piece: usize, bytes: &mut Vec<u8>) {
    // A megabyte byte by byte takes too long.
    let piece = piece.max(bytes.len() / 3000);
    for part in bytes.chunks(piece) {
        socket.write_all(part).unwrap();
    }
    bytes.clear();
}

impl Answers<'_> {
    /// Reads until the next answer has this in it.
    fn wait(&mut self, word: &str) {
        let word = word.as_bytes();
        loop {
            let new = &self.bytes[self.seen..];
            if let Some(at) = new.windows(word.len()).position(|window| window == word) {
                self.seen += at + word.len();
                return;
            }
            assert!(self.read(), "closed before {}", word.escape_ascii());
        }
    }

    /// Reads on. False at the end.
    fn read(&mut self) -> bool {
        let mut buffer = vec![0; 64 << 10];
        let mut socket = self.socket;
        match socket.read(&mut buffer) {
            Ok(length) => {
                self.bytes.extend_from_slice(&buffer[..length]);
                length > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("read: {error}"),
        }
    }
}
