//! From GoReplay's records to requests.
//!
//! What enters: records. What leaves: requests in the order of the file, with their answers where these are asked for.
//! What may be lost: records without a header, payloads that are no whole HTTP/1 message, answers that come more than
//! [`MAX_WAITING`] requests after theirs; all of it is counted.

use std::collections::VecDeque;
use std::io::{self, BufRead};

use reprise_listener::reading::answer::{self, Asked, Stray};
use reprise_listener::reading::record::{self, Unfit};
use reprise_traffic::gor::{Kind, Reader, Record};

use super::reasons::Oddity;
use super::summary::Summary;
use super::{Seen, Wanted};

/// Requests that wait for their answers. GoReplay writes an answer as soon as it has it, so no more than are under way
/// at a time stand between.
const MAX_WAITING: usize = 4096;

/// Bytes of those.
const MAX_WAITING_BYTES: usize = 256 << 20;

/// A request larger than a record can't be.
const MAX_EXCHANGE: usize = reprise_traffic::gor::MAX_RECORD;

/// Hands every request of a file to `found`.
///
/// # Errors
/// Those of `found`.
pub(super) fn requests(
    mut file: Reader<impl BufRead>,
    wanted: &Wanted,
    summary: &mut Summary,
    found: &mut impl FnMut(Seen) -> io::Result<()>,
) -> io::Result<()> {
    let mut waiting = Waiting::default();
    summary.is_recording();
    loop {
        let record = match file.next_record() {
            Ok(Some(Ok(record))) => record,
            Ok(Some(Err(skipped))) => {
                summary.skipped_record(skipped);
                continue;
            }
            Ok(None) => break,
            Err(error) => {
                summary.stopped_in_recording(&error);
                break;
            }
        };
        summary.record();
        match record.kind {
            Kind::Request => {
                let Some(seen) = request(&record, summary) else {
                    continue;
                };
                if wanted.answers {
                    waiting.add(answer::id(&record), seen);
                } else {
                    waiting.ready.push_back(seen);
                }
            }
            Kind::Answer if wanted.answers => waiting.answer(&record, summary),
            Kind::Answer => {}
            Kind::Replayed => summary.oddity(Oddity::Replayed),
        }
        waiting.hand_over(summary, found)?;
    }
    waiting.give_up();
    waiting.hand_over(summary, found)
}

/// The request in a record, which ends with it.
fn request(record: &Record<'_>, summary: &mut Summary) -> Option<Seen> {
    let found = record::request(record, MAX_EXCHANGE);
    if found.has_more {
        summary.oddity(Oddity::BytesBehind);
    }
    let message = match found.request {
        Ok(message) => message,
        Err(Unfit::Empty) => {
            summary.oddity(Oddity::EmptyRecord);
            return None;
        }
        Err(Unfit::For(reason)) => {
            summary.edge.count(reason, 1);
            return None;
        }
    };
    Some(Seen {
        ends: None,
        at_ns: message.captured_ns,
        head: message.head,
        body: message.body,
        answer: None,
    })
}

/// Requests whose answers may still come, in the order of the file.
#[derive(Default)]
struct Waiting {
    requests: VecDeque<(u64, Seen)>,
    bytes: usize,
    ready: VecDeque<Seen>,
}

impl Waiting {
    fn add(&mut self, id: u64, seen: Seen) {
        self.bytes += size(&seen);
        self.requests.push_back((id, seen));
        while self.requests.len() > MAX_WAITING || self.bytes > MAX_WAITING_BYTES {
            self.release();
        }
    }

    fn answer(&mut self, record: &Record<'_>, summary: &mut Summary) {
        let at_hand = self.requests.iter_mut().map(|(id, seen)| Asked {
            id: *id,
            method: seen.head.method(),
            answer: &mut seen.answer,
        });
        match answer::join(record, MAX_EXCHANGE, at_hand) {
            Ok(bytes) => self.bytes += bytes,
            Err(Stray::Lone) => summary.oddity(Oddity::LoneAnswer),
            Err(Stray::Malformed) => summary.oddity(Oddity::BadAnswer),
        }
        while self
            .requests
            .front()
            .is_some_and(|(_, first)| first.answer.is_some())
        {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some((_, seen)) = self.requests.pop_front() {
            self.bytes -= size(&seen);
            self.ready.push_back(seen);
        }
    }

    fn give_up(&mut self) {
        while !self.requests.is_empty() {
            self.release();
        }
    }

    fn hand_over(
        &mut self,
        summary: &mut Summary,
        found: &mut impl FnMut(Seen) -> io::Result<()>,
    ) -> io::Result<()> {
        for seen in self.ready.drain(..) {
            summary.request(seen.answer.is_some());
            found(seen)?;
        }
        Ok(())
    }
}

fn size(seen: &Seen) -> usize {
    let answer = seen.answer.as_ref().map_or(0, |answer| answer.size());
    seen.head.size() + seen.body.len() + answer
}
