//! What a queue's relay counts.

/// What became of sessions. All monotonic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct RelayCounters {
    /// Sessions made.
    pub created: u64,
    /// Sessions that ended because their client was silent.
    pub expired: u64,
    /// Sessions that ended because their source address was removed from this host.
    pub source_changed: u64,
    /// Packets judged by a rate that their source shares with strangers: the table of sources
    /// ([`LimitsConfig::sources`](crate::config::LimitsConfig::sources)) is too small, or a flood comes
    /// from forged addresses.
    pub shared_bucket: u64,
    /// Challenges sent to clients without a session.
    pub challenged: u64,
    /// Sessions whose answers will come to another queue and be handed over, because no source port was
    /// found that brings them here.
    pub misdirected: u64,
    /// Times an upstream was found to be down.
    pub upstream_down: u64,
    /// Times an upstream that was down answered.
    pub upstream_up: u64,
    /// Sessions that ended because their upstream was down, and were made anew.
    pub failed_over: u64,
}

impl RelayCounters {
    /// Each by its name.
    pub(super) fn report(&self, count: &mut dyn FnMut(&'static str, u64)) {
        count("created", self.created);
        count("expired", self.expired);
        count("source_changed", self.source_changed);
        count("shared_bucket", self.shared_bucket);
        count("challenged", self.challenged);
        count("misdirected", self.misdirected);
        count("upstream_down", self.upstream_down);
        count("upstream_up", self.upstream_up);
        count("failed_over", self.failed_over);
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
