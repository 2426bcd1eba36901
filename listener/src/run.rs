//! A listener as a process: what it reads at start, where it can be reached, how it ends.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use reprise_node::admin::{self, Admin};
use reprise_node::membership::{Etcd, EtcdSettings, Member, Role, fixed_members};
use reprise_node::{Health, identity, listen, metrics};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::ship::Relays;
use crate::{Config, Ended, Listener, Parts, Sources};

/// Runs a listener until `stop` is cancelled, or all that it was to read is read, then drains it. Returns its closed books.
///
/// # Errors
/// One line, when something that it needs at start can't be had.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<Ended> {
    config.validate()?;
    let health = Health::new();
    health.set("started", Err("starting".to_owned()));
    let id = match &config.id {
        Some(id) => identity::check_id(id).map_err(anyhow::Error::msg)?,
        None => identity::default_id("listener", config.admin.port()),
    };
    let admin = admin::bind(&config.admin)?;
    let admin_address = admin.address();
    let sources = Sources::open(&config.sources())?;
    let (etcd, relays) = match config.etcd.is_empty() {
        true if config.discard => (None, Relays::Nowhere),
        true => {
            let relays = config
                .relay
                .iter()
                .map(|address| (address.clone(), Member::new(address.clone())));
            (None, Relays::Network(fixed_members(relays)))
        }
        false => {
            let settings = EtcdSettings {
                endpoints: config.etcd.clone(),
            };
            let etcd = Etcd::connect(&settings, health.clone()).await?;
            let relays = etcd.watch_members(Role::Relay).await?;
            (Some(etcd), Relays::Network(relays))
        }
    };
    let started_ns = identity::incarnation();
    let listener = Listener::start(Parts {
        node: id.clone(),
        started_ns,
        sources,
        cpu_limit: config.cpu_limit,
        relays,
        health: health.clone(),
    })?;
    let ledger = Arc::new(listener.ledger());
    let mut registry = Registry::default();
    metrics::register_ledger(&mut registry, ledger.clone());
    listener.register(&mut registry);
    let registry = Arc::new(registry);
    let _serving = admin.serve(Admin {
        node: id.clone(),
        role: "listener",
        registry,
        health: health.clone(),
        ledger,
    });
    let registration = etcd.map(|etcd| {
        let address = listen::advertised(admin_address);
        let admin = Some(address.clone());
        let member = Member {
            admin,
            incarnation: started_ns,
            ..Member::new(address)
        };
        etcd.register(Role::Listener, &id, member)
    });
    if let Some(registration) = &registration {
        registration.seen().await;
    }
    health.set("started", Ok(()));
    info!(id, admin = %admin_address, mirrors = ?listener.mirrors(), "listener ready");

    tokio::select! {
        () = stop.cancelled() => {}
        () = listener.exhausted() => {}
    }
    let ended = listener.drain(config.drain_timeout).await;
    if let Some(registration) = registration {
        registration.leave().await;
    }
    info!(
        id,
        captured = ended.books.captured,
        settled = ended.books.settled,
        "listener stopped"
    );
    Ok(ended)
}
