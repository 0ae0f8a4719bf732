//! Measures the machine without a forwarder: the maximum rate of the generator, and the pauses of a core.

use super::Bench;
use super::comparison::{LARGE, SMALL, shape};
use super::lab::Lab;
use super::record::{Measure, Record, Shape, short};
use super::subject;
use crate::process::Result;
use serde::Deserialize;
use std::time::Duration;

const CEILING: Measure = Measure::higher("generator ceiling", "Mpps");
const PAUSE: Measure = Measure::lower("longest pause of a bare spin", "ms");

/// Holds the output of `oxide-lab pauses`.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Pauses {
    seconds: f64,
    pauses: u64,
    paused_ns: f64,
    longest_ns: f64,
}

impl Bench<'_> {
    /// Measures the maximum rate of the generator, counted at an XDP drop on its far side.
    pub(super) fn ceiling(&mut self, lab: &Lab) -> Result<()> {
        if !self.wanted("generator") && !self.wants_comparison() {
            return Ok(());
        }
        let subject = subject::named("sink")?;
        for load in [SMALL, LARGE] {
            let sink = subject.start(self.session, lab, self.tools, load)?;
            // Nothing returns: the packets received by vb are read from the far namespace.
            let far = format!("/proc/{}/net/dev", lab.inner.pid());
            self.session.cancel.sleep(Duration::from_millis(300))?;
            let sample = self.saturate_running(lab, load, &["--ready-ms", "0", "--far", &far]);
            sink.stop(self.session, lab)?;
            if let Some(sample) = self.unless_failed("generator ceiling", sample)? {
                self.log(format_args!("generator ceiling at {} B: {} Mpps", load.frame, short(sample.mpps())));
                self.records.push(Record::alone(CEILING, "generator", &[sample.mpps()], &shape(load)));
            }
        }
        Ok(())
    }

    /// Measures how long the forwarder's core pauses without our programs. A ring must hold the packets of such a
    /// pause.
    pub(super) fn pauses(&mut self, lab: &Lab) -> Result<()> {
        if !["pauses of a bare spin", "throughput at loss", "latency under load"]
            .into_iter()
            .any(|name| self.wanted(name))
        {
            return Ok(());
        }
        let arguments = if self.options.quick { "pauses --ms 1000" } else { "pauses --ms 2000" };
        let mut runs = vec![];
        for _ in 0..self.pace.pairs {
            let answer = self.tool::<Pauses>(lab, arguments, Duration::from_secs(20));
            runs.extend(self.unless_failed("pauses of a bare spin", answer)?);
        }
        let sum = |value: fn(&Pauses) -> f64| runs.iter().map(value).sum::<f64>();
        let note = format!(
            "{} pauses over 0.5 ms in {} s, {} ms in total: a lower bound for every forwarder on this core",
            runs.iter().map(|run| run.pauses).sum::<u64>(),
            short(sum(|run| run.seconds)),
            short(sum(|run| run.paused_ns) / 1e6)
        );
        let longest: Vec<f64> = runs.iter().map(|run| run.longest_ns / 1e6).collect();
        let shape = Shape { mode: "no packets, both cores spin".to_owned(), ..Shape::default() };
        let record = Record::alone(PAUSE, "bare spin", &longest, &shape).note(note);
        self.log(format_args!("longest pause of a bare spin: {} ms; {}", short(record.value_median), record.note));
        self.records.push(record);
        Ok(())
    }
}
