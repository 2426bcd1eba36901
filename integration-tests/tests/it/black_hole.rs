//! One target takes connections and never answers. The other doesn't notice, memory stays where it was, nobody is left
//! out, and the books say what became of each request.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use reprise_integration_tests::staging::Behaviour;
use reprise_integration_tests::{Cluster, Load, Nginx, Place, Role, Shape, Staging, eventually};

use crate::fleet::REST;
use crate::rig;

const WELL: &str = "shop/well";
const HOLE: &str = "shop/hole";
/// Of GETs, and as many POSTs of 1 KB.
const RATE: u32 = 500;
/// Connections of each kind, which are sessions: more in all than the replayer's 256 requests at a time to a target.
const CONNECTIONS: usize = 150;
/// What a listener has by default; 28 MiB of it are for requests, 14 s of this load.
const MEMORY: [&str; 6] = [
    "--memory",
    "64MiB",
    "--ring",
    "16MiB",
    "--max-exchange",
    "8MiB",
];
/// What answers in time takes no longer than this from production to staging.
const IN_TIME: Duration = Duration::from_secs(1);
/// Memory may grow by so much between the first third and the end.
const FLAT: u64 = 8 << 20;

#[test]
fn a_target_that_never_answers_is_nobody_else_s_trouble() {
    let _alone = rig::alone();
    if !rig::may_capture() {
        return;
    }
    let seconds = if rig::full() { 300 } else { 12 };
    let place = Place::loopback();
    let (well, hole) = (
        Staging::start(&place).unwrap(),
        Staging::start(&place).unwrap(),
    );
    hole.behave(Behaviour::Silent);
    let production = Nginx::start(&place).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let targets = dir.path().join("targets.yaml");
    let documents = format!(
        "targets:\n  {WELL}: {{url: '{}', methods: [any]}}\n  {HOLE}: {{url: '{}', methods: [any]}}\n",
        well.url(),
        hole.url()
    );
    std::fs::write(&targets, documents).unwrap();
    let capture = format!("lo:{}", production.address().port());
    let mut arguments = vec![
        "--capture",
        &capture,
        "--targets",
        targets.to_str().unwrap(),
    ];
    arguments.extend(MEMORY);
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    cluster.start(Role::Run, "run", &place, &arguments).unwrap();

    let loads = [Shape::Get, Shape::Post { size: 1000 }].map(|shape| {
        let mut load = Load::new(
            &place,
            production.address(),
            shape,
            u64::from(RATE) * seconds,
        );
        (load.rate, load.connections) = (Some(RATE), CONNECTIONS);
        load.start().unwrap()
    });
    let started = Instant::now();
    let early = Duration::from_secs(seconds / 3).max(Duration::from_secs(7));
    let (mut most, mut at_ease) = (0, 0);
    // That time passes is what is tested here.
    while started.elapsed() < Duration::from_secs(seconds) {
        let books = cluster.books().unwrap();
        most = most.max(books.epochs.iter().map(|epoch| epoch.in_flight).sum());
        if started.elapsed() < early {
            at_ease = cluster.peak_memory("run").unwrap();
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let peak = cluster.peak_memory("run").unwrap();
    let sent: Vec<_> = loads
        .into_iter()
        .flat_map(|load| load.join().unwrap())
        .collect();
    let books = cluster.at_rest(sent.len() as u64, REST).unwrap();

    // The one that is well got all of it, in time.
    let account = books.account(WELL);
    assert_eq!(account.replayed_total(), sent.len() as u64, "{account:?}");
    let received = well.received();
    let arrivals: HashMap<u64, Instant> = received
        .iter()
        .filter_map(|received| Some((received.id()?, received.at)))
        .collect();
    let in_time = |at: Instant, id| arrivals.get(id).is_some_and(|there| *there - at <= IN_TIME);
    let in_time = sent
        .iter()
        .filter(|sent| in_time(sent.at, &sent.id))
        .count();
    assert!(
        in_time * 1000 >= sent.len() * 999,
        "{in_time} of {}",
        sent.len()
    );

    // The other's exchanges were dropped for one reason, but for those that it sat on.
    let account = books.account(HOLE);
    let shut = account.dropped.get("breaker_open").copied().unwrap_or(0);
    assert_eq!(account.dropped_total(), shut, "{account:?}");
    assert_eq!(account.replayed_total(), 0);
    let lost = account.failed_total() + account.unknown;
    assert_eq!(lost, hole.count() as u64, "{account:?}");
    assert!(shut > lost, "{account:?}");
    // Nobody was left out, and the window held what came before it was known, with what waited behind it.
    assert_eq!((books.edge("shed_memory"), books.edge("shed_cpu")), (0, 0));
    let bound = u64::from(2 * RATE) * 7;
    assert!(most < bound, "{most} in flight");
    assert!(peak <= at_ease + FLAT, "{peak} bytes, {at_ease} before");
    let log = cluster.log("run").unwrap();
    assert_eq!(log.matches("its breaker is open").count(), 1, "{log}");
    eprintln!(
        "{} requests in {seconds} s: {in_time} in time at {WELL}; {HOLE}: {shut} dropped, {lost} sat on; \
         {most} in flight at most; {} MiB at most, {} MiB at first",
        sent.len(),
        peak >> 20,
        at_ease >> 20
    );

    // It answers again: so does the breaker, by itself.
    hole.behave(Behaviour::Answer(hyper::StatusCode::OK));
    let mut more = Load::new(&place, production.address(), Shape::Get, u64::MAX);
    (more.rate, more.connections) = (Some(50), 5);
    let more = more.start().unwrap();
    eventually("answers of the one that was silent", REST, || {
        let replayed = cluster.books()?.account(HOLE).replayed_total();
        anyhow::ensure!(replayed > 50, "{replayed}");
        Ok(())
    })
    .unwrap();
    let more = more.stop().unwrap().len();
    cluster.at_rest((sent.len() + more) as u64, REST).unwrap();
    let log = cluster.log("run").unwrap();
    assert!(log.contains("its breaker is closed"), "{log}");
}
