//! How workers live.
#![forbid(unsafe_code)]
