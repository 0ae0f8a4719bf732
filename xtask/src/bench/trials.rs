//! Measures the relay at fixed rates, open loop: throughput at a loss goal (RFC 2544), loss curve, latency and delay
//! variation at half of that throughput (RFC 8219), back-to-back frames (RFC 9004), and sessions (RFC 9693).
//!
//! `raw-echo` runs at the same rates: a bare loop loses only packets for which the machine is the cause, when the
//! hypervisor takes a core away for some milliseconds.

use super::Bench;
use super::comparison::shape;
use super::lab::Lab;
use super::record::{Measure, Record, short, spread};
use super::subject::{self, Load};
use crate::process::{Result, failed, io_error};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

const LOAD: Load = Load::new(64, 256);

const OVERLOAD: Measure = Measure::lower("dropped by the engine at overload", "packets");
const GOALS: [Measure; 2] =
    [Measure::higher("throughput at loss 1e-6", "Mpps"), Measure::higher("throughput at loss 0", "Mpps")];
const LOSS: Measure = Measure::lower("lost at 60 % of peak", "packets");
/// Load with rings that hold the packets of that rate while a core pauses for some milliseconds.
const DEEP: Load = Load { ring_size: 8192, ..LOAD };
const DEEP_LOSS: Measure = Measure::lower("lost at 60 % of peak, ring_size 8192", "packets");
const LATENCY: [Measure; 3] = [
    Measure::lower("latency at half of throughput p50", "us"),
    Measure::lower("latency at half of throughput p99", "us"),
    Measure::lower("latency at half of throughput p99.9", "us"),
];
const VARIATION: Measure = Measure::lower("delay variation at half of throughput", "us");
/// Points of the loss curve: share of the peak, and the measure.
const CURVE: [(f64, Measure); 6] = [
    (0.7, Measure::lower("loss at 70 % of peak", "%")),
    (0.8, Measure::lower("loss at 80 % of peak", "%")),
    (0.9, Measure::lower("loss at 90 % of peak", "%")),
    (1.0, Measure::lower("loss at 100 % of peak", "%")),
    (1.2, Measure::lower("loss at 120 % of peak", "%")),
    (1.5, Measure::lower("loss at 150 % of peak", "%")),
];
const BURST: Measure = Measure::higher("longest burst without loss", "frames");
const SET_UPS: Measure = Measure::higher("sessions set up", "k/s");
const HELD: Measure = Measure::higher("sessions held", "sessions");

/// Maximum number of sessions in the table of this measurement.
const TABLE: u32 = 65_536;

/// Holds the output of `oxide-lab throughput`.
#[derive(Debug, Deserialize)]
struct Throughput {
    saturated_pps: f64,
    /// Results for a loss of 1e-6, then of 0.
    goals: Vec<Goal>,
    trials: u32,
    steal_ms: u64,
    late_ns: u64,
}

#[derive(Debug, Deserialize)]
struct Goal {
    pps: f64,
}

/// Holds the output of `oxide-lab trial` for each rate.
#[derive(Clone, Copy, Debug, Deserialize)]
struct TrialOutcome {
    sent: u64,
    lost: u64,
    late_ns: u64,
    steal_ms: u64,
    min_ns: f64,
    p50_ns: f64,
    p99_ns: f64,
    p999_ns: f64,
}

/// Holds the output of `oxide-lab burst`.
#[derive(Debug, Deserialize)]
struct Burst {
    frames: f64,
    made_pps: f64,
}

/// Holds the output of `oxide-lab sessions`.
#[derive(Debug, Deserialize)]
struct Sessions {
    setups_per_s: f64,
    held: u64,
    held_again: u64,
}

/// Holds the needed fields of the relay's report.
#[derive(Debug, Default, Deserialize)]
struct RelayReport {
    state: String,
    totals: RelayTotals,
}

#[derive(Debug, Default, Deserialize)]
struct RelayTotals {
    drops: BTreeMap<String, u64>,
    rx_missed: u64,
}

