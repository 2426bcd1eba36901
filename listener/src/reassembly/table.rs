//! The connections that are followed, by their addresses and by age.
//!
//! What enters: keys and values, with the class and time of each value's last change.
//! What leaves: values by key, and the oldest of each class. What may be lost: what the owner removes.
//!
//! Every operation takes constant time: each class is a doubly linked list through the slots. Slots never move: a web
//! host has many connections, and a table that doubles would need three times its memory for a moment.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hashbrown::{DefaultHashBuilder, HashTable};

/// One end of a connection. IPv4 addresses stand as the IPv6 addresses that they map to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct End {
    address: [u8; 16],
    port: u16,
}

impl End {
    fn of(address: SocketAddr) -> End {
        let octets = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        End {
            address: octets,
            port: address.port(),
        }
    }

    fn address(self) -> SocketAddr {
        let ip = IpAddr::V6(Ipv6Addr::from(self.address)).to_canonical();
        SocketAddr::new(ip, self.port)
    }
}

/// A connection's two ends, the same for both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    ends: [End; 2],
}

impl Key {
    /// The key for a segment, and whether its source is the first of the ends.
    pub(super) fn of(source: SocketAddr, destination: SocketAddr) -> (Key, bool) {
        let (source, destination) = (End::of(source), End::of(destination));
        let source_first = source <= destination;
        let ends = match source_first {
            true => [source, destination],
            false => [destination, source],
        };
        (Key { ends }, source_first)
    }

    /// Both ends.
    pub(super) fn addresses(&self) -> [SocketAddr; 2] {
        self.ends.map(End::address)
    }
}

/// What a connection waits for, which decides for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Over, or opened and never used.
    Fleeting,
    /// The next request.
    Idle,
    /// The rest of a request.
    Incomplete,
    /// The answer to a request that is complete.
    Answer,
    /// Bytes that were overtaken by later ones.
    Holed,
}

impl Class {
    pub(super) const ALL: [Class; 5] = [
        Class::Fleeting,
        Class::Idle,
        Class::Incomplete,
        Class::Answer,
        Class::Holed,
    ];
}

/// A slot's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(u32);

const NONE: Id = Id(u32::MAX);

#[derive(Debug, Clone, Copy)]
struct List {
    oldest: Id,
    newest: Id,
}

#[derive(Debug)]
struct Slot<V> {
    key: Key,
    value: V,
    class: Class,
    since_ns: u64,
    older: Id,
    newer: Id,
}

/// Values by key and by age.
#[derive(Debug)]
pub(super) struct Table<V> {
    index: HashTable<Id>,
    hasher: DefaultHashBuilder,
    slots: Slots<V>,
    free: Vec<Id>,
    lists: [List; Class::ALL.len()],
}

/// Slots in blocks of [`BLOCK`].
#[derive(Debug)]
struct Slots<V> {
    blocks: Vec<Vec<Slot<V>>>,
}

const BLOCK: usize = 256;

impl<V> Slots<V> {
    fn push(&mut self, slot: Slot<V>) -> Id {
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let before = (self.blocks.len() - 1) * BLOCK;
        let Some(block) = self.blocks.last_mut() else {
            return NONE;
        };
        block.push(slot);
        Id((before + block.len() - 1) as u32)
    }
}

impl<V> std::ops::Index<Id> for Slots<V> {
    type Output = Slot<V>;

    fn index(&self, id: Id) -> &Slot<V> {
        &self.blocks[id.0 as usize / BLOCK][id.0 as usize % BLOCK]
    }
}

impl<V> std::ops::IndexMut<Id> for Slots<V> {
    fn index_mut(&mut self, id: Id) -> &mut Slot<V> {
        &mut self.blocks[id.0 as usize / BLOCK][id.0 as usize % BLOCK]
    }
}

