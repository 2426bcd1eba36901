//! What a replayer measures besides its ledger: how long targets take to answer.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use reprise_traffic::TargetName;

/// Which target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabel {
    target: String,
}

#[derive(Debug, Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    /// 100 µs to about 25 s, each half as long again as the one before.
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(1e-4, 1.5, 32))
    }
}

/// All latencies of a replayer, by target.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Family<TargetLabel, Histogram, Buckets>);

impl Latencies {
    pub(crate) fn register(registry: &mut Registry) -> Latencies {
        let family = Family::<TargetLabel, Histogram, Buckets>::new_with_constructor(Buckets);
        registry.register(
            "reprise_replay_latency_seconds",
            "From the first byte sent to a target to the last byte of its answer",
            family.clone(),
        );
        Latencies(family)
    }

    pub(crate) fn of(&self, target: &TargetName) -> Latency {
        let label = TargetLabel {
            target: target.to_string(),
        };
        Latency(self.0.get_or_create(&label).clone())
    }
}

/// The latencies of one target.
#[derive(Debug)]
pub(crate) struct Latency(Histogram);

impl Latency {
    pub(crate) fn observe(&self, latency: Duration) {
        self.0.observe(latency.as_secs_f64());
    }
}
