//! Detects upstreams that do not answer, from relayed packets alone: without probes and without shared state.
//!
//! ```text
//!            N sessions sent, none was answered for T            any answer
//!   up  ------------------------------------------------> down ------------> up
//! ```
//!
//! The check runs once per tick of the relay's clock. New sessions avoid an upstream that is down, except for a few
//! trials: one of sixteen sessions that would use it, and at most one per T. Existing sessions stay unless their entry
//! has `failover`; their packets are trials as well. If all upstreams of an entry are down, all are used as if up.
//!
//! With rendezvous hashing only the clients of a down upstream move, each to its second choice, and they return when
//! it is up. Maglev has a look-up in constant time, but needs a table of thousands of slots that is rebuilt at each
//! change, which also moves other clients (Eisenbud et al., NSDI 2016, section 5.3). Here the choice is made once per
//! session among at most 256 upstreams.

use arrayvec::ArrayVec;
use oxide::packet::Endpoint;

use super::plan::Entry;

/// Limits the upstreams checked in one tick: 96 KiB of memory.
const LOOK_AT: usize = 4096;
/// Limits the changes kept for the log until the next tick.
const CHANGES: usize = 16;
/// Sets the trials: of this many new sessions that would use a down upstream, one tries it.
const TRY_ONE_OF: u32 = 16;

/// Defines when an entry's upstreams are down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// Number of sessions without an answer, at most 32; 0 disables the check.
    pub(super) sessions: u32,
    /// Time without an answer, in ticks of the relay's clock.
    pub(super) silence: u32,
    /// Moves existing sessions away from an upstream that is down.
    pub(super) failover: bool,
}

/// Holds the state of one upstream.
#[derive(Debug, Clone, Copy, Default)]
struct Upstream {
    /// Marks sessions that sent since the last answer, by slot modulo 64. At least as many sessions as bits have sent.
    asked: u64,
    /// Tick at which the number of bits reached the policy's number.
    since: u32,
    down: bool,
    /// Counts new sessions that avoided this upstream since its last trial.
    turned_away: u32,
    tried: u32,
}

/// Holds one queue's view of all upstreams, by their index in the relay's list.
pub(super) struct UpstreamHealth {
    policies: Vec<Policy>,
    upstreams: Vec<Upstream>,
    /// Entry of each upstream.
    entries: Vec<u16>,
    /// Counts how often an upstream went down.
    pub(super) went_down: u64,
    /// Counts how often an upstream came up again.
    pub(super) came_up: u64,
    /// Counts upstreams that got packets and have not answered since.
    waiting: u32,
    /// Counts upstreams that are down; `left` counts those of them with failover.
    down: u32,
    left: u32,
    /// Tick of the last [`look`](Self::look); `hand` is the index where the next one begins.
    looked: Option<u32>,
    hand: usize,
    /// Lists upstreams that went down (`true`) or came up, for the log.
    changes: ArrayVec<(u32, bool), CHANGES>,
}

impl UpstreamHealth {
    /// Takes the policy of each entry and the entry of each upstream. Returns `None` if every policy is disabled.
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

    /// Inherits the down upstreams of `former`; `places` has the new index of each of its upstreams. Upstreams that are
    /// up start again: their sessions have other slots now and would be counted twice.
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

    /// Checks a bounded number of upstreams for silence, once per tick.
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

    /// Returns true if some upstream got packets and has not answered since, so answers must be recorded.
    #[inline(always)]
    pub(super) fn waits(&self) -> bool {
        self.waiting > 0
    }

    /// Returns true if every session [stays](Self::stays).
    #[inline(always)]
    pub(super) fn all_stay(&self) -> bool {
        self.left == 0
    }

    /// Records that the session in `slot` sent to `upstream` of `entry`. Call it at least for the first packet per tick.
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

    /// Records an answer of `upstream`.
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

    /// Returns true if `upstream` of `entry` is down, and records the change if it has just gone down.
    pub(super) fn down(&mut self, entry: u16, upstream: u32, now: u32) -> bool {
        let Some(policy) = self.policies.get(usize::from(entry)).filter(|policy| policy.sessions > 0) else {
            return false;
        };
        let Some(state) = self.upstreams.get_mut(upstream as usize) else { return false };
        // Strictly longer, because the tick was rounded down.
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

    /// Returns the upstreams that went down (`true`) or came up since the last call.
    pub(super) fn changes(&mut self) -> impl Iterator<Item = (u32, bool)> + '_ {
        self.changes.drain(..)
    }

    /// Returns the index in `planned` of the upstream for a new session of `client`. `first` is the index of the entry's
    /// first upstream in the list of all.
    pub(super) fn choose(&mut self, planned: &Entry, entry: u16, first: u32, client: &Endpoint, now: u32) -> usize {
        let own = planned.upstream_for(client);
        if !self.down(entry, first + own as u32, now) || self.try_again(entry, first + own as u32, now) {
            return own;
        }
        planned.upstream_among(client, |at| !self.down(entry, first + at as u32, now)).unwrap_or(own)
    }

    /// Returns true if the upstream is up or its sessions do not fail over. Records no change.
    #[inline]
    pub(super) fn stays(&self, entry: u16, upstream: u32) -> bool {
        let Some(policy) = self.policies.get(usize::from(entry)) else { return false };
        !policy.failover || self.upstreams.get(upstream as usize).is_some_and(|state| !state.down)
    }

    /// Returns true if a session on `upstream` should move because it is down and another one is up.
    pub(super) fn should_leave(&mut self, planned: &Entry, entry: u16, first: u32, upstream: u32, now: u32) -> bool {
        let mut others = first..first + planned.upstreams.len() as u32;
        !self.stays(entry, upstream) && others.any(|other| !self.down(entry, other, now))
    }

    /// Returns true if a new session may try `upstream`, which is down.
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
        // One session without answers is not enough, for any time.
        (0..100).for_each(|now| health.sent(1, 4, 7, now));
        assert!(!health.down(1, 4, 100_000));
        // The time starts with the third session.
        health.sent(1, 4, 8, 200);
        health.sent(1, 4, 9, 210);
        assert!(!health.down(1, 4, 240));
        assert!(health.down(1, 4, 241));
        assert!(!health.down(1, 5, 241));
        assert_eq!((health.went_down, health.came_up), (1, 0));
        health.answered(4);
        assert!(!health.down(1, 4, 500));
        assert_eq!((health.went_down, health.came_up), (1, 1));
        // Any answer resets the count.
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
        // This upstream was not silent long enough, so its count starts again.
        assert!(!next.down(1, 3, 1000));
        assert_eq!(next.went_down, 1);
        next.answered(2);
        assert!(!next.down(1, 2, 33) && next.came_up == 1);
    }

    /// The check works without a new session, once per tick, and reports each change once.
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
        // Ten thousand sessions in a hundred ticks: a trial after each 31 ticks.
        let tried = (0..10_000).filter(|n| health.try_again(1, 0, 31 + n / 100)).count();
        assert_eq!(tried, 3);
        // One session per thousand ticks: one of sixteen is a trial.
        let tried = (0..32).filter(|n| health.try_again(1, 0, 1000 + n * 1000)).count();
        assert_eq!(tried, 2);
    }
}
