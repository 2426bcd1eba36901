//! Requests there and back, and objects that others wrote.

use proptest::prelude::*;

use super::super::Record;
use super::*;

fn head(text: &str) -> Head {
    Head::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn write(head_text: &str, body: &'static [u8]) -> Result<String, Inexpressible> {
    let json = write_json("c0ffee", 5, &head(head_text), &Body::from(body))?;
    Ok(String::from_utf8(json).unwrap())
}

fn read(json: &str) -> Result<String, JsonFlaw> {
    read_json(json.as_bytes()).map(|record| String::from_utf8(record).unwrap())
}

#[test]
fn keys_are_goreplays() {
    let json = write(
        "POST /a?b HTTP/1.1\r\nAccept: x\r\nHost: h\r\naccept: y\r\nContent-Length: 4\r\n\r\n",
        b"\"\xc3\xa4\n",
    );
    assert_eq!(
        json.unwrap(),
        r#"{"Req_URL":"/a?b","Req_Type":"1","Req_ID":"c0ffee","Req_Ts":"5","Req_Method":"POST","Req_Body":"\"ä\n","Req_Headers":{"Accept":"x, y","Host":"h","Content-Length":"4"}}"#
    );
    assert_eq!(
        write("GET * HTTP/1.0\r\n\r\n", b"").unwrap(),
        r#"{"Req_URL":"*","Req_Type":"1","Req_ID":"c0ffee","Req_Ts":"5","Req_Method":"GET"}"#
    );
}

#[test]
fn a_chunked_body_gets_a_length() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let json = write(head, b"abc").unwrap();
    assert!(
        json.ends_with(r#""Req_Headers":{"Content-Length":"3"}}"#),
        "{json}"
    );
    let foreign = json.replace("abc", r"3\r\nabc\r\n0\r\n\r\n");
    let foreign = foreign.replace(
        r#""Content-Length":"3""#,
        r#""transfer-encoding":"chunked""#,
    );
    for json in [json, foreign] {
        assert_eq!(
            read(&json).unwrap(),
            "1 c0ffee 5 -1\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
        );
    }
}

#[test]
fn what_is_no_text_or_not_whole_is_refused() {
    use Inexpressible as Why;
    for (head, body, why) in [
        (
            "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
            &b"\xff"[..],
            Why::BinaryBody,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n",
            b"x",
            Why::BodyLength {
                announced: 2,
                held: 1,
            },
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 2, 3\r\n\r\n",
            b"x",
            Why::Framing(FramingError::BadLength),
        ),
    ] {
        assert_eq!(write(head, body).unwrap_err(), why);
    }
    let latin = b"GET / HTTP/1.1\r\nA: \xe4\r\n\r\n";
    let latin = Head::parse(Bytes::from_static(latin)).unwrap();
    assert_eq!(
        write_json("a", 1, &latin, &Body::default()).unwrap_err(),
        Why::BinaryHead
    );
}

#[test]
fn others_objects_become_requests() {
    let json = r#"{"Req_Method":"PUT","Req_URL":"/x","Req_Type":"1","Req_ID":"i","Req_Ts":"7","More":[1],
        "Req_Body":"ä","Req_Headers":{"B":"1","host":"h","Content-Length":"99","A":""}}"#;
    assert_eq!(
        read(json).unwrap(),
        "1 i 7 -1\nPUT /x HTTP/1.1\r\nhost: h\r\nB: 1\r\nA: \r\nContent-Length: 2\r\n\r\nä"
    );
}

