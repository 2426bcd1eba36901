//! A client and a server on one connection, as two captures show it: one segment by segment in order, one cut,
//! reordered and repeated.
//!
//! What enters: what both sent, in turns, and a schedule. What leaves: what a reassembler makes of either capture.
//! What may be lost: nothing, unless the schedule is told to drop segments.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use reprise_listener::budget::Budget;
use reprise_listener::edge::Edge;
use reprise_listener::packet::Segment;
use reprise_listener::reassembly::{Reassembler, Settings};
use reprise_traffic::exchange::Captured;

use crate::check;

/// Between two turns; HTTP has no use for this byte.
const NEXT_TURN: u8 = 0xff;

/// More turns are one long last one.
const MAX_TURNS: usize = 64;

/// When the first segment comes, unix nanoseconds.
const BEGIN_NS: u64 = 1_000_000_000;

/// What both sides send, the client first and then by turns.
#[derive(Debug)]
pub struct Conversation<'a> {
    turns: Vec<&'a [u8]>,
    /// Numbers of both SYNs.
    first: [u32; 2],
    /// Whether each side says that it has finished.
    fin: [bool; 2],
}

/// What becomes of the turns on their way, a step for each segment, over and over.
#[derive(Debug, Clone, Copy)]
pub struct Schedule<'a> {
    steps: &'a [u8],
    /// Whose segments may be lost.
    pub losses: Losses,
    /// Whether bytes that come again differ.
    pub garbled: bool,
}

/// Whose segments may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Losses {
    /// Nobody's.
    None,
    /// The server's.
    Server,
    /// Anybody's.
    Both,
}

/// A request as it was reported, with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its head, body and trailers.
    pub request: [Bytes; 3],
    /// The answer's head and body, the body's length and whether it is complete.
    pub answer: Option<(Bytes, Bytes, u64, bool)>,
}

/// What a reassembler made of a capture.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was reported, in order.
    pub rows: Vec<Row>,
    /// What was counted.
    pub counts: BTreeMap<String, u64>,
}

impl Outcome {
    /// Whether every request was reported, and answered as RFC 9112 has it. How much can be saved of what isn't depends
    /// on how it came.
    pub fn is_flawless(&self) -> bool {
        let answered = |row: &Row| row.answer.as_ref().is_some_and(|answer| answer.3);
        let known = ["connections", "packets", "kernel_dropped"];
        self.rows.iter().all(answered) && self.counts.keys().all(|name| known.contains(&&**name))
    }

    /// What was reported, without the answers.
    pub fn requests(&self) -> Vec<&[Bytes; 3]> {
        self.rows.iter().map(|row| &row.request).collect()
    }
}

/// A segment of a capture.
#[derive(Debug, Clone)]
struct Piece<'a> {
    time: u32,
    from_client: bool,
    sequence: u32,
    acknowledgment: Option<u32>,
    syn: bool,
    fin: bool,
    payload: Cow<'a, [u8]>,
}

impl<'a> Conversation<'a> {
    /// Turns out of an input's last part.
    pub fn new(bytes: &'a [u8], first: [u32; 2], fin: [bool; 2]) -> Conversation<'a> {
        let turns = bytes.splitn(MAX_TURNS, |byte| *byte == NEXT_TURN).collect();
        Conversation { turns, first, fin }
    }

    /// These turns.
    pub fn of_turns(turns: Vec<&'a [u8]>, first: [u32; 2], fin: [bool; 2]) -> Conversation<'a> {
        Conversation { turns, first, fin }
    }

    /// All bytes that the client sends.
    pub fn asked(&self) -> Vec<u8> {
        let own: Vec<_> = self.turns.iter().step_by(2).copied().collect();
        own.concat()
    }

    /// What becomes of it when every turn comes as one segment.
    pub fn in_order(&self, settings: &Settings) -> Outcome {
        self.scheduled(Schedule::new(&[]), settings)
    }

    /// What becomes of it on this schedule.
    pub fn scheduled(&self, schedule: Schedule<'_>, settings: &Settings) -> Outcome {
        let mut pieces = self.handshake();
        // Next numbers of client and server.
        let mut next = self.first.map(|first| first.wrapping_add(1));
        let mut steps = Steps::new(schedule);
        for (n, turn) in self.turns.iter().enumerate() {
            let from_client = n % 2 == 0;
            let (own, peer) = (usize::from(!from_client), usize::from(from_client));
            let whole = Piece {
                time: 0,
                from_client,
                sequence: next[own],
                acknowledgment: Some(next[peer]),
                syn: false,
                fin: false,
                payload: Cow::Borrowed(*turn),
            };
            steps.cut(&whole, &mut pieces);
            next[own] = next[own].wrapping_add(turn.len() as u32);
        }
        for side in [0, 1] {
            let fin = Piece {
                time: 0,
                from_client: side == 0,
                sequence: next[side],
                acknowledgment: Some(next[1 - side]),
                syn: false,
                fin: true,
                payload: Cow::Borrowed(&[]),
            };
            if self.fin[side] {
                steps.add(fin, &mut pieces);
            }
        }
        pieces.sort_by_key(|piece| piece.time);
        if schedule.garbled {
            garble(&mut pieces);
        }
        capture(&pieces, settings)
    }

    fn handshake(&self) -> Vec<Piece<'a>> {
        let [client, server] = self.first;
        let syn = |from_client, sequence, acknowledgment| Piece {
            time: 0,
            from_client,
            sequence,
            acknowledgment,
            syn: true,
            fin: false,
            payload: Cow::Borrowed(&[]),
        };
        vec![
            syn(true, client, None),
            syn(false, server, Some(client.wrapping_add(1))),
        ]
    }
}

impl<'a> Schedule<'a> {
    /// By these bytes, three for each segment; none leave all as it is.
    pub fn new(steps: &'a [u8]) -> Schedule<'a> {
        Schedule {
            steps,
            losses: Losses::None,
            garbled: false,
        }
    }
}

/// A schedule under way.
struct Steps<'s> {
    schedule: Schedule<'s>,
    taken: usize,
    time: u32,
}

impl Steps<'_> {
    fn new(schedule: Schedule<'_>) -> Steps<'_> {
        Steps {
            schedule,
            taken: 0,
            time: 0,
        }
    }

    /// The length of a segment, its delay, and what else befalls it; behind the whole input come long ones.
    fn next(&mut self) -> [u8; 3] {
        let steps = self.schedule.steps;
        if steps.is_empty() {
            return [0; 3];
        }
        let mut step = [0; 3];
        for byte in &mut step {
            *byte = steps[self.taken % steps.len()];
            self.taken += 1;
        }
        step
    }

    /// Cuts a turn into segments.
    fn cut<'a>(&mut self, whole: &Piece<'a>, pieces: &mut Vec<Piece<'a>>) {
        let mut at = 0;
        while at < whole.payload.len() {
            let [length, delay, fate] = self.next();
            let left = whole.payload.len() - at;
            let length = match length {
                0 => left,
                short => usize::from(short).min(left),
            };
            // A segment that is sent again may begin earlier than the first one, and end later.
            let overlap = usize::from(fate & 7);
            let from = at.saturating_sub(overlap);
            let to = (at + length + overlap).min(whole.payload.len());
            self.send(piece_of(whole, from, to), delay, fate, pieces);
            at += length;
        }
    }

