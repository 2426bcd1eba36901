//! The demo, whose closing figures say whether the ledger balances and agrees with what really happened.

use std::process::Command;
use std::time::Duration;

use reprise_integration_tests::Place;
use reprise_integration_tests::process::{output, run};
use serde_json::Value;

use crate::rig;

const LIMIT: Duration = Duration::from_secs(90);

fn demo(mut command: Command, arguments: &[&str]) -> Value {
    command.args(["demo", "--json", "--duration"]);
    command.args(arguments);
    serde_json::from_str(&output(command, LIMIT).unwrap()).unwrap()
}

/// The ledger's and the shops' own figures, beyond what the demo itself makes of them.
fn assert_balanced(figures: &Value) {
    assert_eq!(figures["balances"], true, "{figures:#}");
    assert_eq!(figures["agrees"], true, "{figures:#}");
    let books = figures["books"].as_array().unwrap();
    let captured: u64 = books.iter().map(|b| b["captured"].as_u64().unwrap()).sum();
    assert!(captured > 100, "{figures:#}");
    assert_eq!(figures["customers"]["answered"], captured);
    for target in ["shop/staging", "shop/v2"] {
        let arrivals = &figures["arrivals"][target];
        assert!(arrivals["different"].as_u64() > Some(50), "{figures:#}");
        assert_eq!(arrivals["unsafe_again"], 0, "{figures:#}");
    }
}

#[test]
fn in_one_process() {
    let _alone = rig::alone();
    let figures = demo(Place::loopback().command(rig::binary()), &["3s"]);
    assert_balanced(&figures);
    assert_eq!(figures["killed"], Value::Null);
}

#[test]
fn with_processes_one_of_which_is_killed() {
    let _alone = rig::alone();
    let command = Place::loopback().command(rig::binary());
    let figures = demo(command, &["6s", "--cluster"]);
    assert_balanced(&figures);
    assert_eq!(figures["killed"], "replayer-2");
    assert_eq!(figures["books"].as_array().unwrap().len(), 2);
}

#[test]
fn without_the_right_to_capture_it_uses_the_mirror_endpoint() {
    let _alone = rig::alone();
    let mut command = Place::loopback().command("setpriv");
    let rights = ["--bounding-set", "-net_raw,-net_admin", "--inh-caps"];
    command.args(rights).args(["-all", "--"]);
    command
        .arg(rig::binary())
        .args(["demo", "--duration", "2s"]);
    let said = run(command, LIMIT).unwrap().stdout;
    assert!(said.contains("CAP_NET_RAW"), "{said}");
    assert!(said.contains("The ledger balances: "), "{said}");
    assert!(!said.contains('\x1b'), "no terminal, no colours: {said}");
}
