//! Detects disturbances of a row: other programs on the two cores, the hypervisor, a late generator, pairs that
//! disagree. A disturbed row is measured again. If it is still disturbed, it is inconclusive and counts for no goal.

use super::Bench;
use super::record::{Record, short};
use crate::process::Result;
use std::fs;
use std::time::Instant;

/// Maximum share of a row's time in which a program waited for a core. The bench's own programs do not wait: each has
/// its own core.
const WAITING_MOST: f64 = 0.10;
/// Maximum share of the cores' time that the hypervisor may take. A quiet test machine loses 1 %.
const STOLEN_MOST: f64 = 0.05;
/// Maximum delay of the generator. Pauses of 10 ms come from the hypervisor and are in the note of each row.
const LATE_MOST_MS: f64 = 30.0;
/// Maximum ratio of the highest to the lowest value of pairs that agree.
const SPREAD_MOST: f64 = 1.5;
/// Number of cores: one for the generator and one for the forwarder.
const CORES: usize = 2;

/// Holds one sample of the machine.
struct Sample {
    at: Instant,
    /// Waiting time; `None` if the kernel has no pressure stall information (proc_pressure(5), CONFIG_PSI).
    waited_us: Option<u64>,
    stolen_ms: u64,
}

/// Holds the disturbances during a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Noise {
    /// Shares of the time.
    waiting: f64,
    stolen: f64,
    late_ms: f64,
}

impl Sample {
    fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let waited_us = waited_us(&read("/proc/pressure/cpu"));
        Self { at: Instant::now(), waited_us, stolen_ms: stolen_ms(&read("/proc/stat")) }
    }

    fn since(&self, earlier: &Self, late_ns: u64) -> Noise {
        let ms = (self.at - earlier.at).as_secs_f64() * 1e3;
        let waited = self.waited_us.zip(earlier.waited_us).map_or(0, |(now, then)| now.saturating_sub(then));
        Noise {
            waiting: waited as f64 / 1e3 / ms,
            stolen: self.stolen_ms.saturating_sub(earlier.stolen_ms) as f64 / ms / CORES as f64,
            late_ms: late_ns as f64 / 1e6,
        }
    }
}

/// Returns the microseconds in which a program waited for a CPU, since boot.
fn waited_us(pressure: &str) -> Option<u64> {
    pressure.lines().find(|line| line.starts_with("some"))?.rsplit_once("total=")?.1.trim().parse().ok()
}

/// Returns the milliseconds that the hypervisor took from the two cores since boot (proc_stat(5), `steal`; a tick is
/// 10 ms).
fn stolen_ms(stat: &str) -> u64 {
    let of = |cpu: usize| {
        let name = format!("cpu{cpu} ");
        let line = stat.lines().find_map(|line| line.strip_prefix(name.as_str())).unwrap_or_default();
        line.split_whitespace().nth(7).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0) * 10
    };
    (0..CORES).map(of).sum()
}

impl Noise {
    fn reason(self) -> Option<String> {
        let percent = |part: f64| short(part * 100.0);
        if self.waiting > WAITING_MOST {
            return Some(format!(
                "other programs used the cores: a program waited in {} % of the time",
                percent(self.waiting)
            ));
        }
        if self.stolen > STOLEN_MOST {
            return Some(format!("the hypervisor took {} % of the cores", percent(self.stolen)));
        }
        (self.late_ms > LATE_MOST_MS).then(|| format!("the generator was late by {} ms", short(self.late_ms)))
    }
}

/// Returns why the pairs of `record` disagree about which side of `bound` they are on.
pub(super) fn disagreement(record: &Record, bound: Option<f64>) -> Option<String> {
    let (what, least, most) = match (record.ratio_min, record.ratio_max) {
        (Some(least), Some(most)) => ("ratios", least, most),
        _ => ("values", record.value_min, record.value_max),
    };
    let wide = least > 0.0 && most / least > SPREAD_MOST;
    let both_sides = bound.is_none_or(|bound| least < bound && bound < most);
    (wide && both_sides)
        .then(|| format!("{what} of {} runs spread from {} to {}", record.runs, short(least), short(most)))
}

