//! Measures the cost of a packet over flows, frame size, relay entries, queues, and time.

use super::Bench;
use super::comparison::shape;
use super::lab::Lab;
use super::record::{Measure, Record, Shape, short};
use super::sample::Saturated;
use super::subject::{self, Load};
use crate::process::{Result, failed};
use serde::Deserialize;
use std::time::{Duration, Instant};

const THROUGHPUT: Measure = Measure::higher("throughput as work grows", "Mpps");
const USER: Measure = Measure::lower("user side as work grows", "ns/pkt");

/// Load of the relay that all others are compared with.
const BASE: Load = Load::new(64, 256);

const POINTS: &[(Load, bool)] = &[
    (Load::new(64, 65_536), true),
    (Load::new(64, 1), false),
    (Load::new(64, 4096), false),
    (Load::new(64, 1 << 20), false),
    (Load::new(256, 256), false),
    (Load::new(1400, 256), false),
    (Load { entries: 10, ..BASE }, false),
    (Load { entries: 100, ..BASE }, false),
    (Load { entries: 1000, ..BASE }, false),
];

impl Bench<'_> {
    /// Compares the relay at one load with the relay at another, in alternation.
    pub(super) fn scaling(&mut self, lab: &Lab) -> Result<()> {
        if !self.wanted("scaling") {
            return Ok(());
        }
        for &(load, quick) in POINTS {
            if self.brief() && !quick {
                continue;
            }
            let what = format!("relay, {} B, {} flows, {} entries", load.frame, load.flows, load.entries);
            let answer = self.point(lab, load, &what);
            if let Some(records) = self.unless_failed(&what, answer)? {
                self.records.extend(records);
            }
        }
        Ok(())
    }

    fn point(&self, lab: &Lab, load: Load, what: &str) -> Result<Vec<Record>> {
        let relay = subject::named("relay")?;
        let mut pairs = vec![];
        for _ in 0..self.pace.pairs {
            pairs.push((self.saturate(lab, relay, load)?, self.saturate(lab, relay, BASE)?));
        }
        let of = |value: fn(&Saturated) -> f64| pairs.iter().map(|(a, b)| (value(a), value(b))).collect::<Vec<_>>();
        let peer = "relay, 64 B, 256 flows";
        let note = if load.entries > 1 { format!("{} relay entries", load.entries) } else { String::new() };
        let records = vec![
            Record::pairs(THROUGHPUT, "relay", peer, &of(Saturated::mpps), &shape(load)).note(note.clone()),
            Record::pairs(USER, "relay", peer, &of(Saturated::user_ns), &shape(load)).note(note),
        ];
        let [rate, user] = [&records[0], &records[1]].map(|r| r.ratio_median.map(short).unwrap_or_default());
        self.log(format_args!("{what}: {rate} x the rate, {user} x the user side of {peer}"));
        Ok(records)
    }

    /// Measures 1, 2 and 4 queues on one core, with load on every queue. Live frames reach only the queue of the
    /// sender's CPU, so AF_XDP sockets send, one for each queue. They send about as much as one core forwards.
    pub(super) fn queues(&mut self) -> Result<()> {
        if !self.wanted("scaling") || self.brief() {
            return Ok(());
        }
        let relay = subject::named("relay")?;
        let single = Lab::create(self.session, 1)?;
        for queues in [2, 4] {
            let lab = Lab::create(self.session, queues)?;
            let load = Load { queues, ..BASE };
            let what = format!("relay with {queues} queues");
            let mut pairs = vec![];
            for _ in 0..self.pace.pairs {
                let many = self.saturate_with(&lab, relay, load, &["--sockets", &queues.to_string()]);
                let one = self.saturate_with(&single, relay, BASE, &["--sockets", "1"]);
                if let (Some(many), Some(one)) = (self.unless_failed(&what, many)?, self.unless_failed(&what, one)?) {
                    pairs.push((many, one));
                }
            }
            let of = |value: fn(&Saturated) -> f64| pairs.iter().map(|(a, b)| (value(a), value(b))).collect::<Vec<_>>();
            let offered: Vec<f64> = pairs.iter().map(|(many, _)| many.offered as f64 / many.seconds / 1e6).collect();
            let note = format!(
                "all actors on core 1; AF_XDP sockets offer {} Mpps, equally on all queues, and on one queue to the peer",
                short(super::record::spread(&offered).0)
            );
            let peer = "relay with 1 queue";
            let records = [
                Record::pairs(THROUGHPUT, "relay", peer, &of(Saturated::mpps), &shape(load)).note(note.clone()),
                Record::pairs(USER, "relay", peer, &of(Saturated::user_ns), &shape(load)).note(note),
            ];
            let [rate, user] = [&records[0], &records[1]].map(|r| r.ratio_median.map(short).unwrap_or_default());
            self.log(format_args!("{what}: {rate} x the rate, {user} x the user side of one"));
            self.records.extend(records);
        }
        Ok(())
    }
}

