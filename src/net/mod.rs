//! Routes, neighbours and links, as the kernel knows them.

mod tables;

pub use tables::{Hop, Link, Resolution, Route, Tables};
