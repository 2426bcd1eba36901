//! Where an HTTP/1 message ends (RFC 9112 §6 and §7).
//!
//! What enters: a message's header fields, then its bytes in pieces of any size.
//! What leaves: the length rule of its body, and the body without its chunking.
//! What may be lost: nothing; what two parsers could read differently is refused, never guessed,
//! so that no smuggled request passes through.

use bytes::BytesMut;

use crate::head::Head;

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes follow the head.
    Length(u64),
    /// Chunks, then trailers.
    Chunked,
    /// All until the connection closes; responses only.
    UntilClose,
}

/// Why the end of a message is a matter of opinion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FramingError {
    /// RFC 9112 §6.3 rule 3: the mark of request smuggling.
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    /// Several, not just digits, or beyond 2^63 - 1.
    #[error("Content-Length that is no single number")]
    BadLength,
    /// Not `chunked` in the last place and only there, or in HTTP/1.0.
    #[error("Transfer-Encoding that does not end in chunked")]
    BadEncoding,
    /// No hexadecimal size, a size or a size line that is too large, a wrong line end.
    #[error("malformed chunk")]
    BadChunk,
    /// Over [`MAX_TRAILERS`] bytes.
    #[error("trailers over {MAX_TRAILERS} bytes")]
    TrailersTooLarge,
}

/// Trailer lines are held in memory, so their bytes are bounded.
pub const MAX_TRAILERS: usize = 16 * 1024;

/// A chunk's size line with its extensions, which are passed over; servers refuse at 8 KiB (Apache) and less.
const MAX_CHUNK_LINE: usize = 64 * 1024;

/// The length rule of a request's body.
///
/// # Errors
/// When the head says it in a way that parsers read differently.
pub fn of_request(head: &Head) -> Result<Framing, FramingError> {
    let framing = from_headers(head.header_bytes(), head.minor_version())?;
    Ok(framing.unwrap_or(Framing::Length(0)))
}

/// The length rule of a response's body (RFC 9112 §6.3), given the method of its request.
///
/// # Errors
/// When the head says it in a way that parsers read differently.
pub fn of_response<'a>(
    request_method: &str,
    status: u16,
    minor_version: u8,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<Framing, FramingError> {
    let bodiless = request_method == "HEAD" || status < 200 || status == 204 || status == 304;
    if bodiless || (request_method == "CONNECT" && status < 300) {
        return Ok(Framing::Length(0));
    }
    let headers = headers.map(|(name, value)| (name.as_bytes(), value));
    let framing = from_headers(headers, minor_version)?;
    Ok(framing.unwrap_or(Framing::UntilClose))
}

