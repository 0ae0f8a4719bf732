//! The home queue of each client flow, in one table that all queues share.
//!
//! The NIC may bring packets of one client socket to several queues: the RSS table changes, or the sender's transmit queues
//! do. The queue of the first packet claims the flow here and has its session. Every other queue finds no session of its
//! own, asks this table, and hands the packet over. A queue asks only for packets without a session, so the fast path
//! does not touch the table.
//!
//! Memory is fixed. A bucket has a lock that is held for some ten loads and never waited for: a queue that finds it locked
//! gives up after a bounded number of attempts, and holds its packet. A keyed hash selects bucket and fingerprint, so nobody
//! can choose flows that collide. Two flows with one fingerprint share their home queue, which has a session for each.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use oxide::packet::Endpoint;

/// Flows in one bucket; the lock and 15 of them fill two cache lines.
const WAYS: usize = 15;
/// Flows per bucket when all sessions are in use, at most: more than 15 then come together once in 2000 buckets.
const LOAD: usize = 6;
/// Queues at most, as in the steering program.
const PLACES: usize = 256;
/// Attempts to take a lock.
const ATTEMPTS: u32 = 1000;

/// A bucket of flows. An entry has, from the upper bits, 40 bits of the flow's hash, 16 of the epoch, and 8 of the place
/// of its home queue; 0 is free, because no epoch is 0.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Bucket {
    locked: AtomicU64,
    entries: [AtomicU64; WAYS],
}

const FINGERPRINT: u64 = !0 << 24;

/// The home queues of all flows.
#[derive(Debug)]
pub(super) struct FlowOwners {
    secret: RandomState,
    buckets: Box<[Bucket]>,
    /// By place: the epoch of its handler. Entries of former handlers, which may have lost their sessions, are free.
    epochs: Box<[AtomicU16]>,
    capacity: u32,
}

/// Result of [`FlowOwners::claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// The flow's home queue is the one that asks.
    Ours,
    /// The flow's home queue is at this place.
    Elsewhere(u32),
    /// There is no free entry: the queue serves the flow without one.
    Full,
    /// Another queue holds the lock for longer than usual: ask again later.
    Busy,
}

impl FlowOwners {
    /// Allocates the table for the flows of `capacity` sessions, 21 to 43 bytes for each.
    pub(super) fn new(capacity: u32) -> Self {
        let buckets = (capacity as usize).div_ceil(LOAD).next_power_of_two();
        Self {
            secret: RandomState::new(),
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            epochs: (0..PLACES).map(|_| AtomicU16::new(1)).collect(),
            capacity,
        }
    }

    /// Returns the number of sessions that the table was made for.
    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Returns the hash of the flow from `client` to `listen`.
    pub(super) fn hash(&self, client: &Endpoint, listen: &Endpoint) -> u64 {
        self.secret.hash_one((client, listen))
    }

    /// Returns the epoch for a new handler of the queue at `place`. Its claims and those of its predecessor hold until it
    /// [begins](Self::begin).
    pub(super) fn next_epoch(&self, place: u32) -> u16 {
        self.epochs.get(place as usize).map_or(1, |epoch| following(epoch.load(Ordering::Relaxed)))
    }

    /// Frees the entries of earlier handlers of the queue at `place`.
    pub(super) fn begin(&self, place: u32, epoch: u16) {
        if let Some(current) = self.epochs.get(place as usize) {
            current.store(epoch, Ordering::Relaxed);
        }
    }

    /// Claims the flow for the queue at `place`, if no queue that is `running` has it.
    pub(super) fn claim(&self, hash: u64, (place, epoch): (u32, u16), running: impl Fn(u32) -> bool) -> Claim {
        let entry = hash & FINGERPRINT | u64::from(epoch) << 8 | u64::from(place as u8);
        let claim = self.with(hash, |entries| {
            let mut free = None;
            for cell in entries {
                let found = cell.load(Ordering::Relaxed);
                if !self.holds(found) {
                    free = free.or(Some(cell));
                } else if (found ^ hash) & FINGERPRINT == 0 {
                    let owner = place_of(found);
                    if owner != place && running(owner) {
                        return Claim::Elsewhere(owner);
                    }
                    free = Some(cell);
                    break;
                }
            }
            let Some(cell) = free else { return Claim::Full };
            cell.store(entry, Ordering::Relaxed);
            Claim::Ours
        });
        claim.unwrap_or(Claim::Busy)
    }

    /// Returns the place of the flow's home queue; `None` if there is none, or if the lock is busy.
    pub(super) fn owner(&self, hash: u64) -> Option<u32> {
        let same = |found: &u64| (found ^ hash) & FINGERPRINT == 0 && self.holds(*found);
        self.with(hash, |entries| entries.iter().map(|cell| cell.load(Ordering::Relaxed)).find(same).map(place_of))?
    }

    /// Frees the flow's entry, if it is that of the queue at `place`.
    pub(super) fn release(&self, hash: u64, place: u32) {
        let _ = self.with(hash, |entries| {
            let same = |found: u64| (found ^ hash) & FINGERPRINT == 0 && place_of(found) == place && found != 0;
            for cell in entries.iter().filter(|cell| same(cell.load(Ordering::Relaxed))) {
                cell.store(0, Ordering::Relaxed);
            }
        });
    }

    /// Returns whether an entry is in force.
    fn holds(&self, entry: u64) -> bool {
        let current = self.epochs.get(place_of(entry) as usize).map_or(0, |epoch| epoch.load(Ordering::Relaxed));
        let epoch = (entry >> 8) as u16;
        epoch != 0 && (epoch == current || epoch == following(current))
    }

