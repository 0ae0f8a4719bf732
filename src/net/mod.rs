//! Routes, neighbours and links, as the kernel knows them.
//!
//! [`NetService`] owns the netlink sockets, on its own thread; [`Tables`] are what it hands out: one
//! consistent copy for each receiver. [`BusyPollSettings`] are the settings of a device that preferred busy polling needs.
//!
//! ```text
//!  kernel --notices--> wire --facts--> state --tables, at most one in 20 ms--> events
//!         <--requests- wire <--asks--- follow <------------------------------- resolve()
//! ```

mod busy_poll;
mod decode;
mod follow;
mod neighbour_requests;
mod prefix;
mod service;
mod sockets;
mod state;
mod tables;

pub use busy_poll::{BusyPollSettings, SETTINGS_RECORDS, SettingsError, SettingsGuard, put_back_settings};
pub use service::{Busy, NetError, NetEvent, NetOptions, NetService};
pub use tables::{Link, LinkKind, Resolution, ResolvedHop, Route, RouteKind, Tables};
