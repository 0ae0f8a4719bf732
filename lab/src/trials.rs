//! Runs trials: a number of frames at a rate, created by the kernel's live-frame loop (`bpf/generate.bpf.c`), counted
//! and timed at the far side (`bpf/count.bpf.c`). The loop is open: a frame's time begins when it is due, so a late
//! generator shows as latency and not as a smaller load.

use crate::cpu::{self, CpuTime, Meter};
use crate::figures::Percentiles;
use crate::programs::{Counter, Generator, Order, TrialControl};
use crate::testbed::TestbedArgs;
use crate::times;
use crate::{Error, Result, saturate};
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Holds the result of a trial.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct TrialOutcome {
    /// Requested packets per second; 0 means the generator's maximum.
    pub(crate) asked_pps: f64,
    /// Packets per second that the generator sent.
    pub(crate) made_pps: f64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Largest delay of a frame in nanoseconds, caused by a pause of the generator's core.
    pub(crate) late_ns: u64,
    /// Time that the hypervisor took from the forwarder's CPU, from proc_stat(5), in steps of 10 ms.
    pub(crate) steal_ms: u64,
    /// Duration of the window in which frames were sent.
    pub(crate) seconds: f64,
    #[serde(flatten)]
    pub(crate) latency: Percentiles,
    /// Time of the forwarder's core.
    pub(crate) core: CpuTime,
}

impl TrialOutcome {
    /// Returns the share of lost packets.
    pub(crate) fn loss(&self) -> f64 {
        if self.sent == 0 { 1.0 } else { self.lost as f64 / self.sent as f64 }
    }
}

/// Holds a generator that waits for orders, and the counters of the far side.
pub(crate) struct Trials {
    orders: TrialControl,
    counters: Vec<Counter>,
    meter: Meter,
    forwarder_cpu: u32,
    last: u64,
}

/// Time without a packet after which no more packets are expected.
const SILENCE: Duration = Duration::from_millis(20);

impl Trials {
    /// Starts the generator's loop, and waits until the forwarder delivers a packet.
    pub(crate) fn start(testbed: &TestbedArgs) -> Result<Self> {
        cpu::pin(testbed.cpu as usize)?;
        let mut generator = Generator::load(testbed.shape(), saturate::ifindex(&testbed.out)?, true)?;
        let counters = testbed.counters()?;
        let orders = generator.orders()?;
        std::thread::Builder::new()
            .name("generator".to_owned())
            .spawn(move || {
                // There is only one call: each waits about 25 ms for other CPUs. It ends with the process.
                while generator.send(u32::MAX).is_ok() {}
            })
            .map_err(Error::io("cannot start the generator"))?;
        let meter = Meter::start(testbed.forwarder_cpu)?;
        let mut trials = Self { orders, counters, meter, forwarder_cpu: testbed.forwarder_cpu, last: 0 };
        trials.wait_until_ready(u64::from(testbed.flows), Duration::from_millis(testbed.ready_ms))?;
        Ok(trials)
    }

    /// Sends one packet at a time until one arrives. Then sends each flow once, slowly.
    fn wait_until_ready(&mut self, flows: u64, within: Duration) -> Result<()> {
        let start = Instant::now();
        while self.run(&Order { pps: 10_000.0, frames: 1, first: 0 })?.received == 0 {
            if start.elapsed() > within {
                return Err(Error::Text(format!("forwarder: no packet delivered within {within:?}")));
            }
        }
        // Now sessions exist and neighbours are known. The trial itself creates the sessions of further flows.
        self.run(&Order { pps: 50_000.0, frames: flows.min(65_536), first: 0 }).map(drop)
    }

    fn seen(&self) -> Result<u64> {
        Counter::all(&self.counters).map(|seen| seen.packets)
    }

    fn times(&self) -> Result<Vec<u64>> {
        let mut table = vec![0; times::BUCKETS];
        for counter in &self.counters {
            counter.add_times(&mut table)?;
        }
        Ok(table)
    }

    /// Runs one trial to its end. Its limit is twice the expected time plus a second.
    pub(crate) fn run(&mut self, order: &Order) -> Result<TrialOutcome> {
        let pps = if order.pps > 0.0 { order.pps } else { 100_000.0 };
        let within = Duration::from_secs_f64(2.0 * order.frames as f64 / pps + 1.0);
        self.run_within(order, within)
    }

    /// Sends at the generator's maximum for `time`.
    pub(crate) fn saturate(&mut self, time: Duration) -> Result<TrialOutcome> {
        self.run_within(&Order { pps: 0.0, frames: u64::MAX, first: 0 }, time)
    }

    fn run_within(&mut self, order: &Order, within: Duration) -> Result<TrialOutcome> {
        self.last += 1;
        let (seen, times, steal) = (self.seen()?, self.times()?, cpu::steal_ms(self.forwarder_cpu));
        self.orders.give(self.last, order)?;
        let (look, start) = (self.meter.sample()?, Instant::now());
        let due = if order.pps > 0.0 { order.frames as f64 / order.pps } else { 0.0 };
        let mut pause = Duration::from_secs_f64(due).min(within);
        loop {
            std::thread::sleep(pause);
            let progress = self.orders.progress(self.last)?;
            if progress.sent >= order.frames || start.elapsed() >= within {
                break;
            }
            pause = Duration::from_millis(1);
        }
        let core = self.meter.sample()?.since(look);
        self.orders.stop()?;
        self.wait_for_silence(seen)?;
        let progress = self.orders.progress(self.last)?;
        if progress.sent == 0 {
            return Err(Error::Text("generator: it does not run".to_owned()));
        }
        let received = self.seen()? - seen;
        let table: Vec<u64> = self.times()?.iter().zip(&times).map(|(now, before)| now - before).collect();
        let seconds = (progress.end - progress.start) as f64 / 1e9;
        Ok(TrialOutcome {
            asked_pps: order.pps,
            made_pps: progress.sent as f64 / seconds.max(1e-9),
            sent: progress.sent,
            received,
            lost: progress.sent.saturating_sub(received),
            late_ns: progress.late,
            steal_ms: cpu::steal_ms(self.forwarder_cpu).saturating_sub(steal),
            seconds,
            latency: times::percentiles(&table),
            core,
        })
    }

    /// Waits until the forwarder's rings are empty.
    fn wait_for_silence(&self, before: u64) -> Result<()> {
        let (mut seen, mut since, start) = (before, Instant::now(), Instant::now());
        while since.elapsed() < SILENCE && start.elapsed() < Duration::from_secs(1) {
            std::thread::sleep(Duration::from_millis(2));
            let now = self.seen()?;
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
        Ok(())
    }
}

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    testbed: TestbedArgs,
    /// Rate in packets per second, 0 for the maximum; one trial for each rate.
    #[arg(long = "rate", required = true)]
    rates: Vec<f64>,
    /// Duration of each trial in milliseconds.
    #[arg(long, default_value_t = 1000)]
    ms: u64,
}

/// Runs `oxide-lab trial` and prints an array of outcomes.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut trials = Trials::start(&options.testbed)?;
    let mut outcomes = vec![];
    for &pps in &options.rates {
        outcomes.push(if pps > 0.0 {
            trials.run(&Order { pps, frames: (pps * options.ms as f64 / 1e3) as u64, first: 0 })?
        } else {
            trials.saturate(Duration::from_millis(options.ms))?
        });
    }
    crate::print(&outcomes)
}
