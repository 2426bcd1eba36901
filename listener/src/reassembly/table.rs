//! The connections that are followed, by their addresses and by age.
//!
//! What enters: keys and values, with the class and time of each value's last change.
//! What leaves: values by key, and the oldest of each class. What may be lost: what the owner removes.
//!
//! Every operation takes constant time: each class is a doubly linked list through the slots.

use std::collections::HashMap;
use std::net::SocketAddr;

/// A connection's two ends; responses will be found under the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
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
    /// Bytes that were overtaken by later ones.
    Holed,
}

impl Class {
    pub(super) const ALL: [Class; 4] = [
        Class::Fleeting,
        Class::Idle,
        Class::Incomplete,
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
    index: HashMap<Key, Id>,
    slots: Vec<Slot<V>>,
    free: Vec<Id>,
    lists: [List; Class::ALL.len()],
}

impl<V: Default> Table<V> {
    pub(super) fn new() -> Table<V> {
        let empty = List {
            oldest: NONE,
            newest: NONE,
        };
        Table {
            index: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            lists: [empty; Class::ALL.len()],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn find(&self, key: &Key) -> Option<Id> {
        self.index.get(key).copied()
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
                self.slots[id.0 as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                Id(self.slots.len() as u32 - 1)
            }
        };
        self.index.insert(key, id);
        self.append(id);
        id
    }

    pub(super) fn remove(&mut self, id: Id) -> V {
        self.unlink(id);
        let slot = &mut self.slots[id.0 as usize];
        self.index.remove(&slot.key);
        self.free.push(id);
        std::mem::take(&mut slot.value)
    }

    pub(super) fn key(&self, id: Id) -> Key {
        self.slots[id.0 as usize].key
    }

    pub(super) fn value(&mut self, id: Id) -> &mut V {
        &mut self.slots[id.0 as usize].value
    }

    pub(super) fn class(&self, id: Id) -> Class {
        self.slots[id.0 as usize].class
    }

    /// Makes it the newest of `class`.
    pub(super) fn touch(&mut self, id: Id, class: Class, now_ns: u64) {
        let slot = &mut self.slots[id.0 as usize];
        slot.since_ns = now_ns;
        if slot.class == class && slot.newer == NONE {
            return;
        }
        self.unlink(id);
        self.slots[id.0 as usize].class = class;
        self.append(id);
    }

    /// The oldest of a class, and since when it is.
    pub(super) fn oldest(&self, class: Class) -> Option<(Id, u64)> {
        let id = self.lists[class as usize].oldest;
        (id != NONE).then(|| (id, self.slots[id.0 as usize].since_ns))
    }

    fn append(&mut self, id: Id) {
        let slot = &mut self.slots[id.0 as usize];
        let list = &mut self.lists[slot.class as usize];
        slot.older = list.newest;
        slot.newer = NONE;
        let before = std::mem::replace(&mut list.newest, id);
        match before {
            NONE => list.oldest = id,
            before => self.slots[before.0 as usize].newer = id,
        }
    }

    fn unlink(&mut self, id: Id) {
        let Slot {
            older,
            newer,
            class,
            ..
        } = self.slots[id.0 as usize];
        let list = &mut self.lists[class as usize];
        match older {
            NONE => list.oldest = newer,
            older => self.slots[older.0 as usize].newer = newer,
        }
        match newer {
            NONE => list.newest = older,
            newer => self.slots[newer.0 as usize].older = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(port: u16) -> Key {
        Key {
            client: ([127, 0, 0, 1], port).into(),
            server: ([127, 0, 0, 1], 80).into(),
        }
    }

    proptest! {
        #[test]
        fn the_oldest_comes_first(
            steps in prop::collection::vec((0_u16..6, 0_usize..5), 1..60),
        ) {
            let mut table: Table<u8> = Table::new();
            let mut model: Vec<(u16, Class)> = Vec::new();
            for (now, (port, action)) in steps.into_iter().enumerate() {
                model.retain(|(p, _)| *p != port);
                let found = table.find(&key(port));
                if action == 4 {
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
