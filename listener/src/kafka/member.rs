//! A listener as a member of its group: which partitions are its own, and where it begins in them.
//!
//! What enters: partitions that the group gives and takes, on the reader's thread. What leaves: to the library, where to
//! begin, and what has ended and may be committed; to [`Delivered`](super::Delivered), what is ours. What may be lost:
//! ends in partitions that were lost before they could be committed; whoever has them reads those messages again.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tracing::info;

use super::{Begin, Shared};

/// How long to ask where a partition begins.
const ASK: Duration = Duration::from_secs(5);

/// What the library calls, on the thread of the reader.
pub(super) struct Member {
    topic: String,
    begin: Begin,
    /// Partitions that were ours before.
    begun: Mutex<HashSet<i32>>,
    shared: Arc<Shared>,
    /// There are new partitions.
    assigned: AtomicBool,
}

impl Member {
    pub(super) fn new(topic: String, begin: Begin, shared: Arc<Shared>) -> Member {
        Member {
            topic,
            begin,
            begun: Mutex::default(),
            shared,
            assigned: AtomicBool::new(false),
        }
    }

    /// True where there are partitions that were not there when it was last asked.
    pub(super) fn has_more(&self) -> bool {
        self.assigned.swap(false, Ordering::Relaxed)
    }

    pub(super) fn tell(&self, error: &KafkaError) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        self.shared.complaints.tell(code, &error.to_string());
    }

    /// Hands to the library what is to be committed, of all partitions or those of a list.
    pub(super) fn store(&self, consumer: &BaseConsumer<Member>, of: Option<&TopicPartitionList>) {
        let mut delivered = self.shared.delivered();
        for (partition, offset) in delivered.due() {
            if of.is_some_and(|of| of.find_partition(&self.topic, partition).is_none()) {
                continue;
            }
            let mut list = TopicPartitionList::new();
            let stored = list
                .add_partition_offset(&self.topic, partition, Offset::Offset(offset))
                .and_then(|()| consumer.store_offsets(&list));
            match stored {
                Ok(()) => delivered.committed(partition, offset),
                Err(error) => self.tell(&error),
            }
        }
    }

    /// Where a partition begins of which the group's place doesn't count. Nothing, where the brokers couldn't be asked.
    fn beginning(&self, consumer: &BaseConsumer<Member>, partition: i32) -> Option<i64> {
        match (
            consumer.fetch_watermarks(&self.topic, partition, ASK),
            self.begin,
        ) {
            (Ok((_, high)), Begin::Newest) => Some(high),
            (Ok((low, _)), Begin::Oldest) => Some(low),
            (Ok((low, high)), Begin::At(offset)) => Some(offset.clamp(low, high.max(low))),
            (Err(error), begin) => {
                self.tell(&error);
                match begin {
                    Begin::At(offset) => Some(offset),
                    Begin::Newest | Begin::Oldest => None,
                }
            }
        }
    }

    /// True where a partition was never ours.
    fn is_first(&self, partition: i32) -> bool {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.insert(partition)
    }

    fn assign(&self, consumer: &BaseConsumer<Member>, list: &mut TopicPartitionList) {
        let partitions: Vec<_> = list.elements().iter().map(|e| e.partition()).collect();
        // Not known is not the same as none: then the library finds out.
        let committed = consumer.committed_offsets(list.clone(), ASK);
        let committed = committed.map_err(|error| self.tell(&error)).ok();
        for partition in &partitions {
            let known = committed.as_ref().and_then(|committed| {
                let entry = committed.find_partition(&self.topic, *partition);
                entry.map(|entry| entry.offset())
            });
            let is_first = self.is_first(*partition);
            let begin = match known {
                _ if is_first && matches!(self.begin, Begin::At(_)) => {
                    self.beginning(consumer, *partition)
                }
                None | Some(Offset::Offset(_)) => None,
                Some(_) => self.beginning(consumer, *partition),
            };
            if let Some(begin) = begin {
                let set = list.set_partition_offset(&self.topic, *partition, Offset::Offset(begin));
                set.unwrap_or_else(|error| self.tell(&error));
            }
            self.shared.delivered().assign(*partition, begin);
        }
        let assigned = consumer.incremental_assign(list);
        assigned.unwrap_or_else(|error| self.tell(&error));
        self.assigned.store(true, Ordering::Relaxed);
        info!(topic = self.topic, ?partitions, "partitions are ours");
    }

    fn revoke(&self, consumer: &BaseConsumer<Member>, list: &TopicPartitionList) {
        // Where the partitions are lost, others have them, and read what we have not committed.
        if !consumer.assignment_lost() {
            self.store(consumer, Some(list));
        }
        let partitions: Vec<_> = list.elements().iter().map(|e| e.partition()).collect();
        for partition in &partitions {
            self.shared.delivered().revoke(*partition);
        }
        let unassigned = consumer.incremental_unassign(list);
        unassigned.unwrap_or_else(|error| self.tell(&error));
        info!(
            topic = self.topic,
            ?partitions,
            "partitions are no longer ours"
        );
    }
}

impl ClientContext for Member {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.shared.complaints.debug(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        self.shared.complaints.tell(code, reason);
    }
}

impl ConsumerContext for Member {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Member>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            _ => self.revoke(consumer, list),
        }
    }
}
