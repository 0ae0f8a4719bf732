//! Holds the results of a bench: each record has a measure, a subject, a peer, and the spread of the values. Tables
//! and JSON are made of records.

use crate::process::{Result, failed, io_error};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Names the better direction of a measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// Higher is better, such as packets.
    Higher,
    /// Lower is better, such as time.
    Lower,
}

/// Describes machine, time and build of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct About {
    /// Processor model and number of CPUs.
    pub(crate) machine: String,
    pub(crate) kernel: String,
    /// Commit (with `+` if the tree was changed) and compiler.
    pub(crate) build: String,
    /// Date in UTC.
    pub(crate) date: String,
    /// Command that produced the figures.
    pub(crate) command: String,
}

/// Describes the packets of a measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Driver and XDP mode, or a description if there is none.
    pub(crate) mode: String,
    /// Size of a frame in bytes, without FCS; 0 if there are none.
    pub(crate) frame: u32,
    pub(crate) flows: u32,
    pub(crate) queues: u32,
}

/// Holds one measure of one subject, compared with a peer or alone. The JSON keys are stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) measure: String,
    pub(crate) subject: String,
    /// Name of the peer; empty if there is none.
    pub(crate) peer: String,
    /// Ratio of the subject's value to the peer's, within a pair. `None` without a peer, or if a value of the peer is
    /// zero.
    pub(crate) ratio_median: Option<f64>,
    pub(crate) ratio_min: Option<f64>,
    pub(crate) ratio_max: Option<f64>,
    /// Number of pairs, or of single runs.
    pub(crate) runs: usize,
    pub(crate) unit: String,
    pub(crate) better: Better,
    /// Value of the subject.
    pub(crate) value_median: f64,
    pub(crate) value_min: f64,
    pub(crate) value_max: f64,
    pub(crate) peer_median: Option<f64>,
    #[serde(flatten)]
    pub(crate) shape: Shape,
    /// Note for the reader; may be empty.
    pub(crate) note: String,
    /// Reason why the row is disturbed even after a repetition; empty if it is not.
    #[serde(default)]
    pub(crate) inconclusive: String,
    #[serde(flatten)]
    pub(crate) about: About,
}

/// Returns median, minimum and maximum; all are zero without values.
pub(crate) fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else { return (0.0, 0.0, 0.0) };
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
    (median, *least, *most)
}

/// Holds name, unit and direction of a measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

impl Measure {
    pub(crate) const fn higher(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, better: Better::Higher }
    }

    pub(crate) const fn lower(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, better: Better::Lower }
    }
}

impl Record {
    /// Creates a record from alternating pairs (subject's value, peer's value). Each ratio is taken within its pair.
    pub(crate) fn pairs(measure: Measure, subject: &str, peer: &str, pairs: &[(f64, f64)], shape: &Shape) -> Self {
        // If a peer's value is zero, no ratio is reported: the ratios of the other pairs alone would mislead.
        let whole = pairs.iter().all(|(_, p)| *p != 0.0);
        let ratios: Vec<f64> = pairs.iter().filter(|_| whole).map(|(s, p)| s / p).collect();
        let (median, least, most) = spread(&ratios);
        let some = |ratio| (!ratios.is_empty()).then_some(ratio);
        let values: Vec<f64> = pairs.iter().map(|(s, _)| *s).collect();
        let peers: Vec<f64> = pairs.iter().map(|(_, p)| *p).collect();
        Self {
            peer: peer.to_owned(),
            ratio_median: some(median),
            ratio_min: some(least),
            ratio_max: some(most),
            peer_median: Some(spread(&peers).0),
            ..Self::alone(measure, subject, &values, shape)
        }
    }

    /// Creates a record without a peer.
    pub(crate) fn alone(measure: Measure, subject: &str, values: &[f64], shape: &Shape) -> Self {
        let (value_median, value_min, value_max) = spread(values);
        Self {
            measure: measure.name.to_owned(),
            subject: subject.to_owned(),
            peer: String::new(),
            ratio_median: None,
            ratio_min: None,
            ratio_max: None,
            runs: values.len(),
            unit: measure.unit.to_owned(),
            better: measure.better,
            value_median,
            value_min,
            value_max,
            peer_median: None,
            shape: shape.clone(),
            note: String::new(),
            inconclusive: String::new(),
            about: About::default(),
        }
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Returns whether the subject is better, by the median; `None` without a peer.
    pub(crate) fn wins(&self) -> Option<bool> {
        self.ratio_median.map(|ratio| if self.better == Better::Higher { ratio >= 1.0 } else { ratio <= 1.0 })
    }
}

impl About {
    /// Describes this machine and this checkout now.
    pub(crate) fn here() -> Self {
        let line = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).current_dir(super::root()).output();
            output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
        };
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, n)| n);
        let count = cpus.lines().filter(|l| l.starts_with("processor")).count();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let changed = if line("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty() { "" } else { "+" };
        let commit = line("git", &["rev-parse", "--short=12", "HEAD"]);
        Self {
            machine: format!("{model}, {count} CPUs"),
            kernel: kernel.trim().to_owned(),
            build: format!("{commit}{changed}, {}, release", line("rustc", &["--version"])),
            date: line("date", &["-u", "+%Y-%m-%d %H:%M"]),
            command: command(std::env::args().skip(1)),
        }
    }
}

