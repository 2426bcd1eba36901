//! Which messages of a topic have ended, and so up to where it can be committed. Pure.
//!
//! What enters: messages as they are read, in order within each partition; their ends, in any order. What leaves: for each
//! partition the offset below which all has ended, where that isn't committed yet. What may be lost: ends of partitions
//! that were given to somebody else meanwhile; whoever has them reads those messages again.

use std::collections::{HashMap, VecDeque};

/// A message that is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Which time that the partition was ours.
    assignment: u64,
}

/// The partitions that are ours.
#[derive(Debug, Default)]
pub struct Delivered {
    partitions: HashMap<i32, Progress>,
    assignments: u64,
    /// Entries of all partitions' queues.
    held: usize,
}

#[derive(Debug)]
struct Progress {
    assignment: u64,
    /// From the oldest that has not ended: offsets, and whether they have.
    read: VecDeque<(i64, bool)>,
    /// All below it has ended.
    next: Option<i64>,
    committed: Option<i64>,
}

impl Delivered {
    /// A partition is ours from now on. Where its begin is known and is committed nowhere, it is due.
    pub fn assign(&mut self, partition: i32, begin: Option<i64>) {
        self.revoke(partition);
        self.assignments += 1;
        let progress = Progress {
            assignment: self.assignments,
            read: VecDeque::new(),
            next: begin,
            committed: None,
        };
        self.partitions.insert(partition, progress);
    }

    /// A partition is no longer ours.
    pub fn revoke(&mut self, partition: i32) {
        if let Some(progress) = self.partitions.remove(&partition) {
            self.held -= progress.read.len();
        }
    }

    /// A message was read. Nothing, where the partition isn't ours, or the message was read before.
    pub fn read(&mut self, partition: i32, offset: i64) -> Option<Ticket> {
        let progress = self.partitions.get_mut(&partition)?;
        let last = progress.read.back().map(|(offset, _)| *offset);
        let least = last.map(|last| last + 1).or(progress.next);
        if least.is_some_and(|least| offset < least) {
            return None;
        }
        if progress.read.is_empty() {
            // Offsets may have gaps.
            progress.next = Some(offset);
        }
        progress.read.push_back((offset, false));
        self.held += 1;
        Some(Ticket {
            partition,
            offset,
            assignment: progress.assignment,
        })
    }

    /// A message has ended, in whichever way.
    pub fn end(&mut self, ticket: Ticket) {
        let Some(progress) = self.partitions.get_mut(&ticket.partition) else {
            return;
        };
        if progress.assignment != ticket.assignment {
            return;
        }
        let found = progress
            .read
            .binary_search_by_key(&ticket.offset, |(offset, _)| *offset);
        let Ok(at) = found else {
            return;
        };
        progress.read[at].1 = true;
        while let Some((offset, true)) = progress.read.front().copied() {
            progress.read.pop_front();
            self.held -= 1;
            let oldest = progress.read.front().map(|(offset, _)| *offset);
            progress.next = oldest.or(Some(offset + 1));
        }
    }

    /// True where a message's partition is still ours, so that its end counts.
    pub fn counts(&self, ticket: Ticket) -> bool {
        let progress = self.partitions.get(&ticket.partition);
        progress.is_some_and(|progress| progress.assignment == ticket.assignment)
    }

    /// What is to be committed: partitions, and the offset from which one would have to read on.
    pub fn due(&self) -> Vec<(i32, i64)> {
        let due = self.partitions.iter().filter_map(|(partition, progress)| {
            let next = progress
                .next
                .filter(|_| progress.next != progress.committed);
            Some((*partition, next?))
        });
        due.collect()
    }

    /// It is on its way to the brokers.
    pub fn committed(&mut self, partition: i32, offset: i64) {
        if let Some(progress) = self.partitions.get_mut(&partition) {
            progress.committed = Some(offset);
        }
    }

    /// Messages that are remembered: those that have not ended, and those behind them.
    pub fn held(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_not_delivered_is_not_committed() {
        let mut delivered = Delivered::default();
        delivered.assign(0, None);
        assert_eq!(delivered.due(), []);
        let tickets: Vec<_> = [5, 6, 9].map(|at| delivered.read(0, at).unwrap()).into();
        assert_eq!(delivered.due(), [(0, 5)]);
        delivered.end(tickets[1]);
        assert_eq!((delivered.due(), delivered.held()), (vec![(0, 5)], 3));
        delivered.end(tickets[0]);
        assert_eq!((delivered.due(), delivered.held()), (vec![(0, 9)], 1));
        delivered.committed(0, 9);
        assert_eq!(delivered.due(), []);
        delivered.end(tickets[2]);
        delivered.end(tickets[2]);
        assert_eq!((delivered.due(), delivered.held()), (vec![(0, 10)], 0));
    }

    #[test]
    fn a_begin_is_due_before_anything_is_read() {
        let mut delivered = Delivered::default();
        delivered.assign(3, Some(7));
        assert_eq!(delivered.due(), [(3, 7)]);
        delivered.committed(3, 7);
        assert_eq!(delivered.due(), []);
        assert_eq!(delivered.read(3, 6), None);
    }

    #[test]
    fn ends_of_an_earlier_assignment_count_for_nothing() {
        let mut delivered = Delivered::default();
        delivered.assign(0, None);
        let old = delivered.read(0, 1).unwrap();
        delivered.revoke(0);
        assert_eq!((delivered.held(), delivered.read(0, 2)), (0, None));
        delivered.end(old);
        delivered.assign(0, None);
        let new = delivered.read(0, 1).unwrap();
        delivered.end(old);
        assert_eq!(delivered.due(), [(0, 1)]);
        assert!(delivered.counts(new) && !delivered.counts(old));
    }

    proptest! {
        /// Whatever is read and ends in whichever order, what is due is the oldest that has not ended.
        #[test]
        fn the_oldest_that_has_not_ended_is_due(
            steps in proptest::collection::vec((0..3_i32, 1..4_i64, any::<prop::sample::Index>(), 0..5_u8), 0..200)
        ) {
            let mut delivered = Delivered::default();
            for partition in 0..3 {
                delivered.assign(partition, None);
            }
            let mut open: Vec<Ticket> = Vec::new();
            let mut last = [-1_i64; 3];
            for (partition, gap, which, action) in steps {
                if action < 3 || open.is_empty() {
                    let offset = last[partition as usize] + gap;
                    last[partition as usize] = offset;
                    open.push(delivered.read(partition, offset).unwrap());
                } else {
                    delivered.end(open.swap_remove(which.index(open.len())));
                }
                for partition in 0..3 {
                    let of_it = open.iter().filter(|ticket| ticket.partition == partition);
                    let end = last[partition as usize];
                    let expected = of_it.map(|ticket| ticket.offset).min().unwrap_or(end + 1);
                    let due: HashMap<_, _> = delivered.due().into_iter().collect();
                    prop_assert_eq!(due.get(&partition).copied(), (end >= 0).then_some(expected));
                }
                prop_assert!(delivered.held() >= open.len());
            }
            for ticket in open {
                delivered.end(ticket);
            }
            prop_assert_eq!(delivered.held(), 0);
        }
    }
}
