//! A connection that keeps what is read from it: hyper hands out headers parsed, and a test wants their bytes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes read since the last request ended; no more once its head is taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Tape(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    paused: bool,
}

impl Tape {
    /// The head of the request whose body is about to be read.
    pub(super) fn head(&self) -> Bytes {
        let mut state = self.lock();
        state.paused = true;
        let end = state.bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let length = end.map_or(state.bytes.len(), |end| end + 4);
        Bytes::copy_from_slice(&state.bytes[..length])
    }

    /// The body has been read: what comes now is the next request.
    pub(super) fn rewind(&self) {
        let mut state = self.lock();
        state.bytes.clear();
        state.paused = false;
    }

    fn record(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if !state.paused {
            state.bytes.extend_from_slice(bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Tee<T> {
    inner: T,
    tape: Tape,
}

impl<T> Tee<T> {
    pub(super) fn new(inner: T, tape: Tape) -> Tee<T> {
        Tee { inner, tape }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Tee<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.tape.record(&buffer.filled()[before..]);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tee<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
