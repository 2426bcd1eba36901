//! `gor file-server :8000`: the files of this directory over HTTP.
//!
//! What enters: requests. What leaves: files; of a directory its
//! `index.html`, never a listing. What may be lost: nothing; a stop lets responses under way end.

use std::env;
use std::process::ExitCode;

use anyhow::Context as _;
use axum::Router;
use reprise_node::{ListenAddress, lifecycle};
use tower_http::services::ServeDir;

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// Where the address can't be listened on.
pub(super) async fn run(address: ListenAddress) -> anyhow::Result<ExitCode> {
    let stop = lifecycle::shutdown_signal()?;
    let directory = env::current_dir().context("find the current directory")?;
    let listener = address.bind("file server's", "gor file-server [HOST]:PORT")?;
    let bound = listener.local_addr().context("find the bound address")?;
    println!("serving {} on http://{bound}", directory.display());
    let app = Router::new().fallback_service(ServeDir::new(directory));
    axum::serve(listener, app)
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
        .context("serve files")?;
    Ok(ExitCode::SUCCESS)
}
