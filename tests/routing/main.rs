//! Tests that the relay routes as the host's kernel does: real binary, real kernel, network namespaces (root).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/netns.rs"]
mod netns;
mod rig;
mod sources;
