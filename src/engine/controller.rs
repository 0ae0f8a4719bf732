//! Starts one queue's actor, sends it commands, and reports its exit, for the supervisor.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oxide_actors::executor::{ExecutorHandle, ThreadOutcome};
use oxide_actors::mailbox::{Address, SendError};
use oxide_actors::supervisor::{self, ActorExit, SupervisorLink, Undelivered};

use super::EngineError;
use super::interfaces::Interfaces;
use super::launch::{Launched, Launcher};
use super::outbox::{ActorCommand, Outbox};
use crate::net::Tables;
use crate::queue::{DatapathFault, Handler, Handover, PortRequests, QueueExit, Report};
use crate::umem::PortIndex;
use crate::xdp::PortOpenParams;

/// Carries what the engine sends to a controller through the supervisor, which only forwards it.
pub(super) enum EngineMessage {
    /// Replaces links, routes and neighbours.
    Tables(Arc<Tables>),
    /// Pauses (`true`) or resumes a port.
    Pause(PortIndex, bool),
    /// Closes the port of this interface for this reason. It reopens when the actor's controller is woken.
    Close(String, String),
    /// Injects a fault into this queue.
    Inject(DatapathFault),
}

/// Holds the inboxes of all running actors, by place in the plan. It changes only when an actor starts or ends.
pub(super) type Directory = Arc<Mutex<Vec<Option<ActorAddresses>>>>;

/// Holds the addresses of one running actor, for the other actors.
pub(super) struct ActorAddresses {
    queue: u32,
    handovers: Address<Handover>,
    pub(super) commands: Address<ActorCommand>,
}

/// Returns the name of the actor that serves `queue`.
pub(super) fn name(queue: u32) -> String {
    format!("queue {queue}")
}

pub(super) struct QueueController<H> {
    pub(super) name: String,
    pub(super) index: usize,
    pub(super) queue: u32,
    pub(super) launcher: Arc<Launcher<H>>,
    pub(super) interfaces: Arc<Mutex<Interfaces>>,
    pub(super) directory: Directory,
    pub(super) tables: Arc<Tables>,
    /// Paused ports as a bit mask. A new actor gets it at its start.
    pub(super) paused: u8,
    pub(super) running: Option<Running>,
}

pub(super) struct Running {
    handle: ExecutorHandle<QueueExit>,
    commands: Outbox,
}

impl<H: Handler + 'static> supervisor::ActorController for QueueController<H> {
    type Report = Report;
    type EngineMessage = EngineMessage;

    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, _generation: u64, link: SupervisorLink<Report>) -> Result<(), ActorExit> {
        let others = self.others();
        let launched = {
            let mut interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
            self.launcher.launch(self.index, link, &mut interfaces, &self.tables, &others)
        };
        let Launched { handle, commands, handovers } = launched.map_err(|error| match error {
            // The interface is missing or another program is attached: both can change without a restart here.
            EngineError::Interface { .. } | EngineError::Steering { .. } => ActorExit::Waiting(error.to_string()),
            // A thread, a descriptor or memory was missing: the next attempt may succeed.
            EngineError::Resources { .. } => ActorExit::Failed(error.to_string()),
            other => ActorExit::Refused(other.to_string()),
        })?;
        self.announce(Some(ActorAddresses { queue: self.queue, handovers, commands: commands.clone() }));
        for port in PortIndex::ALL.into_iter().filter(|port| port.is_in(self.paused)) {
            // A new mailbox has space for these commands.
            let _ = commands.try_send(ActorCommand::Pause(port, true));
        }
        self.running = Some(Running { handle, commands: Outbox::new(commands) });
        Ok(())
    }

    fn command(&mut self, command: supervisor::SupervisorCommand) -> Result<(), Undelivered> {
        let Some(running) = &mut self.running else { return Err(Undelivered::Gone) };
        let Some(address) = running.commands.up_to_date() else { return Err(Undelivered::Busy) };
        address.try_send(ActorCommand::of(command, || self.requests())).map_err(|error| match error {
            SendError::Closed(_) => Undelivered::Gone,
            SendError::Timeout(_) => Undelivered::Busy,
        })
    }

    fn on_engine_message(&mut self, message: EngineMessage) {
        let command = match message {
            EngineMessage::Tables(tables) => {
                self.tables = Arc::clone(&tables);
                ActorCommand::Tables(Box::new((*tables).clone()))
            }
            EngineMessage::Pause(port, paused) => {
                self.paused = if paused { self.paused | port.bit() } else { self.paused & !port.bit() };
                ActorCommand::Pause(port, paused)
            }
            EngineMessage::Close(interface, why) => {
                let ports = self.launcher.ports_of(self.index).into_iter().zip(PortIndex::ALL);
                let closed = ports.filter(|(id, _)| id.interface == interface).fold(0, |all, (_, at)| all | at.bit());
                ActorCommand::Close(closed, why)
            }
            EngineMessage::Inject(fault) => ActorCommand::Inject(fault),
        };
        if let Some(running) = &mut self.running {
            running.commands.enqueue(command);
        }
    }

    fn poll_end(&mut self) -> Option<ActorExit> {
        let running = self.running.as_mut()?;
        running.commands.deliver();
        let outcome = running.handle.join_timeout(Duration::ZERO)?;
        self.running = None;
        self.announce(None);
        Some(match outcome {
            ThreadOutcome::Finished(exit) => exit.end(),
            ThreadOutcome::Panicked(message) => ActorExit::Panicked(message),
            ThreadOutcome::Lost(message) => ActorExit::Failed(message),
        })
    }

    fn abandon(&mut self) {
        self.announce(None);
        // From now on, its packets take the program's fallback.
        let interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        interfaces.steer_away(self.launcher.ports_of(self.index));
    }

    fn stalled(&mut self, stalled: bool) {
        if stalled {
            // Its packets take the program's fallback instead of waiting for a stuck actor.
            let interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
            interfaces.steer_away(self.launcher.ports_of(self.index));
        } else if let Some(running) = &mut self.running {
            running.commands.enqueue(ActorCommand::Steer);
        }
    }
}

impl<H: Handler + 'static> QueueController<H> {
    /// Returns the parameters to open each port with, or the reason why it cannot be opened now.
    fn requests(&self) -> PortRequests<PortOpenParams> {
        let mut interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        let ports = PortIndex::ALL.into_iter().zip(self.launcher.ports_of(self.index));
        ports.map(|(port, id)| (port, interfaces.request(&id).map_err(|error| error.to_string()))).collect()
    }

    fn others(&self) -> Vec<(u32, Address<Handover>)> {
        let directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = (0..).zip(directory.iter());
        entries.filter_map(|(place, entry)| Some((place, entry.as_ref()?.handovers.clone()))).collect()
    }

    /// Sends the new inbox address of this queue to every other running actor.
    fn announce(&self, entry: Option<ActorAddresses>) {
        let mut directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        let address = entry.as_ref().map(|e| e.handovers.clone());
        for other in directory.iter().enumerate().filter(|(at, _)| *at != self.index).filter_map(|(_, e)| e.as_ref()) {
            let message = ActorCommand::Peer { place: self.index as u32, address: address.clone() };
            // With a closed mailbox, the other actor is ending and needs no address.
            if let Err(SendError::Timeout(_)) = other.commands.try_send(message) {
                tracing::warn!(
                    queue = other.queue,
                    about = self.queue,
                    "mailbox full; handovers to another queue will be dropped"
                );
            }
        }
        if let Some(place) = directory.get_mut(self.index) {
            *place = entry;
        }
    }
}
