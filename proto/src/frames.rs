//! gRPC's framing of a stream of messages, without a copy of large payloads.
//!
//! What enters: on the way out messages and payloads, on the way in the chunks of an HTTP/2 stream. What leaves: the
//! same on the other side, each message behind a flag and its length (the "Length-Prefixed-Message" of gRPC over
//! HTTP/2). What may be lost: nothing. tonic's own codec copies each message once on either side, and makes room for
//! what a peer announces; here payloads leave as slices of the exchange, and nothing is held that has not arrived.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::rope::Rope;

/// Largest message, bytes. Payloads travel in pieces, so this is for what a batch of small exchanges and the
/// documents of all targets need.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// Ahead of each message: a byte that is 1 where it is compressed, and its length as four.
const PREFIX: usize = 5;

/// Messages that wait are put into one chunk up to this size, bytes.
const CHUNK: usize = 64 << 10;

/// Chunks that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    ready: VecDeque<Bytes>,
    /// The end of what is to be sent, still growing.
    scratch: BytesMut,
}

impl Chunks {
    /// Appends a message.
    pub(crate) fn message(&mut self, message: &impl Message) {
        let length = message.encoded_len();
        self.scratch.reserve(PREFIX + length);
        self.prefix(length);
        // It fails only where there is no room, and the scratch makes room.
        if let Err(error) = message.encode(&mut self.scratch) {
            unreachable!("{error}");
        }
    }

    /// Appends a message whose end is a payload, which is not copied.
    pub(crate) fn message_with(&mut self, begin: &[u8], payload: Bytes) {
        self.scratch.reserve(PREFIX + begin.len());
        self.prefix(begin.len() + payload.len());
        self.scratch.put_slice(begin);
        self.flush();
        self.ready.push_back(payload);
    }

    fn prefix(&mut self, length: usize) {
        self.scratch.put_u8(0);
        // A message is no longer than what fits into memory, and is bounded by its maker far below 4 GiB.
        self.scratch.put_u32(length as u32);
    }

    fn flush(&mut self) {
        if !self.scratch.is_empty() {
            self.ready.push_back(self.scratch.split().freeze());
        }
    }

    /// True where there is as much as one chunk should hold.
    fn is_full(&self) -> bool {
        !self.ready.is_empty() || self.scratch.len() >= CHUNK
    }

    pub(crate) fn next(&mut self) -> Option<Bytes> {
        if self.ready.is_empty() {
            self.flush();
        }
        self.ready.pop_front()
    }
}

/// The body of a request or of a response: what comes from a channel, encoded when the connection wants more.
pub(crate) struct Outgoing<T> {
    chunks: Chunks,
    source: Option<mpsc::Receiver<T>>,
    encode: fn(T, &mut Chunks),
    /// Ends a response (gRPC over HTTP/2, "Trailers").
    trailers: Option<HeaderMap>,
}

impl<T> Outgoing<T> {
    /// A request's body; `first` goes ahead of the channel's messages.
    pub(crate) fn request(
        first: &impl Message,
        source: mpsc::Receiver<T>,
        encode: fn(T, &mut Chunks),
    ) -> Outgoing<T> {
        let mut chunks = Chunks::default();
        chunks.message(first);
        Outgoing {
            chunks,
            source: Some(source),
            encode,
            trailers: None,
        }
    }

    /// A response's body, which says at its end that all went well.
    pub(crate) fn response(
        first: &impl Message,
        source: mpsc::Receiver<T>,
        encode: fn(T, &mut Chunks),
    ) -> Outgoing<T> {
        let mut trailers = HeaderMap::new();
        trailers.insert(Status::GRPC_STATUS, (Code::Ok as i32).into());
        Outgoing {
            trailers: Some(trailers),
            ..Outgoing::request(first, source, encode)
        }
    }
}

impl<T> http_body::Body for Outgoing<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        while let Some(source) = &mut this.source
            && !this.chunks.is_full()
        {
            match source.poll_recv(context) {
                Poll::Ready(Some(message)) => (this.encode)(message, &mut this.chunks),
                Poll::Ready(None) => this.source = None,
                Poll::Pending => break,
            }
        }
        if let Some(chunk) = this.chunks.next() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match this.source {
            Some(_) => Poll::Pending,
            None => Poll::Ready(this.trailers.take().map(|end| Ok(Frame::trailers(end)))),
        }
    }
}

/// The messages of a request's or a response's body.
#[derive(Debug)]
pub(crate) struct Incoming {
    body: tonic::body::Body,
    rope: Rope,
    /// Length of the message that has begun.
    need: Option<usize>,
}

impl Incoming {
    pub(crate) fn new(body: tonic::body::Body) -> Incoming {
        Incoming {
            body,
            rope: Rope::default(),
            need: None,
        }
    }