/// Holds the needed fields of `oxide sim --json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Simulated {
    sent: u64,
    packets_per_second: f64,
}

const HOURS: Measure = Measure::lower("memory at the end of a long run", "MB");
const RATE: Measure = Measure::higher("simulated relay", "Mpps");

impl Bench<'_> {
    /// Runs the relay on the in-memory port: its memory must not grow, and every packet must be accounted for.
    pub(super) fn hours(&mut self) -> Result<()> {
        if !self.wanted("hours") || self.brief() {
            return Ok(());
        }
        // A run of 10^9 packets takes a quarter of an hour, so it must be requested by name.
        let packets: u64 = match (self.options.quick, self.options.names.is_empty()) {
            (true, _) => 10_000_000,
            (false, true) => 100_000_000,
            (false, false) => 1_000_000_000,
        };
        self.log(format_args!("{packets} packets through the relay on the in-memory port"));
        let answer = self.simulate(packets, Duration::from_secs(packets / 500_000 + 60));
        if let Some((report, tenth, end)) = self.unless_failed("a long run", answer)? {
            let shape = Shape { mode: "in-memory port".to_owned(), frame: 0, flows: 0, queues: 1 };
            let note = format!(
                "compared with the memory after a tenth of the run; {} packets, all checks passed",
                report.sent
            );
            let pair = [(end as f64 / 1e6, tenth as f64 / 1e6)];
            self.log(format_args!("memory {} MB after a tenth, {} MB at the end", tenth / 1_000_000, end / 1_000_000));
            self.records.push(Record::pairs(HOURS, "relay", "itself, early", &pair, &shape).note(note));
            let rate = report.packets_per_second / 1e6;
            self.records
                .push(Record::alone(RATE, "relay", &[rate], &shape).note("one core, including the simulated kernel"));
        }
        Ok(())
    }

    /// Returns the report, and the resident bytes after a tenth of the packets and shortly before the end.
    fn simulate(&self, packets: u64, limit: Duration) -> Result<(Simulated, u64, u64)> {
        let program = self.tools.oxide.display().to_string();
        let count = packets.to_string();
        let argv = [
            "taskset",
            "-c",
            "1",
            &program,
            "sim",
            "--handler",
            "relay",
            "--queues",
            "1",
            "--packets",
            &count,
            "--json",
        ];
        let mut process = self.session.spawn("sim", &argv)?;
        let (start, mut seen, mut looks) = (Instant::now(), vec![], Instant::now());
        let status = loop {
            if let Some(status) = process.poll() {
                break status;
            }
            if start.elapsed() > limit {
                return failed(format!("{packets} packets took longer than {limit:?}"));
            }
            if looks.elapsed() > Duration::from_millis(100) {
                looks = Instant::now();
                seen.extend(resident(process.pid()));
            }
            self.session.cancel.sleep(Duration::from_millis(5))?;
        };
        if !status.success() {
            return failed(format!("oxide sim ended with {status}{}", process.last_output()));
        }
        let report: Simulated =
            serde_json::from_str(&process.stdout()).or_else(|e| failed(format!("oxide sim: {e}")))?;
        match (seen.get(seen.len() / 10), seen.last()) {
            (Some(tenth), Some(end)) => Ok((report, *tenth, *end)),
            _ => failed("the run was too short to measure its memory"),
        }
    }
}

/// Returns the resident bytes of a process (proc_pid_statm(5)).
fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
