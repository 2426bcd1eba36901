//! The ledger as Prometheus metrics, so that both always say the same.
//!
//! What enters: the ledger at the time of a scrape. What leaves: `reprise_exchanges_total` by target, disposition and
//! detail, and at a listener `reprise_captured_total`, `reprise_in_flight` and `reprise_capture_total` by event.
//! What may be lost: nothing; epochs are added up, a scrape is not a place for them.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use reprise_traffic::ledger::{Account, LedgerReport};
use reprise_traffic::outcome::status_name;

use crate::admin::LedgerSource;

/// Shows a node's ledger among its metrics.
pub fn register_ledger(registry: &mut Registry, source: LedgerSource) {
    registry.register_collector(Box::new(LedgerMetrics(source)));
}

struct LedgerMetrics(LedgerSource);

impl fmt::Debug for LedgerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LedgerMetrics")
    }
}

impl Collector for LedgerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let report = (self.0)();
        let mut exchanges = encoder.encode_descriptor(
            "reprise_exchanges",
            "Exchanges that ended, by target and how",
            None,
            MetricType::Counter,
        )?;
        for (target, account) in by_target(&report) {
            for (disposition, detail, n) in ends(&account) {
                let labels = [
                    ("target", target.as_str()),
                    ("disposition", disposition),
                    ("detail", detail.as_str()),
                ];
                ConstCounter::new(n).encode(exchanges.encode_family(&labels)?)?;
            }
        }
        if report.role != "listener" {
            return Ok(());
        }
        let captured: u64 = report.epochs.iter().map(|epoch| epoch.captured).sum();
        let in_flight: u64 = report.epochs.iter().map(|epoch| epoch.in_flight).sum();
        ConstCounter::new(captured).encode(encoder.encode_descriptor(
            "reprise_captured",
            "Requests completed at the capture",
            None,
            MetricType::Counter,
        )?)?;
        ConstGauge::new(i64::try_from(in_flight).unwrap_or(i64::MAX)).encode(
            encoder.encode_descriptor(
                "reprise_in_flight",
                "Captured exchanges whose end is not known yet",
                None,
                MetricType::Gauge,
            )?,
        )?;
        let mut edge = encoder.encode_descriptor(
            "reprise_capture",
            "What the capture's edge saw, by event",
            None,
            MetricType::Counter,
        )?;
        for (event, n) in report.epochs.iter().flat_map(|epoch| &epoch.edge) {
            ConstCounter::new(*n).encode(edge.encode_family(&[("event", event.as_str())])?)?;
        }
        Ok(())
    }
}

fn by_target(report: &LedgerReport) -> BTreeMap<String, Account> {
    let mut targets: BTreeMap<String, Account> = BTreeMap::new();
    for (name, account) in report.epochs.iter().flat_map(|epoch| &epoch.targets) {
        targets.entry(name.clone()).or_default().merge(account);
    }
    targets
}

fn ends(account: &Account) -> Vec<(&'static str, String, u64)> {
    let mut ends: Vec<(&'static str, String, u64)> = Vec::new();
    ends.extend(
        account
            .replayed
            .iter()
            .map(|(s, n)| ("replayed", status_name(*s).into_owned(), *n)),
    );
    ends.extend(
        account
            .failed
            .iter()
            .map(|(f, n)| ("failed", f.clone(), *n)),
    );
    ends.extend(
        account
            .dropped
            .iter()
            .map(|(r, n)| ("dropped", r.clone(), *n)),
    );
    ends.push(("unknown", String::new(), account.unknown));
    ends.push(("filtered", String::new(), account.filtered));
    ends.push(("sampled_out", String::new(), account.sampled_out));
    ends
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus_client::encoding::text::encode;
    use reprise_traffic::ledger::EpochReport;
    use reprise_traffic::{Disposition, DropReason};

    use super::*;

    #[test]
    fn a_scrape_says_what_the_ledger_says() {
        let mut account = Account::default();
        account.add(Disposition::Replayed(200), 7);
        account.add(Disposition::Dropped(DropReason::Expired), 2);
        let epoch = EpochReport {
            captured: 10,
            in_flight: 1,
            targets: [("t/a".to_owned(), account)].into(),
            edge: [("packets".to_owned(), 99)].into(),
            ..EpochReport::default()
        };
        let report = LedgerReport {
            node: "n".into(),
            role: "listener".into(),
            epochs: vec![epoch],
        };
        let mut registry = Registry::default();
        register_ledger(&mut registry, Arc::new(move || report.clone()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"reprise_exchanges_total{target="t/a",disposition="replayed",detail="200"} 7"#,
            r#"reprise_exchanges_total{target="t/a",disposition="dropped",detail="expired"} 2"#,
            "reprise_captured_total 10",
            "reprise_in_flight 1",
            r#"reprise_capture_total{event="packets"} 99"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
