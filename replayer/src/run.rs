//! A replayer as a process: what it reads at start, where it can be reached, how it ends.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use reprise_node::admin::{self, Admin};
use reprise_node::membership::{Etcd, EtcdSettings, Member, Role};
use reprise_node::{Health, identity, listen, metrics};
use reprise_proto::Welcome;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{Config, Replayer};

/// Unsettled exchanges that one relay may have here; their bytes are the bound that counts.
const WINDOW_EXCHANGES: u64 = 1 << 16;

/// Runs a replayer until `stop` is cancelled, then drains it.
///
/// # Errors
/// One line, when something that it needs at start can't be had.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let health = Health::new();
    let socket = config.listen.bind("replayer", "--listen")?;
    let admin = admin::bind(&config.admin)?;
    let admin_address = admin.address();
    health.set("started", Err("starting".to_owned()));
    let bound = socket.local_addr().context("read the address bound")?;
    let id = match &config.id {
        Some(id) => identity::check_id(id).map_err(anyhow::Error::msg)?,
        None => identity::default_id("replayer", bound.port()),
    };
    let etcd = match config.etcd.is_empty() {
        true => None,
        false => {
            let settings = EtcdSettings {
                endpoints: config.etcd.clone(),
            };
            Some(Etcd::connect(&settings, health.clone()).await?)
        }
    };
    let mut registry = Registry::default();
    let replayer = Replayer::start(id.clone(), config.memory.as_usize(), None, &mut registry)
        .context("start the schedule")?;
    let ledger = Arc::new(replayer.ledger());
    metrics::register_ledger(&mut registry, ledger.clone());
    let _serving = admin.serve(Admin {
        node: id.clone(),
        role: "replayer",
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
    member.pools = config.pool;
    member.weight = config.weight;
    let welcome = Welcome {
        node: id.clone(),
        version: identity::VERSION.to_owned(),
        incarnation: member.incarnation,
        window_exchanges: WINDOW_EXCHANGES,
        window_bytes: config.memory.0,
    };
    // What a relay may have here is bounded by its credit.
    let mut server = reprise_proto::serve(socket, welcome, None);
    let registration = etcd.map(|etcd| etcd.register(Role::Replayer, &id, member));
    if let Some(registration) = &registration {
        registration.seen().await;
    }
    health.set("started", Ok(()));
    info!(id, listen = %bound, admin = %admin_address, "replayer ready");

    server.until(&stop, |inlet| replayer.accept(inlet)).await?;
    let started = Instant::now();
    if let Some(registration) = registration {
        registration.leave().await;
    }
    // A relay that found this replayer a moment ago is let in, and told to go elsewhere; the next is turned away.
    server.close(|inlet| replayer.accept(inlet));
    let ledger = replayer.ledger();
    replayer
        .drain(config.drain_timeout.saturating_sub(started.elapsed()))
        .await;
    server.end().await;
    let ended = ledger().ended();
    info!(id, ended, "replayer stopped: flushed {ended} deliveries");
    Ok(())
}