    /// The next message; `None` at the end of the stream. To be called again only after `Ok`.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.decode()? {
                return Ok(Some(message));
            }
            match std::future::poll_fn(|context| self.poll_chunk(context)).await? {
                Some(chunk) => self.rope.push(chunk),
                None if self.rope.has_remaining() || self.need.is_some() => {
                    return Err(Status::data_loss("the stream ended within a message"));
                }
                None => return Ok(None),
            }
        }
    }

    fn decode<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let length = match self.need {
            Some(length) => length,
            None if self.rope.remaining() < PREFIX => return Ok(None),
            None => {
                if self.rope.get_u8() != 0 {
                    return Err(Status::unimplemented("a compressed message"));
                }
                let length = self.rope.get_u32() as usize;
                if length > MAX_MESSAGE {
                    return Err(Status::out_of_range(format!(
                        "a message of {length} bytes, and {MAX_MESSAGE} is the most"
                    )));
                }
                *self.need.insert(length)
            }
        };
        if self.rope.remaining() < length {
            return Ok(None);
        }
        self.need = None;
        // Of one chunk, as most are, prost reads numbers faster than across chunks.
        let message = match self.rope.chunk().len() < length {
            false => M::decode(self.rope.copy_to_bytes(length)),
            true => M::decode((&mut self.rope).take(length)),
        };
        message
            .map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            // The sender let go of its stream.
            Some(Err(status)) if status.code() == Code::Cancelled => return Poll::Ready(Ok(None)),
            Some(Err(status)) => return Poll::Ready(Err(status)),
            None => return Poll::Ready(Ok(None)),
        };
        let trailers = match frame.into_data() {
            Ok(chunk) => return Poll::Ready(Ok(Some(chunk))),
            Err(frame) => frame.into_trailers().unwrap_or_default(),
        };
        Poll::Ready(match Status::from_header_map(&trailers) {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ => Ok(None),
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use proptest::prelude::*;

    use super::*;
    use crate::wire;

    fn hello(node: &str) -> wire::Hello {
        wire::Hello {
            node: node.to_owned(),
            version: String::new(),
            measures: false,
        }
    }

    /// What a peer sends, in these chunks.
    fn incoming(chunks: Vec<Bytes>) -> Incoming {
        let frames = chunks
            .into_iter()
            .map(|chunk| Ok::<_, Status>(Frame::data(chunk)));
        Incoming::new(tonic::body::Body::new(StreamBody::new(tokio_stream::iter(
            frames,
        ))))
    }

    async fn all(mut incoming: Incoming) -> Result<Vec<wire::Hello>, Status> {
        let mut messages = Vec::new();
        while let Some(message) = incoming.next().await? {
            messages.push(message);
        }
        Ok(messages)
    }

    #[tokio::test]
    async fn what_is_sent_arrives_and_a_response_ends_well() {
        let (sender, source) = mpsc::channel(4);
        for node in ["b", "c"] {
            sender.send(node).await.unwrap();
        }
        drop(sender);
        let outgoing = Outgoing::response(&hello("a"), source, |node, chunks| {
            chunks.message(&hello(node));
        });
        let collected = outgoing.collect().await.unwrap();
        let trailers = collected.trailers().unwrap();
        assert_eq!(trailers[Status::GRPC_STATUS], "0");
        let messages = all(incoming(vec![collected.to_bytes()])).await.unwrap();
        assert_eq!(messages, ["a", "b", "c"].map(hello));
    }

    #[tokio::test]
    async fn nonsense_is_refused_with_one_line() {
        for (bytes, reason) in [
            (&[1, 0, 0, 0, 0][..], "a compressed message"),
            (
                &[0, 255, 255, 255, 255],
                "a message of 4294967295 bytes, and 16777216 is the most",
            ),
            (&[0, 0, 0, 0, 9, 1], "the stream ended within a message"),
            (&[0, 0], "the stream ended within a message"),
        ] {
            let refused = all(incoming(vec![Bytes::from_static(bytes)])).await;
            assert_eq!(refused.unwrap_err().message(), reason);
        }
    }

    proptest! {
        #[test]
        fn garbage_in_any_chunks_gives_one_line_and_no_panic(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..5),
            flag in any::<bool>(),
        ) {
            let mut chunks: Vec<Bytes> = chunks.into_iter().map(Bytes::from).collect();
            if flag {
                chunks.insert(0, Bytes::from_static(&[0, 0, 0, 0, 12]));
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            if let Err(status) = runtime.block_on(all(incoming(chunks))) {
                prop_assert!(!status.message().contains('\n'));
            }
        }
    }
}
