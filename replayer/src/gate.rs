//! The way to a target: open, or shut by its breaker.
//!
//! What enters: requests that are to be sent, and how each ended. What leaves: a pass for each that may set out. What may
//! be lost: nothing here; who gets no pass is dropped by the caller (`breaker_open`), at once, also one that has waited.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reprise_node::LogLimit;
use reprise_traffic::breaker::Breaker as Wanted;
use reprise_traffic::{Disposition, Fault, Target, TargetName};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use crate::breaker::{Breaker, Change, Ended, Leave};
use crate::metrics::BreakerMeter;

/// Decides for one target whether requests may set out.
#[derive(Debug)]
pub(crate) struct Gate {
    target: TargetName,
    /// `None`: always.
    breaker: Option<Mutex<Watched>>,
    /// Told when the breaker opens.
    opened: Notify,
    meter: BreakerMeter,
    log: LogLimit,
}

/// Between two openings that are logged: a target that fails now and then opens its breaker every other second.
const LOG_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Watched {
    breaker: Breaker,
    /// Another gate stands for the target now, or none: what ends here late is nobody's news.
    is_retired: bool,
    /// That it opened was logged, and so will be that it closed.
    is_logged: bool,
}

/// A request may set out.
#[derive(Debug)]
pub(crate) struct Pass<'g> {
    gate: &'g Gate,
    /// `None` without a breaker, and once its end was told.
    leave: Option<Leave>,
}

impl Gate {
    /// As the target's document has it; open.
    pub(crate) fn new(target: &Target, meter: BreakerMeter) -> Gate {
        meter.set_open(false);
        let breaker = match target.document.breaker {
            Wanted::Off => None,
            Wanted::On(settings) => Some(Mutex::new(Watched {
                breaker: Breaker::new(settings, fastrand::Rng::new()),
                is_retired: false,
                is_logged: false,
            })),
        };
        Gate {
            target: target.name.clone(),
            breaker,
            opened: Notify::new(),
            meter,
            log: LogLimit::every(LOG_EVERY),
        }
    }

    fn watched(&self) -> Option<MutexGuard<'_, Watched>> {
        let breaker = self.breaker.as_ref()?;
        Some(breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The target was deleted, or its document changed.
    pub(crate) fn retire(&self) {
        if let Some(mut watched) = self.watched() {
            watched.is_retired = true;
            self.meter.set_open(false);
        }
    }

    /// True where nothing would get a pass now.
    pub(crate) fn is_shut(&self, is_safe: bool) -> bool {
        self.watched()
            .is_some_and(|mut watched| !watched.breaker.admits(Instant::now(), is_safe))
    }

    /// A pass for a request that is to be sent as soon as it can; `None` where it must not be.
    pub(crate) fn pass(&self, is_safe: bool) -> Option<Pass<'_>> {
        let leave = match self.watched() {
            Some(mut watched) => Some(watched.breaker.leave(Instant::now(), is_safe)?),
            None => None,
        };
        Some(Pass { gate: self, leave })
    }

    fn ended(&self, leave: Leave, ended: Ended) {
        let Some(mut watched) = self.watched() else {
            return;
        };
        let change = watched.breaker.ended(leave, ended, Instant::now());
        if matches!(
            change,
            Some(Change::Opened { .. } | Change::Reopened { .. })
        ) {
            self.opened.notify_waiters();
        }
        let Some(change) = change.filter(|_| !watched.is_retired) else {
            return;
        };
        let target = &self.target;
        match change {
            Change::Opened { open_for } => {
                self.meter.opened();
                let leave = self.log.allow();
                watched.is_logged = leave.is_some();
                if let Some(suppressed) = leave {
                    warn!(
                        %target, ?open_for, suppressed,
                        "the target doesn't answer: its breaker is open, and its exchanges are dropped"
                    );
                }
            }
            Change::Reopened { open_for } => {
                self.meter.opened();
                debug!(%target, ?open_for, "the target still doesn't answer");
            }
            Change::Closed => {
                self.meter.set_open(false);
                if watched.is_logged {
                    info!(%target, "the target answers again: its breaker is closed");
                }
            }
        }
    }
}

