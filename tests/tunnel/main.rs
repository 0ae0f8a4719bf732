//! The tunnel crate against itself and against two independent implementations: boringtun and gotatun.
//!
//! Each case runs in both roles. Nothing here uses a socket: datagrams are handed over as bytes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod differential;
mod node;
mod oracle;
mod regressions;
