//! What reached a staging shop, told apart by the mark that replayers put on each request.
//!
//! What enters: the mark and the method of each request. What leaves: how many there were, and which came twice.
//! What may be lost: nothing.

use std::collections::HashSet;

use serde::Serialize;

/// What reached a shop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Arrivals {
    /// All requests.
    pub(crate) requests: u64,
    /// Requests with different marks.
    pub(crate) different: u64,
    /// Safe ones whose mark had come before: sent again, as it is allowed.
    pub(crate) safe_again: u64,
    /// Others whose mark had come before: there must be none.
    pub(crate) unsafe_again: u64,
    /// Requests that bear no mark, and so don't come from a replayer.
    pub(crate) unmarked: u64,
}

/// Keeps the marks.
#[derive(Debug, Default)]
pub(crate) struct Register {
    seen: HashSet<Box<str>>,
    arrivals: Arrivals,
}

impl Register {
    /// Notes a request.
    pub(crate) fn note(&mut self, mark: Option<&str>, safe: bool) {
        self.arrivals.requests += 1;
        let Some(mark) = mark else {
            self.arrivals.unmarked += 1;
            return;
        };
        let count = match (self.seen.insert(mark.into()), safe) {
            (true, _) => &mut self.arrivals.different,
            (false, true) => &mut self.arrivals.safe_again,
            (false, false) => &mut self.arrivals.unsafe_again,
        };
        *count += 1;
    }

    /// What came until now.
    pub(crate) fn arrivals(&self) -> Arrivals {
        self.arrivals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_told_from_new_ones() {
        let mut register = Register::default();
        for (mark, safe) in [
            (Some("l/1/0"), true),
            (Some("l/1/1"), false),
            (Some("l/1/0"), true),
            (None, true),
        ] {
            register.note(mark, safe);
        }
        let arrivals = register.arrivals();
        assert_eq!((arrivals.requests, arrivals.different), (4, 2));
        assert_eq!(
            (
                arrivals.safe_again,
                arrivals.unsafe_again,
                arrivals.unmarked
            ),
            (1, 0, 1)
        );
        register.note(Some("l/1/1"), false);
        assert_eq!(register.arrivals().unsafe_again, 1);
    }
}
