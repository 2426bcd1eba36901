//! Requests that are told apart by a number in their URL.
//!
//! What enters: a number. What leaves: the bytes of a small GET with it; and back, the numbers in the bytes of packets and
//! in the URLs of logs. What may be lost: a request whose line is cut in two by packets; none of ours is.

use std::fmt::Write as _;

const BEGIN: &[u8] = b"GET /n/";
/// Of the number, with zeros in front, so that all are equally long.
const DIGITS: usize = 8;

/// A small GET, to be numbered again and again.
#[derive(Debug, Clone)]
pub(crate) struct Numbered(Vec<u8>);

impl Numbered {
    /// A request to `host` whose head has `size` bytes, or as few as possible.
    pub(crate) fn new(host: &str, size: usize) -> Numbered {
        let mut head = String::from_utf8_lossy(BEGIN).into_owned();
        head.push_str(&"0".repeat(DIGITS));
        // It can't fail.
        let _ = write!(
            head,
            " HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\nCookie: sid="
        );
        let missing = size.saturating_sub(head.len() + 4);
        head.push_str(&"c".repeat(missing));
        head.push_str("\r\n\r\n");
        Numbered(head.into_bytes())
    }

    /// The one with this number, of which the last digits count.
    pub(crate) fn with(&mut self, number: u32) -> &[u8] {
        let mut rest = number;
        for digit in self.0[BEGIN.len()..][..DIGITS].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        &self.0
    }

    /// Its URL's path.
    pub(crate) fn path(&self) -> String {
        let path = &self.0[b"GET ".len()..BEGIN.len() + DIGITS];
        String::from_utf8_lossy(path).into_owned()
    }

    /// Its header lines but for `Host`, which clients set themselves.
    pub(crate) fn headers(&self) -> Vec<String> {
        let head = String::from_utf8_lossy(&self.0);
        let lines = head.trim_end().lines().skip(1);
        let lines = lines.filter(|line| !line.starts_with("Host:"));
        lines.map(str::to_owned).collect()
    }
}

/// The numbers of the requests that begin in a packet's payload.
pub(crate) fn numbers(mut payload: &[u8]) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Some(number) = payload.strip_prefix(BEGIN).and_then(digits) {
        numbers.push(number);
        let end = payload.windows(4).position(|four| four == b"\r\n\r\n");
        payload = end.map_or(&[], |end| &payload[end + 4..]);
    }
    numbers
}

/// The number in a URL's path.
pub(crate) fn number(path: &str) -> Option<u32> {
    path.strip_prefix("/n/").map(str::as_bytes).and_then(digits)
}

fn digits(text: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(text.get(..DIGITS)?).ok()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_again_wherever_it_went() {
        let mut request = Numbered::new("shop.example", 200);
        let two = [request.with(17).to_vec(), request.with(12_345_678).to_vec()].concat();
        assert_eq!(two.len(), 400);
        assert_eq!(numbers(&two), [17, 12_345_678]);
        assert_eq!(numbers(&two[..300]), [17, 12_345_678]);
        assert!(numbers(b"POST / HTTP/1.1\r\n\r\n").is_empty());
        assert_eq!(number(&request.path()), Some(12_345_678));
        assert_eq!(number("/ready"), None);
    }

    #[test]
    fn header_lines_are_all_but_the_host() {
        let request = Numbered::new("shop.example", 0);
        let expected = ["User-Agent: bench", "Accept: */*", "Cookie: sid="];
        assert_eq!(request.headers(), expected);
    }
}
