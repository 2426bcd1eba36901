//! Sends its share of the traffic to the targets.

mod client;
mod connection;
mod dial;
mod pool;
mod resolve;
mod response;
mod rewrite;
mod tls;

pub use client::{ClientError, Delivery, TargetClient};
pub use tls::TlsError;