impl Bench<'_> {
    /// Runs all measurements at fixed rates.
    pub(super) fn fixed_rates(&mut self, lab: &Lab) -> Result<()> {
        if (self.wanted("throughput at loss") || self.wanted("latency under load"))
            && let Some(peak) = self.overload(lab)?
        {
            let throughput = self.throughput(lab)?;
            self.at_rates(lab, peak, throughput)?;
        }
        if self.wanted("bursts") && !self.brief() {
            self.bursts(lab)?;
        }
        if self.wanted("sessions") && !self.brief() {
            self.set_ups(lab)?;
            self.table(lab)?;
        }
        Ok(())
    }

    /// Runs a tool of the lab against `name`, which it starts and stops.
    fn ask<T: for<'a> Deserialize<'a>>(&self, lab: &Lab, name: &str, load: Load, arguments: &str) -> Result<T> {
        let arguments = format!("{arguments} --frame {} --flows {} --ports {}", load.frame, load.flows, load.ports());
        self.while_running(lab, subject::named(name)?, load, || self.tool(lab, &arguments, Duration::from_secs(150)))
    }

    /// Measures the relay and then `raw-echo`.
    fn both<T: for<'a> Deserialize<'a>>(&mut self, lab: &Lab, arguments: &str) -> Result<Option<(T, T)>> {
        let answer = self.ask(lab, "relay", LOAD, arguments);
        let Some(ours) = self.unless_failed(&format!("relay, {arguments}"), answer)? else { return Ok(None) };
        let answer = self.ask(lab, "raw-echo", LOAD, arguments);
        let theirs = self.unless_failed(&format!("raw-echo, {arguments}"), answer)?;
        Ok(theirs.map(|theirs| (ours, theirs)))
    }

    /// Saturates the relay. Returns the maximum rate in packets per second, and records the drops by their place.
    fn overload(&mut self, lab: &Lab) -> Result<Option<f64>> {
        let answer = self.saturate(lab, subject::named("relay")?, LOAD);
        let Some(peak) = self.unless_failed("peak of the relay", answer)? else { return Ok(None) };
        let dropped = self.relay_drops();
        if let Some((drops, missed)) = self.unless_failed("the relay's report", dropped)? {
            let note = format!("and {missed} by the kernel, RX ring full");
            self.records.push(Record::alone(OVERLOAD, "relay", &[drops as f64], &shape(LOAD)).note(note));
        }
        Ok(Some(peak.mpps() * 1e6))
    }

    /// Returns the packets that the last relay dropped, and those that the kernel dropped before it.
    fn relay_drops(&self) -> Result<(u64, u64)> {
        let path = self.session.dir.join(subject::REPORT);
        let text = std::fs::read_to_string(&path).map_err(io_error(path.display()))?;
        let report: RelayReport =
            serde_json::from_str(&text).or_else(|e| failed(format!("{}: {e}", path.display())))?;
        // An earlier report was written before the load and contains no drop.
        if report.state != "stopped" {
            return failed(format!(
                "{}: the last report has the state {}; expected stopped",
                path.display(),
                report.state
            ));
        }
        Ok((report.totals.drops.values().sum(), report.totals.rx_missed))
    }

    /// Measures the throughput of RFC 2544 at two loss goals. Returns the rate of the stricter goal in packets per
    /// second.
    fn throughput(&mut self, lab: &Lab) -> Result<f64> {
        let (runs, arguments) = if self.options.quick {
            (1, "throughput --ms 400 --steps 5")
        } else {
            (3, "throughput --ms 1500 --steps 6")
        };
        let mut pairs = vec![];
        for _ in 0..runs {
            pairs.extend(self.both::<Throughput>(lab, arguments)?);
        }
        let sum = |value: fn(&Throughput) -> u64| pairs.iter().map(|(a, b)| value(a) + value(b)).sum::<u64>();
        let late = pairs.iter().map(|(a, b)| a.late_ns.max(b.late_ns)).max().unwrap_or_default();
        self.late_ns = self.late_ns.max(late);
        let note = format!(
            "one of three trials must pass; {} trials, in which {} ms of the forwarder's core were stolen and the generator was \
             late by at most {} ms",
            sum(|t| u64::from(t.trials)),
            sum(|t| t.steal_ms),
            short(late as f64 / 1e6)
        );
        let mut none = 0.0;
        for (n, measure) in GOALS.into_iter().enumerate() {
            let pps = |t: &Throughput| t.goals.get(n).map_or(0.0, |goal| goal.pps) / 1e6;
            let values: Vec<_> = pairs.iter().map(|(a, b)| (pps(a), pps(b))).collect();
            let record = Record::pairs(measure, "relay", "raw-echo", &values, &shape(LOAD)).note(note.clone());
            none = record.value_median * 1e6;
            let peaks: Vec<f64> = pairs.iter().map(|(a, _)| a.saturated_pps / 1e6).collect();
            self.log(format_args!(
                "relay, {}: {} Mpps of {} saturated; raw-echo {} Mpps",
                measure.name,
                short(record.value_median),
                short(spread(&peaks).0),
                short(record.peer_median.unwrap_or_default())
            ));
            self.records.push(record);
        }
        Ok(none)
    }

    /// Measures latency at half of the throughput, loss at 60 % of the peak, and the loss curve.
    fn at_rates(&mut self, lab: &Lab, peak: f64, throughput: f64) -> Result<()> {
        let half = (throughput / 2.0).max(peak / 20.0);
        let ms = if self.options.quick { 500 } else { 2000 };
        let sixty = format!("--rate {:.0}", peak * 0.6);
        let mut arguments = format!("trial --ms {ms} --rate {half:.0} {sixty}");
        if !self.options.quick {
            CURVE.iter().for_each(|(part, _)| arguments.push_str(&format!(" --rate {:.0}", peak * part)));
        }
        let (mut pairs, mut deep) = (vec![], vec![]);
        for _ in 0..self.pace.pairs {
            pairs.extend(self.both::<Vec<TrialOutcome>>(lab, &arguments)?);
            let answer = self.ask::<Vec<TrialOutcome>>(lab, "relay", DEEP, &format!("trial --ms {ms} {sixty}"));
            deep.extend(self.unless_failed(DEEP_LOSS.name, answer)?.into_iter().flatten());
        }
        let record = |measure: Measure, n: usize, value: &dyn Fn(&TrialOutcome) -> f64| {
            let trials = pairs.iter().filter_map(|(a, b)| Some((*a.get(n)?, *b.get(n)?)));
            let (ours, theirs): (Vec<TrialOutcome>, Vec<TrialOutcome>) = trials.unzip();
            let values: Vec<_> = ours.iter().map(value).zip(theirs.iter().map(value)).collect();
            Record::pairs(measure, "relay", "raw-echo", &values, &shape(LOAD)).note(remark(&ours, &theirs))
        };
        let mut records = vec![];
        let parts: [fn(&TrialOutcome) -> f64; 3] = [|o| o.p50_ns, |o| o.p99_ns, |o| o.p999_ns];
        for (measure, value) in LATENCY.into_iter().zip(parts) {
            records.push(record(measure, 0, &|o| value(o) / 1e3));
        }
        records.push(record(VARIATION, 0, &|o| (o.p999_ns - o.min_ns) / 1e3));
        records.push(record(LOSS, 1, &|o| o.lost as f64));
        let lost: Vec<f64> = deep.iter().map(|o| o.lost as f64).collect();
        records.push(Record::alone(DEEP_LOSS, "relay", &lost, &shape(DEEP)).note(remark(&deep, &[])));
        for (n, (_, measure)) in CURVE.into_iter().enumerate().filter(|_| !self.options.quick) {
            records.push(record(measure, n + 2, &|o| 100.0 * o.lost as f64 / o.sent.max(1) as f64));
        }
        let late = pairs.iter().flat_map(|(a, b)| a.iter().chain(b)).chain(&deep).map(|o| o.late_ns).max();
        self.late_ns = self.late_ns.max(late.unwrap_or_default());
        for r in &records {
            self.log(format_args!("relay, {}: {} {}", r.measure, short(r.value_median), r.unit));
        }
        self.records.extend(records);
        Ok(())
    }

    fn bursts(&mut self, lab: &Lab) -> Result<()> {
        let (runs, arguments) = if self.options.quick { (1, "burst --bursts 3") } else { (self.pace.pairs, "burst") };
        let mut pairs = vec![];
        for _ in 0..runs {
            pairs.extend(self.both::<Burst>(lab, arguments)?);
        }
        let made: Vec<f64> = pairs.iter().map(|(a, _)| a.made_pps / 1e6).collect();
        let note = format!(
            "sent at {} Mpps; each length several times in a row, with two repetitions each",
            short(spread(&made).0)
        );
        let values: Vec<_> = pairs.iter().map(|(a, b)| (a.frames, b.frames)).collect();
        let record = Record::pairs(BURST, "relay", "raw-echo", &values, &shape(LOAD)).note(note);
        self.log(format_args!("relay, longest burst without loss: {} frames", short(record.value_median)));
        self.records.push(record);
        Ok(())
    }

    /// Measures new sessions per second without loss.
    fn set_ups(&mut self, lab: &Lab) -> Result<()> {
        let (runs, flows, arguments) = if self.options.quick {
            (1, 1 << 19, "sessions --each 32768 --steps 5")
        } else {
            (self.pace.pairs, 1 << 20, "sessions --each 49152 --steps 6")
        };
        let load = Load::new(64, flows);
        let mut rates = vec![];
        for _ in 0..runs {
            let answer = self.ask::<Sessions>(lab, "relay", load, arguments);
            rates.extend(self.unless_failed("sessions set up", answer)?.map(|s| s.setups_per_s / 1e3));
        }
        let note = "every packet begins a session, none is lost; one of three trials must pass";
        let record = Record::alone(SET_UPS, "relay", &rates, &shape(load)).note(note);
        self.log(format_args!("relay: {} thousand sessions set up per second", short(record.value_median)));
        self.records.push(record);
        Ok(())
    }

    /// Sends twice as many flows as the table holds. Measures how many are served, and how many are served again
    /// later.
    fn table(&mut self, lab: &Lab) -> Result<()> {
        let load = Load { capacity: TABLE, ..Load::new(64, 2 * TABLE) };
        let runs = if self.options.quick { 1 } else { 3 };
        let (mut held, mut again) = (vec![], vec![]);
        for _ in 0..runs {
            let answer = self.ask::<Sessions>(lab, "relay", load, "sessions --steps 0 --top 100000");
            if let Some(sessions) = self.unless_failed("sessions held", answer)? {
                held.push(sessions.held as f64);
                again.push(sessions.held_again.to_string());
            }
        }
        let note = format!("{TABLE} configured, {} flows; when all flows repeat: {}", 2 * TABLE, again.join(", "));
        self.log(format_args!("relay: {held:?} sessions held; {note}"));
        self.records.push(Record::alone(HELD, "relay", &held, &shape(load)).note(note));
        Ok(())
    }
}

/// Returns the note for trials of the subject and the peer.
fn remark(ours: &[TrialOutcome], theirs: &[TrialOutcome]) -> String {
    let both = || ours.iter().chain(theirs);
    let sent: u64 = ours.iter().map(|o| o.sent).sum();
    let late = both().map(|o| o.late_ns).max().unwrap_or_default();
    let stolen: u64 = both().map(|o| o.steal_ms).sum();
    format!(
        "{sent} sent, open loop, timed from each packet's due time; generator late by at most {} ms, {stolen} ms of the forwarder's \
         core stolen",
        short(late as f64 / 1e6)
    )
}
