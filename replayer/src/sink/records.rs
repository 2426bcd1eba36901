//! Exchanges of a target as records.
//!
//! What enters: exchanges. What leaves: their records, with the changes of heads that the target's document asks for. What
//! may be lost: what the format can't hold, or no change can be made of; it fails, as our own fault, and a line a minute says
//! so.

use std::error::Error;
use std::time::Duration;

use reprise_node::LogLimit;
use reprise_traffic::gor::{self, Encoded};
use reprise_traffic::{Changes, Exchange, Target, TargetName};
use tracing::warn;

/// Requests that can't be written come as clients send them.
const REFUSED_LINES: Duration = Duration::from_secs(60);

/// Makes records for one target.
pub(super) struct Records {
    target: TargetName,
    changes: Changes,
    is_framed: bool,
    refused: LogLimit,
}

/// An exchange of which there is no record; that was said.
#[derive(Debug)]
pub(super) struct Refused;

impl Records {
    /// As the target's document says.
    pub(super) fn of(target: &Target) -> Records {
        Records {
            target: target.name.clone(),
            changes: target.changes.clone(),
            is_framed: false,
            refused: LogLimit::every(REFUSED_LINES),
        }
    }

    /// The same for those who tell records apart by other means than the separator.
    pub(super) fn framed(target: &Target) -> Records {
        Records {
            is_framed: true,
            ..Records::of(target)
        }
    }

    /// Hands out an exchange's records: that of its message, and that of production's answer where it has one.
    ///
    /// # Errors
    /// Where there are none.
    pub(super) fn write<R>(
        &self,
        exchange: &Exchange,
        write: impl FnOnce(&Encoded<'_>, Option<&Encoded<'_>>) -> R,
    ) -> Result<R, Refused> {
        let head = self.changes.apply(&exchange.request.head);
        let head = head.map_err(|reason| self.refuse(exchange, &reason))?;
        let records = match self.is_framed {
            true => gor::messages(exchange, &head),
            false => gor::encode(exchange, &head),
        };
        let (first, second) = records.map_err(|reason| self.refuse(exchange, &reason))?;
        Ok(write(&first, second.as_ref()))
    }

    /// An exchange's request as JSON.
    ///
    /// # Errors
    /// Where the format has no room for it.
    pub(super) fn json(&self, exchange: &Exchange) -> Result<Vec<u8>, Refused> {
        let head = self.changes.apply(&exchange.request.head);
        let head = head.map_err(|reason| self.refuse(exchange, &reason))?;
        gor::encode_json(exchange, &head).map_err(|reason| self.refuse(exchange, &reason))
    }

    fn refuse(&self, exchange: &Exchange, reason: &dyn Error) -> Refused {
        if let Some(suppressed) = self.refused.allow() {
            let (target, id) = (&self.target, &exchange.id);
            warn!(%target, exchange = %id, suppressed, "no record can be made of it: {reason}");
        }
        Refused
    }
}
