//! Load: when requests are sent, and how their times are summed up. Must never: let a slow answer delay the next
//! request, or start a clock at any other moment than the planned one: else slowness hides itself (coordinated
//! omission).

use std::time::Duration;

use serde_json::{Map, Value, json};

/// Arrivals at a constant rate, planned before the first is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrivals {
    pub count: usize,
    /// All at once where this is zero.
    pub per_second: f64,
}

impl Arrivals {
    /// When each is due, counted from the start of the run.
    pub fn offsets(self) -> impl Iterator<Item = Duration> {
        let gap = if self.per_second > 0.0 { 1.0 / self.per_second } else { 0.0 };
        (0..self.count).map(move |number| Duration::from_secs_f64(gap * number as f64))
    }
}

/// Durations of one kind.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// The smallest sample that so many per cent of all are not above (nearest rank); zero where there is none.
    pub fn percentile(&mut self, percent: f64) -> Duration {
        self.0.sort_unstable();
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// Adds `{prefix}p50_ms`, `p99_ms` and `max_ms` to a row; nothing where there is no sample.
    pub fn into_row(mut self, prefix: &str, row: &mut Map<String, Value>) {
        if self.0.is_empty() {
            return;
        }
        for (name, percent) in [("p50_ms", 50.0), ("p99_ms", 99.0), ("max_ms", 100.0)] {
            row.insert(format!("{prefix}{name}"), json!(milliseconds(self.percentile(percent))));
        }
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<T: IntoIterator<Item = Duration>>(samples: T) -> Self {
        Self(samples.into_iter().collect())
    }
}

/// To the microsecond: more digits than the clock has would only look exact.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_keep_their_rate_whatever_happens_to_them() {
        let arrivals = Arrivals { count: 4, per_second: 2.0 };
        let offsets: Vec<_> = arrivals.offsets().map(milliseconds).collect();
        assert_eq!(offsets, [0.0, 500.0, 1000.0, 1500.0]);
    }

    #[test]
    fn a_burst_arrives_at_once() {
        assert!(Arrivals { count: 500, per_second: 0.0 }.offsets().all(|offset| offset.is_zero()));
    }

    #[test]
    fn percentiles_are_samples_and_the_last_is_the_worst() {
        let mut samples: Samples = (1..=200).rev().map(Duration::from_millis).collect();
        let found = [50.0, 99.0, 99.9, 100.0].map(|percent| samples.percentile(percent).as_millis());
        assert_eq!(found, [100, 198, 200, 200]);
    }

    #[test]
    fn one_sample_is_every_percentile_and_none_is_no_figure() {
        let mut one: Samples = [Duration::from_millis(7)].into_iter().collect();
        assert_eq!([1.0, 50.0, 100.0].map(|percent| one.percentile(percent).as_millis()), [7, 7, 7]);
        let mut row = Map::new();
        Samples::default().into_row("", &mut row);
        assert!(row.is_empty());
    }
}
