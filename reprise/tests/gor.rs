//! `reprise gor` as users call it: under both names, with its statuses, and its file server.
#![expect(
    clippy::unwrap_used,
    reason = "a test that can't set the stage has to fail"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The binary under the name of `gor`.
fn linked(directory: &Path) -> PathBuf {
    let link = directory.join("gor");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_reprise"), &link).unwrap();
    link
}

fn reprise(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reprise"));
    command.args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn both_names_show_the_same_help() {
    let directory = tempfile::tempdir().unwrap();
    let gor = Command::new(linked(directory.path()))
        .arg("-h")
        .output()
        .unwrap();
    assert!(gor.status.success());
    let gor = text(&gor.stdout);
    assert!(gor.contains("Usage: gor INPUTS OUTPUTS"), "{gor}");
    for flag in ["-h", "--help", "-help"] {
        let help = reprise(&["gor", flag]);
        assert!(help.status.success());
        let help = text(&help.stdout).replace("reprise gor", "gor");
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&help), words(gor));
    }
}

#[test]
fn the_other_modes_know_of_it() {
    let help = reprise(&["--help"]);
    let line = text(&help.stdout)
        .lines()
        .find(|line| line.trim_start().starts_with("gor "));
    assert!(line.is_some_and(|line| line.contains("GoReplay")));
    // Flags of all modes before the mode.
    let config = reprise(&[
        "--log-format",
        "json",
        "gor",
        "-input-raw",
        ":80",
        "--output-stdout",
        "--print-config",
    ]);
    assert!(config.status.success(), "{}", text(&config.stderr));
    let config = text(&config.stdout);
    assert!(
        config.contains("url: stdout:") || config.contains("url: \"stdout:\""),
        "{config}"
    );
    assert!(
        config.contains("reprise listener --capture :80 --relay"),
        "{config}"
    );
}

#[test]
fn a_wrong_command_line_ends_with_2_and_says_what_to_change() {
    let directory = tempfile::tempdir().unwrap();
    let gor = Command::new(linked(directory.path()))
        .args(["--input-raw", ":80", "--output-htp", "http://h"])
        .output()
        .unwrap();
    assert_eq!(gor.status.code(), Some(2));
    assert_eq!(
        text(&gor.stderr),
        "gor: there is no flag --output-htp; --output-http is the nearest\nsee gor -h\n"
    );
    for words in [
        &["gor"][..],
        &["gor", "--output-stdout"],
        &["gor", "file-server"],
        &["--log", "info", "gor", "--exit-after", "5"],
    ] {
        let wrong = reprise(words);
        assert_eq!(wrong.status.code(), Some(2), "{words:?}");
        let said = text(&wrong.stderr);
        assert!(
            said.starts_with("reprise gor: ") && said.lines().count() == 2,
            "{said}"
        );
        assert!(wrong.stdout.is_empty());
    }
}

/// Starts a file server of a directory; with the address that it says.
fn serve(command: &mut Command, directory: &Path) -> (Child, String) {
    let mut server = command
        .current_dir(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(server.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let (_, address) = line.trim().rsplit_once("http://").expect(&line);
    (server, address.to_owned())
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn ends(mut server: Child, signal: Signal) -> bool {
    kill_process(Pid::from_child(&server), signal).unwrap();
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = server.try_wait().unwrap() {
            return status.success();
        }
        if Instant::now() > patience {
            server.kill().unwrap();
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_file_server_serves_this_directory() {
    let directory = tempfile::tempdir().unwrap();
    let served = directory.path().join("served");
    std::fs::create_dir(&served).unwrap();
    std::fs::write(served.join("a.txt"), "found").unwrap();
    std::fs::write(directory.path().join("secret"), "outside").unwrap();

    let mut gor = Command::new(linked(directory.path()));
    let (server, address) = serve(gor.args(["file-server", "127.0.0.1:0"]), &served);
    let answer = get(&address, "/a.txt");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("found"),
        "{answer}"
    );
    assert!(get(&address, "/b.txt").starts_with("HTTP/1.1 404"));
    for outside in ["/../secret", "/%2e%2e/secret", "/..%2fsecret"] {
        assert!(!get(&address, outside).contains("outside"), "{outside}");
    }
    // A connection that nobody uses holds nothing up.
    let _idle = TcpStream::connect(&address).unwrap();
    assert!(ends(server, Signal::INT));

    let mut reprise = Command::new(env!("CARGO_BIN_EXE_reprise"));
    let (server, address) = serve(reprise.args(["gor", "file-server", ":0"]), &served);
    let port = address.rsplit_once(':').unwrap().1;
    let answer = get(&format!("127.0.0.1:{port}"), "/a.txt");
    assert!(answer.ends_with("found"), "{answer}");
    assert!(ends(server, Signal::TERM));
}
