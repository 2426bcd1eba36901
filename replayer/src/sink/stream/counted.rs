//! A TCP connection that counts what the kernel took.
//!
//! What enters: the bytes of the layers above. What leaves: the same, and how many of them the far host has acknowledged.
//! What may be lost: nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tracing::debug;

use super::unacknowledged::unacknowledged;

/// Below all others.
#[derive(Debug)]
pub(super) struct Counted {
    stream: TcpStream,
    written: u64,
}

impl Counted {
    /// Of which nothing was written yet.
    pub(super) fn new(stream: TcpStream) -> Counted {
        Counted { stream, written: 0 }
    }

    /// Bytes that the kernel took.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Bytes that the far host has acknowledged.
    ///
    /// # Errors
    /// When the kernel doesn't say.
    pub(super) fn acknowledged(&self) -> io::Result<u64> {
        // A goodbye that was sent counts as one more.
        Ok(self.written.saturating_sub(unacknowledged(&self.stream)?))
    }

    /// Dropped after this, it is reset, and what is not acknowledged not sent any more.
    pub(super) fn abandon(&self) {
        if let Err(error) = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)) {
            debug!(%error, "a stream's connection can't be reset");
        }
    }

    fn count(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = written {
            self.written += count as u64;
        }
        written
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
