//! What a message brings along that came as a record of GoReplay's format: from a stream of records, a broker, a middleware.
//!
//! What enters: a record's header line, and its payload where parsing it loses a byte. What leaves: the same bytes, for those
//! who write records again. What may be lost: nothing in one process. Between processes the payload as it came stays
//! behind: a chunked body is chunked anew there.

use std::ops::Range;

use crate::body::Body;
use crate::gor::{self, Flaw, Kind};

/// Of a message that came as a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    kind: Kind,
    line: Box<[u8]>,
    id: Range<usize>,
    turn: u64,
    verbatim: Option<Verbatim>,
}

/// A payload that head and body don't show to the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verbatim {
    /// All of it.
    pub payload: Body,
    /// Where its head ends.
    pub head_end: usize,
}

impl Label {
    /// Of a record with that header line, without its line end. `turn` counts its source's requests; an answer has any.
    ///
    /// # Errors
    /// When that is no record's header.
    pub fn new(line: &[u8], turn: u64) -> Result<Label, Flaw> {
        let header = gor::Header::parse(line)?;
        let start = header.id.as_ptr() as usize - line.as_ptr() as usize;
        Ok(Label {
            kind: header.kind,
            id: start..start + header.id.len(),
            line: line.into(),
            turn,
            verbatim: None,
        })
    }

    /// With the payload as it came.
    #[must_use]
    pub fn with_verbatim(self, verbatim: Verbatim) -> Label {
        Label {
            verbatim: Some(verbatim),
            ..self
        }
    }

    /// Gives it another place in the row of its source's requests.
    pub fn set_turn(&mut self, turn: u64) {
        self.turn = turn;
    }

    /// For a message that is no more as it came.
    #[must_use]
    pub fn without_verbatim(self) -> Label {
        Label {
            verbatim: None,
            ..self
        }
    }

    /// What the message is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same for a request and its answers.
    pub fn id(&self) -> &[u8] {
        &self.line[self.id.clone()]
    }

    /// The record's header as it came, without its line end.
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// Place in the row of its source's requests.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// The payload, where head and body don't show it to the byte.
    pub fn verbatim(&self) -> Option<&Verbatim> {
        self.verbatim.as_ref()
    }

    /// Bytes that it holds in memory.
    pub fn size(&self) -> usize {
        let verbatim = self.verbatim.as_ref();
        size_of::<Label>() + self.line.len() + verbatim.map_or(0, |v| v.payload.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_kept_as_it_came() {
        let label = Label::new(b"2 c0ffee  17 -1", 3).unwrap();
        assert_eq!((label.kind(), label.id()), (Kind::Answer, &b"c0ffee"[..]));
        assert_eq!((label.line(), label.turn()), (&b"2 c0ffee  17 -1"[..], 3));
        for (line, flaw) in [
            (&b"1 a"[..], Flaw::FewFields),
            (b"", Flaw::FewFields),
            (b"4 a 1", Flaw::UnknownKind),
            (b"1 a x", Flaw::BadTimestamp),
        ] {
            assert_eq!(Label::new(line, 0).unwrap_err(), flaw);
        }
    }
}
