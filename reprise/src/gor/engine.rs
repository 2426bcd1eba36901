//! Runs a command line's options in an embedded cluster: the sources of a listener, a relay, and the sinks of a replayer.
//!
//! What enters: options. What leaves: what they ask for, until the inputs end, `--exit-after` is over or a signal comes; then
//! a summary on standard error. What may be lost: see the embedded cluster; what was dropped stands in the summary.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reprise_listener::feed::Feed;
use reprise_listener::governor::CpuLimit;
use reprise_node::membership::fixed_targets;
use reprise_replayer::{Replayed, Tap};
use reprise_traffic::gor::{self, Kind};
use tokio_util::sync::CancellationToken;

use super::options::Options;
use super::summary;
use super::targets::{self, Made};
use super::{sources, stats};
use crate::cli::Work;
use crate::embedded::{Embedded, EmbeddedConfig};

/// How long a stop waits for what is under way.
const DRAIN: Duration = Duration::from_secs(10);

/// Checks what can be checked before there are threads, and prepares the rest.
///
/// # Errors
/// One line, where the options can't be honoured.
pub(super) fn prepare(options: Options) -> anyhow::Result<Work> {
    let mut made = targets::of(&options)?;
    let targets = made.targets()?;
    for target in &targets {
        reprise_replayer::check_recording(target)?;
    }
    let settings = sources::of(&options, &mut made.logins)?;
    settings.plan().budget()?;
    Ok(Work::new(async move {
        let feed: Arc<OnceLock<Feed>> = Arc::default();
        let config = EmbeddedConfig {
            sources: settings,
            targets: fixed_targets(targets),
            admin: options.globals.admin.clone(),
            cpu_limit: CpuLimit::default(),
            drain_timeout: DRAIN,
            replayers: None,
            observer: None,
            tap: tap(&options, &feed),
        };
        run(options, config, made, &feed).await
    }))
}

async fn run(
    options: Options,
    config: EmbeddedConfig,
    made: Made,
    feed: &OnceLock<Feed>,
) -> anyhow::Result<ExitCode> {
    let stop = reprise_node::lifecycle::shutdown_signal()?;
    let embedded = Embedded::start(config).await?;
    // Nobody else has set it.
    let _ = feed.set(embedded.feed());
    let telling = CancellationToken::new();
    let stats = stats::tell(&options, &embedded, &telling);
    let over = async {
        match options.globals.exit_after {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = over => {}
        () = embedded.exhausted() => {}
    }
    telling.cancel();
    stats.await;
    let ended = embedded.drain().await;
    summary::print(&ended, options.globals.json);
    drop(made);
    Ok(match ended.unreadable {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Answers to replays become messages of their own, as those of any source.
fn tap(options: &Options, feed: &Arc<OnceLock<Feed>>) -> Option<Tap> {
    if !(options.http_output.track_response) {
        return None;
    }
    let feed = feed.clone();
    Some(Tap(Arc::new(move |replayed: Replayed| {
        let Some(feed) = feed.get() else {
            return;
        };
        let id = gor::id(&replayed.exchange);
        let latency = replayed.latency.as_nanos() as u64;
        let header = gor::header(Kind::Replayed, &id, replayed.began_ns, Some(latency));
        // Counted where there is no room.
        feed.offer(&header, replayed.answer.bytes.into());
    })))
}
