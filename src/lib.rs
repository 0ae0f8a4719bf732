//! OXIDE is an AF_XDP relay engine.
//!
//! It moves packets between Linux NIC queues and a [`queue::Handler`]. One actor on one core owns each queue. Actors
//! share only bounded channels. Start with `docs/architecture.md`; `docs/frame-life.md` shows the life of a frame.
//!
//! | module | contents |
//! |---|---|
//! | [`ring`] | one cursor, producer and consumer ends, rings in memory for tests |
//! | [`umem`] | packet memory: region, frames, pool, ledger |
//! | [`xdp`] | AF_XDP sockets and the steering program |
//! | [`simd`] | batch kernels, selected once for the CPU |
//! | [`packet`] | headers: parse, rewrite, checksum |
//! | [`port`] | the port: one NIC queue as its actor uses it |
//! | [`queue`] | queue actor: batch, handler, loop |
//! | [`engine`] | a running engine: plan, interfaces, supervisor, status |
//! | [`net`] | routes, neighbours and links from netlink |
//! | [`flow`] | flow table |
//! | [`telemetry`] | counters, the metric registry, and the documents made from it |
//! | [`config`] | the engine's part of a configuration |
//!
//! The types that an embedder needs are re-exported here: [`Engine`], [`EngineConfig`], [`Handler`], and related types.
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

/// Compiles and runs the examples of `docs/embedding.md`.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
