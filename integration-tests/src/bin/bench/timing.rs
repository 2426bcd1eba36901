//! How well arrivals keep the times that were meant for them.
//!
//! What enters: two lists of instants, nanoseconds. What leaves: how far one is off the other. What may be lost: what
//! arrived in one list only; callers count that.

/// Deviations from a schedule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Deviation {
    /// Milliseconds, of the amount, in order.
    off_ms: Vec<f64>,
    /// From the first to the last, in percent of what it was to be; the amount.
    pub(crate) duration_percent: f64,
}

impl Deviation {
    /// Of pairs of the instants that were planned and those of arrival, in the order in which they were planned. The
    /// schedule's zero is where the median of arrivals is on time: what delays all of them alike is no deviation.
    pub(crate) fn of(pairs: &[(f64, f64)]) -> Deviation {
        let mut offsets: Vec<f64> = pairs.iter().map(|(due, at)| at - due).collect();
        offsets.sort_by(f64::total_cmp);
        let zero = quantile(&offsets, 0.5);
        let mut off_ms: Vec<f64> = offsets.iter().map(|o| (o - zero).abs() / 1e6).collect();
        off_ms.sort_by(f64::total_cmp);
        let duration_percent = match pairs {
            [(due, at), .., (last_due, last_at)] => {
                ((last_at - at) / (last_due - due) - 1.0).abs() * 100.0
            }
            _ => 0.0,
        };
        Deviation {
            off_ms,
            duration_percent,
        }
    }

    /// Milliseconds.
    pub(crate) fn at(&self, share: f64) -> f64 {
        quantile(&self.off_ms, share)
    }
}

/// The smallest of figures in order that so large a share of them don't exceed; 0 of none.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let place = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(place).copied().unwrap_or(0.0)
}

/// The mean of how much each gap differs from the original's, as a share of the originals' mean gap. Pairs of original
/// and copy, in the order of the originals.
pub(crate) fn gap_difference(pairs: &[(f64, f64)]) -> f64 {
    let [(first, _), .., (last, _)] = pairs else {
        return 0.0;
    };
    let differences = pairs.windows(2).map(|two| {
        let [(a, copy_a), (b, copy_b)] = [two[0], two[1]];
        ((copy_b - copy_a) - (b - a)).abs()
    });
    differences.sum::<f64>() / (last - first)
}

/// Instants of a Poisson process of `rate` a second, nanoseconds, from 0 on; the same ones each time.
pub(crate) fn poisson(rate: f64, count: usize) -> Vec<u64> {
    let mut dice = fastrand::Rng::with_seed(1);
    let mut at = 0.0;
    let times = (0..count).map(|_| {
        let now = at;
        // 1 - f64() is never 0.
        at += -(1.0 - dice.f64()).ln() / rate * 1e9;
        now as u64
    });
    times.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e6;

    #[test]
    fn what_delays_all_alike_is_no_deviation() {
        let exact: Vec<(f64, f64)> = (0..10).map(f64::from).map(|n| (n, n + 5.0 * MS)).collect();
        let deviation = Deviation::of(&exact);
        assert_eq!((deviation.at(0.5), deviation.at(1.0)), (0.0, 0.0));
        assert_eq!(deviation.duration_percent, 0.0);
    }

    #[test]
    fn early_and_late_count_alike() {
        let pairs = [
            (0.0, 1.0),
            (10.0, 10.0),
            (20.0, 18.0),
            (30.0, 30.0),
            (40.0, 45.0),
        ];
        let pairs = pairs.map(|(due, at)| (due * MS, at * MS));
        let deviation = Deviation::of(&pairs);
        assert_eq!(deviation.off_ms, [0.0, 0.0, 1.0, 2.0, 5.0]);
        assert_eq!((deviation.at(0.5), deviation.at(0.99)), (1.0, 5.0));
        // 44 ms in place of 40.
        assert!((deviation.duration_percent - 10.0).abs() < 1e-9);
        assert_eq!(Deviation::of(&[]).at(0.5), 0.0);
    }

    #[test]
    fn quantiles_are_figures_that_were_there() {
        let figures: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&figures, 0.5), 100.0);
        assert_eq!(quantile(&figures, 0.99), 198.0);
        assert_eq!(quantile(&figures, 1.0), 200.0);
        assert_eq!(quantile(&figures, 0.0), 1.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn gaps_are_compared_one_by_one() {
        assert_eq!(gap_difference(&[(0.0, 7.0), (10.0, 17.0)]), 0.0);
        // Gaps of 10; copies in twos.
        let twos = [(0.0, 10.0), (10.0, 10.0), (20.0, 30.0), (30.0, 30.0)];
        assert_eq!(gap_difference(&twos), 1.0);
        assert_eq!(gap_difference(&[(0.0, 7.0)]), 0.0);
    }

    #[test]
    fn poisson_gaps_are_as_irregular_as_they_should_be() {
        let times = poisson(1000.0, 20_000);
        assert_eq!((times[0], times == poisson(1000.0, 20_000)), (0, true));
        let gaps: Vec<f64> = times.windows(2).map(|t| (t[1] - t[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Mean and standard deviation are the same.
        assert!((mean / MS - 1.0).abs() < 0.03, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{variance}");
    }
}
