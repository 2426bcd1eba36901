//! What a client has to say about its brokers.
//!
//! What enters: errors as the library tells them, again and again. What leaves: a line for each kind of them, then none of
//! that kind for a while. What may be lost: the lines in between; their number is said.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use reprise_node::LogLimit;
use reprise_traffic::Kafka;
use tracing::{debug, warn};

use crate::config::one_line;

/// Between two lines about the same.
const EVERY: Duration = Duration::from_secs(30);

/// Tells what goes wrong with a topic.
#[derive(Debug)]
pub struct Complaints {
    kafka: String,
    /// By code: as many as there are kinds of errors.
    kinds: Mutex<HashMap<i32, LogLimit>>,
}

impl Complaints {
    /// About that topic.
    pub fn new(kafka: &Kafka) -> Complaints {
        Complaints {
            kafka: kafka.to_string(),
            kinds: Mutex::default(),
        }
    }

    /// Says it, unless the same was said a short while ago.
    pub fn tell(&self, code: RDKafkaErrorCode, reason: &str) {
        // It follows one that says why.
        if code == RDKafkaErrorCode::AllBrokersDown {
            return;
        }
        let every = || LogLimit::every(EVERY);
        let allowed = self
            .kinds()
            .entry(code as i32)
            .or_insert_with(every)
            .allow();
        if let Some(suppressed) = allowed {
            let reason = one_line(reason);
            warn!(kafka = self.kafka, suppressed, "{code}: {reason}");
        }
    }

    /// A line of the library's own log: for those who look into it. What matters comes as an error, too.
    pub fn debug(&self, facility: &str, line: &str) {
        debug!(kafka = self.kafka, facility, "{}", one_line(line));
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<i32, LogLimit>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
