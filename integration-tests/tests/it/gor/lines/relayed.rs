//! Lines 10 to 14 and 19: a listener sends records, a replay server takes them.

use std::collections::BTreeSet;

use reprise_integration_tests::{Place, Staging};

use super::{Line, assert_recorded, directory, load, staging};
use crate::arrivals::assert_faithful;
use crate::gor::far::Far;
use crate::gor::records::{self, Came};
use crate::gor::run::{Gor, LIMIT, Style};

pub(super) const LINES: &[Line] = &[
    (10, pair),
    (11, a_tenth),
    (12, split_at_the_listener),
    (13, to_two_servers),
    (14, split_at_the_server),
    (19, a_tenth_of_twenty_thousand),
];

fn pair(style: Style) {
    const REQUESTS: u64 = 200;
    let (dir, production, target) = (directory(), staging(), staging());
    let between = Place::loopback().free().unwrap();
    let server = format!("--input-tcp {between} --output-http {}", target.url());
    let server = Gor::start(style, &server, dir.path());
    let port = production.address().port();
    let listener = format!("--input-raw :{port} --output-tcp {between}");
    let listener = Gor::start(style, &listener, dir.path());
    let sent = load(&production, REQUESTS);
    target.until(sent.len(), LIMIT).unwrap();
    assert_eq!(listener.stop().output(1).replayed_total(), REQUESTS);
    assert_eq!(server.stop().output(1).replayed[&200], REQUESTS);
    assert_faithful(&sent, &target);
}

fn a_tenth(style: Style) {
    const REQUESTS: u64 = 4000;
    let (dir, production, far) = (directory(), staging(), Far::start());
    let line = format!(
        "--input-raw :{} --output-tcp \"{}|10%\"",
        production.address().port(),
        far.address()
    );
    let gor = Gor::start(style, &line, dir.path());
    let sent = load(&production, REQUESTS);
    gor.settled(REQUESTS);
    let account = gor.stop().output(1);
    let came = far.records();
    assert!((320..=480).contains(&came.len()), "{} came", came.len());
    assert_eq!(account.replayed_total(), came.len() as u64);
    assert_eq!(account.sampled_out, REQUESTS - came.len() as u64);
    let numbers: BTreeSet<u64> = came.iter().map(Came::number).collect();
    let of_them = sent.into_iter().filter(|sent| numbers.contains(&sent.id));
    assert_recorded(&of_them.collect::<Vec<_>>(), came);
}

fn split_at_the_listener(style: Style) {
    const REQUESTS: u64 = 400;
    let (dir, production) = (directory(), staging());
    let (one, two) = (Far::start(), Far::start());
    let line = format!(
        "--input-raw :{} --split-output --output-tcp {} --output-tcp {}",
        production.address().port(),
        one.address(),
        two.address()
    );
    let gor = Gor::start(style, &line, dir.path());
    let sent = load(&production, REQUESTS);
    gor.settled(REQUESTS);
    gor.stop().books();
    let (one, two) = (one.records(), two.records());
    assert_eq!((one.len(), two.len()), (200, 200));
    assert_recorded(&sent, [one, two].concat());
}

/// Records come to a replay server with two targets.
fn serve_two(style: Style, more: &str) -> (Staging, Staging) {
    const REQUESTS: u64 = 300;
    let (dir, one, two) = (directory(), staging(), staging());
    let here = Place::loopback().free().unwrap();
    let line = format!(
        "--input-tcp :{} --output-http \"{}\" --output-http \"{}\"{more}",
        here.port(),
        one.url(),
        two.url()
    );
    let gor = Gor::start(style, &line, dir.path());
    records::send(here, &records::gets(0..REQUESTS, 0));
    gor.settled(REQUESTS);
    gor.stop().books();
    (one, two)
}

fn to_two_servers(style: Style) {
    let (one, two) = serve_two(style, "");
    for server in [one, two] {
        let ids = server.ids();
        assert!((0..300).all(|id| ids.get(&id) == Some(&1)), "{ids:?}");
    }
}

fn split_at_the_server(style: Style) {
    let (one, two) = serve_two(style, " --split-output true");
    assert_eq!((one.count(), two.count()), (150, 150));
    let all: BTreeSet<u64> = one.ids().into_keys().chain(two.ids().into_keys()).collect();
    assert!(all.into_iter().eq(0..300));
}

fn a_tenth_of_twenty_thousand(style: Style) {
    const REQUESTS: u64 = 20_000;
    let (dir, target) = (directory(), staging());
    let here = Place::loopback().free().unwrap();
    let line = format!(
        "--input-tcp :{} --output-http \"{}|10%\"",
        here.port(),
        target.url()
    );
    let gor = Gor::start(style, &line, dir.path());
    records::send(here, &records::gets(0..REQUESTS, 0));
    gor.settled(REQUESTS);
    let account = gor.stop().output(1);
    let ids = target.ids();
    assert!((1800..=2200).contains(&ids.len()), "{} came", ids.len());
    assert!(ids.values().all(|times| *times == 1));
    assert_eq!(account.replayed[&200], ids.len() as u64);
    assert_eq!(account.sampled_out, REQUESTS - ids.len() as u64);
}
