//! The end of a process: asked for, or by a defect.
//!
//! What enters: SIGTERM, SIGINT, panics. What leaves: a token that is cancelled when the process should drain and
//! stop. What may be lost: nothing on the first signal; on the second, and on a panic, whatever was in flight.
//!
//! A panic anywhere ends the process. A node that lost one of its tasks looks alive, keeps its lease and no longer
//! does its job; the cluster is made for the death of a node, not for that.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// 128 + SIGINT, what a shell shows for an interrupted command.
const EXIT_INTERRUPTED: i32 = 130;

/// A token that SIGTERM or SIGINT cancels. The second signal ends the process at once with exit code 130.
///
/// # Errors
/// When the handlers can't be installed. Must be called in a tokio runtime.
pub fn shutdown_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let token = CancellationToken::new();
    let stopping = token.clone();
    tokio::spawn(async move {
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::info!(
            signal = name,
            "stopping: finishing what is in flight; once more to stop at once"
        );
        stopping.cancel();
        let name = either(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name, "stopped at once: what was in flight is lost");
        std::process::exit(EXIT_INTERRUPTED);
    });
    Ok(token)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// From here on a panic logs one error line and aborts the process. For `main`; tests want their panics caught.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let what = text
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("without a message")
            .replace('\n', " ");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(
            thread = thread.name().unwrap_or("unnamed"),
            place,
            "panic, aborting (a defect, please report it): {what}"
        );
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sigterm_asks_for_a_stop() {
        let token = shutdown_signal().unwrap();
        assert!(!token.is_cancelled());
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
            .unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(10), token.cancelled())
            .await
            .unwrap();
    }
}
