//! Headers: parse, rewrite, checksum. Scalar, safe, and the reference of every vector kernel.

mod columns;

pub use columns::{Columns, Endpoint, Flow, LANES, MacAddr};
