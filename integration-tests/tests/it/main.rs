//! What users are promised, tested on real processes: a module for each behaviour.
//!
//! `REPRISE_BIN` names the binary to test; without it, the one of this workspace and profile is built first.
//! `REPRISE_FULL=1` runs the acceptance's own sizes (5,000 POSTs of 1 MB, etcd away for 30 s). Where a right to
//! capture or to make namespaces is missing, a test says that it is skipped; with `CI` set it fails instead.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod answers;
mod arrivals;
mod bad_input;
mod black_hole;
mod closes;
mod demo;
mod differential;
mod discard;
mod drain;
mod embedded;
mod etcd_loss;
mod fleet;
mod gor;
mod help;
mod hosts;
mod load;
mod middleware;
mod mirror;
mod odd_bytes;
mod parts;
mod reading;
mod recording;
mod relay_loss;
mod replay;
mod replayer_loss;
mod rig;
mod slow_relay;
mod tape;
