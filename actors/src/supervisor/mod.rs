//! Starts actors, watches them and restarts them.
//!
//! Each engine has one supervisor thread. The decisions are a pure state machine, [`SupervisorCore`]: inputs and the
//! time go in, actions come out. The thread around it ([`supervise`]) moves messages and calls the
//! [`ActorController`]s.
//!
//! ```text
//!  engine, admin --SupervisorHandle--> +-----------------+ --Action::Start, Send--> ActorController (engine's code, this thread)
//!                                      | SupervisorCore  |                             | spawns, commands
//!  observer <--ObserverMessage-------- +-----------------+ <--SupervisorLink: states,-- actor (its own thread)
//!                                                             reports, telemetry, heartbeat
//!
//!  Planned --> Opening --> Running --> Draining --> Stopped
//!                 ^  ^      |  |  ^
//!                 |  |      |  |  +--- Waiting (reported by the actor, e.g. link down)
//!                 |  |      |  +-----> Restarting(handler): handler only; the actor takes no packets meanwhile
//!                 |  |      |  +-----> Restarting(port): one of its ports; it continues with the others
//!                 |  +------+--------> Restarting(queue): join, delay, start
//!                 +-- Waiting (could not open yet) <--- the actor ended as `ActorExit::Waiting`
//!                                      budget exhausted, or an error that no restart fixes: Failed, and the engine is Degraded
//! ```
//!
//! A complete actor, written as one function:
//!
//! ```
//! use std::time::Duration;
//! use oxide_actors::executor::{ExecutorHandle, ExecutorKind, ExecutorSpec, spawn};
//! use oxide_actors::mailbox::{Address, Mailbox, mailbox};
//! use oxide_actors::supervisor::{SupervisorCommand, ActorExit, SupervisorLink, Settings, Undelivered, StateReport, ActorController, supervise};
//!
//! fn actor(link: SupervisorLink<u64>, mailbox: Mailbox<SupervisorCommand>) -> ActorExit {
//!     link.report_state(StateReport::Running);
//!     loop {
//!         link.beat();
//!         match mailbox.try_recv() {
//!             Some(SupervisorCommand::Stop) => return ActorExit::Done,
//!             Some(SupervisorCommand::Drain { .. }) => _ = link.report_state(StateReport::Drained),
//!             Some(_) => _ = link.report_state(StateReport::Running),
//!             None => _ = mailbox.wait(&[], Duration::from_millis(10), || false),
//!         }
//!     }
//! }
//!
//! struct Counter(Option<(Address<SupervisorCommand>, ExecutorHandle<ActorExit>)>);
//!
//! impl ActorController for Counter {
//!     type Report = u64;
//!     type EngineMessage = ();
//!     fn name(&self) -> &str { "counter" }
//!     fn start(&mut self, _generation: u64, link: SupervisorLink<u64>) -> Result<(), ActorExit> {
//!         let (address, mailbox) = mailbox(64).map_err(|error| ActorExit::Failed(error.to_string()))?;
//!         let spec = ExecutorSpec { name: "counter".into(), cpu: None, kind: ExecutorKind::Thread };
//!         let handle = spawn(spec, move |_runtime| async move { actor(link, mailbox) });
//!         self.0 = Some((address, handle.map_err(|error| ActorExit::Refused(error.to_string()))?));
//!         Ok(())
//!     }
//!     fn command(&mut self, command: SupervisorCommand) -> Result<(), Undelivered> {
//!         let (address, _) = self.0.as_ref().ok_or(Undelivered::Gone)?;
//!         Ok(address.try_send(command)?)
//!     }
//!     fn on_engine_message(&mut self, _message: ()) {}
//!     fn poll_end(&mut self) -> Option<ActorExit> {
//!         let end = self.0.as_mut()?.1.join_timeout(Duration::ZERO)?;
//!         self.0 = None;
//!         Some(end.into())
//!     }
//! }
//!
//! let supervisor = supervise(Settings::default(), vec![Counter(None)], |notice| println!("{notice:?}"))?;
//! let report = supervisor.handle().stop(Duration::from_secs(5))?;
//! assert!(report.not_ended.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod handle;
mod lifecycle;
mod link;
mod link_receiver;
mod phase;
mod protocol;
mod restart;
mod run;
mod supervisor_core;

pub use handle::{ActorStatus, NotReplaced, StopReport, Supervisor, SupervisorError, SupervisorHandle};
pub use link::SupervisorLink;
pub use link_receiver::{LinkMessage, LinkReceiver};
pub use protocol::{
    ActorController, ActorExit, ActorId, ActorState, EngineHealth, Event, ObserverMessage, StateReport,
    SupervisorCommand, Undelivered,
};
pub use restart::{Cause, FailReason, Failure, RestartCause, RestartScope, WaitReason};
pub use run::supervise;
pub use supervisor_core::{Action, CommandRefused, HandlerAge, Input, Settings, SupervisorCore};
