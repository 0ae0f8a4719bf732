//! One run of one forwarder under load: what came through, and what it cost.

use super::subject::{Load, Subject};
use super::{Bench, lab::Lab};
use crate::process::{Result, failed};
use serde::Deserialize;
use std::time::Duration;

/// One core's time in a window, nanoseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Core {
    pub(super) user_ns: f64,
    pub(super) kernel_ns: f64,
}

/// What `oxide-lab blast` prints.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Saturated {
    pub(super) seconds: f64,
    /// Frames the generator made.
    pub(super) offered: u64,
    pub(super) packets: u64,
    pub(super) core: Core,
}

impl Saturated {
    /// Millions of packets per second that came through.
    pub(super) fn mpps(&self) -> f64 {
        self.packets as f64 / self.seconds / 1e6
    }

    /// Nanoseconds of the forwarder's core in user mode, per packet through.
    pub(super) fn user_ns(&self) -> f64 {
        self.per_packet(self.core.user_ns)
    }

    /// The same in the kernel, softirq included.
    pub(super) fn kernel_ns(&self) -> f64 {
        self.per_packet(self.core.kernel_ns)
    }

    fn per_packet(&self, ns: f64) -> f64 {
        if self.packets == 0 { 0.0 } else { ns / self.packets as f64 }
    }
}

impl Bench<'_> {
    /// Starts `subject` in the lab, saturates it, stops it.
    pub(super) fn saturate(&self, lab: &Lab, subject: &Subject, load: Load) -> Result<Saturated> {
        self.saturate_with(lab, subject, load, &[])
    }

    /// The same with `more` options of `oxide-lab blast`.
    pub(super) fn saturate_with(&self, lab: &Lab, subject: &Subject, load: Load, more: &[&str]) -> Result<Saturated> {
        let forwarder = subject.start(self.session, lab, self.tools, load)?;
        let answer = self.saturate_running(lab, load, more);
        let words = if answer.is_err() { forwarder.process.last_output() } else { String::new() };
        forwarder.stop(self.session, lab)?;
        match answer {
            Err(crate::process::Error::Failed(text)) => failed(format!("{}: {text}{words}", subject.name)),
            answer => answer,
        }
    }

    /// Saturates whatever runs there.
    pub(super) fn saturate_running(&self, lab: &Lab, load: Load, more: &[&str]) -> Result<Saturated> {
        let program = self.tools.lab.display().to_string();
        // A forwarder takes one frame in seven, at random: each flow must have had its session before the window.
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
            .or_else(|e| failed(format!("oxide-lab blast said {:?}: {e}", output.stdout)))
    }
}
