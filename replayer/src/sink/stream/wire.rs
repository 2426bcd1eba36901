//! One connection of a stream: TCP, maybe TLS, maybe a WebSocket.
//!
//! What enters: records. What leaves: their bytes, many with one write, and the place up to which the far host has
//! acknowledged them. What the far end sends is read and thrown away; only that it closes counts. What may be lost: what
//! was given to a connection that breaks; it says which bytes it had begun with.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::{Sink as _, Stream as _};
use reprise_traffic::gor::Encoded;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::either::Either;

use super::counted::Counted;
use super::unsent::{Form, Unsent};
use super::window::Marks;

/// Read at once, on the stack.
const READ_SIZE: usize = 16 << 10;

/// TCP, or TLS over it.
pub(super) type Layered = Either<Counted, Box<TlsStream<Counted>>>;

/// An open connection.
pub(super) struct Wire {
    layers: Layers,
    /// Places: bytes that were given to it, and those that it began to write.
    given: u64,
    begun: u64,
    is_flushed: bool,
    /// Of layers above TCP; without any, places are its bytes.
    marks: Marks,
}

enum Layers {
    Bytes {
        stream: Layered,
        unsent: Unsent,
    },
    Web {
        socket: Box<WebSocketStream<Layered>>,
        unsent: VecDeque<Bytes>,
    },
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Over {
    /// The far end closed it, and has read what it acknowledged.
    #[error("closed by the far end")]
    Closed,
    /// All else: what the far end acknowledged it may not have read.
    #[error(transparent)]
    Broken(io::Error),
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Over {
        match error.kind() {
            // TLS without its goodbye, and writing behind the far end's last word.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Over::Closed,
            _ => Over::Broken(error),
        }
    }
}

impl From<Error> for Over {
    fn from(error: Error) -> Over {
        match error {
            Error::ConnectionClosed | Error::AlreadyClosed => Over::Closed,
            Error::Io(error) => Over::from(error),
            error => Over::Broken(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

impl Wire {
    /// Over which bytes go as they are.
    pub(super) fn of_bytes(stream: Layered) -> Wire {
        let unsent = Unsent::default();
        Wire::over(Layers::Bytes { stream, unsent })
    }

    /// Over which each record goes as a frame.
    pub(super) fn of_frames(socket: WebSocketStream<Layered>) -> Wire {
        let (socket, unsent) = (Box::new(socket), VecDeque::new());
        Wire::over(Layers::Web { socket, unsent })
    }

    fn over(layers: Layers) -> Wire {
        Wire {
            layers,
            given: 0,
            begun: 0,
            is_flushed: true,
            marks: Marks::default(),
        }
    }

    /// The place behind all that was given.
    pub(super) fn given(&self) -> u64 {
        self.given
    }

    /// The place behind all that may have left.
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    /// True where the kernel has all that was given.
    pub(super) fn is_flushed(&self) -> bool {
        self.is_flushed
    }

    /// Gives it a record, or what else its kind of stream takes of one.
    pub(super) fn put(&mut self, form: Form, record: &Encoded<'_>) {
        self.given += match &mut self.layers {
            Layers::Bytes { unsent, .. } => unsent.put(form, record),
            Layers::Web { unsent, .. } => {
                let mut frame = BytesMut::with_capacity(record.size());
                form.parts_of(record, |part| frame.extend_from_slice(part.bytes()));
                unsent.push_back(frame.freeze());
                unsent.back().map_or(0, Bytes::len)
            }
        } as u64;
        self.is_flushed = false;
    }

    fn counted(&self) -> &Counted {
        let stream = match &self.layers {
            Layers::Bytes { stream, .. } => stream,
            Layers::Web { socket, .. } => socket.get_ref(),
        };
        match stream {
            Either::Left(counted) => counted,
            Either::Right(tls) => tls.get_ref().0,
        }
    }

    /// True where there is nothing above TCP.
    fn is_plain(&self) -> bool {
        matches!(&self.layers, Layers::Bytes { stream, .. } if matches!(stream, Either::Left(_)))
    }

    /// How much the far host has acknowledged: bytes of TCP, and the place before which all is.
    ///
    /// # Errors
    /// When the kernel doesn't say.
    pub(super) fn acknowledged(&mut self) -> io::Result<(u64, u64)> {
        let bytes = self.counted().acknowledged()?;
        let place = match self.is_plain() {
            true => bytes,
            false => self.marks.acknowledged(bytes),
        };
        Ok((bytes, place))
    }

    /// What the far host has not acknowledged is not sent any more: the connection is reset when it is dropped.
    pub(super) fn abandon(&self) {
        self.counted().abandon();
    }

    /// Writes what was given; ready once the kernel has all of it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Over>> {
        if let Layers::Web { socket, unsent } = &mut self.layers {
            let mut socket = Pin::new(socket);
            while let Some(frame) = unsent.front() {
                ready!(socket.as_mut().poll_ready(cx))?;
                self.begun += frame.len() as u64;
                let frame = unsent.pop_front().unwrap_or_default();
                socket.as_mut().start_send(Message::Binary(frame))?;
            }
            ready!(socket.poll_flush(cx))?;
        }
        while let Layers::Bytes { stream, unsent } = &mut self.layers
            && !unsent.is_empty()
        {
            self.begun += ready!(unsent.poll_write(Pin::new(stream), cx))? as u64;
        }
        if let Layers::Bytes { stream, .. } = &mut self.layers {
            ready!(Pin::new(stream).poll_flush(cx))?;
        }
        self.is_flushed = true;
        if !self.is_plain() {
            self.marks.put(self.counted().written(), self.given);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads until the far end closes the connection, or it breaks.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        match &mut self.layers {
            Layers::Bytes { stream, .. } => loop {
                let mut storage = [MaybeUninit::uninit(); READ_SIZE];
                let mut buf = ReadBuf::uninit(&mut storage);
                match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf)) {
                    Ok(()) if buf.filled().is_empty() => return Poll::Ready(Over::Closed),
                    Ok(()) => {}
                    Err(error) => return Poll::Ready(error.into()),
                }
            },
            Layers::Web { socket, .. } => loop {
                match ready!(Pin::new(&mut *socket).poll_next(cx)) {
                    Some(Ok(Message::Close(_))) => {
                        // One try to answer: whatever keeps it from leaving, the connection is over.
                        let _ = Pin::new(socket).poll_flush(cx);
                        return Poll::Ready(Over::Closed);
                    }
                    // Pings are answered below.
                    Some(Ok(_)) => {}
                    None => return Poll::Ready(Over::Closed),
                    Some(Err(error)) => return Poll::Ready(error.into()),
                }
            },
        }
    }

    /// Says goodbye behind all that was written; ready once that is out.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Over>> {
        match &mut self.layers {
            Layers::Bytes { stream, .. } => Pin::new(stream).poll_shutdown(cx).map_err(Over::from),
            Layers::Web { socket, .. } => Pin::new(socket).poll_close(cx).map_err(Over::from),
        }
    }
}
