//! Latencies as buckets, and the quantiles that people read.
//!
//! What enters: single latencies, or a replayer's `reprise_replay_latency_seconds` as Prometheus text. What leaves:
//! quantiles. What may be lost: precision within a bucket, each half as wide again as the one before.

use std::collections::BTreeMap;
use std::time::Duration;

/// The replayer's histogram at `/metrics`.
const SERIES: &str = "reprise_replay_latency_seconds_bucket{";

/// Counts by the bucket's upper bound.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Histogram {
    /// Upper bound in seconds, ascending, and how many lie between it and the bound before.
    buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// Counts one latency.
    pub(crate) fn observe(&mut self, latency: Duration) {
        if self.buckets.is_empty() {
            // As the replayer's, so that both columns of the table are equally coarse.
            let bounds = std::iter::successors(Some(1e-4), |bound| Some(bound * 1.5));
            self.buckets = bounds.take(32).map(|bound| (bound, 0)).collect();
            self.buckets.push((f64::INFINITY, 0));
        }
        let seconds = latency.as_secs_f64();
        if let Some((_, count)) = self.buckets.iter_mut().find(|(bound, _)| seconds <= *bound) {
            *count += 1;
        }
    }

    /// Adds another histogram's counts.
    pub(crate) fn merge(&mut self, other: &Histogram) {
        self.buckets.extend(&other.buckets);
        self.buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        self.buckets.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.1 += if same { next.1 } else { 0 };
            same
        });
    }

    /// The latency that `share` (0 to 1) of all do not exceed; nothing while there are none. Past the last bound,
    /// that bound.
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.buckets.iter().map(|(_, count)| count).sum();
        let rank = share * total as f64;
        let (mut below, mut low) = (0, 0.0);
        for (high, count) in self.buckets.iter().filter(|_| total > 0) {
            let up_to = below + count;
            if *count > 0 && up_to as f64 >= rank {
                let high = if high.is_finite() { *high } else { low };
                let part = (rank - below as f64) / *count as f64;
                return Some(Duration::from_secs_f64(low + (high - low) * part));
            }
            (below, low) = (up_to, if high.is_finite() { *high } else { low });
        }
        None
    }
}

/// A replayer's latencies by target, from the text of its `/metrics`.
pub(crate) fn by_target(metrics: &str) -> BTreeMap<String, Histogram> {
    let mut targets: BTreeMap<String, Histogram> = BTreeMap::new();
    for line in metrics.lines() {
        let Some((target, bound, up_to)) = line.strip_prefix(SERIES).and_then(bucket) else {
            continue;
        };
        let buckets = &mut targets.entry(target.to_owned()).or_default().buckets;
        // The text counts all up to the bound.
        let before: u64 = buckets.iter().map(|(_, count)| count).sum();
        buckets.push((bound, up_to.saturating_sub(before)));
    }
    targets
}

/// Target, bound and count of a line behind its `{`.
fn bucket(line: &str) -> Option<(&str, f64, u64)> {
    let (labels, count) = line.split_once("} ")?;
    let label = |name: &str| {
        let pair = labels.split(',').find_map(|pair| pair.strip_prefix(name))?;
        pair.strip_prefix("=\"")?.strip_suffix('"')
    };
    let bound = match label("le")? {
        "+Inf" => f64::INFINITY,
        bound => bound.parse().ok()?,
    };
    // An exemplar may stand behind the count.
    let count = count.split(' ').next()?.parse().ok()?;
    Some((label("target")?, bound, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
# TYPE reprise_replay_latency_seconds histogram
reprise_replay_latency_seconds_sum{target=\"shop/staging\"} 0.75
reprise_replay_latency_seconds_bucket{le=\"0.1\",target=\"shop/staging\"} 0
reprise_replay_latency_seconds_bucket{le=\"0.2\",target=\"shop/staging\"} 50
reprise_replay_latency_seconds_bucket{le=\"0.4\",target=\"shop/staging\"} 100
reprise_replay_latency_seconds_bucket{le=\"+Inf\",target=\"shop/staging\"} 100
reprise_replay_latency_seconds_bucket{target=\"shop/v2\",le=\"0.1\"} 0
reprise_replay_latency_seconds_bucket{target=\"shop/v2\",le=\"+Inf\"} 3 # {a=\"b\"} 9.0
reprise_captured_total 7
";

    fn close(found: Option<Duration>, seconds: f64) -> bool {
        found.is_some_and(|found| (found.as_secs_f64() - seconds).abs() < 1e-6)
    }

    #[test]
    fn quantiles_of_prometheus_text() {
        let targets = by_target(METRICS);
        let staging = &targets["shop/staging"];
        assert!(close(staging.quantile(0.25), 0.15), "{staging:?}");
        assert!(close(staging.quantile(0.5), 0.2), "{staging:?}");
        assert!(close(staging.quantile(0.99), 0.396), "{staging:?}");
        // Nothing is known past the last bound.
        assert!(close(targets["shop/v2"].quantile(0.5), 0.1));
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert!(by_target("").is_empty());
    }

    #[test]
    fn merging_is_counting_together() {
        let latencies: Vec<Duration> = (1..400).map(Duration::from_micros).collect();
        let (mut all, mut parts) = (Histogram::default(), Histogram::default());
        for chunk in latencies.chunks(50) {
            let mut part = Histogram::default();
            chunk.iter().for_each(|latency| {
                part.observe(*latency);
                all.observe(*latency);
            });
            parts.merge(&part);
        }
        assert_eq!(all, parts);
        let median = all.quantile(0.5).unwrap();
        assert!((150..250).contains(&median.as_micros()), "{median:?}");
    }

    #[test]
    fn no_latency_is_too_long() {
        let mut histogram = Histogram::default();
        histogram.observe(Duration::from_secs(3600));
        assert!(histogram.quantile(0.5) > Some(Duration::from_secs(10)));
    }
}
