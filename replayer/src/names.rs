//! Asks for the addresses of a name: the DNS, whose records say how long they last, or the system where a name comes
//! from elsewhere.
//!
//! What enters: a host name. What leaves: its addresses, and for how long they are good. What may be lost: nothing.
//!
//! The order is the system's: what `/etc/hosts` has comes from there, then the DNS is asked, and what it doesn't know, the
//! system is asked for, as that may know of more (mDNS, NIS, its own name). The files are read anew each time.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::net::lookup_host;
use tracing::debug;

/// What the system answers is good for so long, as it doesn't tell.
const SYSTEMS: Duration = Duration::from_secs(10);

/// Port of name servers: RFC 1035 §4.2.
const PORT: u16 = 53;

/// What a name stands for.
#[derive(Debug)]
pub(crate) struct Found {
    /// At least one.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) lasts: Duration,
}

/// Where to ask.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub(crate) resolv_conf: PathBuf,
    pub(crate) hosts: PathBuf,
    pub(crate) nsswitch: PathBuf,
    /// Of the name servers; the file has none.
    pub(crate) port: u16,
}

impl Sources {
    /// The system's own.
    pub(crate) fn system() -> Sources {
        Sources {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
            nsswitch: "/etc/nsswitch.conf".into(),
            port: PORT,
        }
    }

    /// Where this name is to be looked up, and the contents of `resolv.conf`.
    fn way(&self, host: &str) -> Way {
        // A file that isn't there, or that we may not read, says nothing.
        let read = |path: &Path| std::fs::read(path).unwrap_or_default();
        if is_listed(&String::from_utf8_lossy(&read(&self.hosts)), host)
            || !asks_dns(&String::from_utf8_lossy(&read(&self.nsswitch)))
        {
            return Way::System;
        }
        match std::fs::read(&self.resolv_conf) {
            Ok(text) => Way::Dns(text),
            Err(error) => {
                debug!(path = %self.resolv_conf.display(), %error, "no DNS configuration: the system is asked");
                Way::System
            }
        }
    }
}

enum Way {
    Dns(Vec<u8>),
    System,
}

/// Asks for names.
pub(crate) struct Names {
    sources: Sources,
    /// With the configuration that it was made of.
    dns: Mutex<Option<(Vec<u8>, TokioResolver)>>,
}

impl Names {
    pub(crate) fn new(sources: Sources) -> Names {
        Names {
            sources,
            dns: Mutex::default(),
        }
    }

    /// Looks a name up, on a tokio runtime.
    ///
    /// # Errors
    /// When neither the DNS nor the system has an address of it, or neither answers.
    pub(crate) async fn look_up(&self, host: &str) -> io::Result<Found> {
        let (sources, name) = (self.sources.clone(), host.to_owned());
        let way = tokio::task::spawn_blocking(move || sources.way(&name)).await?;
        if let Way::Dns(text) = way {
            match self.ask_dns(text, host).await {
                Ok(found) => return Ok(found),
                Err(error) => debug!(host, %error, "the DNS has no address: the system is asked"),
            }
        }
        let found = lookup_host((host, 0)).await?;
        let addresses: Vec<_> = found.map(|address| address.ip()).collect();
        match addresses.is_empty() {
            true => Err(io::ErrorKind::NotFound.into()),
            false => Ok(Found {
                addresses,
                lasts: SYSTEMS,
            }),
        }
    }

    async fn ask_dns(&self, resolv_conf: Vec<u8>, host: &str) -> Result<Found, NetError> {
        // Names with underscores are no host names, but in use all the same.
        let name = Name::from_str_relaxed(host)?;
        let dns = self.dns(resolv_conf)?;
        let found = dns.lookup_ip(name).await?;
        let addresses: Vec<_> = found.iter().collect();
        match addresses.is_empty() {
            true => Err(NetError::Message("no address in the answer")),
            false => Ok(Found {
                addresses,
                lasts: found
                    .valid_until()
                    .saturating_duration_since(Instant::now()),
            }),
        }
    }

    /// The one who asks as the file has it now.
    fn dns(&self, resolv_conf: Vec<u8>) -> Result<TokioResolver, NetError> {
        let mut dns = self.dns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((text, known)) = &*dns
            && *text == resolv_conf
        {
            return Ok(known.clone());
        }
        let new = configured(&resolv_conf, self.sources.port)?;
        *dns = Some((resolv_conf, new.clone()));
        Ok(new)
    }
}

fn configured(resolv_conf: &[u8], port: u16) -> Result<TokioResolver, NetError> {
    let (config, mut options) = parse_resolv_conf(resolv_conf)?;
    // resolv.conf(5): a search list replaces the domain.
    let search = match (config.search(), config.domain()) {
        ([], Some(domain)) => vec![domain.clone()],
        (search, _) => search.to_vec(),
    };
    let mut servers = config.name_servers().to_vec();
    for connection in servers
        .iter_mut()
        .flat_map(|server| &mut server.connections)
    {
        connection.port = port;
    }
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    // Addresses are kept by who asks, and counted from the records' time to live.
    options.cache_size = 0;
    let config = ResolverConfig::from_parts(None, search, servers);
    let provider = TokioRuntimeProvider::default();
    TokioResolver::builder_with_config(config, provider)
        .with_options(options)
        .build()
}

/// True where a hosts file has a line for the name.
fn is_listed(hosts: &str, host: &str) -> bool {
    let lines = hosts.lines().map(|line| line.split('#').next());
    let mut names = lines.flat_map(|line| line.unwrap_or_default().split_whitespace().skip(1));
    names.any(|name| name.eq_ignore_ascii_case(host.trim_end_matches('.')))
}

/// True where the name service switch has hosts looked up in the DNS, be it by systemd's resolver; also without a word of
/// it, as C libraries do then.
fn asks_dns(nsswitch: &str) -> bool {
    let mut lines = nsswitch.lines().map(|line| line.split('#').next());
    let sources = lines.find_map(|line| line?.trim().strip_prefix("hosts:"));
    let is_dns = |source| matches!(source, "dns" | "resolve");
    sources.is_none_or(|sources| sources.split_whitespace().any(is_dns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_lists_names_behind_addresses() {
        let hosts = "127.0.0.1 localhost\n10.0.0.7\tStaging staging.example # not other\n";
        for (host, listed) in [
            ("localhost", true),
            ("staging", true),
            ("staging.example.", true),
            ("10.0.0.7", false),
            ("other", false),
            ("example", false),
        ] {
            assert_eq!(is_listed(hosts, host), listed, "{host}");
        }
    }

    #[test]
    fn the_switch_says_whether_the_dns_is_asked() {
        assert!(asks_dns("") && asks_dns("passwd: files\n"));
        assert!(asks_dns("hosts: files mdns4_minimal [NOTFOUND=return] dns"));
        assert!(asks_dns(
            "  hosts: files myhostname resolve [!UNAVAIL=return]"
        ));
        assert!(!asks_dns("hosts: files # dns\n"));
        assert!(!asks_dns("hosts: files nis"));
    }
}
