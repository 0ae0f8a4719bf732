//! Converts configuration values to the types of the modules, and makes the plan.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use oxide_actors::executor::ExecutorChoice;
use oxide_topology::{
    HashFields, Nic, Numa, Pin, Plan, PlanRequest, Queues, RssView, Snapshot, WarningCode, ZeroCopyWish,
};

use super::{EngineError, Supervision};
use crate::config::{self, Choice, EngineConfig, SupervisionConfig};
use crate::port::Rss;
use crate::simd::Processor;
use crate::umem::{RingSizes, UmemLayout};
use crate::xdp::ZeroCopy;
use crate::xdp::steering::{AttachMode, Fallback, SteeringOptions};

pub(super) fn processor(config: &EngineConfig) -> Result<Processor, EngineError> {
    let Some(&level) = config.simd.fixed() else { return Ok(Processor::detect()) };
    Processor::with_level(level)
        .ok_or_else(|| EngineError::Simd { wanted: level, available: Processor::levels().collect() })
}

pub(super) fn executor(config: &EngineConfig) -> ExecutorChoice {
    match config.executor {
        config::ExecutorKind::Auto => ExecutorChoice::Auto,
        config::ExecutorKind::Glommio => ExecutorChoice::Glommio,
        config::ExecutorKind::Thread => ExecutorChoice::Thread,
    }
}

impl From<&SupervisionConfig> for Supervision {
    fn from(config: &SupervisionConfig) -> Self {
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        let seconds = |s: u32| Duration::from_secs(u64::from(s));
        Self {
            restarts: config.restarts,
            window: seconds(config.window_s),
            backoff_min: ms(config.backoff_min_ms),
            backoff_max: ms(config.backoff_max_ms),
            handler_again_within: ms(config.handler_again_within_ms),
            port_every: ms(config.port_every_ms),
            stall_after: ms(config.stall_after_ms),
            exit_when_stuck: (config.exit_when_stuck_s > 0).then(|| seconds(config.exit_when_stuck_s)),
        }
    }
}

pub(super) fn steering_options(config: &EngineConfig) -> SteeringOptions {
    SteeringOptions {
        attach: match config.attach {
            config::Attach::Auto => AttachMode::Auto,
            config::Attach::Native => AttachMode::Native,
            config::Attach::Generic => AttachMode::Generic,
        },
        fallback: match config.fallback {
            config::Fallback::Drop => Fallback::Drop,
            config::Fallback::Pass => Fallback::Pass,
        },
        replace: false,
    }
}

pub(super) fn rings(config: &EngineConfig) -> Result<RingSizes, EngineError> {
    Ok(RingSizes::from_ring_size(config.ring_size)?)
}

/// Holds the machine as it was read, and the plan for it. Creating it starts no thread, but may load hwloc's plug-ins.
/// A process with a sandbox creates it first and passes it to
/// [`EngineBuilder::planned_machine`](super::EngineBuilder::planned_machine).
#[derive(Debug)]
pub struct PlannedMachine {
    pub(super) plan: Plan,
    snapshot: Snapshot,
    request: PlanRequest,
    /// RSS settings of the interfaces whose drivers report them.
    pub(super) rss: HashMap<String, Arc<Rss>>,
}

impl PlannedMachine {
    /// Reads the machine and makes the plan.
    ///
    /// # Errors
    /// Returns [`EngineError::Config`], [`EngineError::Snapshot`], or [`EngineError::Plan`] with all reasons and
    /// remedies.
    pub fn new(config: &EngineConfig) -> Result<Self, EngineError> {
        config.validate()?;
        let snapshot = Snapshot::live(&config.interfaces)?;
        let request = request(config)?;
        let plan = plan(&snapshot, &request)?;
        let processor = processor(config)?;
        let known = |nic: &Nic| Some((nic.name.clone(), Arc::new(rss(nic.rss.as_ref()?, processor)?)));
        let rss = snapshot.nics.iter().filter_map(known).collect();
        Ok(Self { plan, snapshot, request, rss })
    }

