//! Where a part runs: on this machine's loopback, or on a host that is a network namespace.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Below Linux's range for outgoing connections (32768), so that no client takes a port before its server does.
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// An address to listen at, and how to start a process or a thread that can.
#[derive(Debug, Clone)]
pub struct Place {
    namespace: Option<Arc<str>>,
    address: IpAddr,
}

impl Place {
    /// This machine, 127.0.0.1.
    pub fn loopback() -> Place {
        Place {
            namespace: None,
            address: Ipv4Addr::LOCALHOST.into(),
        }
    }

    pub(crate) fn in_namespace(name: &str, address: IpAddr) -> Place {
        Place {
            namespace: Some(name.into()),
            address,
        }
    }

    /// Where its parts listen.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The interface that carries [`Place::address`].
    pub fn interface(&self) -> &'static str {
        match self.namespace {
            Some(_) => "eth0",
            None => "lo",
        }
    }

    /// Its address with a port that nothing listens at now.
    ///
    /// # Errors
    /// When a thousand ports are taken.
    pub fn free(&self) -> Result<SocketAddr> {
        Ok(self.listen()?.local_addr()?)
    }

    /// The same, and listens there. A port that was let go may still be held, for a moment, by a child that is being started.
    ///
    /// # Errors
    /// As [`Place::free`].
    pub fn listen(&self) -> Result<TcpListener> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let start = std::process::id().wrapping_mul(64);
        self.enter(|| {
            for _ in 0..1000 {
                let step = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
                let port = PORTS.start + step % (PORTS.end - PORTS.start);
                let address = SocketAddr::new(self.address, port as u16);
                if let Ok(socket) = TcpListener::bind(address) {
                    return Ok(socket);
                }
            }
            anyhow::bail!("no free port at {}", self.address)
        })?
    }

    /// A command that runs here and dies with the process that starts it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.command_ending_by("KILL", program)
    }

    /// The same for a program that has children of its own to end: it gets another signal than KILL.
    pub(crate) fn command_ending_by(
        &self,
        signal: &str,
        program: impl AsRef<std::ffi::OsStr>,
    ) -> Command {
        // Both replace themselves by what they start, so that the child's id is the program's.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", signal, "--"]);
        if let Some(name) = &self.namespace {
            command.args(["ip", "netns", "exec", name]);
        }
        command.arg(program);
        command
    }

    /// Calls `work` on a thread that is here: its sockets, and those of threads that it starts, are this host's.
    ///
    /// # Errors
    /// When the namespace can't be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let Some(name) = &self.namespace else {
            return Ok(work());
        };
        let path = format!("/run/netns/{name}");
        let namespace = File::open(&path).with_context(|| format!("open {path}"))?;
        thread::scope(|scope| {
            let visitor = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            match visitor.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
        .map_err(|error: rustix::io::Errno| error)
        .with_context(|| format!("enter {path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ_and_are_below_the_range_for_clients() {
        let place = Place::loopback();
        let (a, b) = (place.free().unwrap(), place.free().unwrap());
        assert_ne!(a.port(), b.port());
        assert!(a.port() < 32_768 && a.ip().is_loopback());
    }
}
