//! Tests the real binary as operators use it: HTTP, control socket, signals.
//!
//! ```text
//!   clients (far)                relay (this namespace)                  servers (far)
//!   c0 10.1.0.2 ------------- r0 10.1.0.1      r1 10.2.0.1 ------------- s0 10.2.0.2
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod commands;
mod device_settings;
#[path = "../common/netns.rs"]
mod netns;
mod privileges;
mod reads;
mod rig;
mod sandbox;
mod secondary;
mod trouble;
