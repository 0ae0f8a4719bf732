//! How workers live: where they run, how they are spoken to, who watches them, who starts them again.
//!
//! This crate knows no packets. A worker is one future on one thread of its own; nothing is shared
//! with another worker but bounded channels and, towards the supervisor, one heartbeat counter.
//!
//! ```text
//!                    +-----------------------------------------------+
//!                    |  supervisor (a plain thread, one per engine)  |
//!                    +-----------------------------------------------+
//!        Address::send_timeout |             ^  Link: state changes (never lost),
//!        + doorbell if asleep  |             |  telemetry (dropped and counted when full),
//!                              v             |  heartbeat (relaxed counter)
//!                    +--------------------+  |        +--------------------+
//!                    | actor, core 2      |--+        | actor, core 3      |
//!                    | executor: glommio  |           | executor: thread   |
//!                    | owns its Mailbox   |==Address=>| owns Mailbox+Inbox |
//!                    +--------------------+ try_send  +--------------------+
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`executor`] | the thread, its core, what drives the future; the only file that names glommio |
//! | [`mailbox`] | bounded channels, the doorbell, the idle wait of an actor |
//! | [`heartbeat`] | the heartbeat |
//! | [`policy`] | restart budget and backoff |
//! | [`supervisor`] | who starts, watches, restarts and stops workers |
#![forbid(unsafe_code)]

pub mod executor;
pub mod heartbeat;
pub mod mailbox;
pub mod policy;
mod probe;
pub mod supervisor;
