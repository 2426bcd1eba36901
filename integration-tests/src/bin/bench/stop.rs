//! Ctrl-C and SIGTERM: everything that waits looks here, gives up, and cleans up on its way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// As a shell reports the end by SIGINT: 128 + 2.
const EXIT_INTERRUPTED: i32 = 130;
const LOOK_EVERY: Duration = Duration::from_millis(50);

static STOPPED: AtomicBool = AtomicBool::new(false);

/// From now on signals only raise the flag; a second one ends the process at once.
pub(crate) fn on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("start the runtime for signals")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt()).context("handle SIGINT")?,
            signal(SignalKind::terminate()).context("handle SIGTERM")?,
        )
    };
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if STOPPED.swap(true, Ordering::Relaxed) {
                    std::process::exit(EXIT_INTERRUPTED);
                }
                eprintln!("stopping and cleaning up; once more to end at once");
            }
        });
    });
    Ok(())
}

/// # Errors
/// When the user wants no more.
pub(crate) fn check() -> Result<()> {
    anyhow::ensure!(!STOPPED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Waits, where time itself is what is wanted.
///
/// # Errors
/// As [`check`].
pub(crate) fn pause(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK_EVERY));
    }
}
