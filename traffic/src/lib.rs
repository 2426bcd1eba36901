//! A request as a value.
//!
//! What enters: the bytes of a captured request, the text of a target's document, how deliveries ended.
//! What leaves: an [`Exchange`] with its parsed [`Head`], a target's [`Rules`] and their decisions, the [`ledger`].
//! What may be lost: nothing; whatever can't be understood is refused with a reason.
//!
//! Nothing here opens a socket, reads a clock or allocates by what a peer merely announces.

pub mod answer;
pub mod body;
pub mod breaker;
pub mod changes;
pub mod documents;
pub mod exchange;
pub mod framing;
pub mod gor;
pub mod head;
pub mod kafka;
pub mod label;
pub mod ledger;
pub mod lines;
pub mod measure;
pub mod outcome;
pub mod recording;
pub mod rules;
pub mod session;
pub mod size;
pub mod target;

pub use answer::{Answer, AnswerHead};
pub use body::{Body, BodyMut};
pub use changes::{ChangeError, Changes};
pub use exchange::{Closed, Epoch, Exchange, ExchangeId, Source};
pub use head::{Head, HeadError};
pub use kafka::Kafka;
pub use label::{Label, Verbatim};
pub use measure::Measured;
pub use outcome::{Disposition, DropReason, Fault};
pub use rules::{Decision, Rules};
pub use session::SessionKey;
pub use size::ByteSize;
pub use target::{Target, TargetDocument, TargetName};

/// The header that marks a replayed request; its value is the exchange's identity.
///
/// A request that bears it is never captured again.
pub const MARKER: &str = "Reprise-Id";