/// Returns the command for the same figures, without the output file.
fn command(mut arguments: impl Iterator<Item = String>) -> String {
    let mut text = "cargo xtask".to_owned();
    while let Some(argument) = arguments.next() {
        if argument == "--json" {
            arguments.next();
        } else {
            let _ = write!(text, " {argument}");
        }
    }
    text
}

/// Formats a number with three significant digits.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// Formats all records as a text table.
pub(crate) fn table(records: &[Record]) -> String {
    let mut text = format!(
        "{:<26} {:<22} {:<26} {:>7} {:>6} {:>9} {:>9} {:<8} {:>6} {:>15} {:>4}\n",
        "measure", "subject", "peer", "frame", "flows", "value", "peer's", "unit", "ratio", "(min-max)", "runs"
    );
    for r in records {
        let number = |n: Option<f64>| n.map(short).unwrap_or_default();
        let range = match (r.ratio_min, r.ratio_max) {
            (Some(least), Some(most)) => format!("({}-{})", short(least), short(most)),
            _ if r.runs > 1 => format!("({}-{})", short(r.value_min), short(r.value_max)),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "{:<26} {:<22} {:<26} {:>7} {:>6} {:>9} {:>9} {:<8} {:>6} {range:>15} {:>4}{}{}",
            r.measure,
            r.subject,
            r.peer,
            r.shape.frame,
            r.shape.flows,
            short(r.value_median),
            number(r.peer_median),
            r.unit,
            number(r.ratio_median),
            r.runs,
            if r.note.is_empty() { "" } else { "   " },
            r.note,
        );
    }
    text
}

/// Writes the records as a JSON array.
pub(crate) fn write_json(path: &Path, records: &[Record]) -> Result<()> {
    let text = serde_json::to_string_pretty(records).or_else(|e| failed(format!("records as JSON: {e}")))?;
    std::fs::write(path, text + "\n").map_err(io_error(path.display()))
}

/// Reads the records that [`write_json`] wrote.
pub(crate) fn read_json(path: &Path) -> Result<Vec<Record>> {
    let text = std::fs::read_to_string(path).map_err(io_error(path.display()))?;
    serde_json::from_str(&text).or_else(|e| failed(format!("{}: not the JSON of a bench: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PPS: Measure = Measure::higher("throughput", "Mpps");

    #[test]
    fn command_is_recorded_without_output_file() {
        let recorded = |line: &str| command(line.split_whitespace().map(str::to_owned));
        assert_eq!(recorded("bench --peers all --json a.json relay"), "cargo xtask bench --peers all relay");
        assert_eq!(recorded("bench --json"), "cargo xtask bench");
        assert_eq!(recorded("bench"), "cargo xtask bench");
    }

    #[test]
    fn ratios_are_taken_within_pairs() {
        // The machine became twice as slow after the second pair; the ratio does not change.
        let pairs = [(1.0, 2.0), (1.1, 2.2), (0.5, 1.0), (0.6, 1.2), (0.5, 0.8)];
        let record = Record::pairs(PPS, "a", "b", &pairs, &Shape::default());
        assert_eq!((record.ratio_median, record.runs), (Some(0.5), 5));
        assert_eq!((record.ratio_min, record.ratio_max), (Some(0.5), Some(0.625)));
        assert_eq!(record.wins(), Some(false));
    }

    #[test]
    fn json_has_documented_keys() {
        let record = Record::pairs(PPS, "a", "b", &[(1.0, 1.0)], &Shape { frame: 64, ..Shape::default() });
        let json = serde_json::to_value(&record).unwrap_or_default();
        for key in "measure subject peer ratio_median ratio_min ratio_max runs unit value_median mode frame flows \
                    machine kernel build date command"
            .split_whitespace()
        {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(serde_json::from_value::<Record>(json).ok(), Some(record));
    }

    #[test]
    fn median_of_even_and_none() {
        assert_eq!(spread(&[3.0, 1.0, 2.0, 10.0]), (2.5, 1.0, 10.0));
        assert_eq!(spread(&[]), (0.0, 0.0, 0.0));
    }
}
