//! Lines 39 to 43: for those who try things out.

use std::fs;

use reprise_integration_tests::staging::Behaviour;
use reprise_integration_tests::{Place, eventually};

use super::{Line, directory, load, staging};
use crate::arrivals::assert_faithful;
use crate::gor::far::Far;
use crate::gor::records;
use crate::gor::run::{Gor, LIMIT, Style, bare};

pub(super) const LINES: &[Line] = &[
    (41, counters),
    (39, dummies),
    (40, as_many_workers_as_are_needed),
    (42, profiles),
    (43, help),
];

fn dummies(style: Style) {
    let dir = directory();
    let gor = Gor::start(style, "-input-dummy -output-dummy", dir.path());
    let come = eventually("three requests", LIMIT, || {
        anyhow::ensure!(records::split(&gor.stdout()).len() >= 3, "fewer");
        Ok(())
    });
    come.unwrap();
    let said = gor.stop();
    let count = said.books().captured;
    let came = records::read(&said.stdout);
    assert_eq!(came.len() as u64, count);
    for pair in came.windows(2) {
        assert_eq!(pair[0].kind, 1);
        assert!(pair[0].payload.starts_with(b"GET / HTTP/1.1\r\n"));
        let apart = pair[1].at_ns - pair[0].at_ns;
        assert!((500_000_000..=1_500_000_000).contains(&apart), "{apart}");
    }
}

/// The server answers none before it has all.
fn as_many_workers_as_are_needed(style: Style) {
    const REQUESTS: u64 = 100;
    let (dir, production, target) = (directory(), staging(), staging());
    target.behave(Behaviour::Silent);
    let line = format!(
        "--input-raw :{} --output-http {} -output-http-workers=-1",
        production.address().port(),
        target.url()
    );
    let gor = Gor::start(style, &line, dir.path());
    let sent = load(&production, REQUESTS);
    target.until(sent.len(), LIMIT).unwrap();
    target.behave(Behaviour::Answer(hyper::StatusCode::OK));
    assert_eq!(gor.stop().output(1).replayed[&200], REQUESTS);
    assert_faithful(&sent, &target);
}

fn counters(style: Style) {
    const REQUESTS: u64 = 50;
    let (dir, production, target, far) = (directory(), staging(), staging(), Far::start());
    let line = format!(
        "--input-raw :{} --output-http {} --output-tcp {} -output-http-stats -output-tcp-stats",
        production.address().port(),
        target.url(),
        far.address()
    );
    let gor = Gor::start(style, &line, dir.path());
    load(&production, REQUESTS);
    for output in ["output_http", "output_tcp"] {
        let told = eventually("counters", LIMIT, || {
            let said = gor.stderr();
            let of_it = said
                .lines()
                .filter_map(|line| line.strip_prefix(output)?.strip_prefix(':'));
            let numbers = |line: &str| -> Option<Vec<u64>> {
                line.split(',').map(|field| field.parse().ok()).collect()
            };
            let told = of_it.filter_map(numbers);
            // latest,mean,max,count,count/second,gcount
            told.into_iter()
                .find(|told| told.len() == 6 && told[5] == REQUESTS)
                .ok_or_else(|| anyhow::anyhow!("{said}"))
        });
        let told = told.unwrap();
        assert!(told[2] <= REQUESTS && told[1] <= told[2], "{told:?}");
    }
    gor.stop().books();
}

fn profiles(style: Style) {
    const REQUESTS: u64 = 20;
    let (dir, production, target) = (directory(), staging(), staging());
    let line = format!(
        "--input-raw :{} --output-http {} -cpuprofile cpu.out -memprofile mem.out",
        production.address().port(),
        target.url()
    );
    let gor = Gor::start(style, &line, dir.path());
    let sent = load(&production, REQUESTS);
    target.until(sent.len(), LIMIT).unwrap();
    let said = gor.stop();
    assert_eq!(said.output(1).replayed[&200], REQUESTS);
    for flag in [
        "--cpuprofile: no profile is written",
        "--memprofile: no profile is written",
    ] {
        let told = said.stderr.lines().filter(|line| line.contains(flag));
        assert_eq!(told.count(), 1, "{}", said.stderr);
    }
    let written = fs::read_dir(dir.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().ends_with(".out") && !name.to_str().unwrap().starts_with('.')
    });
    assert_eq!(written.count(), 0);
}

fn help(style: Style) {
    let dir = directory();
    let word = match style {
        Style::Written => "-h",
        Style::Spaced => "--help",
        Style::Go => "-h=true",
    };
    let said = bare(&[word], dir.path());
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    let page = String::from_utf8(said.stdout).unwrap();
    for flag in [
        "--input-raw ",
        "--output-http ",
        "--split-output",
        "--http-allow-url ",
    ] {
        let lines = page
            .lines()
            .filter(|line| line.trim_start().starts_with(flag));
        assert_eq!(lines.count(), 1, "{flag}\n{page}");
    }
    // Under the name of gor it is the same.
    let gor = dir.path().join("gor");
    std::os::unix::fs::symlink(crate::rig::binary(), &gor).unwrap();
    let mut command = Place::loopback().command(&gor);
    command.arg(word);
    let called = reprise_integration_tests::process::output(command, LIMIT).unwrap();
    assert_eq!(called.lines().count(), page.lines().count());
}
