//! Bytes of records that are to be written to a connection.
//!
//! What enters: records. What leaves: of each what its kind of stream takes, many with one write. What may be lost: nothing.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use reprise_traffic::gor::{Encoded, SEPARATOR};
use tokio::io::AsyncWrite;

/// Chunks of bodies from this size on are not copied.
const SHARED: usize = 16 << 10;

/// Slices that are handed to the system at once.
const PARTS: usize = 16;

/// What a stream takes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// All of it.
    Whole,
    /// Header and payload.
    Unseparated,
    /// The payload.
    Payload,
}

/// A part of a record.
pub(super) enum Part<'a> {
    Lent(&'a [u8]),
    Shared(&'a Bytes),
}

impl Part<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Part::Lent(bytes) => bytes,
            Part::Shared(bytes) => bytes,
        }
    }
}

impl Form {
    pub(super) fn parts_of(self, record: &Encoded<'_>, mut put: impl FnMut(Part<'_>)) {
        if self != Form::Payload {
            put(Part::Lent(record.header()));
            put(Part::Lent(b"\n"));
        }
        record.before_body().for_each(|part| put(Part::Lent(part)));
        let body = record.body().chunks();
        body.iter().for_each(|chunk| put(Part::Shared(chunk)));
        put(Part::Lent(record.behind_body()));
        if self == Form::Whole {
            put(Part::Lent(SEPARATOR));
        }
    }
}

/// Bytes to be written: small ones put together, large chunks as they are.
#[derive(Default)]
pub(super) struct Unsent {
    /// None of them is empty.
    parts: VecDeque<Bytes>,
    open: BytesMut,
}

impl Unsent {
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.open.is_empty()
    }

    /// Bytes of it.
    pub(super) fn put(&mut self, form: Form, record: &Encoded<'_>) -> usize {
        let mut length = 0;
        form.parts_of(record, |part| {
            length += part.bytes().len();
            match part {
                Part::Shared(bytes) if bytes.len() >= SHARED => {
                    self.seal();
                    self.parts.push_back(bytes.clone());
                }
                part => self.open.extend_from_slice(part.bytes()),
            }
        });
        length
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            self.parts.push_back(self.open.split().freeze());
        }
    }

    /// Writes some of it, and says how much.
    pub(super) fn poll_write(
        &mut self,
        stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.seal();
        let mut slices = [IoSlice::new(&[]); PARTS];
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(part);
        }
        let count = self.parts.len().min(PARTS);
        let written = ready!(stream.poll_write_vectored(cx, &slices[..count]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let mut left = written;
        while let Some(part) = self.parts.front_mut().filter(|_| left > 0) {
            let taken = part.len().min(left);
            left -= taken;
            if taken == part.len() {
                self.parts.pop_front();
            } else {
                *part = part.slice(taken..);
            }
        }
        Poll::Ready(Ok(written))
    }
}
