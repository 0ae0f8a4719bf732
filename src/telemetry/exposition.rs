//! Writes the text that Prometheus reads (exposition format 0.0.4). It uses the registry, so that only registered
//! metrics and labels can be written.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Histogram;
use super::metrics::{self, Kind, Metric};

/// Collects samples and writes them as text. The samples of a metric are grouped, in any order of insertion.
#[derive(Debug, Default)]
pub struct Exposition {
    samples: BTreeMap<&'static str, String>,
}

impl Exposition {
    /// Returns an empty collection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one sample of a counter or gauge, with a value for each label of `metric`.
    pub fn set(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        debug_assert_ne!(metric.kind, Kind::Histogram, "{}", metric.name);
        let out = self.samples.entry(metric.name).or_default();
        line(out, metric.name, "", &pairs(metric, labels), value);
    }

    /// Adds the samples of a histogram. A value counted as `n` is `n * scale` in the metric's unit. Buckets below
    /// `from` are written as one.
    pub fn histogram<const N: usize>(
        &mut self,
        metric: &'static Metric,
        labels: &[&str],
        histogram: &Histogram<N>,
        from: u64,
        scale: f64,
    ) {
        debug_assert_eq!(metric.kind, Kind::Histogram, "{}", metric.name);
        let pairs = pairs(metric, labels);
        let out = self.samples.entry(metric.name).or_default();
        let mut below = 0;
        for (bound, n) in histogram.buckets() {
            below += n;
            match bound {
                Some(bound) if bound < from => continue,
                Some(bound) => bucket(out, metric.name, &pairs, &number(bound as f64 * scale), below),
                None => bucket(out, metric.name, &pairs, "+Inf", below),
            }
        }
        line(out, metric.name, "_sum", &pairs, histogram.sum() as f64 * scale);
        line(out, metric.name, "_count", &pairs, below as f64);
    }

    /// Returns whether `metric` has a sample.
    #[must_use]
    pub fn has(&self, metric: &Metric) -> bool {
        self.samples.contains_key(metric.name)
    }

    /// Returns the text: every metric of the registry that has a sample, in the registry's order.
    #[must_use]
    pub fn into_text(self) -> String {
        let mut text = String::new();
        for metric in metrics::ALL {
            let Some(samples) = self.samples.get(metric.name) else { continue };
            let help = metric.help.replace('\\', "\\\\");
            let _ = write!(text, "# HELP {0} {help}\n# TYPE {0} {1}\n{samples}", metric.name, metric.kind.name());
        }
        text
    }
}

fn pairs(metric: &Metric, values: &[&str]) -> String {
    let pairs = metric.labels.iter().zip(values);
    pairs.map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect::<Vec<_>>().join(",")
}

/// Escapes backslash, quote and line feed (section on labels of the format).
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn line(out: &mut String, name: &str, suffix: &str, pairs: &str, value: f64) {
    let braces = if pairs.is_empty() { String::new() } else { format!("{{{pairs}}}") };
    let _ = writeln!(out, "{name}{suffix}{braces} {}", number(value));
}

fn bucket(out: &mut String, name: &str, pairs: &str, bound: &str, value: u64) {
    let comma = if pairs.is_empty() { "" } else { "," };
    let _ = writeln!(out, "{name}_bucket{{{pairs}{comma}le=\"{bound}\"}} {value}");
}

/// Formats a number: whole numbers without a fraction, others with the fewest digits that restore the value.
fn number(value: f64) -> String {
    format!("{value}")
}

#[cfg(test)]
mod tests {
    use super::metrics::{BATCH_SIZE, BUILD_INFO, RX_PACKETS, UPTIME};
    use super::*;

    #[test]
    fn samples_are_grouped_in_registry_order() {
        let mut out = Exposition::new();
        out.set(&UPTIME, &[], 1.5);
        out.set(&RX_PACKETS, &["0"], 18_446_744_073.0);
        out.set(&BUILD_INFO, &["a \"b\" \\ \n"], 1.0);
        out.set(&RX_PACKETS, &["1"], 2.0);
        let text = out.into_text();
        let wanted = "# HELP oxide_rx_packets_total Packets taken from RX rings.\n\
                      # TYPE oxide_rx_packets_total counter\n\
                      oxide_rx_packets_total{queue=\"0\"} 18446744073\n\
                      oxide_rx_packets_total{queue=\"1\"} 2\n";
        assert!(text.starts_with(wanted), "{text}");
        assert!(text.contains("\noxide_uptime_seconds 1.5\n"), "{text}");
        assert!(text.ends_with("oxide_build_info{version=\"a \\\"b\\\" \\\\ \\n\"} 1\n"), "{text}");
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_the_count() {
        let mut sizes = Histogram::<8>::default();
        [1, 1, 2, 64].iter().for_each(|&n| sizes.record(n));
        let mut out = Exposition::new();
        out.histogram(&BATCH_SIZE, &["0"], &sizes, 2, 1.0);
        let text = out.into_text();
        for wanted in ["le=\"2\"} 3", "le=\"32\"} 3", "le=\"64\"} 4", "le=\"+Inf\"} 4", "_sum{queue=\"0\"} 68"] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert!(!text.contains("le=\"1\"") && text.ends_with("oxide_batch_size_count{queue=\"0\"} 4\n"), "{text}");
    }
}
