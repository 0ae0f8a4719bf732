//! Parses and rewrites headers and computes checksums, in safe scalar code. It is the reference of every vector kernel.
//!
//! The module owns no state and no packets. Its functions work on bytes of the caller.

pub mod build;
pub mod checksum;
mod columns;
pub mod fragment;
pub mod parse;
pub mod recognise;
mod reflect;
pub mod rewrite;
pub mod translate;

pub use columns::{Columns, Endpoint, Flow, LANES, MacAddr, lanes};
pub use fragment::Fragment;
pub(crate) use parse::parse_with;
pub use parse::{Parsed, parse, verify_udp};
pub use recognise::{Recognised, Transport, recognise};
pub use reflect::reflect;
#[doc(hidden)]
pub use rewrite::FixedHeaderRewrite;
pub use rewrite::{FlowChecksumDelta, Rewrite, Translation};

/// Holds the protocol number of UDP, which is also its IPv6 next header.
const UDP: u8 = 17;
