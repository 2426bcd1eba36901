//! Messages whose source has to know when they have ended.
//!
//! What enters: by the number of an exchange in the window, the message that it was. What leaves: that message's end, once the
//! exchange has ended for all targets, in whichever way. What may be lost: at the end of a life what has not ended by then;
//! its source reads it again.

use std::collections::HashMap;

use crate::kafka::Debt;

/// As many as such sources have open.
#[derive(Debug, Default)]
pub(super) struct Owed(HashMap<u64, Debt>);

impl Owed {
    pub(super) fn push(&mut self, sequence: u64, debt: Debt) {
        self.0.insert(sequence, debt);
    }

    /// An exchange has ended.
    pub(super) fn end(&mut self, sequence: u64) {
        if let Some(debt) = self.0.remove(&sequence) {
            debt.end();
        }
    }

    /// So have all of these.
    pub(super) fn end_all(&mut self, has_ended: impl Fn(u64) -> bool) {
        let ended = self.0.extract_if(|sequence, _| has_ended(*sequence));
        ended.for_each(|(_, debt)| debt.end());
    }

    /// What is left never ends here.
    pub(super) fn give_up(&mut self) {
        self.0.clear();
    }
}
