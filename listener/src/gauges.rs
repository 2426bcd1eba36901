//! A listener's bounds as metrics.
//!
//! What enters: the budget and the shares at the time of a scrape. What leaves: `reprise_budget_used_bytes`,
//! `reprise_budget_limit_bytes` and `reprise_capture_share` by cause. What may be lost: what happens between two
//! scrapes; the counters of the edge have it.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::budget::Budget;
use crate::shed::Shed;

/// Shows how much of the budget is used, and which share of sessions is captured.
pub(crate) fn register(registry: &mut Registry, budget: Arc<Budget>, shed: Arc<Shed>) {
    registry.register_collector(Box::new(Gauges { budget, shed }));
}

#[derive(Debug)]
struct Gauges {
    budget: Arc<Budget>,
    shed: Arc<Shed>,
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let bytes = |n: usize| ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX));
        bytes(self.budget.used()).encode(encoder.encode_descriptor(
            "reprise_budget_used",
            "Bytes of requests that are not complete or not settled",
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?)?;
        bytes(self.budget.limit()).encode(encoder.encode_descriptor(
            "reprise_budget_limit",
            "The most that they may be together",
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?)?;
        let shares = self.shed.shares();
        let mut share = encoder.encode_descriptor(
            "reprise_capture_share",
            "Share of sessions that is captured as far as each cause goes, 0 to 1; the smaller one counts",
            None,
            MetricType::Gauge,
        )?;
        for (cause, value) in [("memory", shares.memory), ("cpu", shares.cpu)] {
            ConstGauge::new(value).encode(share.encode_family(&[("cause", cause)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn a_scrape_shows_bounds_and_shares() {
        let budget = Arc::new(Budget::new(1000));
        let shed = Arc::new(Shed::new(budget.clone()));
        budget.take(700);
        shed.limit_cpu(0.25);
        let mut registry = Registry::default();
        register(&mut registry, budget, shed);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "reprise_budget_used_bytes 700",
            "reprise_budget_limit_bytes 1000",
            r#"reprise_capture_share{cause="memory"} 1.0"#,
            r#"reprise_capture_share{cause="cpu"} 0.25"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