    /// Adds a segment without payload.
    fn add<'a>(&mut self, piece: Piece<'a>, pieces: &mut Vec<Piece<'a>>) {
        let [_, delay, fate] = self.next();
        self.send(piece, delay, fate, pieces);
    }

    fn send<'a>(&mut self, piece: Piece<'a>, delay: u8, fate: u8, pieces: &mut Vec<Piece<'a>>) {
        self.time += 10;
        let may_be_lost = match self.schedule.losses {
            Losses::None => false,
            Losses::Server => !piece.from_client,
            Losses::Both => true,
        };
        if !may_be_lost || fate & 0x40 == 0 {
            let time = self.time + u32::from(delay);
            pieces.push(Piece {
                time,
                ..piece.clone()
            });
        }
        if fate & 0x80 != 0 {
            let time = self.time + u32::from(fate & 0x38);
            pieces.push(Piece { time, ..piece });
        }
    }
}

fn piece_of<'a>(whole: &Piece<'a>, from: usize, to: usize) -> Piece<'a> {
    Piece {
        sequence: whole.sequence.wrapping_add(from as u32),
        payload: Cow::Owned(whole.payload[from..to].to_vec()),
        ..whole.clone()
    }
}

/// Changes all bytes that came before: the first copy counts.
fn garble(pieces: &mut [Piece<'_>]) {
    let mut seen = BTreeSet::new();
    for piece in pieces {
        let first = piece.sequence.wrapping_add(u32::from(piece.syn));
        let numbers = (0..).map(|n| first.wrapping_add(n));
        for (byte, number) in piece.payload.to_mut().iter_mut().zip(numbers) {
            if !seen.insert((piece.from_client, number)) {
                *byte = b'\n';
            }
        }
    }
}

/// Runs segments through a reassembler, and checks all that it says on the way.
fn capture(pieces: &[Piece<'_>], settings: &Settings) -> Outcome {
    let edge = Arc::new(Edge::default());
    let budget = Arc::new(Budget::new(1 << 20));
    let settings = Settings {
        budget: budget.clone(),
        ..settings.clone()
    };
    let mut reassembler = Reassembler::new(settings.clone(), edge.clone());
    let mut rows = Vec::new();
    let mut sink = |captured: Captured| {
        check::captured(&captured, &settings);
        rows.push(Row::of(captured));
    };
    for (n, piece) in pieces.iter().enumerate() {
        reassembler.push(&piece.segment(), BEGIN_NS + n as u64, &mut sink);
        assert_eq!(budget.used(), reassembler.held());
    }
    reassembler.finish(&mut sink);
    assert_eq!((reassembler.held(), budget.used()), (0, 0));
    assert_eq!(reassembler.connections(), 0);
    let mut counts = edge.snapshot();
    // Not counted where the client's end comes before the server's word. No request depends on it.
    counts.remove("upgraded");
    Outcome { rows, counts }
}

impl Piece<'_> {
    fn segment(&self) -> Segment<'_> {
        let client = SocketAddr::from(([10, 0, 0, 1], 40_000));
        let server = SocketAddr::from(([10, 0, 0, 2], 80));
        let (source, destination) = match self.from_client {
            true => (client, server),
            false => (server, client),
        };
        Segment {
            source,
            destination,
            sequence: self.sequence,
            acknowledgment: self.acknowledgment,
            syn: self.syn,
            fin: self.fin,
            rst: false,
            payload: &self.payload,
            missing: 0,
        }
    }
}

impl Row {
    fn of(captured: Captured) -> Row {
        let request = [
            captured.head.raw().clone(),
            captured.body.to_bytes(),
            captured.trailers,
        ];
        let answer = captured.answer.map(|answer| {
            let head = answer.head.raw().clone();
            (
                head,
                answer.body.to_bytes(),
                answer.body_len,
                answer.complete,
            )
        });
        Row { request, answer }
    }
}
