//! Who starts workers, watches them, and starts them again.
//!
//! One plain thread per engine. The decisions are a pure state machine, [`Roster`]: inputs and the time go in,
//! actions come out. The thread around it ([`supervise`]) moves messages and calls the [`Worker`]s.
//!
//! ```text
//!  engine, admin --SupervisorHandle--> +-----------------+ --Action::Start, Send--> Worker (engine's, this thread)
//!                                      | loop  |  Roster |                             | spawns, speaks to
//!  observer <------Notice------------- +-----------------+ <--Link: words, reports,-- actor (its own thread)
//!                                                             telemetry, heartbeat
//!
//!  Planned --> Opening --> Running --> Draining --> Stopped
//!                 ^  ^      |  |  ^
//!                 |  |      |  |  +--- Waiting (says so itself, e.g. link down; comes back by itself)
//!                 |  |      |  +-----> Restarting(soft): handler only, the actor stays parked meanwhile
//!                 |  |      |  +-----> Restarting(part): one of its parts; it goes on with the others
//!                 |  +------+--------> Restarting(hard): join, pause, start again
//!                 +-- Waiting (could not open yet) <--- the worker ended as `End::Waiting`
//!                                      past the budget, or no use in trying: Failed, and the engine is Degraded
//! ```
//!
//! A worker whose actor is one function, from start to stop:
//!
//! ```
//! use std::time::Duration;
//! use oxide_actors::executor::{ExecutorHandle, ExecutorKind, ExecutorSpec, spawn};
//! use oxide_actors::mailbox::{Address, Mailbox, mailbox};
//! use oxide_actors::supervisor::{Command, End, Link, Settings, Undelivered, Word, Worker, supervise};
//!
//! fn actor(link: Link<u64>, mailbox: Mailbox<Command>) -> End {
//!     link.say(Word::Running);
//!     loop {
//!         link.beat();
//!         match mailbox.try_recv() {
//!             Some(Command::Stop) => return End::Done,
//!             Some(Command::Drain { .. }) => _ = link.say(Word::Drained),
//!             Some(_) => _ = link.say(Word::Running),
//!             None => _ = mailbox.wait(&[], Duration::from_millis(10), || false),
//!         }
//!     }
//! }
//!
//! struct Counter(Option<(Address<Command>, ExecutorHandle<End>)>);
//!
//! impl Worker for Counter {
//!     type Report = u64;
//!     type Note = ();
//!     fn name(&self) -> &str { "counter" }
//!     fn start(&mut self, _generation: u64, link: Link<u64>) -> Result<(), End> {
//!         let (address, mailbox) = mailbox(64).map_err(|error| End::Failed(error.to_string()))?;
//!         let spec = ExecutorSpec { name: "counter".into(), cpu: None, kind: ExecutorKind::Thread };
//!         let handle = spawn(spec, move |_runtime| async move { actor(link, mailbox) });
//!         self.0 = Some((address, handle.map_err(|error| End::Refused(error.to_string()))?));
//!         Ok(())
//!     }
//!     fn command(&mut self, command: Command) -> Result<(), Undelivered> {
//!         let (address, _) = self.0.as_ref().ok_or(Undelivered::Gone)?;
//!         Ok(address.try_send(command)?)
//!     }
//!     fn note(&mut self, _note: ()) {}
//!     fn poll_end(&mut self) -> Option<End> {
//!         let end = self.0.as_mut()?.1.join_timeout(Duration::ZERO)?;
//!         self.0 = None;
//!         Some(end.into())
//!     }
//! }
//!
//! let supervisor = supervise(Settings::default(), vec![Counter(None)], |notice| println!("{notice:?}"))?;
//! let rested = supervisor.handle().stop(Duration::from_secs(5))?;
//! assert!(rested.not_ended.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod handle;
mod line;
mod link;
mod phase;
mod protocol;
mod roster;
mod run;
mod slot;

pub use handle::{NotReplaced, Rested, Status, Supervisor, SupervisorError, SupervisorHandle};
pub use line::{Heard, Line};
pub use link::Link;
pub use protocol::{Command, Depth, End, Event, Health, Notice, State, Undelivered, Word, Worker, WorkerId};
pub use roster::{Action, HandlerAge, Input, Refusal, Roster, Settings};
pub use run::supervise;
