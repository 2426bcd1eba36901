//! The two ends of a delivery stream.
//!
//! What enters at one end leaves at the other, in order. Both channels hold a few batches; when one is full its
//! writer waits, which is the sender's back-pressure and never the capture's. What may be lost: what is in a
//! channel when the other end goes; both ends learn of it and count what was outstanding.

use tokio::sync::mpsc;

use crate::message::{Downstream, Hello, LinkError, Upstream, Welcome};

/// Batches that a channel holds. Each is bounded in bytes by its sender.
pub(crate) const DEPTH: usize = 4;

/// The end of who has exchanges.
#[derive(Debug)]
pub struct Outlet {
    /// What the taker said of itself.
    pub welcome: Welcome,
    /// Towards the targets. Closing it tells the taker that no more will come.
    pub down: mpsc::Sender<Downstream>,
    /// From the targets. It ends when the taker has nothing more to say, with an error where the stream broke.
    pub up: mpsc::Receiver<Result<Upstream, LinkError>>,
}

/// The end of who takes exchanges.
#[derive(Debug)]
pub struct Inlet {
    /// What the sender said of itself.
    pub hello: Hello,
    /// Its address, or `in-process`.
    pub peer: String,
    /// From the sender. It ends when no more will come, with an error where the stream broke.
    pub down: mpsc::Receiver<Result<Downstream, LinkError>>,
    /// Towards the sender. Closing it ends the stream.
    pub up: mpsc::Sender<Upstream>,
}

/// A stream within one process.
///
/// The channels carry the same values as over the network; two small tasks wrap them in `Ok`.
pub fn joined(hello: Hello, welcome: Welcome) -> (Outlet, Inlet) {
    let (down, from_sender) = mpsc::channel(DEPTH);
    let (to_taker, down_ok) = mpsc::channel(1);
    let (up, from_taker) = mpsc::channel(DEPTH);
    let (to_sender, up_ok) = mpsc::channel(1);
    tokio::spawn(pump(from_sender, to_taker));
    tokio::spawn(pump(from_taker, to_sender));
    (
        Outlet {
            welcome,
            down,
            up: up_ok,
        },
        Inlet {
            hello,
            peer: "in-process".to_owned(),
            down: down_ok,
            up,
        },
    )
}

async fn pump<T>(mut from: mpsc::Receiver<T>, to: mpsc::Sender<Result<T, LinkError>>) {
    while let Some(message) = from.recv().await {
        if to.send(Ok(message)).await.is_err() {
            return;
        }
    }
}
