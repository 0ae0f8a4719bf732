//! Declares the event counters of one queue's relay.

/// Counts events of sessions and upstreams. All counters only increase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct RelayCounters {
    /// Counts created sessions.
    pub created: u64,
    /// Counts sessions that ended because their client was silent.
    pub expired: u64,
    /// Counts sessions that ended because their source address was removed from this host.
    pub source_changed: u64,
    /// Counts packets that were limited by a bucket that several client prefixes share. The table of prefixes
    /// ([`LimitsConfig::sources`](crate::config::LimitsConfig::sources)) is too small, or a flood has forged addresses.
    pub shared_bucket: u64,
    /// Counts challenges sent to clients without a session.
    pub challenged: u64,
    /// Counts sessions whose answers arrive at another queue and are handed over, because no tried source port brings
    /// them to this queue.
    pub misdirected: u64,
    /// Counts client packets handed over to the home queue of their flow.
    pub client_handed_over: u64,
    /// Counts sessions that ended because the next handler could not serve them.
    pub not_taken_over: u64,
    /// Counts how often an upstream went down.
    pub upstream_down: u64,
    /// Counts how often an upstream that was down answered again.
    pub upstream_up: u64,
    /// Counts sessions that were replaced because their upstream was down.
    pub failed_over: u64,
    /// Fragments of datagrams that were sent on.
    pub fragments: u64,
}

impl RelayCounters {
    /// Passes each counter with its name to `count`.
    pub(super) fn report(&self, count: &mut dyn FnMut(&'static str, u64)) {
        count("created", self.created);
        count("expired", self.expired);
        count("source_changed", self.source_changed);
        count("shared_bucket", self.shared_bucket);
        count("challenged", self.challenged);
        count("misdirected", self.misdirected);
        count("client_handed_over", self.client_handed_over);
        count("not_taken_over", self.not_taken_over);
        count("upstream_down", self.upstream_down);
        count("upstream_up", self.upstream_up);
        count("failed_over", self.failed_over);
        count("fragments", self.fragments);
    }
}

#[cfg(test)]
mod tests {
    use super::RelayCounters;
    use oxide::telemetry::metrics::RELAY_EVENTS;

    #[test]
    fn each_counter_is_in_the_registry() {
        let mut names = Vec::new();
        RelayCounters::default().report(&mut |name, _| names.push(name));
        assert_eq!(names, RELAY_EVENTS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }
}
