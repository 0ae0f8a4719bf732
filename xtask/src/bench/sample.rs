//! Measures one run of one forwarder under load: its throughput and its cost.

use super::subject::{Load, Subject};
use super::{Bench, lab::Lab};
use crate::process::{Result, failed};
use serde::Deserialize;
use std::time::Duration;

/// Holds the time of one core in a window, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Core {
    pub(super) user_ns: f64,
    pub(super) kernel_ns: f64,
}

/// Holds the output of `oxide-lab saturate`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Saturated {
    pub(super) seconds: f64,
    /// Number of frames that the generator sent.
    pub(super) offered: u64,
    pub(super) packets: u64,
    pub(super) core: Core,
}

impl Saturated {
    /// Returns the throughput in millions of packets per second.
    pub(super) fn mpps(&self) -> f64 {
        self.packets as f64 / self.seconds / 1e6
    }

    /// Returns the user time of the forwarder's core in nanoseconds per forwarded packet.
    pub(super) fn user_ns(&self) -> f64 {
        self.per_packet(self.core.user_ns)
    }

    /// Returns the kernel time, with softirq, in nanoseconds per forwarded packet.
    pub(super) fn kernel_ns(&self) -> f64 {
        self.per_packet(self.core.kernel_ns)
    }

    fn per_packet(&self, ns: f64) -> f64 {
        if self.packets == 0 { 0.0 } else { ns / self.packets as f64 }
    }
}

impl Bench<'_> {
    /// Starts `subject` in the testbed, saturates it and stops it.
    pub(super) fn saturate(&self, lab: &Lab, subject: &Subject, load: Load) -> Result<Saturated> {
        self.saturate_with(lab, subject, load, &[])
    }

    /// Runs [`Bench::saturate`] with `more` options of `oxide-lab saturate`.
    pub(super) fn saturate_with(&self, lab: &Lab, subject: &Subject, load: Load, more: &[&str]) -> Result<Saturated> {
        let forwarder = subject.start(self.session, lab, self.tools, load)?;
        let answer = self.saturate_running(lab, load, more);
        let output = if answer.is_err() { forwarder.process.last_output() } else { String::new() };
        forwarder.stop(self.session, lab)?;
        match answer {
            Err(crate::process::Error::Failed(text)) => failed(format!("{}: {text}{output}", subject.name)),
            answer => answer,
        }
    }

    /// Saturates the forwarder that runs now.
    pub(super) fn saturate_running(&self, lab: &Lab, load: Load, more: &[&str]) -> Result<Saturated> {
        let program = self.tools.lab.display().to_string();
        // A forwarder takes one frame in seven at random. Each flow must have a session before the window.
        let warm_ms = self.pace.warm_ms + load.flows / 128;
        let numbers = [load.frame, load.flows, load.ports(), warm_ms, self.pace.window_ms].map(|n| n.to_string());
        let [frame, flows, ports, warm, window] = numbers.each_ref().map(String::as_str);
        let argv = [
            &[program.as_str(), "saturate", "--frame", frame, "--flows", flows, "--ports", ports],
            &["--warm-ms", warm, "--ms", window][..],
            more,
        ]
        .concat();
        let output = self.session.run("saturate", &lab.outer.argv(&argv), Duration::from_secs(30))?;
        serde_json::from_str(output.stdout.trim())
            .or_else(|e| failed(format!("oxide-lab saturate: invalid output {:?}: {e}", output.stdout)))
    }
}
