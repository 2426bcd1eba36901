//! Records of GoReplay's format as messages of their own.
//!
//! What enters: a record, of a request, an answer or a replay. What leaves: a message that brings its record along, so that it
//! can be written again byte for byte. What may be lost: requests that bear the marker and what is too large, each counted by
//! whoever asks. Nothing is joined and nothing waits: a request leaves without its answer, which follows it.
//!
//! A request that can be read as one has a head and a body. All else, and every answer, is kept as it came, behind
//! [`Head::opaque`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use reprise_traffic::exchange::{Captured, Exchange, ExchangeId};
use reprise_traffic::gor::{self, Kind, Record};
use reprise_traffic::label::{Label, Verbatim};
use reprise_traffic::{Epoch, Head};

use crate::edge::EdgeEvent;
use crate::http::Message;
use crate::reading::record::{self, Unfit};

/// Numbers the requests of all sources of records of a listener.
#[derive(Debug, Default)]
pub struct Turns(AtomicU64);

impl Turns {
    /// Gives a request that came as a record the next place in the row.
    pub fn number(&self, message: &mut Captured) {
        if let Some(label) = message.label.as_mut()
            && label.kind() == Kind::Request
        {
            label.set_turn(self.0.fetch_add(1, Ordering::Relaxed));
        }
    }
}

/// A record as a message of its own, of `max_exchange` bytes at most.
///
/// # Errors
/// Why there is none, to be counted.
pub fn message(record: &Record<'_>, max_exchange: usize) -> Result<Captured, EdgeEvent> {
    message_of(record, None, max_exchange)
}

/// The same of a record that lies in `owner`: a large payload stays there, and isn't copied.
pub(crate) fn message_of(
    record: &Record<'_>,
    owner: Option<&Bytes>,
    max_exchange: usize,
) -> Result<Captured, EdgeEvent> {
    if record.header.len() + record.payload.len() > max_exchange {
        return Err(EdgeEvent::TooLarge);
    }
    let label = Label::new(record.header, 0).map_err(|_| EdgeEvent::BadRecord)?;
    if record.kind != Kind::Request {
        return Ok(opaque(record, owner, label));
    }
    if let Some(plain) = record::plain(record, owner, max_exchange) {
        return Ok(labelled(record, plain, label));
    }
    match record::parsed(record, max_exchange).request {
        Ok(request) => Ok(exactly(record, owner, request, label)),
        Err(Unfit::For(event @ (EdgeEvent::Marked | EdgeEvent::TooLarge))) => Err(event),
        Err(Unfit::For(_) | Unfit::Empty) => Ok(opaque(record, owner, label)),
    }
}

fn labelled(record: &Record<'_>, request: Message, label: Label) -> Captured {
    Captured {
        label: Some(Box::new(label)),
        ..record::captured(record, request)
    }
}

/// A message that isn't taken apart.
fn opaque(record: &Record<'_>, owner: Option<&Bytes>, label: Label) -> Captured {
    let all = Message {
        captured_ns: record.timestamp_ns,
        head: Head::opaque(),
        body: record::kept(record.payload, owner),
        trailers: Bytes::new(),
    };
    labelled(record, all, label)
}

/// A request that had to be parsed, with its payload where writing it again would change that.
fn exactly(record: &Record<'_>, owner: Option<&Bytes>, request: Message, label: Label) -> Captured {
    static NOBODY: LazyLock<Arc<Epoch>> = LazyLock::new(|| Arc::new(Epoch::new("", 0)));
    let head = request.head.raw();
    let ahead = |byte: &&u8| matches!(**byte, b'\r' | b'\n');
    let before = record.payload.iter().take_while(ahead).count();
    if !record.payload[before..].starts_with(head) {
        return opaque(record, owner, label);
    }
    let head_end = before + head.len();
    let exchange = Exchange {
        id: ExchangeId {
            epoch: NOBODY.clone(),
            sequence: 0,
        },
        due_ns: None,
        request: labelled(record, request, label),
    };
    let is_shown = gor::encode(&exchange, &exchange.request.head)
        .is_ok_and(|(written, _)| is_all(written.payload(), record.payload));
    let mut message = exchange.request;
    if !is_shown {
        let verbatim = Verbatim {
            payload: record::kept(record.payload, owner),
            head_end,
        };
        message.label = message
            .label
            .map(|label| Box::new(label.with_verbatim(verbatim)));
    }
    message
}

/// True where the parts together are those bytes.
fn is_all<'a>(mut parts: impl Iterator<Item = &'a [u8]>, bytes: &[u8]) -> bool {
    let rest = parts.try_fold(bytes, |rest, part| rest.strip_prefix(part));
    rest.is_some_and(<[u8]>::is_empty)
}

#[cfg(test)]
mod tests;
