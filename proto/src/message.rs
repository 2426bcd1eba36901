//! The messages of a delivery stream as values.
//!
//! What enters: checked fields only; the generated types end in this crate. What may be lost: nothing.

use std::sync::Arc;
use std::time::Duration;

use reprise_traffic::{
    Closed, Disposition, Epoch, Exchange, ExchangeId, Measured, Target, TargetName,
};
use smallvec::SmallVec;

use crate::budget::Claim;

/// The sender's first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Its member name.
    pub node: String,
    /// Its version.
    pub version: String,
    /// It wants to be told what the taker measures.
    pub measures: bool,
}

/// The taker's first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Its member name.
    pub node: String,
    /// Its version.
    pub version: String,
    /// Tells one life of the taker from the next.
    pub incarnation: u64,
    /// Unsettled exchanges that the sender may have outstanding on this stream.
    pub window_exchanges: u64,
    /// Their bytes; a single larger exchange may be outstanding alone.
    pub window_bytes: u64,
}

/// An exchange on its way.
#[derive(Debug)]
pub struct Parcel {
    /// Shared, never copied within a process.
    pub exchange: Arc<Exchange>,
    /// The one target that it is for; `None` between listener and relay.
    pub target: Option<TargetName>,
    /// Set where an earlier copy may have reached the other side or one of its peers: the time since that copy.
    pub resent: Option<Duration>,
    /// Room for it in the taker's budget, where the taker has one and the parcel came over the network.
    pub claim: Option<Claim>,
}

/// A captured connection that has ended, on its way. What becomes of it is nobody's business but the taker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// So many parcels of its batch are ahead of it.
    pub behind: usize,
    /// The one target that it is for; `None` between listener and relay.
    pub target: Option<TargetName>,
    /// The connection.
    pub closed: Closed,
}

/// Parcels that travel together.
#[derive(Debug, Default)]
pub struct Batch {
    /// Counts up from 1 on each stream.
    pub id: u64,
    /// For each epoch in the batch: all below this sequence number is settled and will not come again.
    pub settled_below: Vec<(Arc<Epoch>, u64)>,
    /// In the order in which they are to be sent.
    pub parcels: Vec<Parcel>,
    /// Connections that have ended, in the same order.
    pub closed: Vec<Notice>,
}

/// The next in a batch.
#[derive(Debug)]
pub enum Item {
    /// Exchanges.
    Parcels(Vec<Parcel>),
    /// The end of a connection whose exchanges are ahead of it.
    Closed(Notice),
}

/// What is in a batch, in order; exchanges that stand next to each other together.
pub fn in_order(parcels: Vec<Parcel>, closed: Vec<Notice>) -> impl Iterator<Item = Item> {
    let (mut parcels, mut closed) = (parcels.into_iter(), closed.into_iter().peekable());
    let mut ahead = 0;
    std::iter::from_fn(move || {
        if let Some(notice) = closed.next_if(|notice| notice.behind <= ahead) {
            return Some(Item::Closed(notice));
        }
        let next = closed.peek().map_or(usize::MAX, |notice| notice.behind);
        let together: Vec<Parcel> = parcels.by_ref().take(next - ahead).collect();
        if together.is_empty() {
            return closed.next().map(Item::Closed);
        }
        ahead += together.len();
        Some(Item::Parcels(together))
    })
}

/// How an exchange ended, for each target that it was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Which exchange.
    pub id: ExchangeId,
    /// Its end for each target.
    pub outcomes: Outcomes,
}

/// Ends for targets; most exchanges are for one, whose end needs no memory of its own.
pub type Outcomes = SmallVec<[(TargetName, Disposition); 1]>;

/// One exchange's way to one target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// Which exchange.
    pub id: ExchangeId,
    /// To which target.
    pub target: TargetName,
}

/// From the side that has exchanges.
#[derive(Debug)]
pub enum Downstream {
    /// Exchanges.
    Batch(Batch),
    /// The documents of the targets whose parcels follow.
    Targets(Vec<Arc<Target>>),
}

/// From the side that takes them.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// The taker has custody of this batch.
    Accepted(u64),
    /// Exchanges that ended.
    Settled(Vec<Settlement>),
    /// Certainly not delivered; to be taken elsewhere.
    Returned(Vec<Delivery>),
    /// The taker is leaving, for this reason.
    GoAway(String),
    /// What the taker has measured of these targets since it last said so.
    Measured(Vec<(TargetName, Measured)>),
}

/// Why a stream ended before its time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The other side said something that is not in the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
}
