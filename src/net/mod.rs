//! Routes, neighbours and links, as the kernel knows them.

mod prefix;
mod tables;

pub use tables::{Hop, Link, LinkKind, Resolution, Route, RouteKind, Tables};
