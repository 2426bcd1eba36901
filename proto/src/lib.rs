//! The wire between the parts, and streams as pairs of channels.
//!
//! What enters and leaves: on one side values ([`Downstream`], [`Upstream`]), on the other protobuf over gRPC.
//! Both hops, listener to relay and relay to replayer, speak the same protocol: who has exchanges holds an
//! [`Outlet`], who takes them an [`Inlet`]. Joined in one process the two are plain channels; over the network
//! [`client`] and [`server`] pump the same values. What may be lost: nothing silently; a broken stream is the last
//! value of its channel, and its holder decides what becomes of what was on it.

pub mod client;
pub mod server;

mod frames;
mod rope;

mod codec;
mod pieces;
mod receiver;

mod budget;
pub mod message;
pub mod pace;
mod stream;

pub use budget::{Budget, Claim};
pub use client::{ConnectError, connect};
pub use message::{
    Batch, Delivery, Downstream, Hello, Item, LinkError, Notice, Outcomes, Parcel, Settlement,
    Upstream, Welcome, in_order,
};
pub use pace::Pace;
pub use server::{Server, serve};
pub use stream::{Inlet, Outlet, joined};

/// Generated from `reprise/v1/delivery.proto`; stays within this crate.
#[expect(unreachable_pub, reason = "generated code")]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/reprise.v1.rs"));
}
