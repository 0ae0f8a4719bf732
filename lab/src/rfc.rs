//! Searches over trials: throughput at a loss goal (RFC 2544, section 26.1), back-to-back frames (RFC 9004), session
//! set-up rate and capacity of a relay (RFC 9693).
//!
//! A shared machine stops a core now and then, at any rate. Therefore a failed rate is tried again, and holds if one of
//! [`TRIES`] trials holds (binary search with loss verification, ETSI GS NFV-TST 009, section 12.3.3).

use crate::programs::Order;
use crate::testbed::TestbedArgs;
use crate::trials::Trials;
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::time::Duration;

/// Trials of one rate before it counts as too much.
const TRIES: usize = 3;

/// State of a search.
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
    /// Share of packets that may be lost; each is searched for, the largest first.
    #[arg(long = "goal", default_values = ["0.000001", "0"])]
    goals: Vec<f64>,
    /// A trial, milliseconds.
    #[arg(long, default_value_t = 1500)]
    ms: u64,
    /// Halvings for each goal.
    #[arg(long, default_value_t = 6)]
    steps: u32,
}

#[derive(Serialize)]
struct Throughput {
    /// Rate that arrived at the generator's maximum.
    saturated_pps: f64,
    goals: Vec<Goal>,
    trials: u32,
    /// Taken from the forwarder's core by the hypervisor, during all trials.
    steal_ms: u64,
    /// The generator's worst lateness.
    late_ns: u64,
}

#[derive(Serialize)]
struct Goal {
    goal: f64,
    pps: f64,
}

impl Tally {
    /// Returns whether one of [`TRIES`] trials at `pps` loses at most `goal`.
    fn holds(&mut self, trials: &mut Trials, pps: f64, ms: u64, goal: f64) -> Result<bool> {
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

/// The largest value that `holds`, between 0 and `top`, after `steps` halvings.
fn search(top: f64, steps: u32, mut holds: impl FnMut(f64) -> Result<bool>) -> Result<f64> {
    let (mut good, mut bad) = (0.0, top);
    for _ in 0..steps {
        let middle = (good + bad) / 2.0;
        if holds(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(good)
}

/// `oxide-lab throughput`.
pub(crate) fn throughput(options: &ThroughputOptions) -> Result<()> {
    let mut trials = Trials::start(&options.testbed)?;
    let saturated = trials.saturate(Duration::from_millis(500))?;
    let saturated_pps = saturated.received as f64 / saturated.seconds.max(1e-9);
    let mut goals = options.goals.clone();
    goals.sort_by(|a, b| b.total_cmp(a));
    let (mut tally, mut found) = (Tally::default(), vec![]);
    let mut top = saturated_pps * 1.1;
    for goal in goals {
        let pps = search(top, options.steps, |pps| tally.holds(&mut trials, pps, options.ms, goal))?;
        found.push(Goal { goal, pps });
        // What loses more than a larger goal loses more than a smaller one.
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
    /// Bursts of one length before it holds.
    #[arg(long, default_value_t = 5)]
    bursts: u32,
    /// Longest burst tried.
    #[arg(long, default_value_t = 16_384)]
    most: u64,
}

#[derive(Serialize)]
struct Bursts {
    /// The longest burst without loss, packets.
    frames: u64,
    /// Rate within it.
    made_pps: f64,
}

/// `oxide-lab burst`: the longest burst at the generator's full rate that is forwarded whole.
pub(crate) fn burst(options: &BurstOptions) -> Result<()> {
    let mut trials = Trials::start(&options.testbed)?;
    let mut made_pps = 0.0;
    let mut holds = |frames: u64| -> Result<bool> {
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
    // To 2 %, or 8 packets.
    while bad - good > (bad / 50).max(8) {
        let middle = (good + bad) / 2;
        if holds(middle)? {
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
    /// New sessions in each trial.
    #[arg(long, default_value_t = 65_536)]
    each: u64,
    /// Halvings of the set-up rate; 0: fill the table instead, slowly, and count what it holds.
    #[arg(long, default_value_t = 6)]
    steps: u32,
    /// Sessions per second at most (with --steps 0: of the filling).
    #[arg(long, default_value_t = 1_000_000.0)]
    top: f64,
}

#[derive(Serialize)]
struct Sessions {
    /// New sessions per second, none lost; 0 if only the table was filled.
    setups_per_s: f64,
    /// Sessions begun in all trials.
    begun: u64,
    /// Flows that were forwarded when the same flows were sent once more.
    held: u64,
    held_again: u64,
}

/// `oxide-lab sessions`: every flow is new in its trial, so `--flows` bounds how many trials there can be.
pub(crate) fn sessions(options: &SessionOptions) -> Result<()> {
    let mut trials = Trials::start(&options.testbed)?;
    let flows = u64::from(options.testbed.flows);
    // The first ones were begun while the forwarder started.
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
                return Err(Error::Text(format!("{flows} flows do not suffice for {} halvings", options.steps)));
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
