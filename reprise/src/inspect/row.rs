//! A request as a JSON object.
//!
//! What enters: a request as found. What leaves: one line. What may be lost: trailers, which the object has no field
//! for. Bytes above 127 stand as the character of the same number (latin-1).

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

use reprise_traffic::{Answer, Body};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use sha2::{Digest as _, Sha256};

use super::Seen;

#[derive(Serialize)]
pub(super) struct Row<'a> {
    file: &'a str,
    client: Option<String>,
    server: Option<String>,
    time_ns: u64,
    method: &'a str,
    target: Cow<'a, str>,
    version: &'static str,
    headers: Vec<(&'a str, Cow<'a, str>)>,
    body_len: usize,
    body_sha256: String,
    /// There at all only where answers are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Option<Response<'a>>>,
}

#[derive(Serialize)]
struct Response<'a> {
    time_ns: u64,
    last_byte_ns: u64,
    status: u16,
    version: &'static str,
    headers: Vec<(&'a str, Cow<'a, str>)>,
    body_len: u64,
    /// Null where not all of the body is kept.
    body_sha256: Option<String>,
    complete: bool,
}

impl<'a> Row<'a> {
    pub(super) fn new(file: &'a str, seen: &'a Seen, answers: bool) -> Row<'a> {
        Row {
            file,
            client: seen.ends.map(|(client, _)| client.to_string()),
            server: seen.ends.map(|(_, server)| server.to_string()),
            time_ns: seen.at_ns,
            method: seen.head.method(),
            target: latin1(seen.head.target()),
            version: version(seen.head.minor_version()),
            headers: headers(seen.head.headers()),
            body_len: seen.body.len(),
            body_sha256: checksum(&seen.body),
            response: answers.then(|| seen.answer.as_deref().map(Response::new)),
        }
    }

    /// Writes it as one line.
    pub(super) fn write(&self, out: &mut impl io::Write) -> io::Result<()> {
        self.serialize(&mut Serializer::with_formatter(&mut *out, OneLine))?;
        writeln!(out)
    }
}

/// Writes DEL and the control characters above it as escapes too: some take U+0085 for the end of a line, and terminals
/// others for commands.
struct OneLine;

impl Formatter for OneLine {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(|c| ('\u{7f}'..='\u{9f}').contains(&c)) {
            let (before, from) = rest.split_at(at);
            out.write_all(before.as_bytes())?;
            let mut behind = from.chars();
            if let Some(control) = behind.next() {
                write!(out, "\\u{:04x}", u32::from(control))?;
            }
            rest = behind.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

impl<'a> Response<'a> {
    fn new(answer: &'a Answer) -> Response<'a> {
        Response {
            time_ns: answer.first_byte_ns,
            last_byte_ns: answer.last_byte_ns,
            status: answer.head.status(),
            version: version(answer.head.minor_version()),
            headers: headers(answer.head.headers()),
            body_len: answer.body_len,
            body_sha256: answer.is_whole().then(|| checksum(&answer.body)),
            complete: answer.complete,
        }
    }
}

/// Bytes as characters of the same numbers.
pub(super) fn latin1(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.is_ascii() => Cow::Borrowed(text),
        _ => Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()),
    }
}

fn headers<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<(&'a str, Cow<'a, str>)> {
    headers.map(|(name, value)| (name, latin1(value))).collect()
}

fn version(minor: u8) -> &'static str {
    match minor {
        0 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn checksum(body: &Body) -> String {
    let mut hash = Sha256::new();
    for chunk in body.chunks() {
        hash.update(chunk);
    }
    let mut text = String::with_capacity(64);
    for byte in hash.finalize() {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_no_control_characters() {
        let value = latin1(b"a\x7fb\x85\xe9\x9f\n\"");
        let mut line = Vec::new();
        value
            .serialize(&mut Serializer::with_formatter(&mut line, OneLine))
            .unwrap();
        let line = String::from_utf8(line).unwrap();
        assert_eq!(line, r#""a\u007fb\u0085é\u009f\n\"""#);
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), value);
    }
}