    /// Calls `act` with the locked bucket of `hash`; `None` if it is locked by another queue.
    fn with<T>(&self, hash: u64, act: impl FnOnce(&[AtomicU64; WAYS]) -> T) -> Option<T> {
        // The number of buckets is a power of two, at most 2^22: bits that the fingerprint does not have.
        let bucket = self.buckets.get(hash as usize & (self.buckets.len() - 1))?;
        for _ in 0..ATTEMPTS {
            if bucket.locked.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                let result = act(&bucket.entries);
                bucket.locked.store(0, Ordering::Release);
                return Some(result);
            }
            std::hint::spin_loop();
        }
        None
    }
}

fn place_of(entry: u64) -> u32 {
    u32::from(entry as u8)
}

fn following(epoch: u16) -> u16 {
    epoch.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: fn(u32) -> bool = |_| true;

    fn flows(owners: &FlowOwners, count: u16) -> Vec<u64> {
        let listen = Endpoint { address: [1; 16], port: 53 };
        (0..count).map(|port| owners.hash(&Endpoint { address: [2; 16], port }, &listen)).collect()
    }

    #[test]
    fn first_queue_owns_a_flow_until_it_releases_it() {
        let owners = FlowOwners::new(1000);
        let flows = flows(&owners, 1000);
        for &flow in &flows {
            assert_eq!(owners.owner(flow), None);
            assert_eq!(owners.claim(flow, (3, 1), ALL), Claim::Ours);
            assert_eq!(owners.claim(flow, (3, 1), ALL), Claim::Ours);
            assert_eq!(owners.claim(flow, (0, 1), ALL), Claim::Elsewhere(3));
        }
        for &flow in &flows {
            owners.release(flow, 0);
            assert_eq!(owners.owner(flow), Some(3), "another queue releases nothing");
            owners.release(flow, 3);
            assert_eq!(owners.owner(flow), None);
            assert_eq!(owners.claim(flow, (0, 1), ALL), Claim::Ours);
        }
    }

    #[test]
    fn queue_that_does_not_run_loses_its_flow_to_the_next_packet() {
        let owners = FlowOwners::new(64);
        let flow = flows(&owners, 1)[0];
        assert_eq!(owners.claim(flow, (1, 1), ALL), Claim::Ours);
        assert_eq!(owners.claim(flow, (2, 1), |place| place != 1), Claim::Ours);
        assert_eq!(owners.claim(flow, (1, 1), ALL), Claim::Elsewhere(2));
    }

    /// A new handler claims what it takes over; what it does not claim is free once it begins, and not before.
    #[test]
    fn flows_without_successor_are_free_after_restart() {
        let owners = FlowOwners::new(64);
        let flows = flows(&owners, 40);
        let epoch = owners.next_epoch(5);
        owners.begin(5, epoch);
        flows.iter().for_each(|&flow| assert_eq!(owners.claim(flow, (5, epoch), ALL), Claim::Ours));
        let next = owners.next_epoch(5);
        flows[..20].iter().for_each(|&flow| assert_eq!(owners.claim(flow, (5, next), ALL), Claim::Ours));
        flows.iter().for_each(|&flow| assert_eq!(owners.owner(flow), Some(5)));
        owners.begin(5, next);
        let kept = flows.iter().filter(|&&flow| owners.owner(flow) == Some(5)).count();
        assert_eq!(kept, 20);
        flows[20..].iter().for_each(|&flow| assert_eq!(owners.claim(flow, (6, 1), ALL), Claim::Ours));
    }

    /// Forged clients fill the table: further flows have no entry, and the others keep theirs.
    #[test]
    fn full_table_refuses_new_flows() {
        let owners = FlowOwners::new(64);
        let flows = flows(&owners, 10_000);
        let claims: Vec<Claim> = flows.iter().map(|&flow| owners.claim(flow, (1, 1), ALL)).collect();
        let ours = claims.iter().filter(|claim| **claim == Claim::Ours).count();
        assert_eq!(ours, 16 * WAYS);
        assert!(claims.iter().all(|claim| matches!(claim, Claim::Ours | Claim::Full)));
        let found = flows.iter().filter(|&&flow| owners.owner(flow) == Some(1)).count();
        assert_eq!(found, ours);
    }

    /// Two queues that claim the same flows at the same time agree on each.
    #[test]
    fn concurrent_claims_give_one_owner() {
        let owners = FlowOwners::new(4096);
        let flows = flows(&owners, 4096);
        let claim = |place: u32| {
            let one = |&flow: &u64| loop {
                match owners.claim(flow, (place, 1), ALL) {
                    Claim::Busy => std::thread::yield_now(),
                    Claim::Elsewhere(other) => return other,
                    Claim::Ours => return place,
                    Claim::Full => return u32::MAX,
                }
            };
            flows.iter().map(one).collect::<Vec<u32>>()
        };
        let (a, b) = std::thread::scope(|scope| {
            let a = scope.spawn(|| claim(1));
            (a.join().unwrap_or_default(), claim(2))
        });
        let both: Vec<_> = a.iter().zip(&b).filter(|(a, _)| **a != u32::MAX).collect();
        assert!(both.len() > 4000 && both.iter().all(|(a, b)| a == b), "{} flows", both.len());
    }

    #[test]
    fn locked_bucket_is_busy_not_waited_for() {
        let owners = FlowOwners::new(64);
        let flow = flows(&owners, 1)[0];
        owners.buckets.iter().for_each(|bucket| bucket.locked.store(1, Ordering::Relaxed));
        assert_eq!(owners.claim(flow, (1, 1), ALL), Claim::Busy);
        owners.release(flow, 1);
        owners.buckets.iter().for_each(|bucket| bucket.locked.store(0, Ordering::Relaxed));
        assert_eq!(owners.claim(flow, (1, 1), ALL), Claim::Ours);
    }
}
