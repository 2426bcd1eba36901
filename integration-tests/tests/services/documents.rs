//! Documents about replayed requests, in a real OpenSearch.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reprise_integration_tests::Search;
use reprise_replayer::documents::{Address, Counts, Document, Documents, Limits, Trust};
use reprise_traffic::{AnswerHead, Head};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn start(search: &Search) -> Documents {
    let address = Address::parse(&format!("{}/replays", search.url())).unwrap();
    let limits = Limits {
        bytes: 64 << 20,
        documents: 100_000,
    };
    Documents::start(address, &Trust::default(), limits).unwrap()
}

fn document(number: u64) -> Document {
    let request = format!("GET /page/{number}?a=b HTTP/1.1\r\nUser-Agent: tester/1.0\r\n\r\n");
    let request = Head::parse(Bytes::from(request)).unwrap();
    let answer = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n";
    let answer = AnswerHead::parse(Bytes::from_static(answer)).unwrap();
    let at = 1_500_000_000_000_000_000 + number * 1_000_000;
    Document::new(&request, Some(&answer), Duration::from_millis(number), at)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

fn all(indexed: u64) -> Counts {
    Counts {
        indexed,
        ..Counts::default()
    }
}

/// How many documents there are, with that condition.
fn count(search: &Search, query: &str) -> Value {
    search.get("/replays/_refresh").unwrap();
    search.get(&format!("/replays/_count?q={query}")).unwrap()["count"].clone()
}

#[test]
fn documents_are_found_by_their_fields() {
    let search = Search::start().unwrap();
    run(async {
        let documents = start(&search);
        for number in 0..5000 {
            documents.put(document(number)).unwrap();
        }
        assert_eq!(documents.close(LIMIT).await, all(5000));
    });
    assert_eq!(count(&search, "*:*"), 5000);
    assert_eq!(count(&search, "Resp_Status-Code:404"), 5000);
    // Numbers are numbers, instants are instants, and texts are words and wholes.
    assert_eq!(count(&search, "RTT:%3E=4990"), 10);
    assert_eq!(
        count(&search, "Timestamp:%3C%222017-07-14T02:40:01Z%22"),
        1000
    );
    assert_eq!(count(&search, "Req_URL.keyword:%22/page/17?a=b%22"), 1);
    assert_eq!(count(&search, "Req_URL:17"), 1);
    let found = search.get("/replays/_search?q=RTT:17").unwrap();
    let expected = json!({
        "Req_URL": "/page/17?a=b", "Req_Method": "GET", "Req_User-Agent": "tester/1.0",
        "Resp_Status": "404 Not Found", "Resp_Status-Code": "404", "Resp_Proto": "HTTP/1.1",
        "Resp_Content-Type": "text/html",
        "RTT": 17, "Timestamp": "2017-07-14T02:40:00.017Z",
    });
    assert_eq!(found["hits"]["hits"][0]["_source"], expected);
    let mapping = search.get("/replays/_mapping").unwrap();
    let fields = &mapping["replays"]["mappings"]["properties"];
    assert_eq!(fields["RTT"]["type"], "long");
    assert_eq!(fields["Timestamp"]["type"], "date");
    assert_eq!(fields["Req_Method"]["fields"]["keyword"]["type"], "keyword");
    let templates = search.get("/_index_template/reprise-replays").unwrap();
    assert_eq!(
        templates["index_templates"][0]["index_template"]["index_patterns"][0],
        "replays"
    );
}

#[test]
fn nothing_is_lost_while_the_server_is_away() {
    let mut search = Search::start().unwrap();
    run(async {
        let documents = start(&search);
        let mut put = 0;
        let mut put_for = |length: Duration| {
            let start = Instant::now();
            while start.elapsed() < length {
                documents.put(document(put)).unwrap();
                put += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        put_for(Duration::from_secs(2));
        search.stop();
        put_for(Duration::from_secs(4));
        search.start_again().unwrap();
        put_for(Duration::from_secs(1));
        assert_eq!(documents.close(LIMIT).await, all(put));
        // What was sent twice is there once.
        assert_eq!(count(&search, "*:*"), put);
    });
}

#[test]
fn what_does_not_fit_the_index_is_refused_and_counted() {
    let search = Search::start().unwrap();
    // Somebody else made the index, and wants other documents in it.
    let index = json!({"mappings": {"properties": {"Req_URL": {"type": "long"}}}});
    search.put("/replays", &index).unwrap();
    run(async {
        let documents = start(&search);
        documents.put(document(1)).unwrap();
        documents.put(document(2)).unwrap();
        let expected = Counts {
            refused: 2,
            ..Counts::default()
        };
        assert_eq!(documents.close(LIMIT).await, expected);
    });
}
