//! A copy of the keys under a prefix: pure, no clock and no socket.
//!
//! What enters: a full list, puts, deletions, and whether removals are to be held back. What leaves: the values by
//! key. What may be lost: nothing; a value that can't be understood leaves its predecessor in force.

use std::collections::{BTreeMap, BTreeSet};

/// A key as etcd shows it: the part after the prefix, the revision of its last change, the value's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) revision: i64,
    pub(super) raw: Vec<u8>,
}

/// Reads a value; the error is one line without the key's name.
pub(super) type Parse<V> = fn(&Key) -> Result<V, String>;

/// Why a key's new value was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) name: String,
    pub(super) reason: String,
    /// An earlier value stays in force.
    pub(super) kept: bool,
}

/// The copy.
#[derive(Debug)]
pub(super) struct Mirror<V> {
    parse: Parse<V>,
    items: BTreeMap<String, Item<V>>,
}

#[derive(Debug)]
struct Item<V> {
    /// As last seen, whether understood or not.
    seen: Key,
    /// The last that was understood.
    value: Option<V>,
    /// Removed, but held back.
    doomed: bool,
}

impl<V> Mirror<V> {
    pub(super) fn new(parse: Parse<V>) -> Mirror<V> {
        Mirror {
            parse,
            items: BTreeMap::new(),
        }
    }

    /// Values in force, by key.
    pub(super) fn values(&self) -> impl Iterator<Item = (&str, &V)> {
        self.items
            .iter()
            .filter_map(|(name, item)| Some((name.as_str(), item.value.as_ref()?)))
    }

    /// Takes a full list: what isn't on it is removed.
    pub(super) fn list(&mut self, keys: Vec<Key>, hold: bool) -> Vec<Malformed> {
        let listed: BTreeSet<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        let gone: Vec<String> = self
            .items
            .keys()
            .filter(|name| !listed.contains(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            self.delete(&name, hold);
        }
        keys.into_iter()
            .filter_map(|key| self.put(key).err())
            .collect()
    }

    /// Takes a new or changed key.
    pub(super) fn put(&mut self, key: Key) -> Result<(), Malformed> {
        let known = self.items.get_mut(&key.name);
        if let Some(item) = known
            && item.seen == key
        {
            item.doomed = false;
            return Ok(());
        }
        let parsed = (self.parse)(&key);
        let name = key.name.clone();
        let item = self.items.entry(name.clone()).or_insert_with(|| Item {
            seen: key.clone(),
            value: None,
            doomed: false,
        });
        item.seen = key;
        item.doomed = false;
        match parsed {
            Ok(value) => {
                item.value = Some(value);
                Ok(())
            }
            Err(reason) => Err(Malformed {
                name,
                reason,
                kept: item.value.is_some(),
            }),
        }
    }

    /// Takes a deletion, now or at [`Mirror::release`].
    pub(super) fn delete(&mut self, name: &str, hold: bool) {
        if !hold {
            self.items.remove(name);
        } else if let Some(item) = self.items.get_mut(name) {
            item.doomed = true;
        }
    }

    /// How many removals are held back.
    pub(super) fn held_back(&self) -> usize {
        self.items.values().filter(|item| item.doomed).count()
    }

    /// Carries out the removals that were held back.
    pub(super) fn release(&mut self) {
        self.items.retain(|_, item| !item.doomed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, revision: i64, raw: &str) -> Key {
        Key {
            name: name.to_owned(),
            revision,
            raw: raw.as_bytes().to_vec(),
        }
    }

    fn number(key: &Key) -> Result<u32, String> {
        let text = String::from_utf8_lossy(&key.raw);
        text.parse().map_err(|_| format!("{text:?} is no number"))
    }

    fn values(mirror: &Mirror<u32>) -> Vec<(&str, u32)> {
        mirror
            .values()
            .map(|(name, value)| (name, *value))
            .collect()
    }

    #[test]
    fn follows_puts_and_deletions() {
        let mut mirror = Mirror::new(number);
        assert_eq!(
            mirror.list(vec![key("a", 1, "1"), key("b", 2, "2")], false),
            []
        );
        mirror.put(key("c", 3, "3")).unwrap();
        mirror.put(key("a", 4, "10")).unwrap();
        mirror.delete("b", false);
        mirror.delete("unknown", false);
        assert_eq!(values(&mirror), [("a", 10), ("c", 3)]);
        mirror.list(vec![key("c", 3, "3")], false);
        assert_eq!(values(&mirror), [("c", 3)]);
    }

    #[test]
    fn a_malformed_value_leaves_the_last_good_one() {
        let mut mirror = Mirror::new(number);
        mirror.put(key("a", 1, "1")).unwrap();
        let refused = mirror.put(key("a", 2, "x")).unwrap_err();
        assert_eq!(
            (refused.kept, refused.reason.as_str()),
            (true, "\"x\" is no number")
        );
        // Seen again in a fresh list, it is not reported again.
        assert_eq!(mirror.list(vec![key("a", 2, "x")], false), []);
        assert_eq!(values(&mirror), [("a", 1)]);
        assert!(!mirror.put(key("b", 3, "y")).unwrap_err().kept);
        mirror.put(key("a", 4, "4")).unwrap();
        assert_eq!(values(&mirror), [("a", 4)]);
        mirror.delete("a", false);
        assert_eq!(values(&mirror), []);
    }

    #[test]
    fn removals_can_be_held_back() {
        let mut mirror = Mirror::new(number);
        let all = || vec![key("a", 1, "1"), key("b", 2, "2"), key("c", 3, "3")];
        mirror.list(all(), false);
        mirror.list(Vec::new(), true);
        assert_eq!((values(&mirror).len(), mirror.held_back()), (3, 3));
        mirror.put(key("a", 7, "5")).unwrap();
        mirror.put(key("b", 2, "2")).unwrap();
        assert_eq!(values(&mirror), [("a", 5), ("b", 2), ("c", 3)]);
        mirror.release();
        assert_eq!(values(&mirror), [("a", 5), ("b", 2)]);
    }

    #[test]
    fn the_same_revision_of_another_etcd_is_another_value() {
        let mut mirror = Mirror::new(number);
        mirror.put(key("a", 2, "1")).unwrap();
        mirror.put(key("a", 2, "9")).unwrap();
        assert_eq!(values(&mirror), [("a", 9)]);
    }
}