    /// Makes a new plan if attaching the XDP programs changed the number of queues of an interface.
    ///
    /// # Errors
    /// Returns [`EngineError::Plan`].
    pub(super) fn with_programs_attached(mut self) -> Result<Self, EngineError> {
        // If the NICs cannot be read now, the plan stays as it is.
        let now = oxide_topology::live_nics(&self.request.interfaces).unwrap_or_default();
        self.replan(&now)?;
        Ok(self)
    }

    fn replan(&mut self, now: &[Nic]) -> Result<(), EngineError> {
        for nic in &mut self.snapshot.nics {
            let Some(after) = now.iter().find(|after| after.name == nic.name) else { continue };
            // The list is empty while the link is down, which does not change the number of queues.
            nic.rx_queues = after.rx_queues.or(nic.rx_queues);
            nic.tx_queues = after.tx_queues.or(nic.tx_queues);
            nic.xdp_program.clone_from(&after.xdp_program);
        }
        let mut plan = plan(&self.snapshot, &self.request)?;
        if plan.actors != self.plan.actors {
            // The attached program is the engine's own.
            plan.warnings.retain(|warning| warning.code != WarningCode::XdpAttached);
            let (planned, queues) = (self.plan.actors.len(), plan.actors.len());
            tracing::info!(planned, queues, "attaching XDP changed the number of queues; new plan made");
            self.plan = plan;
        }
        Ok(())
    }
}

/// Logs the plan's warnings: as warnings if they degrade service, as information if they only reduce speed.
pub(super) fn log_warnings(plan: &Plan, config: &EngineConfig) {
    use WarningCode as W;
    for oxide_topology::Warning { code, subject, text, remedy } in &plan.warnings {
        let speed_only = matches!(
            code,
            W::Driver | W::SmtShared | W::CpuShared | W::HousekeepingUsed | W::MixedCores | W::RemoteNode
        );
        let pages = matches!(code, W::HugePagesShort | W::HugePagesUnknown);
        if speed_only || pages && config.huge_pages != Choice::Fixed(true) {
            tracing::info!(subject, remedy = remedy, "plan: {text}");
        } else {
            tracing::warn!(subject, remedy = remedy, "plan: {text}");
        }
    }
}

fn plan(snapshot: &Snapshot, request: &PlanRequest) -> Result<Plan, EngineError> {
    Ok(oxide_topology::plan(snapshot, request)?)
}

impl PlannedMachine {
    /// Checks that the plan contains exactly the interfaces of `config`.
    ///
    /// # Errors
    /// Returns [`EngineError::OtherMachine`].
    pub(super) fn check(&self, config: &EngineConfig) -> Result<(), EngineError> {
        let wanted: BTreeSet<&str> = config.interfaces.iter().map(String::as_str).collect();
        let actors = self.plan.actors.iter();
        let planned: BTreeSet<&str> = actors.flat_map(|a| &a.ports).map(|port| port.interface.as_str()).collect();
        if planned == wanted && self.plan.actors.iter().all(|actor| actor.ports.len() <= wanted.len()) {
            return Ok(());
        }
        let list = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
        Err(EngineError::OtherMachine { planned: list(planned), configured: list(wanted) })
    }
}

/// Reads the machine and returns the plan for it.
///
/// # Errors
/// Returns the errors of [`PlannedMachine::new`].
pub fn make_plan(config: &EngineConfig) -> Result<Plan, EngineError> {
    Ok(PlannedMachine::new(config)?.plan)
}

/// Returns the RSS settings, if the driver reports enough to compute the queue of a flow.
fn rss(view: &RssView, processor: Processor) -> Option<Rss> {
    if view.function.as_deref() != Some("toeplitz") || view.transform.is_some() {
        return None;
    }
    let whole = |fields: Option<HashFields>| {
        fields.is_some_and(|f| f.source_address && f.destination_address && f.has_ports() && !f.others)
    };
    Rss::new(processor, view.key.as_ref()?, view.table.as_ref()?, whole(view.fields_udp4), whole(view.fields_udp6))
}