impl<V: Default> Table<V> {
    pub(super) fn new() -> Table<V> {
        let empty = List {
            oldest: NONE,
            newest: NONE,
        };
        Table {
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            slots: Slots { blocks: Vec::new() },
            free: Vec::new(),
            lists: [empty; Class::ALL.len()],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Bytes of memory for each connection.
    pub(super) const fn slot_size() -> usize {
        // The index is at most seven eighths full and doubles: two entries of five bytes for a connection.
        size_of::<Slot<V>>() + 10
    }

    pub(super) fn find(&self, key: &Key) -> Option<Id> {
        let hash = self.hasher.hash_one(key);
        let is_it = |id: &Id| self.slots[*id].key == *key;
        self.index.find(hash, is_it).copied()
    }

    /// Adds a key that isn't there.
    pub(super) fn insert(&mut self, key: Key, now_ns: u64) -> Id {
        let slot = Slot {
            key,
            value: V::default(),
            class: Class::Fleeting,
            since_ns: now_ns,
            older: NONE,
            newer: NONE,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id] = slot;
                id
            }
            None => self.slots.push(slot),
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        let rehash = |id: &Id| hasher.hash_one(slots[*id].key);
        self.index.insert_unique(hasher.hash_one(key), id, rehash);
        self.append(id);
        id
    }

    pub(super) fn remove(&mut self, id: Id) -> V {
        self.unlink(id);
        let hash = self.hasher.hash_one(self.slots[id].key);
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        self.free.push(id);
        std::mem::take(&mut self.slots[id].value)
    }

    pub(super) fn key(&self, id: Id) -> Key {
        self.slots[id].key
    }

    pub(super) fn value(&mut self, id: Id) -> &mut V {
        &mut self.slots[id].value
    }

    pub(super) fn class(&self, id: Id) -> Class {
        self.slots[id].class
    }

    /// Makes it the newest of `class`.
    pub(super) fn touch(&mut self, id: Id, class: Class, now_ns: u64) {
        let slot = &mut self.slots[id];
        slot.since_ns = now_ns;
        if slot.class == class && slot.newer == NONE {
            return;
        }
        self.unlink(id);
        self.slots[id].class = class;
        self.append(id);
    }

    /// The oldest of a class, and since when it is.
    pub(super) fn oldest(&self, class: Class) -> Option<(Id, u64)> {
        let id = self.lists[class as usize].oldest;
        (id != NONE).then(|| (id, self.slots[id].since_ns))
    }

    fn append(&mut self, id: Id) {
        let slot = &mut self.slots[id];
        let list = &mut self.lists[slot.class as usize];
        slot.older = list.newest;
        slot.newer = NONE;
        let before = std::mem::replace(&mut list.newest, id);
        match before {
            NONE => list.oldest = id,
            before => self.slots[before].newer = id,
        }
    }

    fn unlink(&mut self, id: Id) {
        let Slot {
            older,
            newer,
            class,
            ..
        } = self.slots[id];
        let list = &mut self.lists[class as usize];
        match older {
            NONE => list.oldest = newer,
            older => self.slots[older].newer = newer,
        }
        match newer {
            NONE => list.newest = older,
            newer => self.slots[newer].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(port: u16) -> Key {
        let client: SocketAddr = ([127, 0, 0, 1], port).into();
        Key::of(client, ([127, 0, 0, 1], 80).into()).0
    }

    #[test]
    fn both_directions_have_one_key() {
        for (a, b) in [("10.0.0.2:80", "10.0.0.1:81"), ("[::1]:80", "[2::1]:80")] {
            let (a, b): (SocketAddr, SocketAddr) = (a.parse().unwrap(), b.parse().unwrap());
            let ((there, a_first), (back, b_first)) = (Key::of(a, b), Key::of(b, a));
            assert_eq!(there, back);
            assert_ne!(a_first, b_first);
            assert_eq!(there.addresses()[usize::from(!a_first)], a);
            assert_eq!(there.addresses()[usize::from(a_first)], b);
        }
    }

    proptest! {
        #[test]
        fn the_oldest_comes_first(
            steps in prop::collection::vec((0_u16..6, 0_usize..6), 1..60),
        ) {
            let mut table: Table<u8> = Table::new();
            let mut model: Vec<(u16, Class)> = Vec::new();
            for (now, (port, action)) in steps.into_iter().enumerate() {
                model.retain(|(p, _)| *p != port);
                let found = table.find(&key(port));
                if action == Class::ALL.len() {
                    found.map(|id| table.remove(id));
                } else {
                    let id = found.unwrap_or_else(|| table.insert(key(port), 0));
                    table.touch(id, Class::ALL[action], now as u64);
                    model.push((port, Class::ALL[action]));
                }
                prop_assert_eq!(table.len(), model.len());
                for class in Class::ALL {
                    let oldest = table.oldest(class).map(|(id, _)| table.key(id));
                    let expected = model.iter().find(|(_, c)| *c == class);
                    prop_assert_eq!(oldest, expected.map(|(p, _)| key(*p)));
                }
            }
        }
    }
}
