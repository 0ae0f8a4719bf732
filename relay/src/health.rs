//! Which upstreams are alive, told by their answers alone: no probes, no clocks, nothing shared.
//!
//! ```text
//!            N sessions sent, none was answered for T            any answer
//!   up  ------------------------------------------------> down ------------> up
//! ```
//!
//! Silence is looked for once in each tick of the relay's clock. An upstream that is down is passed over by new
//! sessions, but for a few that try it: one of sixteen that would be its own, and at most one in each T. Sessions that
//! exist stay, unless their entry says `failover`; what they send is a trial as well. Where all of an entry are down, each
//! is as good as up.
//!
//! Rendezvous hashing keeps this small: with one upstream passed over exactly its own clients move, each to
//! its second choice, and come back when it heals. Maglev buys a look-up in constant time for a table of
//! thousands of slots, rebuilt at each change, that moves some other clients too (Eisenbud et al., NSDI 2016,
//! section 5.3); here the choice is made once a session among at most 256.

use arrayvec::ArrayVec;
use oxide::packet::Endpoint;

use super::plan::Entry;

/// Upstreams looked at in one tick: 96 KiB of memory.
const LOOK_AT: usize = 4096;
/// Changes kept for the log until the next tick.
const CHANGES: usize = 16;
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
    /// Entry of each upstream.
    entries: Vec<u16>,
    /// How often one went down.
    pub(super) went_down: u64,
    /// How often one came up again.
    pub(super) came_up: u64,
    /// Upstreams that were sent to and have not answered since.
    waiting: u32,
    /// Upstreams that are down, and those of them whose sessions leave.
    down: u32,
    left: u32,
    /// The tick of the last [`look`](Self::look), and where the next one begins.
    looked: Option<u32>,
    hand: usize,
    /// Upstreams that went down (`true`) or came up, for the log.
    changes: ArrayVec<(u32, bool), CHANGES>,
}

impl UpstreamHealth {
    /// Policies by entry, and the entry of each upstream. `None` where no entry wants to know, so that nothing is noted.
    pub(super) fn new(policies: Vec<Policy>, entries: Vec<u16>) -> Option<Box<Self>> {
        let any = policies.iter().any(|policy| policy.sessions > 0);
        any.then(|| {
            Box::new(Self {
                policies,
                upstreams: vec![Upstream::default(); entries.len()],
                entries,
                went_down: 0,
                came_up: 0,
                waiting: 0,
                down: 0,
                left: 0,
                looked: None,
                hand: 0,
                changes: ArrayVec::new(),
            })
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
        self.waiting = self.upstreams.iter().filter(|state| state.asked != 0).count() as u32;
        self.down = self.upstreams.iter().filter(|state| state.down).count() as u32;
        let left = |(state, at): (&Upstream, u32)| state.down && self.fails_over(at);
        self.left = self.upstreams.iter().zip(0..).filter(|it| left(*it)).count() as u32;
    }

    fn fails_over(&self, upstream: u32) -> bool {
        let entry = self.entries.get(upstream as usize);
        entry.and_then(|&entry| self.policies.get(usize::from(entry))).is_some_and(|policy| policy.failover)
    }

    /// Notices which upstreams have been silent for too long; once in each tick, and a bounded number of them.
    #[inline]
    pub(super) fn look(&mut self, now: u32) {
        if self.waiting > self.down && self.looked != Some(now) {
            self.looked = Some(now);
            self.look_at_some(now);
        }
    }

    #[cold]
    fn look_at_some(&mut self, now: u32) {
        for _ in 0..self.upstreams.len().min(LOOK_AT) {
            let at = self.hand;
            self.hand = if at + 1 < self.upstreams.len() { at + 1 } else { 0 };
            if let (Some(Upstream { asked: 1.., .. }), Some(&entry)) = (self.upstreams.get(at), self.entries.get(at)) {
                self.down(entry, at as u32, now);
            }
        }
    }

    /// Whether some upstream was sent to and has not answered since: answers are to be noted.
    #[inline(always)]
    pub(super) fn waits(&self) -> bool {
        self.waiting > 0
    }

    /// Whether every session [stays](Self::stays).
    #[inline(always)]
    pub(super) fn all_stay(&self) -> bool {
        self.left == 0
    }

    /// The session in `slot` sent to `upstream` of `entry`. To be called for its first packet in each tick at least.
    #[inline]
    pub(super) fn sent(&mut self, entry: u16, upstream: u32, slot: u32, now: u32) {
        let bit = 1 << (slot % 64);
        if let Some(state) = self.upstreams.get_mut(upstream as usize)
            && state.asked & bit == 0
        {
            self.waiting += u32::from(state.asked == 0);
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
            let down = std::mem::take(state).down;
            self.waiting -= 1;
            if down {
                self.came_up += 1;
                self.down -= 1;
                self.left -= u32::from(self.fails_over(upstream));
                let _ = self.changes.try_push((upstream, false));
            }
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
            self.down += 1;
            self.left += u32::from(policy.failover);
            let _ = self.changes.try_push((upstream, true));
        }
        state.down
    }

    /// Upstreams that went down (`true`) or came up since this was last called.
    pub(super) fn changes(&mut self) -> impl Iterator<Item = (u32, bool)> + '_ {
        self.changes.drain(..)
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
        !policy.failover || self.upstreams.get(upstream as usize).is_some_and(|state| !state.down)
    }

    /// Whether a session on `upstream`, which may be down, should go to another that is not.
    pub(super) fn should_leave(&mut self, planned: &Entry, entry: u16, first: u32, upstream: u32, now: u32) -> bool {
        let mut others = first..first + planned.upstreams.len() as u32;
        !self.stays(entry, upstream) && others.any(|other| !self.down(entry, other, now))
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
        UpstreamHealth::new(vec![never, policy], vec![1; 8]).unwrap_or_else(|| unreachable!())
    }

    #[test]
    fn disabled_health_records_nothing() {
        assert!(UpstreamHealth::new(vec![Policy { sessions: 0, silence: 1, failover: false }], vec![0; 3]).is_none());
        let mut health = health(1);
        health.sent(0, 0, 1, 0);
        assert!(!health.down(0, 0, 1000));
    }

    #[test]
    fn upstream_is_down_after_enough_silent_sessions() {
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
    fn next_handler_knows_upstreams_that_are_down() {
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

    /// Without a new session too, once in each tick; what changed is logged once.
    #[test]
    fn silence_is_noticed_and_changes_are_reported_once() {
        let mut health = health(2);
        (0..2).for_each(|slot| health.sent(1, 3, slot, 0));
        assert!(health.waits() && health.all_stay());
        health.look(30);
        assert!(health.all_stay() && health.changes().next().is_none());
        health.look(31);
        assert!(!health.all_stay() && !health.stays(1, 3) && health.stays(1, 4));
        health.look(32);
        assert_eq!(health.changes().collect::<Vec<_>>(), [(3, true)]);
        health.answered(3);
        assert!(health.all_stay() && !health.waits());
        health.answered(3);
        assert_eq!(health.changes().collect::<Vec<_>>(), [(3, false)]);
    }

    #[test]
    fn trials_of_down_upstream_are_bounded() {
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
