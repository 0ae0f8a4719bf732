//! Which upstreams are alive, told by their answers alone: no probes, no clocks, nothing shared.
//!
//! ```text
//!            N sessions sent, none was answered for T            any answer
//!   up  ------------------------------------------------> down ------------> up
//! ```
//!
//! An upstream that is down is passed over by new sessions, but for a few that try it: one of sixteen that
//! would be its own, and at most one in each T. Sessions that exist stay, unless their entry says `failover`;
//! what they send is a trial as well. Where all of an entry are down, each is as good as up.
//!
//! Rendezvous hashing keeps this small: with one upstream passed over exactly its own clients move, each to
//! its second choice, and come back when it heals. Maglev buys a look-up in constant time for a table of
//! thousands of slots, rebuilt at each change, that moves some other clients too (Eisenbud et al., NSDI 2016,
//! section 5.3); here the choice is made once a session among at most 256.

use oxide::packet::Endpoint;

use super::plan::Entry;

/// Of so many new sessions that a down upstream would get, one tries it.
const TRY_ONE_OF: u32 = 16;

/// When an entry's upstreams are down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// Sessions that must have been silent; 0 is never down. At most 32.
    pub(super) sessions: u32,
    /// For how long, in ticks of the relay's clock.
    pub(super) silence: u32,
    /// Whether sessions leave an upstream that is down.
    pub(super) failover: bool,
}

/// One upstream.
#[derive(Debug, Clone, Copy, Default)]
struct Upstream {
    /// Sessions that sent since it last answered, by their slots modulo 64: at least as many as bits.
    asked: u64,
    /// When they became as many as the policy wants.
    since: u32,
    down: bool,
    /// New sessions turned away since it was tried last.
    turned_away: u32,
    tried: u32,
}

/// What one queue knows of all upstreams, by their place in the relay's list.
pub(super) struct UpstreamHealth {
    policies: Vec<Policy>,
    upstreams: Vec<Upstream>,
    /// How often one went down.
    pub(super) went_down: u64,
    /// How often one came up again.
    pub(super) came_up: u64,
}

impl UpstreamHealth {
    /// `None` where no entry wants to know, so that nothing is noted.
    pub(super) fn new(policies: Vec<Policy>, upstreams: usize) -> Option<Box<Self>> {
        let any = policies.iter().any(|policy| policy.sessions > 0);
        any.then(|| {
            Box::new(Self { policies, upstreams: vec![Upstream::default(); upstreams], went_down: 0, came_up: 0 })
        })
    }

    /// Goes on with what `former` knows, `places` being ours for each of its upstreams. Of those that are up nothing
    /// is taken: their sessions have other slots now, and would be counted twice.
    pub(super) fn take_over(&mut self, former: &Self, places: &[Option<u32>]) {
        (self.went_down, self.came_up) = (former.went_down, former.came_up);
        for (theirs, place) in former.upstreams.iter().zip(places).filter(|(theirs, _)| theirs.down) {
            if let Some(ours) = place.and_then(|at| self.upstreams.get_mut(at as usize)) {
                *ours = *theirs;
            }
        }
    }

    /// The session in `slot` sent to `upstream` of `entry`.
    #[inline]
    pub(super) fn sent(&mut self, entry: u16, upstream: u32, slot: u32, now: u32) {
        let bit = 1 << (slot % 64);
        if let Some(state) = self.upstreams.get_mut(upstream as usize)
            && state.asked & bit == 0
        {
            state.asked |= bit;
            let wanted = self.policies.get(usize::from(entry)).map_or(0, |policy| policy.sessions);
            if state.asked.count_ones() == wanted {
                state.since = now;
            }
        }
    }

    /// `upstream` answered.
    #[inline]
    pub(super) fn answered(&mut self, upstream: u32) {
        if let Some(state) = self.upstreams.get_mut(upstream as usize)
            && state.asked != 0
        {
            self.came_up += u64::from(state.down);
            *state = Upstream::default();
        }
    }

    /// Whether `upstream` of `entry` is down; notices when it has just become so.
    pub(super) fn down(&mut self, entry: u16, upstream: u32, now: u32) -> bool {
        let Some(policy) = self.policies.get(usize::from(entry)).filter(|policy| policy.sessions > 0) else {
            return false;
        };
        let Some(state) = self.upstreams.get_mut(upstream as usize) else { return false };
        // Strictly longer: the stamp was rounded down.
        if !state.down && state.asked.count_ones() >= policy.sessions && now.wrapping_sub(state.since) > policy.silence
        {
            (state.down, state.tried, state.turned_away) = (true, now, 0);
            self.went_down += 1;
        }
        state.down
    }

