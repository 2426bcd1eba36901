//! A real OpenSearch of one node.
//!
//! What enters: where it runs. What leaves: its URL, and answers to what is asked of it. What may be lost: nothing; after
//! [`Search::stop`] it starts again on the same data and the same port.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::http;
use crate::java::java;
use crate::place::Place;
use crate::process::{Process, Signal, output, tail};
use crate::wait::eventually;

const LIMIT: Duration = Duration::from_secs(40);

/// A running (or stopped) node.
#[derive(Debug)]
pub struct Search {
    place: Place,
    address: SocketAddr,
    transport: SocketAddr,
    process: Option<Process>,
    dir: TempDir,
}

impl Search {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When it wasn't fetched, can't be started or doesn't answer.
    pub fn start() -> Result<Search> {
        let place = Place::loopback();
        let mut search = Search {
            address: place.free()?,
            transport: place.free()?,
            process: None,
            dir: tempfile::Builder::new()
                .prefix("reprise-search-")
                .tempdir()?,
            place,
        };
        search.start_again()?;
        Ok(search)
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it answers to a GET.
    ///
    /// # Errors
    /// When it answers anything but 200 and JSON.
    pub fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = http::get(&self.place, self.address, path)?;
        anyhow::ensure!(status == 200, "GET {path}: {status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("GET {path}: {body}"))
    }

    /// Sends it a PUT.
    ///
    /// # Errors
    /// When it answers anything but success.
    pub fn put(&self, path: &str, body: &Value) -> Result<()> {
        let mut command = self.place.command("curl");
        command.args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--request",
            "PUT",
        ]);
        command.args(["--header", "Content-Type: application/json"]);
        command.args(["--data", &body.to_string()]);
        command.arg(format!("{}{path}", self.url()));
        output(command, LIMIT).map(drop)
    }

    /// Ends the node, data and port kept.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take()
            && process.signal(Signal::TERM).is_ok()
        {
            // Whatever is left then is killed.
            let _ = process.wait(LIMIT);
        }
    }

    /// Starts it again where it was, and waits until it answers.
    ///
    /// # Errors
    /// As [`Search::start`].
    pub fn start_again(&mut self) -> Result<()> {
        let (address, transport) = (self.address, self.transport);
        let mut command = java(&self.place, "search", 512)?;
        command.arg("Search");
        command.arg(format!("path.home={}", self.dir.path().display()));
        command.args([
            "cluster.name=reprise".to_owned(),
            "discovery.type=single-node".to_owned(),
            "cluster.routing.allocation.disk.threshold_enabled=false".to_owned(),
            format!("http.host={}", address.ip()),
            format!("http.port={}", address.port()),
            format!("transport.host={}", transport.ip()),
            format!("transport.port={}", transport.port()),
        ]);
        let log = self.dir.path().join("log");
        let process = Process::start("opensearch", command, &log)?;
        let process = self.process.insert(process);
        eventually("start of OpenSearch", LIMIT, || {
            let health = "/_cluster/health?wait_for_status=yellow&timeout=1s";
            let ready = http::get(&self.place, address, health)
                .is_ok_and(|(status, body)| status == 200 && body.contains("\"timed_out\":false"));
            anyhow::ensure!(ready, "its log ends\n{}", tail(&process.log()?, 5));
            Ok(())
        })
    }
}
