//! What operators have of a running engine: HTTP to read, a control socket to read and to tell.
//!
//! ```text
//!   curl, Prometheus ---> HTTP/1.1, loopback ----+
//!                                                +--> oxide-admin thread (tokio) --> a few threads that may wait --> Control
//!   oxide ctl, top   ---> Unix socket, lines ----+
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `listeners` | listeners: where they are, who may reach them |
//! | [`sandbox`] | privileges given up at start |
//! | `serve` | the thread behind them; bounds on number, size and time |
//! | `http` | what is there to read |
//! | `line_io` | the socket's lines, bounded |
//! | [`protocol`] | requests and answers of the socket |
//! | `control` | what the doors need of the process |
//! | `view` | the engine in short |
//! | `scrape` | the status as Prometheus text |
//! | [`notify`] | what systemd is told |
//! | `client` | the other end of the socket, for `oxide ctl` and `oxide top` |
//!
//! Nothing here touches a packet; a door that is overrun, stalls or closes leaves the engine as it is.

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
