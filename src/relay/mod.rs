//! The ready application: sessions, address translation, policies.

pub mod policy;
