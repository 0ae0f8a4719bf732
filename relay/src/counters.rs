//! What a queue's relay counts.

/// What became of sessions. All monotonic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct RelayCounters {
    /// Sessions made.
    pub created: u64,
    /// Sessions that ended because their client was silent.
    pub expired: u64,
    /// Sessions that ended because their source address was no longer the right one.
    pub moved: u64,
    /// Packets judged by a rate that their source shares with strangers: the table of sources
    /// ([`LimitsConfig::sources`](crate::config::LimitsConfig::sources)) is too small, or a flood comes
    /// from forged addresses.
    pub crowded: u64,
    /// Challenges sent to clients without a session.
    pub challenged: u64,
    /// Sessions whose answers will come to another queue and be handed over, because no source port was
    /// found that brings them here.
    pub away: u64,
    /// Times an upstream was found to be down.
    pub upstreams_fell: u64,
    /// Times an upstream that was down answered.
    pub upstreams_rose: u64,
    /// Sessions that ended because their upstream was down, and were made anew.
    pub failed_over: u64,
}

impl RelayCounters {
    /// Each by its name.
    pub(super) fn tell(&self, count: &mut dyn FnMut(&'static str, u64)) {
        count("created", self.created);
        count("expired", self.expired);
        count("moved", self.moved);
        count("crowded", self.crowded);
        count("challenged", self.challenged);
        count("away", self.away);
        count("upstreams_fell", self.upstreams_fell);
        count("upstreams_rose", self.upstreams_rose);
        count("failed_over", self.failed_over);
    }
}

#[cfg(test)]
mod tests {
    use super::RelayCounters;
    use oxide::telemetry::metrics::RELAY_EVENTS;

    #[test]
    fn each_count_is_in_the_registry() {
        let mut names = Vec::new();
        RelayCounters::default().tell(&mut |name, _| names.push(name));
        assert_eq!(names, RELAY_EVENTS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }
}
