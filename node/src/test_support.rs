//! A real etcd for tests: started on loopback, killed, started again, wiped.
//!
//! What enters: nothing but a working `etcd` on the path. What leaves: its endpoint. What may be lost: its data, with
//! the directory, when it is dropped.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use etcd_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// For a busy machine.
const START: Duration = Duration::from_secs(30);

/// An etcd of one member with a data directory of its own.
#[derive(Debug)]
pub struct EtcdServer {
    dir: TempDir,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl EtcdServer {
    /// Starts one, or prints that the test is skipped where there is no etcd to start.
    ///
    /// # Errors
    /// When there is one and it doesn't come up.
    pub async fn start() -> anyhow::Result<Option<EtcdServer>> {
        let present = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("etcd").is_file()));
        if !present {
            eprintln!("skipped: no etcd on the path (Debian: etcd-server)");
            return Ok(None);
        }
        let mut server = EtcdServer {
            dir: tempfile::tempdir().context("make a directory for etcd")?,
            client_port: free_port()?,
            peer_port: free_port()?,
            child: None,
        };
        server.run().await?;
        Ok(Some(server))
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        url(self.client_port)
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Makes it hang, as on a disk that doesn't answer, until it is resumed.
    ///
    /// # Errors
    /// When it isn't running.
    pub fn hang(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends [`EtcdServer::hang`].
    ///
    /// # Errors
    /// When it isn't running.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("etcd isn't running")?;
        kill_process(Pid::from_child(child), signal).context("signal etcd")
    }

    /// Forgets all data of an etcd that was killed.
    ///
    /// # Errors
    /// When the directory can't be removed.
    pub fn wipe(&mut self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(self.data()).context("wipe etcd's data")
    }

    /// Starts it (again, with the same data and ports) and waits until it answers.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub async fn run(&mut self) -> anyhow::Result<()> {
        let log = File::create(self.dir.path().join("log")).context("make etcd's log")?;
        let (clients, peers) = (url(self.client_port), url(self.peer_port));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", &clients])
            .args(["--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers])
            .args(["--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share etcd's log")?)
            .stderr(log)
            .spawn()
            .context("start etcd")?;
        let child = self.child.insert(child);
        let deadline = Instant::now() + START;
        while !answers(&clients).await {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(self.dir.path().join("log"))?;
                bail!("etcd did not come up; its log:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn data(&self) -> impl AsRef<Path> + AsRef<std::ffi::OsStr> {
        self.dir.path().join("data")
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn answers(endpoint: &str) -> bool {
    let ask = async {
        let client = Client::connect([endpoint], None).await?;
        client.kv_client().get("health", None).await
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(2), ask).await,
        Ok(Ok(_))
    )
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
