//! A WireGuard gateway as a packet handler.
//!
//! ```text
//!   client ==[ WireGuard, UDP ]==> queue k --- data ------------> opened in its frame, routed out
//!                                   |   ^
//!                    handshakes     v   | sessions                   (oxide-gateway thread)
//!                                 control thread == responses through an ordinary socket ==> client
//!   client <=[ WireGuard, UDP ]=== queue k <-- sealed in its frame -- packets to inner addresses
//! ```
//!
//! [`Gateway`] owns the control thread: the private key and all handshakes. [`GatewayHandler`] is one queue's handler and
//! owns the sessions of its share of the peers. Nothing is shared but channels and the read-only table of allowed IPs.
#![forbid(unsafe_code)]

mod config;
mod control;
mod handler;
mod packets;

pub use config::{GatewayConfig, GatewayError, GatewayPeer};
pub use control::{Gateway, GatewayHandlers};
pub use handler::{GatewayCounters, GatewayHandler};
