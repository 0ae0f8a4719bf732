//! Where packet queues are and where they should run.
#![forbid(unsafe_code)]
