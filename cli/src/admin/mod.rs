//! Lets operators control a running engine: HTTP to read, a control socket to read and to command.
//!
//! ```text
//!   curl, Prometheus ---> HTTP/1.1, loopback ----+
//!                                                +--> oxide-admin thread (tokio) --> a few threads that may wait --> Control
//!   oxide ctl, top   ---> Unix socket, lines ----+
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `listeners` | listeners: addresses and access rights |
//! | [`sandbox`] | privileges dropped at start |
//! | `serve` | the admin thread; limits on number, size and time |
//! | `http` | the HTTP pages |
//! | `line_io` | lines of limited length on the socket |
//! | [`protocol`] | requests and answers of the socket |
//! | `control` | what the endpoints need of the process |
//! | `view` | a summary of the engine |
//! | `scrape` | the status as Prometheus text |
//! | [`notify`] | messages to systemd |
//! | `client` | the client of the socket, for `oxide ctl` and `oxide top` |
//!
//! No code here touches a packet. An endpoint that is overloaded, stalls or closes does not affect the engine.

mod client;
mod control;
#[cfg(test)]
pub(crate) mod fake;
mod http;
mod line_io;
mod listeners;
pub mod notify;
pub mod protocol;
pub mod sandbox;
mod scrape;
mod serve;
mod view;

pub use client::{Client, ClientError};
pub use control::{Control, Reloaded, answer};
pub use listeners::{DEFAULT_HTTP, ListenError, Listeners, default_socket};
pub use scrape::scrape;
pub use serve::{Admin, AdminLimits};
pub use view::{NodeView, QueueView};
