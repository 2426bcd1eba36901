//! Hosts on one network: network namespaces, joined by a bridge that stands in a namespace of its own.
//!
//! What enters: their names. What leaves: a [`Place`] for each, `10.77.0.N` on `eth0`. Nothing of the machine's own
//! network is touched. What may be lost: nothing; namespaces go with the drop, and those of a process that was
//! killed go when the next one makes its own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::place::Place;
use crate::process::output;

const LIMIT: Duration = Duration::from_secs(10);

/// A network of hosts.
#[derive(Debug)]
pub struct Hosts {
    /// Begins the names of all its namespaces: `rpPID-N`.
    prefix: String,
    names: Vec<String>,
}

impl Hosts {
    /// Makes a host for each name and joins them.
    ///
    /// # Errors
    /// Without the rights for it (CAP_SYS_ADMIN and CAP_NET_ADMIN), or without the `ip` command.
    pub fn new(names: &[&str]) -> Result<Hosts> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        delete_left_behind();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut hosts = Hosts {
            prefix: format!("rp{}-{number}", std::process::id()),
            names: Vec::new(),
        };
        let switch = hosts.namespace("switch");
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for name in names {
            hosts.join(name)?;
        }
        Ok(hosts)
    }

    fn join(&mut self, name: &str) -> Result<()> {
        self.names.push(name.to_owned());
        let (switch, host) = (self.namespace("switch"), self.namespace(name));
        let (port, address) = (self.port(name)?, format!("{}/24", self.address(name)?));
        ip(&["netns", "add", &host])?;
        ip(&["-n", &host, "link", "set", "lo", "up"])?;
        let pair = ["link", "add", &port, "type", "veth", "peer", "name", "eth0"];
        ip(&[&["-n", &switch][..], &pair, &["netns", &host]].concat())?;
        ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", &host, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &host, "link", "set", "eth0", "up"])
    }

    /// A host, to start parts on.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn place(&self, name: &str) -> Result<Place> {
        Ok(Place::in_namespace(
            &self.namespace(name),
            self.address(name)?,
        ))
    }

    /// Pulls a host's cable out, or plugs it in again. Its peers get no word of it.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn cable(&self, name: &str, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        let (switch, port) = (self.namespace("switch"), self.port(name)?);
        ip(&["-n", &switch, "link", "set", &port, state])
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn number(&self, name: &str) -> Result<u8> {
        let index = self.names.iter().position(|n| n == name);
        let index = index.with_context(|| format!("no host {name}"))?;
        u8::try_from(index + 1).context("too many hosts")
    }

    fn address(&self, name: &str) -> Result<IpAddr> {
        Ok(Ipv4Addr::new(10, 77, 0, self.number(name)?).into())
    }

    /// The switch's end of the host's cable.
    fn port(&self, name: &str) -> Result<String> {
        Ok(format!("port{}", self.number(name)?))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in self.names.iter().map(String::as_str).chain(["switch"]) {
            // The hosts that weren't made yet when making them failed can't be deleted.
            let _ = ip(&["netns", "delete", &self.namespace(name)]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let mut command = Place::loopback().command("ip");
    command.args(arguments);
    output(command, LIMIT).map(drop)
}

/// Deletes the namespaces of processes that are gone.
fn delete_left_behind() {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return; // The first namespace makes it.
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("rp").and_then(|n| n.split_once('-'));
        let Some(owner) = owner.and_then(|(id, _)| id.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new(&format!("/proc/{owner}")).exists() {
            // Another process may be doing the same.
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}
