//! The ready application: a UDP relay.
