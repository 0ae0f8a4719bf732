//! Searches over trials: throughput at a loss goal (RFC 2544, section 26.1), back-to-back frames (RFC 9004), session
//! set-up rate and capacity of a relay (RFC 9693).
//!
//! A shared machine stops a core at times, at any rate. So a failed rate is tried again, and passes if one of
//! [`TRIES`] trials passes (binary search with loss verification, ETSI GS NFV-TST 009, section 12.3.3).

use crate::programs::Order;
use crate::testbed::TestbedArgs;
use crate::trials::Trials;
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// Number of failed trials after which a rate fails.
const TRIES: usize = 3;

/// Holds the state of a search.
#[derive(Default)]
struct Tally {
    trials: u32,
    steal_ms: u64,
    late_ns: u64,
}

#[derive(Args)]
pub(crate) struct ThroughputOptions {
    #[command(flatten)]
    testbed: TestbedArgs,
    /// Share of packets that may be lost. Each goal has its own search, the largest first.
    #[arg(long = "goal", default_values = ["0.000001", "0"])]
    goals: Vec<f64>,
    /// Duration of a trial in milliseconds.
    #[arg(long, default_value_t = 1500)]
    ms: u64,
    /// Number of halvings for each goal.
    #[arg(long, default_value_t = 6)]
    steps: u32,
}

#[derive(Serialize)]
struct Throughput {
    /// Rate that arrived at the generator's maximum.
    saturated_pps: f64,
    goals: Vec<Goal>,
    trials: u32,
    /// Time that the hypervisor took from the forwarder's core in all trials, in milliseconds.
    steal_ms: u64,
    /// Largest delay of the generator in nanoseconds.
    late_ns: u64,
}

#[derive(Serialize)]
struct Goal {
    goal: f64,
    pps: f64,
}

impl Tally {
    /// Returns whether one of [`TRIES`] trials at `pps` loses at most `goal`.
    fn passes(&mut self, trials: &mut Trials, pps: f64, ms: u64, goal: f64) -> Result<bool> {
        for _ in 0..TRIES {
            let outcome = trials.run(&Order { pps, frames: (pps * ms as f64 / 1e3) as u64, first: 0 })?;
            self.trials += 1;
            self.steal_ms += outcome.steal_ms;
            self.late_ns = self.late_ns.max(outcome.late_ns);
            if outcome.loss() <= goal {
                return Ok(true);
            }
            // A loss this high does not come from pauses of the machine.
            if outcome.loss() > 0.05 {
                return Ok(false);
            }
        }
        Ok(false)
    }
}