#[test]
fn no_object_smuggles_a_line() {
    let json = |change: &dyn Fn(&mut Object)| {
        let mut object = Object {
            url: "/".to_owned(),
            kind: "1".to_owned(),
            id: "a".to_owned(),
            timestamp: "1".to_owned(),
            method: "GET".to_owned(),
            body: String::new(),
            headers: vec![("A".to_owned(), "b".to_owned())],
        };
        change(&mut object);
        read_json(&serde_json::to_vec(&object).unwrap())
    };
    assert!(json(&|_| {}).is_ok());
    type Change = fn(&mut Object);
    let changes: [(Change, JsonFlaw); 11] = [
        (|o| o.kind = "2".to_owned(), JsonFlaw::Answer),
        (|o| o.kind = "x".to_owned(), Flaw::UnknownKind.into()),
        (
            |o| o.timestamp = "soon".to_owned(),
            Flaw::BadTimestamp.into(),
        ),
        (|o| o.id = "a\n".to_owned(), Flaw::FewFields.into()),
        (|o| o.id.clear(), Flaw::FewFields.into()),
        (
            |o| o.url = "/ HTTP/1.1\r\nX: y\r\n".to_owned(),
            JsonFlaw::Control("Req_URL"),
        ),
        (|o| o.url = "/a b".to_owned(), HeadError::Malformed.into()),
        (
            |o| o.method = "G\nT".to_owned(),
            JsonFlaw::Control("Req_Method"),
        ),
        (|o| o.method.clear(), HeadError::Malformed.into()),
        (
            |o| o.headers[0].1 = "b\r\nX: y".to_owned(),
            JsonFlaw::Control("Req_Headers"),
        ),
        (
            |o| o.headers[0].0 = "A: b".to_owned(),
            HeadError::Malformed.into(),
        ),
    ];
    for (at, (change, flaw)) in changes.into_iter().enumerate() {
        match json(&change) {
            Err(found) => assert_eq!(found, flaw, "{at}"),
            Ok(record) => panic!("{at}: {}", record.escape_ascii()),
        }
    }
    for text in [
        "",
        "[]",
        "{}",
        r#"{"Req_URL":"/secret"}"#,
        r#"{"Req_URL":1}"#,
    ] {
        let flaw = read(text).unwrap_err().to_string();
        assert!(!flaw.contains("secret"), "{flaw}");
        assert!(matches!(read(text), Err(JsonFlaw::Syntax(_))), "{text}");
    }
}

proptest! {
    #[test]
    fn a_request_comes_back(
        method in "[A-Z]{1,8}",
        url in "/[!-~]{0,30}",
        headers in proptest::collection::btree_map("X-[a-z]{1,8}", "[!-~]([ -~]{0,20}[!-~])?", 0..6),
        body in "\\PC{0,200}",
        chunked in any::<bool>(),
        timestamp in any::<u64>(),
    ) {
        let mut text = format!("{method} {url} HTTP/1.1\r\nHost: h\r\n");
        let lines: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        text += &lines;
        text += &match chunked {
            true => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
            false => format!("Content-Length: {}\r\n\r\n", body.len()),
        };
        let body = Body::from(body.into_bytes());
        let json = write_json("c0ffee", timestamp, &head(&text), &body).unwrap();
        let record = read_json(&json).unwrap();
        let record = Record::parse(&record, 1).unwrap();
        prop_assert_eq!((record.id, record.timestamp_ns), (&b"c0ffee"[..], timestamp));
        let expected = format!(
            "{method} {url} HTTP/1.1\r\nHost: h\r\n{lines}Content-Length: {}\r\n\r\n", body.len()
        );
        prop_assert_eq!(record.payload, [expected.as_bytes(), &body.to_bytes()].concat());
    }

    #[test]
    fn no_text_breaks_the_reader(json in "\\PC{0,60}", key in "(Req_(URL|Type|ID|Ts|Method|Body|Headers))?", value in "\\PC{0,10}") {
        let _ = read_json(json.as_bytes());
        let object = serde_json::json!({
            "Req_URL": "/", "Req_Type": "1", "Req_ID": "a", "Req_Ts": "1", "Req_Method": "GET", key: value
        });
        if let Ok(record) = read_json(object.to_string().as_bytes()) {
            prop_assert!(Record::parse(&record, 1).is_ok());
            prop_assert!(super::super::is_whole(&record));
        }
    }
}
