//! A real etcd of one member.
//!
//! What enters: where it runs. What leaves: its URL; keys put, read and deleted through etcdctl. What may be lost:
//! nothing; after [`Etcd::kill`] it starts again on the same data and the same port.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use crate::http;
use crate::place::Place;
use crate::process::{Process, output, tail};
use crate::wait::eventually;

const LIMIT: Duration = Duration::from_secs(20);

/// A running (or killed) etcd.
#[derive(Debug)]
pub struct Etcd {
    place: Place,
    clients: SocketAddr,
    peers: SocketAddr,
    process: Option<Process>,
    dir: TempDir,
}

impl Etcd {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When it can't be started or doesn't become healthy.
    pub fn start(place: &Place) -> Result<Etcd> {
        let mut etcd = Etcd {
            place: place.clone(),
            clients: place.free()?,
            peers: place.free()?,
            process: None,
            dir: tempfile::Builder::new().prefix("reprise-etcd-").tempdir()?,
        };
        etcd.revive()?;
        Ok(etcd)
    }

    /// `http://ADDRESS`, for `--etcd`.
    pub fn url(&self) -> String {
        format!("http://{}", self.clients)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again where it was, and waits until it answers.
    ///
    /// # Errors
    /// As [`Etcd::start`].
    pub fn revive(&mut self) -> Result<()> {
        let (clients, peers) = (self.url(), format!("http://{}", self.peers));
        let mut command = self.place.command("etcd");
        command.arg("--data-dir").arg(self.dir.path().join("data"));
        command.args(["--listen-client-urls", &clients]);
        command.args(["--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers]);
        command.args(["--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("default={peers}")]);
        let log = self.dir.path().join("log");
        let process = self.process.insert(Process::start("etcd", command, &log)?);
        eventually("health of etcd", LIMIT, || {
            let healthy = http::get(&self.place, self.clients, "/health")
                .is_ok_and(|(status, body)| status == 200 && body.contains("true"));
            anyhow::ensure!(healthy, "its log ends\n{}", tail(&process.log()?, 5));
            Ok(())
        })
    }

    /// Puts a value.
    ///
    /// # Errors
    /// When etcd is away.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.ctl(&["put", "--", key, value]).map(drop)
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// When etcd is away.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.ctl(&["del", "--", key]).map(drop)
    }

    /// The keys that begin so.
    ///
    /// # Errors
    /// When etcd is away.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let keys = self.ctl(&["get", "--prefix", "--keys-only", "--", prefix])?;
        let keys = keys.lines().filter(|line| !line.is_empty());
        Ok(keys.map(str::to_owned).collect())
    }

    fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.place.command("etcdctl");
        command.env("ETCDCTL_API", "3");
        command.args(["--endpoints", &self.url()]).args(arguments);
        output(command, LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_a_kill() {
        let mut etcd = Etcd::start(&Place::loopback()).unwrap();
        etcd.put("/a/1", "{x: -1}").unwrap();
        etcd.put("/a/2", "").unwrap();
        etcd.delete("/a/2").unwrap();
        etcd.kill();
        assert!(http::get(&etcd.place, etcd.clients, "/health").is_err());
        etcd.revive().unwrap();
        assert_eq!(etcd.keys("/a").unwrap(), ["/a/1"]);
    }
}
