//! Why an engine does not start, each with its mend.

use std::io;

use crate::config::ConfigError;

/// An engine could not be started, or a command could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A value of the configuration cannot be used.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The survey given to the builder was made for another configuration.
    #[error(
        "survey: made for interfaces {surveyed}; expected those of the configuration, {configured}; to fix: make the \
         survey from the configuration that the engine is built with"
    )]
    OtherSurvey {
        /// Interfaces of the survey's plan.
        surveyed: String,
        /// Interfaces of the configuration.
        configured: String,
    },
    /// The plan was refused.
    #[error("{text}")]
    Plan {
        /// Every reason with its mend.
        text: String,
    },
    /// The machine could not be read.
    #[error("cannot read this machine: {text}")]
    Snapshot {
        /// What failed.
        text: String,
    },
    /// An interface is not there.
    #[error("interface {interface}: {source} (`ip link` lists what there is in this network namespace)")]
    Interface {
        /// Its name.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The XDP program of an interface.
    #[error("{text}")]
    Steering {
        /// Its interface.
        interface: String,
        /// The steering room's words, mend included.
        text: String,
    },
    /// The list of destinations was changed in part and could not be put back.
    #[error("{text}")]
    HalfListed {
        /// The refusal of the change, that of putting it back, and the remedy.
        text: String,
    },
    /// A port.
    #[error("{text}")]
    Port {
        /// The port's words, mend included.
        text: String,
    },
    /// Routes, neighbours, links.
    #[error("netlink: {text}")]
    Net {
        /// The net room's words.
        text: String,
    },
    /// Limits of supervision that do not go together.
    #[error("supervision: {text}")]
    Supervision {
        /// Which, and what would.
        text: String,
    },
    /// A vector level was asked for that this build or CPU does not have.
    #[error("simd = \"{wanted}\" cannot be had: {why}; write simd = \"auto\"")]
    Simd {
        /// As configured.
        wanted: String,
        /// Why not.
        why: String,
    },
    /// Threads or channels could not be made.
    #[error("{step}: {text}")]
    Actor {
        /// What was tried.
        step: &'static str,
        /// What was said.
        text: String,
    },
    /// The queue is not one of the engine's.
    #[error("no queue {asked}; there are: {there}")]
    NoSuchQueue {
        /// As asked.
        asked: String,
        /// Those there are.
        there: String,
    },
    /// Not in the queue's present state.
    #[error("cannot {what} {queue}: {text}")]
    NotNow {
        /// What was asked for.
        what: &'static str,
        /// Of which queue.
        queue: String,
        /// Why not, and what helps.
        text: String,
    },
    /// It took longer than it may.
    #[error("{step}: not within {within:?} ({text})")]
    Late {
        /// What was waited for.
        step: &'static str,
        /// How long.
        within: std::time::Duration,
        /// How things stand.
        text: String,
    },
    /// A reload brought handlers of another type than the engine was built with.
    #[error("the engine was not built with handlers of type {given}: reload with the same type, or start a new engine")]
    OtherHandler {
        /// The type that was given.
        given: &'static str,
    },
    /// The engine has stopped, or is about to.
    #[error("the engine has stopped: start a new one")]
    Ended,
}