impl Pass<'_> {
    /// Ends when the request must not set out any more.
    pub(crate) async fn revoked(&self) {
        let Some(leave) = self.leave else {
            return std::future::pending().await;
        };
        loop {
            // It hears what comes from now on, even before it is waited for.
            let opened = self.gate.opened.notified();
            let revokes = |watched: MutexGuard<'_, Watched>| watched.breaker.revokes(leave);
            if self.gate.watched().is_some_and(revokes) {
                return;
            }
            opened.await;
        }
    }

    /// The request ended.
    pub(crate) fn ended(mut self, disposition: Disposition) {
        let ended = match disposition {
            Disposition::Replayed(_) => Ended::Answered,
            Disposition::Failed(Fault::Network | Fault::Target) | Disposition::Unknown => {
                Ended::Failed
            }
            Disposition::Failed(Fault::Ours | Fault::Other)
            | Disposition::Filtered
            | Disposition::SampledOut
            | Disposition::Dropped(_) => Ended::Unsent,
        };
        if let Some(leave) = self.leave.take() {
            self.gate.ended(leave, ended);
        }
    }
}

impl Drop for Pass<'_> {
    /// It didn't set out.
    fn drop(&mut self) {
        if let Some(leave) = self.leave.take() {
            self.gate.ended(leave, Ended::Unsent);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use reprise_traffic::TargetDocument;

    use super::*;
    use crate::metrics::Breakers;

    const FAILED: Disposition = Disposition::Failed(Fault::Target);

    fn gate(breaker: &str, registry: &mut Registry) -> Gate {
        let text = format!("{{url: 'http://h', breaker: {breaker}}}");
        let document = TargetDocument::parse("t/a", &text).unwrap();
        let target = Target::new(TargetName::new("t/a").unwrap(), 1, document).unwrap();
        let meter = Breakers::register(registry).of(&target.name);
        Gate::new(&target, meter)
    }

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[tokio::test]
    async fn who_waits_with_a_pass_hears_that_it_is_shut() {
        let mut registry = Registry::default();
        let gate = gate("{failures: 2, open_for: 10ms}", &mut registry);
        let waits = gate.pass(true).unwrap();
        let early = tokio::time::timeout(Duration::from_millis(20), waits.revoked());
        assert!(early.await.is_err());
        let (first, second) = (gate.pass(true).unwrap(), gate.pass(false).unwrap());
        let revoked = waits.revoked();
        first.ended(FAILED);
        assert!(!gate.is_shut(true));
        second.ended(Disposition::Unknown);
        revoked.await;
        // Also who asks only now.
        waits.revoked().await;
        drop(waits);
        assert!(gate.is_shut(true) && gate.pass(true).is_none());
        assert!(text(&registry).contains("reprise_breaker_open{target=\"t/a\"} 1"));
        assert!(text(&registry).contains("reprise_breaker_openings_total{target=\"t/a\"} 1"));

        let probe = loop {
            match gate.pass(true) {
                Some(probe) => break probe,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        assert!(gate.is_shut(true));
        // Whatever the status.
        probe.ended(Disposition::Replayed(503));
        assert!(!gate.is_shut(false));
        assert!(text(&registry).contains("reprise_breaker_open{target=\"t/a\"} 0"));
    }

    #[tokio::test]
    async fn what_is_no_fault_of_the_target_opens_nothing() {
        let gate = gate("{failures: 1}", &mut Registry::default());
        for ended in [
            Disposition::Replayed(500),
            Disposition::Failed(Fault::Ours),
            Disposition::Dropped(reprise_traffic::DropReason::Expired),
        ] {
            gate.pass(true).unwrap().ended(ended);
            drop(gate.pass(true).unwrap());
            assert!(!gate.is_shut(true), "{ended}");
        }
    }

    #[tokio::test]
    async fn what_ends_after_the_target_was_deleted_is_no_news() {
        let mut registry = Registry::default();
        let gate = gate("{failures: 1}", &mut registry);
        let late = gate.pass(true).unwrap();
        gate.retire();
        late.ended(FAILED);
        assert!(gate.is_shut(true));
        assert!(text(&registry).contains("reprise_breaker_open{target=\"t/a\"} 0"));
    }

    #[tokio::test]
    async fn off_is_off() {
        let gate = gate("off", &mut Registry::default());
        for _ in 0..100 {
            gate.pass(true).unwrap().ended(FAILED);
        }
        let pass = gate.pass(true).unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(5), pass.revoked());
        assert!(waiting.await.is_err());
    }
}
