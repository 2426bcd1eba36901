//! nginx ends TLS on a unix socket, where no packet can be captured, and mirrors its requests to us.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use reprise_integration_tests::process::output;
use reprise_integration_tests::staging::Received;
use reprise_integration_tests::{Cluster, Nginx, Place, Role, Staging};
use sha2::{Digest, Sha256};

use crate::fleet::REST;
use crate::rig;

const REQUESTS: u64 = 200;

fn is_post(id: u64) -> bool {
    id.is_multiple_of(2)
}

fn target(id: u64) -> String {
    match is_post(id) {
        true => format!("/cart;v=1/{id}"),
        false => format!("/items//a%2Fb%20c?q=%C3%A9+&id={id}&&="),
    }
}

/// Past what nginx keeps in memory, for some.
fn body(id: u64) -> String {
    format!("id={id}\n{}", "bytes ".repeat(id as usize * 40))
}

#[test]
fn method_uri_headers_and_body_arrive() {
    let _alone = rig::alone();
    let place = Place::loopback();
    let staging = Staging::start(&place).unwrap();
    let mirror = place.free().unwrap();
    let mut cluster = Cluster::new(rig::binary()).unwrap();
    let (listen, to) = (mirror.to_string(), staging.url());
    let arguments = ["--mirror", &listen, "--to", &to, "--methods", "any"];
    cluster.start(Role::Run, "run", &place, &arguments).unwrap();
    let nginx = Nginx::start_mirroring(&place, mirror).unwrap();
    send(&place, &nginx);
    let books = cluster.at_rest(REQUESTS, REST).unwrap();
    let account = books.account("default/1");
    assert_eq!(account.replayed.get(&200), Some(&REQUESTS), "{account:?}");
    assert_arrived(&staging);
}

/// That nginx hands on what this test looks for, without us in between.
#[test]
fn nginx_mirrors_all_of_it() {
    let _alone = rig::alone();
    let place = Place::loopback();
    let staging = Staging::start(&place).unwrap();
    let nginx = Nginx::start_mirroring(&place, staging.address()).unwrap();
    send(&place, &nginx);
    staging.until(REQUESTS as usize, REST).unwrap();
    assert_arrived(&staging);
}

fn assert_arrived(staging: &Staging) {
    let mut received = staging.received();
    received.sort_by_key(Received::id);
    assert_eq!(received.len() as u64, REQUESTS);
    for (id, received) in (1..).zip(&received) {
        let method = if is_post(id) { "POST" } else { "GET" };
        let line = format!("{method} {} HTTP/1.1", target(id));
        assert_eq!(String::from_utf8_lossy(received.request_line()), line);
        assert_eq!(received.header("cookie"), [format!("sid={id}")]);
        assert_eq!(received.header("x-twice"), ["1", "2"]);
        if is_post(id) {
            let expected: [u8; 32] = Sha256::digest(body(id)).into();
            assert_eq!(received.body_sha256, expected, "body of {id}");
        }
    }
}

/// Sends all requests with one curl over one TLS connection.
fn send(place: &Place, nginx: &Nginx) {
    let dir = tempfile::tempdir().unwrap();
    let mut script = String::new();
    for id in 1..=REQUESTS {
        let file = dir.path().join(id.to_string());
        fs::write(&file, body(id)).unwrap();
        let path = file.display();
        let data = match is_post(id) {
            true => format!("data-binary = \"@{path}\"\nheader = \"Expect:\"\n"),
            false => String::new(),
        };
        write!(
            script,
            "next\nsilent\nfail\noutput = /dev/null\npath-as-is\n\
             unix-socket = \"{}\"\ncacert = \"{}\"\nurl = \"https://localhost{}\"\n\
             header = \"Cookie: sid={id}\"\nheader = \"X-Twice: 1\"\nheader = \"X-Twice: 2\"\n{data}",
            nginx.tls_socket().display(),
            nginx.certificate().display(),
            target(id),
        )
        .unwrap();
    }
    let config = dir.path().join("curl");
    fs::write(&config, script).unwrap();
    let mut command = place.command("curl");
    command.arg("--config").arg(&config);
    output(command, Duration::from_secs(60)).unwrap();
}
