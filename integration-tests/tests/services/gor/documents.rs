//! `--output-http-elasticsearch`: a document for each replay.

use std::time::Duration;

use reprise_integration_tests::{Load, Place, Search, Shape, Staging, eventually};
use serde_json::Value;

use super::{Gor, LIMIT, Style};

fn get(production: &Staging, requests: u64) -> Load {
    Load {
        connections: 4,
        rate: Some(200),
        ..Load::new(
            &Place::loopback(),
            production.address(),
            Shape::Get,
            requests,
        )
    }
}

/// Of production's requests to a server, with documents in the index of that name.
fn replaying(style: Style, production: &Staging, staging: &Staging, index: &str) -> Gor {
    let gor = Gor::start(
        style,
        &[
            ("input-raw", &format!(":{}", production.address().port())),
            ("output-http", &staging.url()),
            ("output-http-elasticsearch", index),
        ],
    );
    eventually("the first replay", LIMIT, || {
        get(production, 1).run()?;
        anyhow::ensure!(staging.count() > 0, "{}", gor.process.log()?);
        Ok(())
    })
    .unwrap();
    gor
}

fn count(search: &Search, index: &str, query: &str) -> anyhow::Result<u64> {
    search.get(&format!("/{index}/_refresh"))?;
    let answer = search.get(&format!("/{index}/_count?q={query}"))?;
    answer["count"]
        .as_u64()
        .ok_or_else(|| anyhow::anyhow!("{answer}"))
}

#[test]
fn every_replay_is_a_document_also_where_the_server_was_away() {
    let mut search = Search::start().unwrap();
    let production = Staging::start(&Place::loopback()).unwrap();
    for (style, index) in [(Style::Two, "gor"), (Style::Go, "gor-2")] {
        let staging = Staging::start(&Place::loopback()).unwrap();
        let url = format!("{}/{index}", search.address());
        let gor = replaying(style, &production, &staging, &url);
        let sent = match style {
            Style::Two => get(&production, 400).run().unwrap(),
            Style::Go => {
                let running = get(&production, 200 * 24).start().unwrap();
                std::thread::sleep(Duration::from_secs(1));
                search.stop();
                std::thread::sleep(Duration::from_secs(20));
                search.start_again().unwrap();
                running.join().unwrap()
            }
        };
        let last = sent.len();
        staging.until(last, LIMIT).unwrap();
        eventually("all documents", LIMIT, || {
            let (replays, documents) = (staging.count() as u64, count(&search, index, "*:*")?);
            anyhow::ensure!(replays == documents, "{documents} of {replays}");
            Ok(())
        })
        .unwrap();
        gor.stop();
        let all = staging.count() as u64;
        assert_eq!(count(&search, index, "*:*").unwrap(), all, "none twice");
        assert_eq!(count(&search, index, "Resp_Status-Code:200").unwrap(), all);
        assert_eq!(count(&search, index, "Req_Method:GET").unwrap(), all);
        let ids = staging.ids();
        let id = sent[last / 2].id;
        assert_eq!(ids[&id], 1);
        let received = staging.received();
        let replay = received.iter().find(|replay| replay.id() == Some(id));
        let line = String::from_utf8_lossy(replay.unwrap().request_line()).into_owned();
        let path = line.split(' ').nth(1).unwrap();
        let escaped: String = path.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let query = format!("Req_URL.keyword:%22{escaped}%22");
        let found = search.get(&format!("/{index}/_search?q={query}")).unwrap();
        let document: &Value = &found["hits"]["hits"][0]["_source"];
        assert_eq!(found["hits"]["total"]["value"], 1, "{found}");
        assert_eq!(document["Req_URL"], path);
        assert_eq!(document["Resp_Status"], "200 OK");
        assert!(document["RTT"].is_u64() && document["Timestamp"].is_string());
    }
}
