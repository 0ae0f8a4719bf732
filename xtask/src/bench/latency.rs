//! Measures round trips, first packets after idle time, idle cores, and restarts.

use super::Bench;
use super::comparison::shape;
use super::lab::Lab;
use super::record::{Measure, Record, Shape, short};
use super::subject::{self, Load, Subject};
use crate::process::{Result, failed};
use serde::Deserialize;
use std::time::Duration;

/// Holds the output of `oxide-lab probe`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Probe {
    lost: u32,
    p50_ns: f64,
    p99_ns: f64,
    p999_ns: f64,
}

/// Holds the output of `oxide-lab paced`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Paced {
    sent: u64,
    lost: u64,
    client_missed: u64,
    longest_gap_ms: f64,
    late_ms: f64,
    steal_ms: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Idle {
    user_ns: f64,
    kernel_ns: f64,
    idle_ns: f64,
}

const ROUND_TRIP: [Measure; 3] = [
    Measure::lower("round trip p50", "us"),
    Measure::lower("round trip p99", "us"),
    Measure::lower("round trip p99.9", "us"),
];
const FIRST: [Measure; 2] =
    [Measure::lower("first packet after idle p50", "us"), Measure::lower("first packet after idle p99", "us")];
const IDLE: Measure = Measure::lower("idle core", "%");

/// Names an echo server and the client that measures it.
struct EchoPair {
    subject: &'static str,
    client: &'static str,
}

impl Bench<'_> {
    /// Runs a tool of the lab in the outer namespace and parses its output.
    pub(super) fn tool<T: for<'a> Deserialize<'a>>(&self, lab: &Lab, arguments: &str, limit: Duration) -> Result<T> {
        let program = self.tools.lab.display().to_string();
        let mut argv = vec![program.as_str()];
        argv.extend(arguments.split_whitespace());
        let output = self.session.run("oxide-lab", &lab.outer.argv(&argv), limit)?;
        serde_json::from_str(output.stdout.trim())
            .or_else(|e| failed(format!("oxide-lab: invalid output {:?}: {e}", output.stdout)))
    }

    /// Starts `subject`, runs `work`, and stops the subject.
    pub(super) fn while_running<T>(
        &self,
        lab: &Lab,
        subject: &Subject,
        load: Load,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let forwarder = subject.start(self.session, lab, self.tools, load)?;
        let result = work();
        let output = if result.is_err() { forwarder.process.last_output() } else { String::new() };
        forwarder.stop(self.session, lab)?;
        match result {
            Err(crate::process::Error::Failed(text)) => failed(format!("{}: {text}{output}", subject.name)),
            answer => answer,
        }
    }

    fn probe(&self, lab: &Lab, pair: &EchoPair, more: &str) -> Result<Probe> {
        let subject = subject::named(pair.subject)?;
        let arguments = format!("probe --client {} {more}", pair.client);
        self.while_running(lab, subject, Load::new(64, 1), || self.tool(lab, &arguments, Duration::from_secs(60)))
    }

    /// Measures round trips while both ends busy-poll.
    pub(super) fn round_trips(&mut self, lab: &Lab) -> Result<()> {
        if !self.wanted("round trip") {
            return Ok(());
        }
        let ours = EchoPair { subject: "engine-echo", client: "xdp" };
        let theirs = EchoPair { subject: "socket-echo", client: "socket" };
        let more = format!("--count {}", if self.options.quick { 10_000 } else { 30_000 });
        self.compare(
            lab,
            (&ours, &theirs),
            &more,
            &ROUND_TRIP,
            "both ends busy-poll; the peer's client is a kernel socket",
        )?;
        if !self.options.quick {
            let bare = EchoPair { subject: "raw-echo", client: "xdp" };
            self.compare(lab, (&bare, &theirs), &more, &ROUND_TRIP, "lower bound: a bare loop on the engine's socket")?;
            let same = EchoPair { subject: "socket-echo", client: "xdp" };
            self.compare(lab, (&ours, &same), &more, &ROUND_TRIP, "both ends busy-poll; both clients are AF_XDP")?;
        }
        Ok(())
    }

    /// Measures the first packet after idle time, and the use of an idle core.
    pub(super) fn idleness(&mut self, lab: &Lab) -> Result<()> {
        if !self.wanted("idle") {
            return Ok(());
        }
        let ours = EchoPair { subject: "engine-echo", client: "xdp" };
        let theirs = EchoPair { subject: "raw-echo-poll", client: "xdp" };
        let more = if self.options.quick { "--count 50 --gap-us 20000" } else { "--count 200 --gap-us 20000" };
        let note = "20 ms without packets before each; the peer blocks in poll(2)";
        self.compare(lab, (&ours, &theirs), more, &FIRST, note)?;
        let mut shares = vec![];
        for _ in 0..self.pace.pairs {
            let subject = subject::named("engine-echo")?;
            let answer = self.while_running(lab, subject, Load::new(64, 1), || {
                // One answer shows that the echo runs. Then it goes to sleep.
                self.tool::<Probe>(lab, "probe --count 10", Duration::from_secs(60))?;
                self.session.cancel.sleep(Duration::from_millis(200))?;
                self.tool::<Idle>(lab, "idle --ms 1000", Duration::from_secs(20))
            });
            if let Some(idle) = self.unless_failed("idle core", answer)? {
                let all = idle.user_ns + idle.kernel_ns + idle.idle_ns;
                shares.push(100.0 * (all - idle.idle_ns) / all.max(1.0));
            }
        }
        self.records.push(Record::alone(IDLE, "engine-echo", &shares, &shape(Load::new(0, 0))));
        Ok(())
    }

    fn probes(&self, lab: &Lab, ours: &EchoPair, theirs: &EchoPair, more: &str) -> Result<Vec<(Probe, Probe)>> {
        let mut pairs = vec![];
        for _ in 0..self.pace.pairs {
            pairs.push((self.probe(lab, ours, more)?, self.probe(lab, theirs, more)?));
        }
        let (a, b) = pairs[0];
        self.log(format_args!(
            "{} p50 {} us, {} p50 {} us",
            ours.subject,
            short(a.p50_ns / 1e3),
            theirs.subject,
            short(b.p50_ns / 1e3)
        ));
        let lost: u32 = pairs.iter().map(|(a, b)| a.lost + b.lost).sum();
        if lost > 0 {
            self.log(format_args!("{lost} answers did not arrive within 200 ms and are not counted"));
        }
        Ok(pairs)
    }

    /// Compares probes of two echoes in alternation. Creates a record for each of `measures`: p50, p99 and p99.9.
    fn compare(
        &mut self,
        lab: &Lab,
        (ours, theirs): (&EchoPair, &EchoPair),
        more: &str,
        measures: &[Measure],
        note: &str,
    ) -> Result<()> {
        let answer = self.probes(lab, ours, theirs, more);
        let what = format!("{}, {} compared with {}", measures[0].name, ours.subject, theirs.subject);
        let Some(pairs) = self.unless_failed(&what, answer)? else { return Ok(()) };
        let values: [fn(&Probe) -> f64; 3] = [|p| p.p50_ns, |p| p.p99_ns, |p| p.p999_ns];
        let shape = Shape { mode: "veth, copy mode".to_owned(), frame: 64, flows: 1, queues: 1 };
        for (measure, value) in measures.iter().zip(values) {
            let pairs: Vec<_> = pairs.iter().map(|(a, b)| (value(a) / 1e3, value(b) / 1e3)).collect();
            self.records.push(Record::pairs(*measure, ours.subject, theirs.subject, &pairs, &shape).note(note));
        }
        Ok(())
    }
}