    /// The place in `planned` of the upstream for a new session of `client`. `first` is the place of the
    /// entry's first upstream in the list of all.
    pub(super) fn choose(&mut self, planned: &Entry, entry: u16, first: u32, client: &Endpoint, now: u32) -> usize {
        let own = planned.upstream_for(client);
        if !self.down(entry, first + own as u32, now) || self.try_again(entry, first + own as u32, now) {
            return own;
        }
        planned.upstream_among(client, |at| !self.down(entry, first + at as u32, now)).unwrap_or(own)
    }

    /// Whether [`should_leave`](Self::should_leave) would say no, and notice nothing.
    #[inline]
    pub(super) fn stays(&self, entry: u16, upstream: u32) -> bool {
        let Some(policy) = self.policies.get(usize::from(entry)) else { return false };
        let Some(state) = self.upstreams.get(upstream as usize) else { return false };
        !policy.failover || !state.down && state.asked.count_ones() < policy.sessions
    }

    /// Whether a session on `upstream`, which may be down, should go to another that is not.
    pub(super) fn should_leave(&mut self, planned: &Entry, entry: u16, first: u32, upstream: u32, now: u32) -> bool {
        let failover = self.policies.get(usize::from(entry)).is_some_and(|policy| policy.failover);
        let mut others = first..first + planned.upstreams.len() as u32;
        failover && self.down(entry, upstream, now) && others.any(|other| !self.down(entry, other, now))
    }

    /// Whether a new session may find out if `upstream`, which is down, is up again.
    fn try_again(&mut self, entry: u16, upstream: u32, now: u32) -> bool {
        let silence = self.policies.get(usize::from(entry)).map_or(u32::MAX, |policy| policy.silence);
        let Some(state) = self.upstreams.get_mut(upstream as usize) else { return false };
        state.turned_away = state.turned_away.saturating_add(1);
        let due = state.turned_away >= TRY_ONE_OF && now.wrapping_sub(state.tried) > silence;
        if due {
            (state.turned_away, state.tried) = (0, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(sessions: u32) -> Box<UpstreamHealth> {
        let policy = Policy { sessions, silence: 30, failover: true };
        let never = Policy { sessions: 0, silence: 0, failover: false };
        UpstreamHealth::new(vec![never, policy], 8).unwrap_or_else(|| unreachable!())
    }

    #[test]
    fn nothing_is_noted_where_nobody_wants_to_know() {
        assert!(UpstreamHealth::new(vec![Policy { sessions: 0, silence: 1, failover: false }], 3).is_none());
        let mut health = health(1);
        health.sent(0, 0, 1, 0);
        assert!(!health.down(0, 0, 1000));
    }

    #[test]
    fn down_when_enough_sessions_were_silent_for_long_enough() {
        let mut health = health(3);
        // One session that is never answered says nothing, however long.
        (0..100).for_each(|now| health.sent(1, 4, 7, now));
        assert!(!health.down(1, 4, 100_000));
        // Time runs from the third.
        health.sent(1, 4, 8, 200);
        health.sent(1, 4, 9, 210);
        assert!(!health.down(1, 4, 240));
        assert!(health.down(1, 4, 241));
        assert!(!health.down(1, 5, 241));
        assert_eq!((health.went_down, health.came_up), (1, 0));
        health.answered(4);
        assert!(!health.down(1, 4, 500));
        assert_eq!((health.went_down, health.came_up), (1, 1));
        // Any answer begins all anew.
        for round in 0..100 {
            (0..64).for_each(|slot| health.sent(1, 4, slot, 600 + 10 * round));
            health.answered(4);
            assert!(!health.down(1, 4, 700 + 10 * round));
        }
    }

    #[test]
    fn who_follows_knows_who_is_down_and_by_its_own_places() {
        let mut former = health(1);
        former.sent(1, 4, 0, 0);
        former.sent(1, 5, 0, 20);
        assert!(former.down(1, 4, 31) && !former.down(1, 5, 31));
        let mut next = health(1);
        next.take_over(&former, &[None, None, None, None, Some(2), Some(3)]);
        assert!(next.down(1, 2, 32) && !next.down(1, 4, 32));
        // Silent, but not for long enough yet: from anew.
        assert!(!next.down(1, 3, 1000));
        assert_eq!(next.went_down, 1);
        next.answered(2);
        assert!(!next.down(1, 2, 33) && next.came_up == 1);
    }

    #[test]
    fn trials_are_few() {
        let mut health = health(1);
        health.sent(1, 0, 0, 0);
        assert!(health.down(1, 0, 31));
        // Ten thousand sessions in a hundred ticks: after 31 of them, and each 31 more.
        let tried = (0..10_000).filter(|n| health.try_again(1, 0, 31 + n / 100)).count();
        assert_eq!(tried, 3);
        // Twenty sessions, one in a long while: one of sixteen.
        let tried = (0..32).filter(|n| health.try_again(1, 0, 1000 + n * 1000)).count();
        assert_eq!(tried, 2);
    }
}
