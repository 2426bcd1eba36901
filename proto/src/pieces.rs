//! Large payloads, which travel in pieces ahead of the batch with their exchanges.
//!
//! What enters: pieces, in order and one payload after the other. What leaves: whole payloads, in the order in which
//! they came. What may be lost: nothing; a sequence that no sender makes is refused with one line. Memory is bounded by
//! what came: room for a payload grows with it, whatever length was announced.

use std::collections::VecDeque;

use reprise_traffic::{Body, BodyMut};

use crate::message::LinkError;

/// Payloads up to this size, bytes, travel within their batch. Copying them is cheaper than a message of their own.
pub(crate) const SMALL: usize = 32 << 10;

/// Payload in one piece, bytes: large enough that a piece's own cost does not count, small enough that a buffer of
/// it stays in a core's cache between the socket and the payload.
pub(crate) const PIECE: usize = 128 << 10;

/// Most of an answer's body that the wire carries, bytes; of a longer one the beginning.
pub(crate) const MAX_ANSWER: usize = 8 << 20;

/// Payloads that wait for their batch, bytes: the largest exchange (64 MiB), its answer, and a batch of smaller ones.
const MAX_WAITING: usize = 80 << 20;

/// The payloads of the batch to come.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    whole: VecDeque<Body>,
    open: Option<Open>,
    /// Bytes of all that came.
    waiting: usize,
}

#[derive(Debug)]
struct Open {
    payload: BodyMut,
    length: usize,
}

fn refuse(what: &str) -> LinkError {
    LinkError::Protocol(what.to_owned())
}

impl Pieces {
    /// Takes the next piece of a payload of this length.
    ///
    /// # Errors
    /// When the piece can't follow what came before it.
    pub(crate) fn push(&mut self, length: u64, data: &[u8]) -> Result<(), LinkError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let begun = self.open.as_ref().map_or(0, |open| open.payload.len());
        if length <= SMALL {
            return Err(refuse("a piece of a payload that needs none"));
        }
        if length > MAX_WAITING - (self.waiting - begun) {
            return Err(refuse("pieces of more than an exchange can have"));
        }
        if data.is_empty() || data.len() > length - begun.min(length) {
            return Err(refuse("a piece that is empty or too long"));
        }
        let open = self.open.get_or_insert_with(|| Open {
            payload: BodyMut::default(),
            length,
        });
        if open.length != length {
            return Err(refuse("a piece of another payload"));
        }
        open.payload.push(data, Some(length as u64));
        self.waiting += data.len();
        if open.payload.len() == length
            && let Some(open) = self.open.take()
        {
            self.whole.push_back(open.payload.freeze());
        }
        Ok(())
    }

    /// The next payload, which an exchange says to be of this length.
    ///
    /// # Errors
    /// When there is no such payload.
    pub(crate) fn pop(&mut self, length: u64) -> Result<Body, LinkError> {
        match self.whole.pop_front() {
            Some(payload) if payload.len() as u64 == length => {
                self.waiting -= payload.len();
                Ok(payload)
            }
            _ => Err(refuse("an exchange without its pieces")),
        }
    }

    /// Bytes that came and that no exchange has claimed.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_no_sender_makes_is_refused() {
        let large = SMALL as u64 + 2;
        let refused = |pieces: &mut Pieces, length, data: &[u8]| {
            let LinkError::Protocol(reason) = pieces.push(length, data).unwrap_err() else {
                panic!("not a protocol error");
            };
            reason
        };
        let mut pieces = Pieces::default();
        let too_much = "pieces of more than an exchange can have";
        assert_eq!(
            refused(&mut pieces, 1, b"a"),
            "a piece of a payload that needs none"
        );
        assert_eq!(
            refused(&mut pieces, large, b""),
            "a piece that is empty or too long"
        );
        assert_eq!(refused(&mut pieces, u64::MAX, b"a"), too_much);
        assert_eq!(refused(&mut pieces, MAX_WAITING as u64 + 1, b"a"), too_much);
        pieces.push(large, b"a").unwrap();
        assert_eq!(
            refused(&mut pieces, large + 1, b"a"),
            "a piece of another payload"
        );
        assert_eq!(
            refused(&mut pieces, large, &vec![0; large as usize]),
            "a piece that is empty or too long"
        );
        assert_eq!(refused(&mut pieces, 1 << 40, b"a"), too_much);
        assert_eq!(
            pieces.pop(large),
            Err(refuse("an exchange without its pieces"))
        );
        pieces.push(large, &vec![0; SMALL + 1]).unwrap();
        assert_eq!(pieces.waiting(), SMALL + 2);
        assert!(pieces.pop(large - 1).is_err());
    }

    #[test]
    fn an_announcement_alone_costs_nothing() {
        let mut pieces = Pieces::default();
        pieces.push(MAX_WAITING as u64, b"a").unwrap();
        assert_eq!(pieces.waiting(), 1);
        let open = pieces.open.unwrap();
        assert!(open.payload.held() <= 16 << 10);
    }

    #[test]
    fn all_that_waits_is_bounded_together() {
        let mut pieces = Pieces::default();
        let payload = vec![0; 16 << 20];
        for _ in 0..5 {
            pieces.push(payload.len() as u64, &payload).unwrap();
        }
        assert!(pieces.push(SMALL as u64 + 1, b"a").is_err());
        pieces.pop(payload.len() as u64).unwrap();
        pieces.push(SMALL as u64 + 1, b"a").unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_cutting_comes_back_equal(
            lengths in proptest::collection::vec(SMALL + 1..2 << 20, 1..4),
            cut in 1_usize..200_000,
        ) {
            let mut pieces = Pieces::default();
            let byte = |payload: usize, n: usize| (n / 7 + payload) as u8;
            let payloads: Vec<Vec<u8>> = lengths
                .iter()
                .enumerate()
                .map(|(payload, length)| (0..*length).map(|n| byte(payload, n)).collect())
                .collect();
            for payload in &payloads {
                for data in payload.chunks(cut) {
                    pieces.push(payload.len() as u64, data).unwrap();
                }
            }
            for payload in payloads {
                prop_assert!(pieces.pop(payload.len() as u64).unwrap() == payload[..]);
            }
            prop_assert_eq!(pieces.waiting(), 0);
        }
    }
}
