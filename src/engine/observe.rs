//! Converts the supervisor's messages to the status. It runs on the supervisor's thread and never waits.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use oxide_actors::supervisor::{ActorId, Event, ObserverMessage};
use oxide_topology::Plan;

use super::compare;
use super::drop_log::DropLog;
use super::state::EngineState;
use super::status::{EngineStatus, ModeStatus, QueueStatus, millis};
use crate::config::EngineConfig;
use crate::queue::Report;
use crate::umem::RingSizes;

/// Returns the status before anything has started.
pub(super) fn initial(plan: &Plan, executor: &str, rings: RingSizes) -> EngineStatus {
    let queue = |actor: &oxide_topology::ActorPlan| QueueStatus {
        queue: actor.queue,
        cpu: Some(actor.cpu),
        executor: executor.to_owned(),
        balanced: true,
        ..QueueStatus::default()
    };
    let queues = plan.actors.iter().map(queue).collect();
    EngineStatus { queues, rings, balanced: true, ..EngineStatus::default() }
}

pub(super) struct Observer {
    status: Arc<Mutex<EngineStatus>>,
    plan: Plan,
    config: Arc<Mutex<EngineConfig>>,
    resolve: flume::Sender<(u32, IpAddr)>,
    started: Instant,
    drops: DropLog,
}

impl Observer {
    pub(super) fn new(
        status: Arc<Mutex<EngineStatus>>,
        plan: Plan,
        config: Arc<Mutex<EngineConfig>>,
        resolve: flume::Sender<(u32, IpAddr)>,
        started: Instant,
    ) -> Self {
        Self { status, plan, config, resolve, started, drops: DropLog::default() }
    }

    pub(super) fn into_fn(mut self) -> impl FnMut(ObserverMessage<Report>) + Send + 'static {
        move |notice| self.take(notice)
    }

    fn take(&mut self, notice: ObserverMessage<Report>) {
        let status = Arc::clone(&self.status);
        let mut status = status.lock().unwrap_or_else(PoisonError::into_inner);
        match notice {
            ObserverMessage::Event(event) => self.event(&mut status, event),
            ObserverMessage::Report { actor, report, .. } => {
                self.report(&mut status, actor, report);
                self.drops.look(&status, Instant::now());
            }
        }
    }

    fn event(&self, status: &mut EngineStatus, event: Event) {
        match event {
            Event::Changed { actor, from, to, cause, gap } => {
                let Some(queue) = status.queues.get_mut(actor.0) else { return };
                queue.changed(&from, &to, &cause, gap);
            }
            Event::Stalled { actor, age } => {
                let Some(queue) = status.queues.get_mut(actor.0) else { return };
                queue.stalled = true;
                queue.last_event = format!("stalled: no heartbeat for {:.1} s", age.as_secs_f64());
            }
            Event::Recovered { actor } => {
                let Some(queue) = status.queues.get_mut(actor.0) else { return };
                queue.stalled = false;
                "heartbeat resumed".clone_into(&mut queue.last_event);
            }
            Event::Health(_) => {}
        }
        let running = status.queues.iter().all(|queue| queue.is_running());
        status.state = match (status.state, running) {
            (ended @ (EngineState::Draining | EngineState::Stopped), _) => ended,
            (EngineState::Starting, true) => {
                status.start_to_ready_ms = Some(millis(self.started.elapsed()));
                EngineState::Running
            }
            (EngineState::Starting, false) => EngineState::Starting,
            (_, true) => EngineState::Running,
            (_, false) => EngineState::Degraded,
        };
    }

    fn report(&self, status: &mut EngineStatus, ActorId(actor): ActorId, report: Report) {
        let Some(queue) = status.queues.get_mut(actor) else { return };
        match report {
            Report::Opened { ports, pages, seen, cpus, realtime_refused } => {
                queue.begin(self.started.elapsed());
                queue.mode = ports.iter().map(ModeStatus::from).collect();
                if let Some(plan) = self.plan.actors.get(actor) {
                    let config = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    queue.differences = compare::differences(plan, &config, &ports, &pages, &seen, &cpus);
                    queue.differences.extend(realtime_refused);
                    for difference in &queue.differences {
                        tracing::warn!(queue = queue.queue, difference, "actor differs from the plan");
                    }
                }
                queue.pages = Some(pages);
            }
            Report::Cpus(cpus) => {
                let Some(plan) = self.plan.actors.get(actor) else { return };
                compare::moved(&mut queue.differences, plan, &cpus);
                if cpus == [plan.cpu] {
                    tracing::info!(queue = queue.queue, cpu = plan.cpu, "thread runs on its CPU again");
                } else {
                    tracing::warn!(queue = queue.queue, cpu = plan.cpu, ?cpus, "thread cannot run on its CPU");
                }
            }
            Report::Ports(ports) => queue.mode = ports.iter().map(ModeStatus::from).collect(),
            Report::Snapshot(snapshot) => queue.update(&snapshot, self.started.elapsed()),
            Report::FinalSnapshot(snapshot) => {
                queue.update(&snapshot, self.started.elapsed());
                queue.retire();
            }
            Report::Resolve { interface, next_hop } => {
                // A full channel discards the request; a later packet repeats it.
                let _ = self.resolve.try_send((interface, next_hop));
            }
            Report::Lost(packets) => queue.lost(packets),
            Report::Replaced(kept) => queue.replaced(kept),
            // Dropping the tables here frees them on the supervisor's thread.
            Report::UnusedTables(_) => {}
        }
        if status.first_packet_ms.is_none() && status.queues.iter().any(|q| q.totals.tx_packets > 0) {
            status.first_packet_ms = Some(millis(self.started.elapsed()));
        }
    }
}