/// Returns the largest value that `passes`, between 0 and `top`, after `steps` halvings.
fn search(top: f64, steps: u32, mut passes: impl FnMut(f64) -> Result<bool>) -> Result<f64> {
    let (mut good, mut bad) = (0.0, top);
    for _ in 0..steps {
        let middle = (good + bad) / 2.0;
        if passes(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(good)
}

/// Runs `oxide-lab throughput`.
pub(crate) fn throughput(options: &ThroughputOptions) -> Result<()> {
    let mut trials = Trials::start(&options.testbed)?;
    let saturated = trials.saturate(Duration::from_millis(500))?;
    let saturated_pps = saturated.received as f64 / saturated.seconds.max(1e-9);
    let mut goals = options.goals.clone();
    goals.sort_by(|a, b| b.total_cmp(a));
    let (mut tally, mut found) = (Tally::default(), vec![]);
    let mut top = saturated_pps * 1.1;
    for goal in goals {
        let pps = search(top, options.steps, |pps| tally.passes(&mut trials, pps, options.ms, goal))?;
        found.push(Goal { goal, pps });
        // A rate that exceeds a larger loss goal also exceeds a smaller one.
        top = pps * 1.05;
    }
    crate::print(&Throughput {
        saturated_pps,
        goals: found,
        trials: tally.trials,
        steal_ms: tally.steal_ms,
        late_ns: tally.late_ns,
    })
}

#[derive(Args)]
pub(crate) struct BurstOptions {
    #[command(flatten)]
    testbed: TestbedArgs,
    /// Number of bursts of one length that must pass.
    #[arg(long, default_value_t = 5)]
    bursts: u32,
    /// Longest burst that is tried.
    #[arg(long, default_value_t = 16_384)]
    most: u64,
}

#[derive(Serialize)]
struct Bursts {
    /// Length of the longest burst without loss in packets.
    frames: u64,
    /// Rate within the burst in packets per second.
    made_pps: f64,
}

/// Runs `oxide-lab burst`: finds the longest burst at the generator's full rate that is forwarded completely.
pub(crate) fn burst(options: &BurstOptions) -> Result<()> {
    let mut trials = Trials::start(&options.testbed)?;
    let mut made_pps = 0.0;
    let mut passes = |frames: u64| -> Result<bool> {
        for _ in 0..options.bursts {
            let mut lost = true;
            for _ in 0..TRIES {
                let outcome = trials.run(&Order { pps: 0.0, frames, first: 0 })?;
                if outcome.lost == 0 {
                    (lost, made_pps) = (false, outcome.made_pps);
                    break;
                }
            }
            if lost {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let (mut good, mut bad) = (0, options.most);
    // The search stops at 2 %, or 8 packets.
    while bad - good > (bad / 50).max(8) {
        let middle = (good + bad) / 2;
        if passes(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    crate::print(&Bursts { frames: good, made_pps })
}

#[derive(Args)]
pub(crate) struct SessionOptions {
    #[command(flatten)]
    testbed: TestbedArgs,
    /// Number of new sessions in each trial.
    #[arg(long, default_value_t = 65_536)]
    each: u64,
    /// Number of halvings of the set-up rate; 0 fills the table slowly instead, and counts the served sessions.
    #[arg(long, default_value_t = 6)]
    steps: u32,
    /// Maximum rate in sessions per second (with --steps 0: rate of the filling).
    #[arg(long, default_value_t = 1_000_000.0)]
    top: f64,
}

#[derive(Serialize)]
struct Sessions {
    /// Number of new sessions per second without loss; 0 if only the table was filled.
    setups_per_s: f64,
    /// Number of sessions begun in all trials.
    begun: u64,
    /// Number of forwarded flows. The next field is the number when the same flows are sent again.
    held: u64,
    held_again: u64,
}

/// Runs `oxide-lab sessions`. Every flow is new in its trial, so `--flows` limits the number of trials.
pub(crate) fn sessions(options: &SessionOptions) -> Result<()> {
    let mut trials = Trials::start(&options.testbed)?;
    let flows = u64::from(options.testbed.flows);
    // The first flows began while the forwarder started.
    let mut first = flows.min(65_536);
    let mut report = Sessions { setups_per_s: 0.0, begun: 0, held: 0, held_again: 0 };
    if options.steps == 0 {
        let order = Order { pps: options.top, frames: flows, first: 0 };
        report.held = trials.run(&order)?.received;
        report.held_again = trials.run(&order)?.received;
        report.begun = flows;
        return crate::print(&report);
    }
    report.setups_per_s = search(options.top, options.steps, |pps| {
        for _ in 0..TRIES {
            if first + options.each > flows {
                return Err(Error::Text(format!(
                    "flows: {flows} are too few for {} halvings; to fix: raise --flows",
                    options.steps
                )));
            }
            let outcome = trials.run(&Order { pps, frames: options.each, first })?;
            first += options.each;
            if outcome.lost == 0 {
                return Ok(true);
            }
            if outcome.loss() > 0.02 {
                return Ok(false);
            }
        }
        Ok(false)
    })?;
    report.begun = first;
    crate::print(&report)
}

#[cfg(test)]
mod tests {
    use super::search;

    #[test]
    fn halving_finds_the_bound() {
        let found = search(1000.0, 12, |value| Ok(value <= 123.0)).unwrap_or_default();
        assert!((122.0..=123.0).contains(&found), "{found}");
        assert_eq!(search(1000.0, 3, |_| Ok(false)).ok(), Some(0.0));
    }
}
