//! The relay routes as the kernel of its host does: real binary, real kernel, namespaces of their own (root).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/netns.rs"]
mod netns;
mod rig;
mod sources;