fn from_headers<'a>(
    headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    minor_version: u8,
) -> Result<Option<Framing>, FramingError> {
    let mut length = None;
    let mut chunked = false;
    let mut encoded = false;
    for (name, value) in headers {
        if name.eq_ignore_ascii_case(b"content-length") {
            if length.is_some() {
                return Err(FramingError::BadLength);
            }
            length = Some(content_length(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            for coding in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                // Nothing may follow `chunked`, an empty element included.
                if chunked || coding.is_empty() {
                    return Err(FramingError::BadEncoding);
                }
                encoded = true;
                chunked = coding.eq_ignore_ascii_case(b"chunked");
            }
        }
    }
    match (length, encoded) {
        (Some(_), true) => Err(FramingError::LengthAndEncoding),
        (None, true) if !chunked || minor_version == 0 => Err(FramingError::BadEncoding),
        (None, true) => Ok(Some(Framing::Chunked)),
        (Some(length), false) => Ok(Some(Framing::Length(length))),
        (None, false) => Ok(None),
    }
}

fn content_length(value: &[u8]) -> Result<u64, FramingError> {
    // A leading zero is harmless, but parsers have been seen to read it as octal.
    let plain = !value.is_empty()
        && value.iter().all(u8::is_ascii_digit)
        && (value.len() == 1 || value[0] != b'0');
    let text = std::str::from_utf8(value).map_err(|_| FramingError::BadLength)?;
    match text.parse::<u64>() {
        Ok(length) if plain && length <= i64::MAX as u64 => Ok(length),
        _ => Err(FramingError::BadLength),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    /// In a size line: the value of the digits so far.
    Size {
        part: SizePart,
        value: u64,
        line: usize,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the message.
    LineStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

/// What a byte of a size line belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SizePart {
    /// The line's first byte.
    Start,
    Digits,
    /// White space between the digits and an extension.
    Space,
    Extension,
}

/// Takes the chunking off a body, strictly (RFC 9112 §7.1), in pieces of any size.
#[derive(Debug)]
pub struct ChunkedDecoder {
    state: ChunkState,
    trailers: BytesMut,
}

impl Default for ChunkedDecoder {
    fn default() -> ChunkedDecoder {
        ChunkedDecoder {
            state: START,
            trailers: BytesMut::new(),
        }
    }
}

const START: ChunkState = ChunkState::Size {
    part: SizePart::Start,
    value: 0,
    line: 0,
};

impl ChunkedDecoder {
    /// Takes bytes off `input`, hands body bytes to `body`, and returns how many bytes it took.
    ///
    /// It takes all of them unless the message ends within; see [`ChunkedDecoder::is_done`].
    ///
    /// # Errors
    /// At the first byte that is not as the grammar has it. The decoder must not be used after.
    pub fn push(
        &mut self,
        input: &[u8],
        mut body: impl FnMut(&[u8]),
    ) -> Result<usize, FramingError> {
        let mut at = 0;
        while at < input.len() && self.state != ChunkState::Done {
            if let ChunkState::Data { left } = self.state {
                let take = left.min((input.len() - at) as u64) as usize;
                body(&input[at..at + take]);
                at += take;
                let left = left - take as u64;
                self.state = if left == 0 {
                    ChunkState::DataCr
                } else {
                    ChunkState::Data { left }
                };
                continue;
            }
            self.state = self.step(input[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// True once the last chunk and its trailers are in.
    pub fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }

    /// The trailer lines as they came, without the empty line behind them.
    pub fn into_trailers(self) -> BytesMut {
        self.trailers
    }

    fn step(&mut self, byte: u8) -> Result<ChunkState, FramingError> {
        use ChunkState as S;
        Ok(match (self.state, byte) {
            (S::Size { part, value, line }, byte) => return size_step(part, value, line, byte),
            (S::SizeLf { value: 0 }, b'\n') => S::LineStart,
            (S::SizeLf { value }, b'\n') => S::Data { left: value },
            (S::DataCr, b'\r') => S::DataLf,
            (S::DataLf, b'\n') => START,
            (S::LineStart, b'\r') => S::EndLf,
            (S::LineStart | S::Trailer, b'\n' | 0) => return Err(FramingError::BadChunk),
            (S::LineStart | S::Trailer, byte) => {
                if self.trailers.len() >= MAX_TRAILERS {
                    return Err(FramingError::TrailersTooLarge);
                }
                self.trailers.extend_from_slice(&[byte]);
                if byte == b'\r' {
                    S::TrailerLf
                } else {
                    S::Trailer
                }
            }
            (S::TrailerLf, b'\n') => {
                self.trailers.extend_from_slice(b"\n");
                S::LineStart
            }
            (S::EndLf, b'\n') => S::Done,
            _ => return Err(FramingError::BadChunk),
        })
    }
}

fn size_step(
    part: SizePart,
    value: u64,
    line: usize,
    byte: u8,
) -> Result<ChunkState, FramingError> {
    let line = line + 1;
    if line > MAX_CHUNK_LINE {
        return Err(FramingError::BadChunk);
    }
    let (part, value) = match (part, byte) {
        (_, b'\n' | 0) => return Err(FramingError::BadChunk),
        (SizePart::Digits | SizePart::Space | SizePart::Extension, b'\r') => {
            return Ok(ChunkState::SizeLf { value });
        }
        (SizePart::Extension, _) | (SizePart::Digits | SizePart::Space, b';') => {
            (SizePart::Extension, value)
        }
        // RFC 9112 §7.1.1 allows white space before the extension's semicolon.
        (SizePart::Digits | SizePart::Space, b' ' | b'\t') => (SizePart::Space, value),
        (SizePart::Space, _) => return Err(FramingError::BadChunk),
        (SizePart::Start | SizePart::Digits, _) => {
            let digit = (byte as char).to_digit(16).ok_or(FramingError::BadChunk)?;
            let value = value
                .checked_mul(16)
                .and_then(|v| v.checked_add(u64::from(digit)))
                .filter(|v| *v <= i64::MAX as u64)
                .ok_or(FramingError::BadChunk)?;
            (SizePart::Digits, value)
        }
    };
    Ok(ChunkState::Size { part, value, line })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn framing(lines: &str) -> Result<Framing, FramingError> {
        let raw = format!("POST / HTTP/1.1\r\n{lines}\r\n");
        of_request(&Head::parse(Bytes::from(raw)).unwrap())
    }

    #[test]
    fn clear_lengths_are_read() {
        assert_eq!(framing(""), Ok(Framing::Length(0)));
        assert_eq!(framing("content-length: 12\r\n"), Ok(Framing::Length(12)));
        assert_eq!(
            framing("Transfer-Encoding: Chunked\r\n"),
            Ok(Framing::Chunked)
        );
        assert_eq!(
            framing("Transfer-Encoding: gzip, chunked\r\n"),
            Ok(Framing::Chunked)
        );
    }

    #[test]
    fn ambiguous_lengths_are_refused() {
        use FramingError::{BadEncoding, BadLength, LengthAndEncoding};
        for (lines, error) in [
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                LengthAndEncoding,
            ),
            ("Content-Length: 1\r\nContent-Length: 2\r\n", BadLength),
            ("Content-Length: 1, 1\r\n", BadLength),
            ("Content-Length: +1\r\n", BadLength),
            ("Content-Length: -1\r\n", BadLength),
            ("Content-Length: 01\r\n", BadLength),
            ("Content-Length:\r\n", BadLength),
            ("Content-Length: 9223372036854775808\r\n", BadLength),
            ("Transfer-Encoding: chunked, identity\r\n", BadEncoding),
            ("Transfer-Encoding: chunked, chunked\r\n", BadEncoding),
            ("Transfer-Encoding: xchunked\r\n", BadEncoding),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
                BadEncoding,
            ),
        ] {
            assert_eq!(framing(lines), Err(error), "{lines}");
        }
        let old = Head::parse(Bytes::from_static(
            b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ));
        assert_eq!(of_request(&old.unwrap()), Err(BadEncoding));
    }

    #[test]
    fn responses_follow_their_requests() {
        let length = [("Content-Length", &b"5"[..])];
        let of = |method, status| of_response(method, status, 1, length.into_iter());
        assert_eq!(of("GET", 200), Ok(Framing::Length(5)));
        assert_eq!(of("HEAD", 200), Ok(Framing::Length(0)));
        assert_eq!(of("GET", 304), Ok(Framing::Length(0)));
        assert_eq!(
            of_response("GET", 200, 1, std::iter::empty()),
            Ok(Framing::UntilClose)
        );
    }

    fn decode(input: &[u8], cut: usize) -> Result<(Vec<u8>, Vec<u8>, usize), FramingError> {
        let mut decoder = ChunkedDecoder::default();
        let mut body = Vec::new();
        let mut used = 0;
        for piece in input.chunks(cut.max(1)) {
            used += decoder.push(piece, |bytes| body.extend_from_slice(bytes))?;
        }
        assert!(decoder.is_done());
        Ok((body, decoder.into_trailers().to_vec(), used))
    }

    #[test]
    fn chunks_extensions_and_trailers() {
        let input = b"5;a=b\r\nhello\r\n001 \t;x y\r\n!\r\n0 \r\nA: 1\r\nB: 2\r\n\r\nGET";
        for cut in 1..input.len() {
            let (body, trailers, used) = decode(input, cut).unwrap();
            assert_eq!(body, b"hello!");
            assert_eq!(trailers, b"A: 1\r\nB: 2\r\n");
            assert_eq!(used, input.len() - 3);
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for input in [
            &b"\r\n"[..],
            b"g\r\n",
            b"5\nhello",
            b"5\r\nhello!\r\n",
            b"5\r\nhello\n",
            b"-1\r\n",
            b"0x5\r\n",
            b"5 5\r\nhello\r\n",
            b"0 x=y\r\n",
            b" 5\r\nhello\r\n",
            b"10000000000000000\r\n",
            b"0\r\nA: b\n\r\n",
        ] {
            let mut decoder = ChunkedDecoder::default();
            let refused = decoder.push(input, |_| {});
            assert!(refused.is_err(), "{}", input.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_body_comes_back_whatever_the_cutting(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8),
            cut in 1_usize..40,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let (body, _, used) = decode(&wire, cut).unwrap();
            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!(used, wire.len());
        }

        #[test]
        fn garbage_never_panics(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ChunkedDecoder::default().push(&input, |_| {});
        }
    }
}
