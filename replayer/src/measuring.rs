//! Measures how a target's requests leave and how they end, for those who asked.
//!
//! What enters: each request as its sending begins and as it ends. What leaves: sums and histograms since they were last
//! taken. What may be lost: order inversions of sessions that are more than can be remembered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reprise_traffic::measure::Cause;
use reprise_traffic::{Disposition, Fault, Measured};

/// Sessions whose order is watched at a time.
const SESSIONS: usize = 1 << 16;

/// The measures of one target.
#[derive(Debug, Default)]
pub(crate) struct Measures {
    wanted: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    measured: Measured,
    /// The request that left last: when it was due, and when it left.
    last: Option<(Instant, Instant)>,
    /// When the latest request of each session was due.
    sessions: HashMap<u64, Instant>,
}

impl Measures {
    /// Somebody will take them.
    pub(crate) fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// True where somebody will take them.
    pub(crate) fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// The inner measures, where somebody wants them.
    fn wanted(&self) -> Option<MutexGuard<'_, Inner>> {
        let lock = || self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.are_wanted().then(lock)
    }

    /// A request of a session, which was due at `due`, begins to leave.
    pub(crate) fn begun(&self, session: u64, due: Instant, now: Instant) {
        let Some(mut inner) = self.wanted() else {
            return;
        };
        inner.measured.sent += 1;
        inner
            .measured
            .lateness
            .add(now.saturating_duration_since(due));
        if let Some((last_due, last)) = inner.last.replace((due, now)) {
            let meant = due.saturating_duration_since(last_due);
            let is = now.saturating_duration_since(last);
            let gaps = &mut inner.measured.gaps;
            gaps.count += 1;
            gaps.due_ns = gaps.due_ns.saturating_add(meant.as_nanos() as u64);
            gaps.off_ns = gaps
                .off_ns
                .saturating_add(meant.abs_diff(is).as_nanos() as u64);
        }
        if inner.sessions.len() >= SESSIONS {
            inner.sessions.clear();
        }
        match inner.sessions.insert(session, due) {
            Some(before) if before > due => {
                inner.sessions.insert(session, before);
                inner.measured.inversions += 1;
            }
            _ => {}
        }
    }

    /// A request that was due at `due` ended, so long after its first byte was sent.
    pub(crate) fn ended(
        &self,
        due: Instant,
        disposition: Disposition,
        service: Duration,
        cause: Option<Cause>,
    ) {
        let Some(mut inner) = self.wanted() else {
            return;
        };
        let measured = &mut inner.measured;
        match disposition {
            Disposition::Replayed(status) => *measured.statuses.entry(status).or_default() += 1,
            Disposition::Failed(fault) => {
                let cause = cause.unwrap_or(match fault {
                    Fault::Ours => Cause::Unsendable,
                    Fault::Network => Cause::Connect,
                    Fault::Target | Fault::Other => Cause::Broken,
                });
                *measured.failures.entry(cause).or_default() += 1;
            }
            Disposition::Unknown => {
                *measured
                    .failures
                    .entry(cause.unwrap_or(Cause::Broken))
                    .or_default() += 1;
            }
            Disposition::Filtered | Disposition::SampledOut | Disposition::Dropped(_) => return,
        }
        measured.latency.add(due.elapsed());
        measured.service.add(service);
    }

    /// A request that was due at `due`, and given to a recording at `begun`, ended now. One that was dropped was never sent.
    pub(crate) fn recorded(&self, due: Instant, begun: Instant, disposition: Disposition) {
        if self.are_wanted() && !matches!(disposition, Disposition::Dropped(_)) {
            self.begun(0, due, begun);
            self.ended(due, disposition, begun.elapsed(), None);
        }
    }

    /// What was measured since the last time.
    pub(crate) fn take(&self) -> Measured {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut inner.measured)
    }
}

#[cfg(test)]
mod tests {
    use reprise_traffic::DropReason;
    use reprise_traffic::outcome::TAKEN;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_order_and_lateness() {
        let measures = Measures::default();
        let start = Instant::now();
        measures.begun(1, start, start);
        assert!(measures.take().is_empty(), "nobody wants them");
        measures.want();
        for (session, due, left) in [(1, 0, 0), (2, 10, 12), (1, 20, 21), (2, 5, 22)] {
            measures.begun(session, start + due * MS, start + left * MS);
        }
        let measured = measures.take();
        assert_eq!((measured.sent, measured.inversions), (4, 1));
        assert_eq!(measured.gaps.count, 3);
        // 12 for 10, 9 for 10, and 1 for none.
        assert_eq!(
            (measured.gaps.due_ns, measured.gaps.off_ns),
            (20_000_000, 4_000_000)
        );
        assert_eq!(measured.lateness.over(3 * MS), 1);
        assert!(measures.take().is_empty());
    }

    #[test]
    fn ends_are_counted_by_status_or_cause() {
        let measures = Measures::default();
        measures.want();
        let now = Instant::now();
        for disposition in [
            Disposition::Replayed(200),
            Disposition::Failed(Fault::Network),
            Disposition::Unknown,
            Disposition::Filtered,
        ] {
            measures.ended(now, disposition, MS, None);
        }
        measures.ended(now, Disposition::Unknown, MS, Some(Cause::Timeout));
        let measured = measures.take();
        assert_eq!(measured.statuses, [(200, 1)].into());
        let failures = [(Cause::Connect, 1), (Cause::Timeout, 1), (Cause::Broken, 1)];
        assert_eq!(measured.failures, failures.into());
        assert_eq!((measured.latency.count(), measured.service.count()), (4, 4));
    }

    #[test]
    fn what_is_recorded_ends_as_often_as_it_began() {
        let measures = Measures::default();
        measures.want();
        let now = Instant::now();
        for disposition in [
            Disposition::Replayed(TAKEN),
            Disposition::Failed(Fault::Ours),
            Disposition::Dropped(DropReason::ReplayerFull),
            Disposition::Dropped(DropReason::RecordingStopped),
        ] {
            measures.recorded(now, now, disposition);
        }
        let measured = measures.take();
        assert_eq!((measured.sent, measured.latency.count()), (2, 2));
        assert_eq!((measured.answered(), measured.failed()), (1, 1));
    }
}
