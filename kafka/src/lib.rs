//! How a Kafka topic is reached, for those who write to one and those who read.
//!
//! What enters: a checked [`Kafka`](reprise_traffic::Kafka), and what its brokers make of us. What leaves: a client's
//! configuration ([`client_config`]); whether the topic can be used ([`check`]); lines about what goes wrong
//! ([`Complaints`]). What may be lost: lines past a limit, whose number is said. No line has a password, or a byte of a
//! message.

mod check;
mod complaints;
mod config;

pub use check::{CheckError, check};
pub use complaints::Complaints;
pub use config::{ConfigError, client_config};
