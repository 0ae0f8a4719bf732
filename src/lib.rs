//! OXIDE: an AF_XDP relay engine.
//!
//! Packets move between Linux NIC queues and a [`queue::Handler`]. Each queue is owned by one actor
//! on one core; nothing is shared between actors but bounded channels. Start with
//! `docs/architecture.md`; a frame's life is drawn in `docs/frame-life.md`.
//!
//! | room | owns |
//! |---|---|
//! | [`ring`] | one cursor, producer and consumer ends, the in-memory peer |
//! | [`umem`] | the packet memory: region, frames, pool, ledger |
//! | [`xdp`] | AF_XDP sockets and the steering program |
//! | [`simd`] | batch kernels behind one dispatch |
//! | [`packet`] | headers: parse, rewrite, checksum |
//! | [`port`] | one NIC queue as its owner sees it |
//! | [`queue`] | the queue actor: batch, handler, loop |
//! | [`engine`] | puts the rooms together: plan, interfaces, supervisor, status |
//! | [`net`] | routes, neighbours, links by netlink |
//! | [`telemetry`] | counters, the metric registry, and what is made from it |
//! | [`config`] | the engine's part of a configuration |
//!
//! What an embedder needs is re-exported here: [`Engine`], [`EngineConfig`], [`Handler`], and the types around them.
#![deny(unsafe_code)]

pub mod config;
pub mod engine;
pub mod flow;
pub mod net;
pub mod packet;
pub mod port;
pub mod queue;
#[allow(unsafe_code)]
pub mod ring;
pub mod simd;
pub mod telemetry;
#[allow(unsafe_code)]
pub mod umem;
#[allow(unsafe_code)]
pub mod xdp;

pub use config::EngineConfig;
pub use engine::{Engine, EngineBuilder, EngineError, EngineHandle, EngineStatus};
pub use port::QueueId;
pub use queue::{Batch, Context, Handler, Harness, QueueInfo, Verdict};

/// The examples of `docs/embedding.md`, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
