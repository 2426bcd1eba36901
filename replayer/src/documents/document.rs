//! What is told of one replayed request. Pure.
//!
//! What enters: a request's head, its answer's where there is one, how long that took and when. What leaves: a JSON object
//! with GoReplay's keys. What may be lost: bodies; headers that have no key; bytes that are no UTF-8, each replaced by
//! U+FFFD.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use reprise_traffic::{AnswerHead, Head};
use serde::Serialize;

/// A document that is ready to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(pub(super) Vec<u8>);

#[derive(Serialize)]
struct Fields<'a> {
    #[serde(rename = "Req_URL")]
    url: Cow<'a, str>,
    #[serde(rename = "Req_Method")]
    method: &'a str,
    #[serde(rename = "Req_User-Agent")]
    user_agent: Cow<'a, str>,
    #[serde(rename = "Resp_Status")]
    status: String,
    #[serde(rename = "Resp_Status-Code")]
    status_code: String,
    #[serde(rename = "RTT")]
    rtt_ms: u64,
    #[serde(rename = "Timestamp")]
    timestamp: String,
    #[serde(flatten)]
    headers: serde_json::Map<String, serde_json::Value>,
}

/// Headers of requests that have a key, and the key.
const REQUEST: [(&str, &str); 6] = [
    ("Accept-Language", "Req_Accept-Language"),
    ("Accept", "Req_Accept"),
    ("Accept-Encoding", "Req_Accept-Encoding"),
    ("If-Modified-Since", "Req_If-Modified-Since"),
    ("Connection", "Req_Connection"),
    ("Cookie", "Req_Cookies"),
];

/// The same of answers.
const ANSWER: [(&str, &str); 8] = [
    ("Content-Length", "Resp_Content-Length"),
    ("Content-Type", "Resp_Content-Type"),
    ("Transfer-Encoding", "Resp_Transfer-Encoding"),
    ("Content-Encoding", "Resp_Content-Encoding"),
    ("Expires", "Resp_Expires"),
    ("Cache-Control", "Resp_Cache-Control"),
    ("Vary", "Resp_Vary"),
    ("Set-Cookie", "Resp_Set-Cookie"),
];

impl Document {
    /// Of a request that was sent at `timestamp_ns`, unix nanoseconds, and answered after `rtt`. Without an answer its
    /// status is the empty text.
    pub fn new(
        request: &Head,
        answer: Option<&AnswerHead>,
        rtt: Duration,
        timestamp_ns: u64,
    ) -> Document {
        let mut headers = serde_json::Map::new();
        let mut put = |key: &str, value: String| {
            if !value.is_empty() {
                headers.insert(key.to_owned(), value.into());
            }
        };
        for (name, key) in REQUEST {
            put(key, joined(request.headers(), name));
        }
        let mut status = String::new();
        if let Some(answer) = answer {
            put("Resp_Proto", format!("HTTP/1.{}", answer.minor_version()));
            for (name, key) in ANSWER {
                put(key, joined(answer.headers(), name));
            }
            status = status_of(answer);
        }
        let fields = Fields {
            url: String::from_utf8_lossy(request.path_and_query()),
            method: request.method(),
            user_agent: String::from_utf8_lossy(request.header("User-Agent").unwrap_or_default()),
            status,
            status_code: answer.map_or_else(String::new, |answer| answer.status().to_string()),
            rtt_ms: u64::try_from(rtt.as_millis()).unwrap_or(u64::MAX),
            timestamp: Timestamp::from_nanosecond(timestamp_ns.into())
                .unwrap_or_default()
                .to_string(),
            headers,
        };
        // Texts and numbers can't fail.
        Document(serde_json::to_vec(&fields).unwrap_or_default())
    }

    /// Its JSON.
    pub fn json(&self) -> &[u8] {
        &self.0
    }
}

/// The values of all header lines of that name.
fn joined<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>, name: &str) -> String {
    let of_name = headers.filter(|(n, _)| n.eq_ignore_ascii_case(name));
    let values: Vec<_> = of_name
        .map(|(_, value)| String::from_utf8_lossy(value))
        .collect();
    values.join(", ")
}

/// Code and reason phrase, `404 Not Found`.
fn status_of(answer: &AnswerHead) -> String {
    let line = answer
        .raw()
        .split(|b| *b == b'\n')
        .next()
        .unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let status = line.split_once(' ').map_or("", |(_, status)| status);
    status.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn document(request: &'static [u8], answer: Option<&'static [u8]>) -> serde_json::Value {
        let request = Head::parse(Bytes::from_static(request)).unwrap();
        let answer = answer.map(|answer| AnswerHead::parse(Bytes::from_static(answer)).unwrap());
        let rtt = Duration::from_micros(2_345_678);
        let at = 1_500_000_000_123_456_789;
        let document = Document::new(&request, answer.as_ref(), rtt, at);
        serde_json::from_slice(document.json()).unwrap()
    }

    #[test]
    fn keys_are_goreplays() {
        let found = document(
            b"GET http://h/a?b=c HTTP/1.1\r\nuser-agent: me\r\nAccept: x\r\naccept: y\r\nCookie: a=b\r\nX-Other: z\r\n\r\n",
            Some(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nServer: s\r\n\r\n"),
        );
        let expected = json!({
            "Req_URL": "/a?b=c", "Req_Method": "GET", "Req_User-Agent": "me", "Req_Accept": "x, y", "Req_Cookies": "a=b",
            "Resp_Status": "404 Not Found", "Resp_Status-Code": "404", "Resp_Proto": "HTTP/1.1",
            "Resp_Content-Type": "text/plain", "Resp_Set-Cookie": "a, b",
            "RTT": 2345, "Timestamp": "2017-07-14T02:40:00.123456789Z",
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn some_keys_are_always_there() {
        let expected = json!({
            "Req_URL": "/", "Req_Method": "GET", "Req_User-Agent": "", "Resp_Status": "", "Resp_Status-Code": "",
            "RTT": 2345, "Timestamp": "2017-07-14T02:40:00.123456789Z",
        });
        assert_eq!(document(b"GET / HTTP/1.1\r\n\r\n", None), expected);
        let latin = document(b"GET / HTTP/1.1\r\nUser-Agent: \xe4\r\n\r\n", None);
        assert_eq!(latin["Req_User-Agent"], "\u{fffd}");
        let bare = document(b"GET / HTTP/1.1\r\n\r\n", Some(b"HTTP/1.0 200\r\n\r\n"));
        assert_eq!(bare["Resp_Status"], "200");
        assert_eq!(bare["Resp_Proto"], "HTTP/1.0");
    }
}
