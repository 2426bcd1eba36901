//! A relay as a process: what it reads at start, where it can be reached, how it ends.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use reprise_node::admin::{self, Admin};
use reprise_node::membership::{
    Etcd, EtcdSettings, Member, Members, Registration, Role, Targets, fixed_members,
    watch_targets_file,
};
use reprise_node::{Health, identity, listen, metrics};
use reprise_proto::Welcome;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{Config, Load, Parts, Relay, Replayers};

/// Unsettled exchanges that one listener may have here; their bytes are the bound that counts.
const WINDOW_EXCHANGES: u64 = 1 << 16;

/// Runs a relay until `stop` is cancelled, then drains it.
///
/// # Errors
/// One line, when something that it needs at start can't be had.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    config.validate()?;
    let health = Health::new();
    let socket = config.listen.bind("relay", "--listen")?;
    let admin = admin::bind(&config.admin)?;
    let admin_address = admin.address();
    health.set("started", Err("starting".to_owned()));
    let bound = socket.local_addr().context("read the address bound")?;
    let id = match &config.id {
        Some(id) => identity::check_id(id).map_err(anyhow::Error::msg)?,
        None => identity::default_id("relay", bound.port()),
    };
    let cluster = Cluster::join(&config, &health).await?;
    let relay = Relay::start(Parts {
        node: id.clone(),
        targets: cluster.targets,
        replayers: Replayers::Network(cluster.replayers),
        memory: config.memory.as_usize(),
        lane: Load {
            bytes: config.memory.as_usize() / 4,
            jobs: WINDOW_EXCHANGES as usize / 4,
        },
        health: health.clone(),
        observer: None,
    });
    let ledger = Arc::new(relay.ledger());
    let mut registry = Registry::default();
    relay.register(&mut registry);
    metrics::register_ledger(&mut registry, ledger.clone());
    let _serving = admin.serve(Admin {
        node: id.clone(),
        role: "relay",
        registry: Arc::new(registry),
        health: health.clone(),
        ledger,
    });
    let mut member = Member::new(
        config
            .advertise
            .unwrap_or_else(|| listen::advertised(bound)),
    );
    member.admin = Some(listen::advertised(admin_address));
    let welcome = Welcome {
        node: id.clone(),
        version: identity::VERSION.to_owned(),
        incarnation: member.incarnation,
        window_exchanges: WINDOW_EXCHANGES,
        window_bytes: config.listener_window.0,
    };
    let mut server = reprise_proto::serve(socket, welcome, Some(relay.budget()));
    let registration: Option<Registration> = cluster
        .etcd
        .map(|etcd| etcd.register(Role::Relay, &id, member));
    if let Some(registration) = &registration {
        registration.seen().await;
    }
    health.set("started", Ok(()));
    info!(id, listen = %bound, admin = %admin_address, "relay ready");

    server.until(&stop, |inlet| relay.accept(inlet)).await?;
    let started = Instant::now();
    if let Some(registration) = registration {
        registration.leave().await;
    }
    // A listener that chose this relay a moment ago is let in, and told to go elsewhere; the next is turned away.
    server.close(|inlet| relay.accept(inlet));
    let ledger = relay.ledger();
    relay
        .drain(config.drain_timeout.saturating_sub(started.elapsed()))
        .await;
    server.end().await;
    let settled = ledger().ended();
    info!(id, settled, "relay stopped: flushed {settled} deliveries");
    Ok(())
}

/// What a relay knows of the others.
struct Cluster {
    etcd: Option<Etcd>,
    targets: watch::Receiver<Targets>,
    replayers: watch::Receiver<Members>,
}

impl Cluster {
    async fn join(config: &Config, health: &Health) -> anyhow::Result<Cluster> {
        if !config.etcd.is_empty() {
            let settings = EtcdSettings {
                endpoints: config.etcd.clone(),
            };
            let etcd = Etcd::connect(&settings, health.clone()).await?;
            return Ok(Cluster {
                targets: etcd.watch_targets().await?,
                replayers: etcd.watch_members(Role::Replayer).await?,
                etcd: Some(etcd),
            });
        }
        let file = config.targets.as_deref().context("no file of targets")?;
        let members = config.replayer.iter().map(|address| {
            (
                address.clone(),
                Member {
                    incarnation: 0,
                    ..Member::new(address.clone())
                },
            )
        });
        Ok(Cluster {
            etcd: None,
            targets: watch_targets_file(file)?,
            replayers: fixed_members(members),
        })
    }
}