/// Converts the configuration to a request for the planner.
///
/// # Errors
/// Returns [`EngineError::Config`].
pub fn request(config: &EngineConfig) -> Result<PlanRequest, EngineError> {
    config.validate()?;
    let rings = rings(config)?;
    let frames = config.frame_count.fixed().copied();
    let frames = frames.unwrap_or_else(|| UmemLayout::frames_for(&rings, config.interfaces.len() as u32));
    Ok(PlanRequest {
        interfaces: config.interfaces.clone(),
        queues: config.queues.fixed().map_or(Queues::Auto, |list| Queues::List(list.clone())),
        pin: config.pin.fixed().map_or(Pin::Auto, |list| Pin::List(list.clone())),
        numa: config.numa.fixed().map_or(Numa::Auto, |node| Numa::Node(*node)),
        huge_pages: config.huge_pages != Choice::Fixed(false),
        frame_size: config.frame_size,
        umem_bytes_per_queue: u64::from(frames) * u64::from(config.frame_size),
        native: config.attach != config::Attach::Generic,
        zero_copy: match config.zero_copy {
            ZeroCopy::Auto => ZeroCopyWish::Auto,
            ZeroCopy::Require => ZeroCopyWish::Require,
            ZeroCopy::Off => ZeroCopyWish::Off,
        },
        allow_housekeeping: false,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn survey(queues: u32, max: u32) -> PlannedMachine {
        let mut snapshot = Snapshot::synthetic("pack:1 core:4 pu:1").unwrap();
        snapshot.describe_nic(&format!("eth0:driver=virtio_net,mtu=1500,queues={queues},max={max}")).unwrap();
        let request = request(&EngineConfig::new(["eth0"])).unwrap();
        PlannedMachine { plan: plan(&snapshot, &request).unwrap(), snapshot, request, rss: HashMap::new() }
    }

    /// Covers a refusal of native XDP, and a driver with another number of queues than known.
    #[test]
    fn plan_follows_queues_that_attaching_really_gives() {
        let mut survey = survey(4, 8);
        assert_eq!(survey.plan.actors.len(), 8);
        let mut now = survey.snapshot.nics.clone();
        now[0].rx_queues = Some(8);
        now[0].xdp_program = Some(oxide_topology::XdpProgram { mode: "native".to_owned(), id: Some(1) });
        survey.replan(&now).unwrap();
        assert_eq!(survey.plan.actors.len(), 8);
        now[0].rx_queues = Some(6);
        survey.replan(&now).unwrap();
        assert_eq!(survey.plan.actors.len(), 6);
        assert!(survey.plan.warnings.iter().all(|warning| warning.code != WarningCode::XdpAttached));
        (now[0].rx_queues, now[0].tx_queues) = (None, None);
        survey.replan(&now).unwrap();
        assert_eq!(survey.plan.actors.len(), 6, "with an unknown number the plan must stay");
    }

    /// Checks that the supervisor accepts every value that the file may contain.
    #[test]
    fn limits_of_supervision_agree_with_the_files() {
        assert_eq!(Supervision::from(&SupervisionConfig::default()), Supervision::default());
        let file = |more: &str| {
            let config: SupervisionConfig = serde_json::from_str(&format!("{{{more}}}")).unwrap();
            let mut problems = Vec::new();
            config.check(&mut problems);
            assert_eq!(problems, []);
            Supervision::from(&config)
        };
        for extreme in [
            r#""restarts": 0, "window_s": 1, "backoff_min_ms": 0, "backoff_max_ms": 0, "handler_again_within_ms": 0"#,
            r#""port_every_ms": 100, "stall_after_ms": 250, "exit_when_stuck_s": 1"#,
            r#""restarts": 1000000, "window_s": 86400, "backoff_min_ms": 86400000, "backoff_max_ms": 86400000"#,
            r#""handler_again_within_ms": 86400000, "port_every_ms": 86400000, "stall_after_ms": 86400000, "exit_when_stuck_s": 86400"#,
        ] {
            file(extreme).check().unwrap();
        }
        assert_eq!(file(r#""exit_when_stuck_s": 7"#).exit_when_stuck, Some(Duration::from_secs(7)));
    }
}
