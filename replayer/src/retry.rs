//! Sending again what got no answer: how often, and within which budget.
//!
//! What enters: requests and failures. What leaves: leave to try once more, after a pause. What may be lost: nothing.
//!
//! The budget is one of all requests to the target, so that a target which is down gets a tenth more and not several times as
//! many: a retry costs as much as ten requests earn, and three a second are free.

use std::fmt;
use std::time::Duration;

use reprise_node::Backoff;
use reprise_traffic::target::TargetDocument;
use tower::retry::budget::{Budget, TpsBudget};

/// What requests earn is remembered for so long.
const MEMORY: Duration = Duration::from_secs(10);

/// Retries a second that need not be earned, so that a quiet target gets some too.
const FREE: u32 = 3;

/// Retries for each request.
const SHARE: f32 = 0.1;

/// Between attempts: from the shorter, doubling to the longer, by chance up to twice as long.
const PAUSES: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));

/// Retries of one target.
pub(crate) struct Retries {
    most: u32,
    budget: TpsBudget,
}

impl Retries {
    /// As its document has it; `None` where nothing is to be sent again.
    pub(crate) fn new(document: &TargetDocument) -> Option<Retries> {
        (document.retries > 0).then(|| Retries {
            most: document.retries,
            budget: TpsBudget::new(MEMORY, FREE, SHARE),
        })
    }

    /// A request is about to be sent.
    pub(crate) fn begin(&self) -> Attempts<'_> {
        self.budget.deposit();
        Attempts {
            retries: self,
            left: self.most,
            pauses: None,
        }
    }
}

impl fmt::Debug for Retries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} retries", self.most)
    }
}

/// What is left for one request.
#[derive(Debug)]
pub(crate) struct Attempts<'r> {
    retries: &'r Retries,
    left: u32,
    pauses: Option<Backoff>,
}

impl Attempts<'_> {
    /// Waits for the moment in which to try again; false where it is too often, for this request or for the target.
    pub(crate) async fn another(&mut self) -> bool {
        if self.left == 0 || !self.retries.budget.withdraw() {
            return false;
        }
        self.left -= 1;
        let pauses = || Backoff::new(PAUSES.0, PAUSES.1);
        self.pauses.get_or_insert_with(pauses).wait().await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retries(most: u32) -> Retries {
        let mut document = TargetDocument::new("http://h");
        document.retries = most;
        Retries::new(&document).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_sent_again_so_often_and_no_more() {
        let retries = retries(3);
        let mut attempts = retries.begin();
        for _ in 0..3 {
            assert!(attempts.another().await);
        }
        assert!(!attempts.another().await);
        assert!(Retries::new(&TargetDocument::new("http://h")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_is_down_gets_a_tenth_more() {
        let retries = retries(1);
        let mut again = 0;
        // 100 a second for 60 s, all of which fail.
        for _ in 0..6000 {
            let mut attempts = retries.begin();
            let paused = tokio::time::timeout(Duration::ZERO, attempts.another());
            // An attempt that is granted waits; one that isn't says so at once.
            again += u32::from(paused.await.is_err());
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        // A tenth, and three a second.
        assert!((600..=800).contains(&again), "{again}");
    }
}
