//! What every process of the cluster shares.
//!
//! What enters: command line and configuration file, signals, etcd's members and targets, questions on the admin port.
//! What leaves: checked settings, log lines and spans, this node's registration, answers to people and probes.
//! What may be lost: log lines past a rate limit (their number is said) and spans while no collector listens;
//! never a member or a target that was known (see [`membership`]).

pub mod admin;
pub mod backoff;
pub mod config;
pub mod health;
pub mod identity;
pub mod lifecycle;
pub mod listen;
pub mod log_limit;
pub mod membership;
pub mod metrics;
pub mod privileges;
pub mod telemetry;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;

pub use backoff::Backoff;
pub use health::Health;
pub use listen::ListenAddress;
pub use log_limit::LogLimit;
