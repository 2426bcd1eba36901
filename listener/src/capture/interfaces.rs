//! Which interfaces there are, and which of them are captured by whom.
//!
//! What enters: the system's list of interfaces, the capture specs, the names to leave out.
//! What leaves: the interfaces with the specs that cover them, and lines in the log when one comes or goes.
//! What may be lost: packets of an interface between its coming and the next look.

use std::collections::BTreeMap;
use std::io;

use super::{CaptureError, CaptureSpec, NamePattern, Place};

/// An interface's number, which no other has while it is there.
type Index = u32;

/// The interfaces there are.
pub(super) type Present = BTreeMap<Index, String>;

/// The interfaces of this thread's network namespace.
///
/// # Errors
/// The system's words.
pub(super) fn present() -> io::Result<Present> {
    let list = nix::net::if_::if_nameindex()?;
    let named = |i: &nix::net::if_::Interface| (i.index(), i.name().to_string_lossy().into_owned());
    Ok(list.iter().map(named).collect())
}

/// What is captured, and where not.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    pub(super) specs: Vec<CaptureSpec>,
    pub(super) ignore: Vec<NamePattern>,
}

/// For which specs an interface is looked at: their numbers.
pub(super) type Covering = Vec<usize>;

impl Selection {
    /// The one interface that all specs name, if it is so.
    pub(super) fn only(&self) -> Option<&str> {
        let mut names = self.specs.iter().map(|spec| match spec.place() {
            Place::Interface(name) => Some(name.as_str()),
            Place::All | Place::Address(_) | Place::Pattern(_) | Place::Pods(_) => None,
        });
        let first = names.next()??;
        names.all(|name| name == Some(first)).then_some(first)
    }

    /// What is captured on an interface that nobody has named.
    pub(super) fn everywhere(&self) -> Covering {
        self.covering(CaptureSpec::is_everywhere)
    }

    /// What is captured on the interface of that name.
    pub(super) fn on(&self, name: &str) -> Covering {
        if self.ignore.iter().any(|pattern| pattern.matches(name)) {
            return Vec::new();
        }
        self.covering(|spec| spec.covers(name))
    }

    fn covering(&self, covers: impl Fn(&CaptureSpec) -> bool) -> Covering {
        let numbered = self.specs.iter().enumerate();
        let covering = numbered.filter(|(_, spec)| covers(spec));
        covering.map(|(n, _)| n).collect()
    }

    /// Those that are named or matched, and not only covered by what is everywhere.
    pub(super) fn meant<'a>(&'a self, present: &'a Present) -> impl Iterator<Item = Index> + 'a {
        let meant = |name: &str| {
            let on = self.on(name);
            on.iter().any(|n| !self.specs[*n].is_everywhere())
        };
        let meant = present.iter().filter(move |(_, name)| meant(name));
        meant.map(|(index, _)| *index)
    }

    /// Interfaces with the same specs together, but for those that have only what is everywhere.
    pub(super) fn groups(&self, present: &Present) -> Vec<(Covering, Vec<Index>)> {
        let everywhere = self.everywhere();
        let mut groups: BTreeMap<Covering, Vec<Index>> = BTreeMap::new();
        for (index, name) in present {
            let covering = self.on(name);
            if covering != everywhere {
                groups.entry(covering).or_default().push(*index);
            }
        }
        groups.into_iter().collect()
    }

    /// Checks that the interfaces that are named without a pattern are there.
    ///
    /// # Errors
    /// The first that isn't.
    pub(super) fn require_named(&self, present: &Present) -> Result<(), CaptureError> {
        for spec in &self.specs {
            let Place::Interface(name) = spec.place() else {
                continue;
            };
            if !present.values().any(|there| there == name) {
                let mut there: Vec<&str> = present.values().map(String::as_str).collect();
                there.sort_unstable();
                return Err(CaptureError::UnknownInterface {
                    name: name.clone(),
                    there: there.join(", "),
                });
            }
        }
        Ok(())
    }

    /// Says which interfaces came and went, and which specs wait for one.
    pub(super) fn report(&self, before: &Present, now: &Present) {
        let captured =
            |name: &str| self.covering(|spec| !spec.is_everywhere() && spec.covers(name));
        let wanted = |name: &String| !self.on(name).is_empty() && !captured(name).is_empty();
        let gone = |a: &Present, b: &Present| -> Vec<String> {
            let missing = a.iter().filter(|(index, name)| b.get(index) != Some(name));
            let names = missing.map(|(_, name)| name);
            names.filter(|name| wanted(name)).cloned().collect()
        };
        for name in gone(before, now) {
            tracing::info!(interface = name, "interface is gone, capture detached");
        }
        for name in gone(now, before) {
            tracing::info!(interface = name, "capture attached");
        }
        for spec in self.specs.iter().filter(|spec| !spec.is_everywhere()) {
            let count = |present: &Present| {
                let covered = present.values().filter(|name| spec.covers(name));
                covered.filter(|name| !self.on(name).is_empty()).count()
            };
            if count(now) == 0 && (before.is_empty() || count(before) > 0) {
                tracing::info!(capture = %spec, "no such interface now, waiting for one");
            }
        }
    }
}

/// Packets that the interfaces or their drivers dropped since they are there; 0 where the system doesn't say.
pub(super) fn dropped(name: &str) -> u64 {
    // The same as libpcap counts.
    ["rx_missed_errors", "rx_fifo_errors"]
        .into_iter()
        .filter_map(|counter| {
            let path = format!("/sys/class/net/{name}/statistics/{counter}");
            std::fs::read_to_string(path)
                .ok()?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(specs: &[&str], ignore: &[&str]) -> Selection {
        Selection {
            specs: specs.iter().map(|s| s.parse().unwrap()).collect(),
            ignore: ignore.iter().map(|s| s.parse().unwrap()).collect(),
        }
    }

    fn interfaces(names: &[&str]) -> Present {
        let named = names.iter().map(|name| (*name).to_owned());
        (1..).zip(named).collect()
    }

    #[test]
    fn interfaces_with_the_same_specs_stand_together() {
        let present = interfaces(&["lo", "eth0", "eth1", "veth1", "docker0"]);
        let chosen = selection(&["eth*:80", "eth0:81", "*1:82"], &["docker*"]);
        let groups = chosen.groups(&present);
        assert_eq!(
            groups,
            [
                (vec![0, 1], vec![2]),
                (vec![0, 2], vec![3]),
                (vec![2], vec![4]),
            ]
        );
        assert_eq!(chosen.everywhere(), Vec::<usize>::new());
        assert_eq!(chosen.meant(&present).collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn what_is_ignored_is_so_for_all_specs() {
        let present = interfaces(&["lo", "eth0", "docker0"]);
        let chosen = selection(&[":80", "eth0:81", "10.0.0.1:82"], &["docker?"]);
        let groups = chosen.groups(&present);
        assert_eq!(groups, [(vec![], vec![3]), (vec![0, 1, 2], vec![2])]);
        assert_eq!(chosen.everywhere(), [0, 2]);
        assert_eq!(chosen.meant(&present).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn one_interface_named_by_all_is_known_as_such() {
        for (specs, only) in [
            (&["eth0:80", "eth0:81"][..], Some("eth0")),
            (&["eth0:80", "lo:80"], None),
            (&["eth*:80"], None),
            (&[":80"], None),
            (&[], None),
        ] {
            assert_eq!(selection(specs, &[]).only(), only);
        }
    }

    #[test]
    fn this_machine_has_a_loopback_device() {
        assert!(present().unwrap().values().any(|name| name == "lo"));
    }
}
