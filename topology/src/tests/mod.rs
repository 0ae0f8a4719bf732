//! Tests behaviour that spans modules of this crate.
#![allow(clippy::unwrap_used, clippy::panic)]

mod cases;
mod doctor;
mod drivers;
mod files;
mod machines;
mod odd;
mod properties;
mod schema;
