//! The only relay stands still under load: the listener leaves out whole sessions and counts them, production doesn't
//! notice, memory stays within its bound, and all is well again by itself.

use std::time::{Duration, Instant};

use reprise_integration_tests::{Cluster, Load, Nginx, Place, Role, Shape, Staging, eventually};

use crate::fleet::REST;
use crate::rig;

const TARGET: &str = "shop/staging";
const RATE: u32 = 300;
const SHAPE: Shape = Shape::Post { size: 20_000 };
/// 16 MiB for the process and 16 MiB for packets leave 16 MiB for requests: less than three seconds of this load.
const BOUNDS: [&str; 6] = [
    "--memory",
    "48MiB",
    "--ring",
    "16MiB",
    "--max-exchange",
    "8MiB",
];
const BUDGET: u64 = 16 << 20;
/// What the allocator and the stream to the relay need besides, when all of the budget is used.
const SLACK: u64 = 8 << 20;

struct Line {
    cluster: Cluster,
    staging: Staging,
    production: Nginx,
    place: Place,
    // The relay's file of targets is in it.
    _dir: tempfile::TempDir,
}

impl Line {
    /// One of each part, without etcd; nothing without the right to capture.
    fn start() -> Option<Line> {
        if !rig::may_capture() {
            return None;
        }
        let place = Place::loopback();
        let staging = Staging::start(&place).unwrap();
        let production = Nginx::start(&place).unwrap();
        let mut cluster = Cluster::new(rig::binary()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let targets = dir.path().join("targets.yaml");
        let document = format!(
            "targets:\n  {TARGET}:\n    url: {}\n    methods: [any]\n",
            staging.url()
        );
        std::fs::write(&targets, document).unwrap();
        cluster
            .start(Role::Replayer, "replayer", &place, &[])
            .unwrap();
        let replayer = cluster.listen("replayer").unwrap().to_string();
        let targets = targets.to_str().unwrap();
        let arguments = ["--replayer", &replayer, "--targets", targets];
        cluster
            .start(Role::Relay, "relay", &place, &arguments)
            .unwrap();
        let relay = cluster.listen("relay").unwrap().to_string();
        let port = production.address().port();
        let capture = format!("{}:{port}", place.interface());
        let mut arguments = vec!["--relay", &relay, "--capture", &capture];
        arguments.extend(BOUNDS);
        cluster
            .start(Role::Listener, "listener", &place, &arguments)
            .unwrap();
        Some(Line {
            cluster,
            staging,
            production,
            place,
            _dir: dir,
        })
    }

    fn load(&self, requests: u64) -> Load {
        let mut load = Load::new(&self.place, self.production.address(), SHAPE, requests);
        load.rate = Some(RATE);
        load
    }

    /// Waits until all sessions are captured again.
    fn recovered(&self) {
        eventually("all sessions captured again", REST, || {
            let metrics = self.cluster.page("listener", "/metrics")?;
            let all = r#"reprise_capture_share{cause="memory"} 1.0"#;
            anyhow::ensure!(metrics.contains(all), "{metrics}");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn sessions_are_shed_while_a_relay_stands_still() {
    let _alone = rig::alone();
    let Some(mut line) = Line::start() else {
        return;
    };
    let still = Duration::from_secs(if rig::full() { 60 } else { 8 });
    let load = line.load(u64::MAX).start().unwrap();
    line.staging.until(RATE as usize, REST).unwrap();
    let at_ease = line.cluster.peak_memory("listener").unwrap();

    line.cluster.hold("relay", true).unwrap();
    let (held_at, until) = (Instant::now(), Instant::now() + still);
    // That time passes is what is tested here.
    std::thread::sleep(still);
    line.cluster.hold("relay", false).unwrap();
    let peak = line.cluster.peak_memory("listener").unwrap();
    line.recovered();
    let sent = load.stop().unwrap();

    // Production answered, and at its own pace.
    assert!(sent.iter().all(|sent| sent.status == 200));
    let during = sent.iter().filter(|s| held_at <= s.at && s.at < until);
    let due = u64::from(RATE) * still.as_secs();
    let during = during.count() as u64;
    assert!(during * 10 >= due * 9, "{during} requests of {due}");
    assert!(
        peak <= at_ease + BUDGET + SLACK,
        "{peak} bytes in memory, {at_ease} before"
    );

    // The books have every request once.
    let sent = sent.len() as u64;
    let shed = line.cluster.books().unwrap().edge("shed_memory");
    let books = line.cluster.at_rest(sent - shed, REST).unwrap();
    assert_eq!(books.edge("shed_memory"), shed);
    assert_eq!(books.edge("kernel_dropped"), 0);
    assert!(shed > 0);
    assert_eq!(books.account(TARGET).dropped.get("listener_full"), None);
    let log = line.cluster.log("listener").unwrap();
    for words in [
        "not all sessions are captured",
        "all sessions are captured again",
    ] {
        assert!(log.contains(words), "{log}");
    }

    // And nothing is left out any more.
    let more = line.load(u64::from(RATE)).run().unwrap().len() as u64;
    let books = line.cluster.at_rest(sent - shed + more, REST).unwrap();
    assert_eq!(books.edge("shed_memory"), shed);
}