const GAP: [Measure; 2] = [Measure::lower("restart gap, handler", "ms"), Measure::lower("restart gap, queue", "ms")];
const LOST: [Measure; 2] =
    [Measure::lower("lost per restart, handler", "packets"), Measure::lower("lost per restart, queue", "packets")];
const OTHERS: Measure = Measure::lower("lost on the other queue", "packets");

impl Bench<'_> {
    /// Measures restarts under 50,000 packets per second: the gap that the engine reports, and the lost packets.
    pub(super) fn restarts(&mut self, lab: &Lab) -> Result<()> {
        if !self.wanted("restart") {
            return Ok(());
        }
        const RATE: u64 = 50_000;
        let load = Load::new(64, 256);
        for (n, name) in ["engine-restart-handler", "engine-restart-queue"].into_iter().enumerate() {
            let subject = subject::named(name)?;
            let (mut gaps, mut lost) = (vec![], vec![]);
            for _ in 0..self.pace.pairs {
                let forwarder = subject.start(self.session, lab, self.tools, load)?;
                let answer: Result<Paced> =
                    self.tool(lab, &format!("paced --echo --rate {RATE} --ms 2100"), Duration::from_secs(60));
                let output = forwarder.process.stdout();
                forwarder.stop(self.session, lab)?;
                let Some(paced) = self.unless_failed(name, answer)? else { continue };
                let reported: Vec<f64> =
                    output.lines().filter_map(|l| l.trim().parse().ok()).filter(|g: &f64| g.is_finite()).collect();
                lost.push(paced.lost.saturating_sub(paced.client_missed) as f64 / reported.len().max(1) as f64);
                self.log(format_args!(
                    "{name}: {} restarts, longest observed gap {} ms, {} of {} lost; generator late by at most {} ms, {} ms of \
                     the forwarder's core stolen",
                    reported.len(),
                    short(paced.longest_gap_ms),
                    paced.lost,
                    paced.sent,
                    short(paced.late_ms),
                    paced.steal_ms
                ));
                gaps.extend(reported);
            }
            let shape = shape(load);
            self.records.push(Record::alone(GAP[n], "engine-echo", &gaps, &shape).note("reported by the engine"));
            let note = format!("at {RATE} packets per second (RFC 6201)");
            self.records.push(Record::alone(LOST[n], "engine-echo", &lost, &shape).note(note));
        }
        Ok(())
    }

    /// Measures the loss on queue 1 while queue 0 restarts repeatedly.
    pub(super) fn other_queues(&mut self) -> Result<()> {
        if !self.wanted("restart") {
            return Ok(());
        }
        let load = Load { queues: 2, ..Load::new(64, 256) };
        let lab = Lab::create(self.session, 2)?;
        let subject = subject::named("engine-restart-queue")?;
        let mut lost = vec![];
        for _ in 0..self.pace.pairs {
            let answer = self.while_running(&lab, subject, load, || {
                self.tool::<Paced>(&lab, "paced --echo --queue 1 --rate 20000 --ms 2100", Duration::from_secs(60))
            });
            if let Some(paced) = self.unless_failed("the other queue", answer)? {
                lost.push(paced.lost.saturating_sub(paced.client_missed) as f64);
            }
        }
        self.log(format_args!("lost on queue 1 while queue 0 restarts: {lost:?}"));
        let note = "queue 0 is rebuilt every 500 ms; both queues on one core";
        self.records.push(Record::alone(OTHERS, "engine-echo", &lost, &shape(load)).note(note));
        Ok(())
    }
}
