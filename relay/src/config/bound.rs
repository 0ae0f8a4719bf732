//! The number of sessions that a configuration allows at once, and the field that limits it.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use super::Config;

/// Limits of the sessions at once, all queues together. Each queue has an equal share.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionBound {
    /// Sessions at once; the smaller one of `capacity` and what the ports of all upstreams allow.
    pub total: u64,
    /// `sessions.capacity`.
    pub capacity: u32,
    /// Usable ports of `sessions.source_ports`: sessions of one upstream and source address.
    pub ports: u32,
    /// Source addresses of each family that has upstreams: the largest number.
    pub addresses: u32,
}

impl SessionBound {
    /// Returns whether the source ports, and not the capacity, limit the sessions.
    #[must_use]
    pub fn set_by_ports(&self) -> bool {
        self.total < u64::from(self.capacity)
    }

    /// Returns the field that sets the limit.
    #[must_use]
    pub fn field(&self) -> &'static str {
        if self.set_by_ports() { "sessions.source_ports" } else { "sessions.capacity" }
    }
}

impl fmt::Display for SessionBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { total, capacity, ports, addresses } = self;
        write!(f, "at most {total} sessions at once, set by {}", self.field())?;
        if self.set_by_ports() {
            write!(f, " (sessions.capacity = {capacity} cannot be reached)")?;
        }
        let each = if *addresses > 1 { format!(" from each of {addresses} source addresses") } else { String::new() };
        write!(f, "; at most {} to one upstream{each}", u64::from(*ports).min(*total))
    }
}

impl Config {
    /// Returns how many sessions there can be at once, and which field sets that.
    #[must_use]
    pub fn session_bound(&self) -> SessionBound {
        let sessions = &self.sessions;
        let listens: BTreeSet<u16> = self.relays.iter().map(|relay| relay.listen.port()).collect();
        let listened = listens.iter().filter(|&&port| sessions.source_ports.contains(port)).count() as u32;
        let ports = sessions.source_ports.count() - listened;
        let upstreams: HashSet<_> = self.relays.iter().flat_map(|relay| &relay.upstreams).collect();
        let addresses = |ipv4: bool| sessions.sources.iter().filter(|it| it.is_ipv4() == ipv4).count().max(1) as u32;
        let addresses = upstreams.iter().map(|upstream| addresses(upstream.is_ipv4()));
        let paths: u64 = addresses.clone().map(u64::from).sum();
        // Without an entry, one upstream is assumed.
        let by_ports = u64::from(ports) * paths.max(1);
        let (capacity, addresses) = (sessions.capacity, addresses.max().unwrap_or(1));
        SessionBound { total: by_ports.min(capacity.into()), capacity, ports, addresses }
    }
}
