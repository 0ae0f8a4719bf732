//! Headers: parse, rewrite, checksum. Scalar, safe, and the reference of every vector kernel.
//!
//! Owns no state and no packet: functions over bytes that the caller owns.

pub mod build;
pub mod checksum;
mod columns;
pub mod parse;
pub mod recognise;
mod reflect;
pub mod rewrite;
pub mod translate;

pub use columns::{Columns, Endpoint, Flow, LANES, MacAddr, lanes};
pub(crate) use parse::parse_with;
pub use parse::{Parsed, parse, verify_udp};
pub use recognise::{Recognised, Transport, recognise};
pub use reflect::reflect;
#[doc(hidden)]
pub use rewrite::FixedHeaderRewrite;
pub use rewrite::{FlowChecksumDelta, Rewrite, Translation};

/// UDP's protocol number, and IPv6 next header.
const UDP: u8 = 17;
