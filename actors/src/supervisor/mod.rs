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
//!                 |  +------+--------> Restarting(hard): join, pause, start again
//!                 +-- Waiting (could not open yet) <--- the worker ended as `End::Waiting`
//!                                      past the budget, or no use in trying: Failed, and the engine is Degraded
//! ```

mod handle;
mod link;
mod protocol;
mod roster;
mod run;
mod slot;

pub use handle::{Rested, Status, Supervisor, SupervisorError, SupervisorHandle};
pub use link::Link;
pub use protocol::{Command, Depth, End, Event, Health, Notice, State, Undelivered, Word, Worker, WorkerId};
pub use roster::{Action, Input, Refusal, Roster, Settings};
pub use run::supervise;
