//! Who this process is among the others.
//!
//! What enters: the host's name, the clock. What leaves: a node id, an incarnation, the version.
//! What may be lost: nothing.

use std::time::{SystemTime, UNIX_EPOCH};

/// Version of this build, as members announce it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Longest node id.
const ID_BYTES: usize = 100;

/// The host's name, with anything that doesn't belong in a node id replaced by `-`.
pub fn hostname() -> String {
    let system = rustix::system::uname();
    let name: String = system
        .nodename()
        .to_string_lossy()
        .chars()
        .map(|c| if belongs(c) { c } else { '-' })
        .take(ID_BYTES / 2)
        .collect();
    if name.is_empty() {
        "host".to_owned()
    } else {
        name
    }
}

/// `HOST-ROLE-PORT`, the same after a restart, so that a node that was killed takes its place again at once.
///
/// A port of 0 (any free one) is no name; the process id takes its place then.
pub fn default_id(role: &str, port: u16) -> String {
    match port {
        0 => format!("{}-{role}-p{}", hostname(), std::process::id()),
        port => format!("{}-{role}-{port}", hostname()),
    }
}

/// Checks a node id that a person chose.
///
/// # Errors
/// One line that says what an id is made of.
pub fn check_id(id: &str) -> Result<String, String> {
    if !id.is_empty() && id.len() <= ID_BYTES && id.chars().all(belongs) {
        Ok(id.to_owned())
    } else {
        Err(format!(
            "node id {id:?}: write 1 to {ID_BYTES} letters, digits, '.', '_' or '-'"
        ))
    }
}

/// This life of a node: unix nanoseconds now. Take it once, when the node starts.
///
/// Of two processes that claim the same id the one with the higher incarnation started later and wins.
pub fn incarnation() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn belongs(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_valid_and_tell_nodes_of_a_host_apart() {
        let relay = default_id("relay", 28021);
        assert!(relay.ends_with("-relay-28021"));
        assert_eq!(check_id(&relay), Ok(relay.clone()));
        assert_ne!(relay, default_id("relay", 28022));
        assert!(default_id("listener", 0).contains("-listener-p"));
        for wrong in ["", "a/b", "a b", "é", &"x".repeat(101)] {
            assert!(check_id(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_later_life_has_a_higher_incarnation() {
        let first = incarnation();
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(incarnation() > first);
    }
}