impl Bench<'_> {
    /// Measures a row, at most `tries` times, until it is undisturbed. With more than two tries its pairs must also
    /// agree. The last result is kept, with the reason if it is inconclusive.
    pub(super) fn row(
        &mut self,
        what: &str,
        tries: usize,
        mut measure: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let (first, missed) = (self.records.len(), self.not_run.len());
        for left in (0..tries).rev() {
            self.records.truncate(first);
            self.not_run.truncate(missed);
            self.late_ns = 0;
            let before = Sample::now();
            measure(self)?;
            let reason = Sample::now().since(&before, self.late_ns).reason();
            let rows = self.records.get_mut(first..).unwrap_or_default();
            let apart = || rows.iter().find_map(|record| disagreement(record, None)).filter(|_| tries > 2);
            let Some(again) = reason.clone().or_else(apart) else { return Ok(()) };
            if left > 0 {
                self.log(format_args!("{what}: {again}; measuring again"));
            } else {
                let reason = reason.unwrap_or_default();
                rows.iter_mut().for_each(|record| record.inconclusive.clone_from(&reason));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Measure, Shape};
    use super::*;
    use std::time::Duration;

    /// Values from two cores of an EPYC, ten seconds apart, with a build next to the bench, and from the quiet
    /// machine.
    const BUSY: [&str; 2] = [
        "some avg10=99.50 avg60=99.51 avg300=99.19 total=5055065729\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        "some avg10=99.41 avg60=99.50 avg300=99.20 total=5064998311\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    ];
    const STAT: [&str; 2] = [
        "cpu  1 2\ncpu0 44110 0 9902 61200 80 0 310 120 0 0\ncpu1 43001 0 9410 62700 75 0 290 98 0 0\n",
        "cpu  1 2\ncpu0 44900 0 9990 61210 80 0 330 135 0 0\ncpu1 43800 0 9490 62710 75 0 310 206 0 0\n",
    ];

    fn sample(at: Instant, pressure: &str, stat: &str) -> Sample {
        Sample { at, waited_us: waited_us(pressure), stolen_ms: stolen_ms(stat) }
    }

    #[test]
    fn other_programs_stolen_time_and_late_generator_are_noticed() {
        let (start, end) = (Instant::now(), Instant::now() + Duration::from_secs(10));
        let during = |pressure: [&str; 2], stat: [&str; 2], late_ns| {
            let before = sample(start, pressure[0], stat[0]);
            sample(end, pressure[1], stat[1]).since(&before, late_ns).reason().unwrap_or_default()
        };
        let quiet = [BUSY[0]; 2];
        assert_eq!(during(quiet, [STAT[0]; 2], 9_000_000), "");
        assert!(during(BUSY, [STAT[0]; 2], 0).contains("a program waited in 99.3 % of the time"));
        assert!(during(quiet, STAT, 0).contains("took 6.15 % of the cores"));
        assert!(during(quiet, [STAT[0]; 2], 48_000_000).contains("late by 48.0 ms"));
        // A kernel without the file reports nothing.
        assert_eq!(during(["", ""], [STAT[0]; 2], 0), "");
    }

    #[test]
    fn pairs_that_spread_over_bound_disagree() {
        let measure = Measure::higher("throughput", "Mpps");
        let record = |ratios: &[f64]| {
            let pairs: Vec<_> = ratios.iter().map(|ratio| (*ratio, 1.0)).collect();
            Record::pairs(measure, "relay", "quilkin", &pairs, &Shape::default())
        };
        let wide = record(&[0.15, 1.2, 3.9]);
        assert_eq!(disagreement(&wide, Some(1.7)).as_deref(), Some("ratios of 3 runs spread from 0.15 to 3.90"));
        assert!(disagreement(&wide, None).is_some());
        assert_eq!(disagreement(&wide, Some(4.0)), None, "every value is below the bound");
        assert_eq!(disagreement(&record(&[1.46, 1.55, 1.72]), Some(1.7)), None);
    }
}
