//! The cluster as users run it: real processes, a real etcd, real web servers and clients.
//!
//! What enters: the path of the `reprise` binary and what a test wants of a cluster. What leaves: running parts,
//! and what they did: their ledgers, a staging server's records, access logs. What may be lost: nothing that was
//! started survives. Parts are killed when they are dropped, and by the kernel when the process that started them
//! dies; namespaces that a killed process left behind are deleted by the next one.
//!
//! Everything here blocks, with a deadline: it waits for conditions, never for a time to pass. Parts run on
//! loopback or on hosts made of network namespaces ([`Hosts`]); a [`Place`] says where.

pub mod cluster;
pub mod etcd;
pub mod hosts;
pub mod http;
#[cfg(feature = "services")]
mod java;
#[cfg(feature = "services")]
pub mod kafka;
pub mod load;
pub mod nginx;
pub mod place;
pub mod process;
#[cfg(feature = "services")]
pub mod search;
pub mod staging;
pub mod wait;

pub use cluster::{Cluster, Role};
pub use etcd::Etcd;
pub use hosts::Hosts;
#[cfg(feature = "services")]
pub use kafka::Kafka;
pub use load::{Load, Shape};
pub use nginx::Nginx;
pub use place::Place;
pub use process::Process;
#[cfg(feature = "services")]
pub use search::Search;
pub use staging::Staging;
pub use wait::eventually;
