//! What a replay is answered becomes a record of its own, of kind 3, with its request's id.

use std::collections::BTreeMap;
use std::fs;

use reprise_integration_tests::staging::Behaviour;
use reprise_integration_tests::{Nginx, Place, Staging};

use super::records::{self, Came};
use super::run::{Gor, Style};
use crate::rig;

fn by_id(came: &[Came], kind: u8) -> BTreeMap<&str, &Came> {
    let of_it: Vec<&Came> = came.iter().filter(|came| came.kind == kind).collect();
    let by_id: BTreeMap<&str, &Came> = of_it.iter().map(|came| (&*came.id, *came)).collect();
    assert_eq!(
        by_id.len(),
        of_it.len(),
        "an id twice among those of kind {kind}"
    );
    by_id
}

#[test]
fn replays_are_recorded_beside_their_requests() {
    const REQUESTS: u64 = 100;
    let _alone = rig::alone();
    let dir = tempfile::tempdir().unwrap();
    let target = Nginx::start(&Place::loopback()).unwrap();
    let here = Place::loopback().free().unwrap();
    let line = format!(
        "--input-tcp {here} --output-http {} --output-http-track-response --output-file a.gor --output-file-append",
        target.url()
    );
    let gor = Gor::start(Style::Written, &line, dir.path());
    records::send(here, &records::gets(0..REQUESTS, 1000));
    gor.settled(2 * REQUESTS);
    let said = gor.stop();
    let account = said.output(1);
    assert_eq!(account.replayed[&200], REQUESTS);
    // An answer to a replay is not replayed.
    assert_eq!(account.replayed_total(), REQUESTS);
    let came = records::read(&fs::read(dir.path().join("a.gor")).unwrap());
    let (requests, replays) = (by_id(&came, 1), by_id(&came, 3));
    assert_eq!(came.len() as u64, 2 * REQUESTS);
    let ids: Vec<String> = (0..REQUESTS).map(records::id).collect();
    assert!(requests.keys().eq(ids.iter()), "{:?}", requests.keys());
    assert!(replays.keys().eq(requests.keys()), "{:?}", replays.keys());
    let now = std::time::SystemTime::now();
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64;
    for replay in replays.values() {
        let text = String::from_utf8_lossy(&replay.payload);
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\nServer: nginx"),
            "{text}"
        );
        assert!(text.ends_with("\r\n\r\nok"), "{text}");
        assert!(replay.latency_ns > 0 && replay.latency_ns < 60_000_000_000);
        assert!(replay.at_ns < now && replay.at_ns + 60_000_000_000 > now);
    }
}

/// A captured exchange has three records: the request, production's answer, and the replay's.
#[test]
fn all_three_kinds_have_one_id() {
    const REQUESTS: u64 = 30;
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let place = Place::loopback();
    let dir = tempfile::tempdir().unwrap();
    let (production, target) = (
        Nginx::start(&place).unwrap(),
        Staging::start(&place).unwrap(),
    );
    target.behave(Behaviour::Answer(hyper::StatusCode::IM_A_TEAPOT));
    let line = format!(
        "--input-raw :{} --input-raw-track-response --output-http {} --output-http-track-response \
         --output-file a.gor --output-file-append",
        production.address().port(),
        target.url()
    );
    let gor = Gor::start(Style::Go, &line, dir.path());
    super::lines::load_to(production.address(), REQUESTS);
    let come = reprise_integration_tests::eventually("all records", super::run::LIMIT, || {
        let came = records::split(&fs::read(dir.path().join("a.gor"))?).len();
        anyhow::ensure!(came as u64 == 3 * REQUESTS, "{came}");
        Ok(())
    });
    come.unwrap();
    let said = gor.stop();
    assert_eq!(said.output(1).replayed[&418], REQUESTS);
    let came = records::read(&fs::read(dir.path().join("a.gor")).unwrap());
    let [requests, answers, replays] = [1, 2, 3].map(|kind| by_id(&came, kind));
    assert_eq!(requests.len() as u64, REQUESTS);
    assert!(answers.keys().eq(requests.keys()) && replays.keys().eq(requests.keys()));
    assert!(
        answers
            .values()
            .all(|a| a.payload.starts_with(b"HTTP/1.1 200 "))
    );
    assert!(
        replays
            .values()
            .all(|r| r.payload.starts_with(b"HTTP/1.1 418 "))
    );
}
