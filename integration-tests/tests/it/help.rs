//! `--help` of the binary and of each mode: purpose, defaults, two examples.

use std::time::Duration;

use reprise_integration_tests::Place;
use reprise_integration_tests::process::output;

use crate::rig;

const MODES: [&str; 8] = [
    "run", "listener", "relay", "replayer", "ledger", "inspect", "load", "demo",
];

fn help(mode: Option<&str>) -> String {
    let mut command = Place::loopback().command(rig::binary());
    command.args(mode).arg("--help");
    output(command, Duration::from_secs(10)).unwrap()
}

#[test]
fn each_mode_says_what_it_is_for_and_how_it_is_used() {
    for mode in MODES {
        let help = help(Some(mode));
        let (purpose, rest) = help.split_once("Usage:").expect("a usage");
        assert!(purpose.trim().len() > 20, "{mode}: no purpose\n{help}");
        let (options, examples) = rest.split_once("Examples:").expect("examples");
        let call = format!("reprise {mode}");
        let examples = examples.lines().filter(|line| line.contains(&call)).count();
        assert!(examples >= 2, "{mode}: {examples} examples\n{help}");
        assert!(options.contains("[default:"), "{mode}: no defaults\n{help}");
    }
}

#[test]
fn the_binary_names_its_modes() {
    let help = help(None);
    for mode in MODES {
        let named = help.lines().any(|line| line.trim_start().starts_with(mode));
        assert!(named, "{mode} isn't in\n{help}");
    }
    let named = help
        .lines()
        .any(|line| line.trim_start().starts_with("gor"));
    assert!(named && help.contains("Examples:"), "{help}");
}

/// Its help is of another form: GoReplay's flags, in groups.
#[test]
fn gor_says_what_it_is_for_and_how_it_is_used() {
    let help = help(Some("gor"));
    let examples = help.lines().filter(|line| line.contains("gor --input"));
    assert!(examples.count() >= 4, "{help}");
    for part in [
        "--input-raw",
        "--output-http-elasticsearch",
        "Modifiers",
        "[default",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
}
