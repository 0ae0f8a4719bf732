//! Which neighbours somebody wants, and when to ask the kernel for each. Owned by the service's loop;
//! time comes in as an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::state::Key;

/// At most one request for a neighbour in this time.
pub(super) const AGAIN: Duration = Duration::from_millis(500);
/// A neighbour in use is asked for this often, so that the kernel probes it and a new MAC is noticed: our
/// packets do not pass the kernel, which would let the entry go stale otherwise.
pub(super) const FRESH: Duration = Duration::from_secs(20);
/// A neighbour is in use for this long after somebody wanted it.
pub(super) const IN_USE: Duration = Duration::from_secs(120);
/// Neighbours remembered; above it the one not wanted for longest gives way.
pub(super) const CAPACITY: usize = 4096;

#[derive(Debug)]
struct NeighbourRequest {
    wanted: Instant,
    /// When to ask the kernel next.
    due: Instant,
    /// Not before this, whoever wants it.
    earliest: Instant,
    /// A loss is asked about at once from then on.
    loss_at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct NeighbourRequests {
    entries: HashMap<Key, NeighbourRequest>,
}

impl NeighbourRequests {
    /// Somebody wants `key`. Whether to ask the kernel now.
    pub(super) fn want(&mut self, key: Key, now: Instant) -> bool {
        if !self.entries.contains_key(&key) && self.entries.len() >= CAPACITY {
            let oldest = self.entries.iter().min_by_key(|(_, ask)| ask.wanted).map(|(key, _)| *key);
            oldest.map(|key| self.entries.remove(&key));
        }
        let ask =
            self.entries.entry(key).or_insert(NeighbourRequest { wanted: now, due: now, earliest: now, loss_at: now });
        ask.wanted = now;
        ask.fire(now)
    }

    /// The kernel has forgotten `key`. Whether to ask it again now; if that is too soon, `due` will say it later. A loss is
    /// news: the request before it does not delay the next one, only a loss before it does. So a flush of the kernel's
    /// neighbours costs no wait, and one that the kernel gives up again and again is not asked for without a pause.
    pub(super) fn lost(&mut self, key: Key, now: Instant) -> bool {
        self.entries.get_mut(&key).is_some_and(|ask| {
            if ask.loss_at <= now {
                (ask.earliest, ask.loss_at) = (now, now + AGAIN);
            }
            ask.due = ask.earliest;
            ask.fire(now)
        })
    }

    /// The neighbours to ask for now. Forgets those nobody has wanted for [`IN_USE`].
    pub(super) fn due(&mut self, now: Instant) -> Vec<Key> {
        self.entries.retain(|_, ask| now.duration_since(ask.wanted) < IN_USE);
        self.entries.iter_mut().filter_map(|(key, ask)| (ask.due <= now && ask.fire(now)).then_some(*key)).collect()
    }

    /// Whether somebody has wanted `key` lately.
    pub(super) fn contains(&self, key: Key) -> bool {
        self.entries.contains_key(&key)
    }

    /// Whether there is nothing to keep fresh.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl NeighbourRequest {
    fn fire(&mut self, now: Instant) -> bool {
        let may = self.earliest <= now;
        if may {
            (self.earliest, self.due) = (now + AGAIN, now + FRESH);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(last: u16) -> Key {
        let [a, b] = last.to_be_bytes();
        (u32::MAX, [10, 0, a, b].into())
    }

    #[test]
    fn neighbour_in_use_is_requested_periodically() {
        let (mut requests, start) = (NeighbourRequests::default(), Instant::now());
        assert!(requests.want(key(1), start));
        assert!(!requests.want(key(1), start + AGAIN / 2), "too soon");
        assert!(requests.want(key(2), start + AGAIN / 2), "another neighbour is another matter");
        assert!(requests.want(key(1), start + AGAIN));
        let later = start + AGAIN + FRESH;
        assert!(requests.due(later - Duration::from_millis(501)).is_empty());
        let mut due = requests.due(later);
        due.sort();
        assert_eq!(due, [key(1), key(2)]);
        assert!(requests.due(later).is_empty());
        // Nobody has wanted them for two minutes: no more probes.
        assert!(requests.due(start + AGAIN + IN_USE).is_empty());
        assert!(requests.is_empty());
    }

    #[test]
    fn lost_neighbour_is_requested_at_once_but_not_without_pause() {
        let (mut requests, start) = (NeighbourRequests::default(), Instant::now());
        assert!(!requests.lost(key(1), start), "nobody wants it");
        assert!(requests.want(key(1), start));
        assert!(requests.lost(key(1), start + AGAIN / 2), "a flush is no reason to wait");
        assert!(!requests.lost(key(1), start + AGAIN * 3 / 4), "two losses in a row are");
        assert_eq!(requests.due(start + AGAIN * 3 / 2), [key(1)], "as soon as the limit lets it");
        assert!(requests.lost(key(1), start + AGAIN * 3));
    }

    #[test]
    fn memory_is_bounded_and_oldest_is_evicted() {
        let (mut requests, start) = (NeighbourRequests::default(), Instant::now());
        for i in 0..CAPACITY as u16 {
            requests.want(key(i), start + Duration::from_millis(i.into()));
        }
        requests.want(key(0), start + Duration::from_secs(10));
        requests.want(key(u16::MAX), start + Duration::from_secs(11));
        assert_eq!(requests.entries.len(), CAPACITY);
        assert!(requests.contains(key(0)) && !requests.contains(key(1)) && requests.contains(key(u16::MAX)));
    }
}
