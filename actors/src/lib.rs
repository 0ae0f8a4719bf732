//! Runs actors: threads, mailboxes, supervision and restarts.
//!
//! This crate does not know packets. An actor is one future on one thread of its own. Actors share only bounded
//! channels, and one heartbeat counter with the supervisor.
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
//! | [`executor`] | the thread, its core, its executor; the only file that names glommio |
//! | [`mailbox`] | bounded channels, the doorbell, the idle wait of an actor |
//! | [`heartbeat`] | the heartbeat |
//! | [`policy`] | restart budget and backoff |
//! | [`supervisor`] | start, watch, restart and stop of actors |
#![forbid(unsafe_code)]

pub mod executor;
pub mod heartbeat;
pub mod mailbox;
pub mod policy;
mod probe;
pub mod supervisor;
