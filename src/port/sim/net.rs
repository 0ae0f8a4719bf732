//! The test's handle on all simulated NIC queues.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::link::{LinkCounters, LinkSpec, SimLink};
use super::nic::{NicCounters, NicQueue};
use super::{Driver, Holdings, KernelFaultRates, Rng, Violation};
use crate::net::{self, LinkKind};
use crate::packet::{MacAddr, parse};
use crate::port::{QueueId, Rss};

/// One simulated interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimInterface {
    /// Its name.
    pub name: String,
    /// How many queues it has.
    pub queues: u32,
    /// Its hardware address.
    pub mac: MacAddr,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// How it sends.
    pub driver: Driver,
}

impl SimInterface {
    /// An interface of MTU 1500 in copy mode, its hardware address made from its name.
    #[must_use]
    pub fn new(name: &str, queues: u32) -> Self {
        let bits = name.bytes().fold(0u32, |bits, byte| bits.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let [a, b, c, d] = bits.to_be_bytes();
        // 02: locally administered, unicast.
        let mac = MacAddr([0x02, 0, a, b, c, d]);
        Self { name: name.to_owned(), queues, mac, mtu: 1500, driver: Driver::Copy }
    }
}

/// A handle on simulated NIC queues; clones are handles on the same ones.
///
/// Calls that name a queue or an interface panic if it is not one of those the net was made with: a
/// mistake in the test, which must not pass for "nothing was sent".
#[derive(Clone)]
pub struct SimNet(Arc<Shared>);

struct Shared {
    interfaces: Vec<SimInterface>,
    queues: BTreeMap<QueueId, Arc<Mutex<NicQueue>>>,
    clock_ns: AtomicU64,
    seed: u64,
    cables: Mutex<Vec<Cable>>,
    rss: Mutex<BTreeMap<String, Rss>>,
}

/// One way of a wire between two queues.
struct Cable {
    from: QueueId,
    to: QueueId,
    link: SimLink<Vec<u8>>,
}

impl SimNet {
    /// Interfaces with all their queues, links up, no faults. Every choice that is ever made follows
    /// from `seed`.
    #[must_use]
    pub fn new(interfaces: &[SimInterface], seed: u64) -> Self {
        let mut queues = BTreeMap::new();
        for (number, interface) in interfaces.iter().enumerate() {
            for queue in 0..interface.queues {
                let id = QueueId::new(&interface.name, queue);
                let rng = Rng::part(seed, (number as u64) << 32 | u64::from(queue));
                let nic = NicQueue::new(id.clone(), interface.driver, rng);
                queues.insert(id, Arc::new(Mutex::new(nic)));
            }
        }
        let (clock_ns, cables, rss) = (AtomicU64::new(0), Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { interfaces: interfaces.to_vec(), queues, clock_ns, seed, cables, rss }))
    }

    /// From now on `interface` spreads what [arrives](Self::arrive) over its queues by `rss`.
    pub fn set_rss(&self, interface: &str, rss: Rss) {
        lock(&self.0.rss).insert(interface.to_owned(), rss);
    }

    /// A packet arrives at the queue of `interface` that its RSS says: the first one where there is none, or
    /// for a packet without a UDP flow. Returns which queue.
    pub fn arrive(&self, interface: &str, packet: &[u8]) -> QueueId {
        let head = std::array::from_fn(|i| packet.get(i).copied().unwrap_or(0));
        let flow = u16::try_from(packet.len()).ok().and_then(|length| parse(&head, length).ok());
        let queue = flow.and_then(|parsed| lock(&self.0.rss).get(interface)?.queue_of(&parsed.flow));
        let id = QueueId::new(interface, queue.unwrap_or(0));
        self.inject(&id, packet);
        id
    }

    /// A packet arrives at `queue`, Ethernet header first, FCS not.
    pub fn inject(&self, queue: &QueueId, packet: &[u8]) {
        self.queue(queue).inject(packet);
    }

    /// The packets that left by `queue` since it was last asked, in order.
    #[must_use]
    pub fn sent(&self, queue: &QueueId) -> Vec<Vec<u8>> {
        let mut nic = self.queue(queue);
        std::iter::from_fn(|| nic.next_sent()).collect()
    }

    /// As [`sent`](Self::sent), but shown one by one and not kept: for runs of many packets.
    pub fn drain_sent(&self, queue: &QueueId, mut look: impl FnMut(&[u8])) {
        let mut nic = self.queue(queue);
        while let Some(packet) = nic.next_sent() {
            look(&packet);
            nic.recycle(packet);
        }
    }

    /// Faults of one queue from now on.
    pub fn set_faults(&self, queue: &QueueId, faults: KernelFaultRates) {
        self.queue(queue).faults = faults;
    }

    /// Faults of all queues from now on.
    pub fn set_all_faults(&self, faults: KernelFaultRates) {
        for nic in self.0.queues.values() {
            lock(nic).faults = faults;
        }
    }

    /// Takes the link of `interface` down or up. While it is down nothing arrives or leaves; what is on
    /// the TX rings leaves when it is up again.
    pub fn set_link(&self, interface: &str, up: bool) {
        self.each_of(interface, |nic| nic.set_link(up));
    }

    /// Deletes `interface`: its sockets are dead for ever ([`PortError::Gone`](crate::port::PortError)).
    pub fn delete(&self, interface: &str) {
        self.each_of(interface, |nic| nic.set_present(false));
    }

    /// Makes a deleted `interface` anew: new sockets can be bound to its queues.
    pub fn create(&self, interface: &str) {
        self.each_of(interface, |nic| nic.set_present(true));
    }

    /// Opening `queue` is refused with `errno` the next `times` times (EBUSY, ENOMEM, EPERM, ...).
    pub fn refuse_open(&self, queue: &QueueId, errno: i32, times: usize) {
        self.queue(queue).refuse(errno, times);
    }

    /// The next kick of the socket at `queue` fails with `errno`, as a system call does whose port is of
    /// no more use.
    pub fn fail_next_kick(&self, queue: &QueueId, errno: i32) {
        self.queue(queue).fail_kick(errno);
    }

    /// Takes the socket at `queue` out of the program's map, behind its owner's back.
    pub fn steer_away(&self, queue: &QueueId) {
        self.queue(queue).steer_away();
    }

    /// Takes back what [`refuse_open`](Self::refuse_open) and [`fail_next_kick`](Self::fail_next_kick) have
    /// in store.
    pub fn repair(&self, queue: &QueueId) {
        self.queue(queue).repair();
    }

    /// The socket at `queue` dies, while its interface stays: [`PortError::Gone`](crate::port::PortError)
    /// at the next kick, packets pass it by. A new one can be bound.
    pub fn kill_socket(&self, queue: &QueueId) {
        self.queue(queue).kill_socket();
    }

    /// Joins two queues by a wire that is `spec` both ways: from now on what one sends goes to the other,
    /// each time [`carry`](Self::carry) is called.
    pub fn connect(&self, a: &QueueId, b: &QueueId, spec: LinkSpec) {
        for end in [a, b] {
            // A name that is none panics here, where the mistake is.
            let _ = self.waiting(end);
        }
        let mut cables = self.cables();
        for (from, to) in [(a, b), (b, a)] {
            let rng = Rng::part(self.0.seed, u64::MAX - 1 - cables.len() as u64);
            cables.push(Cable { from: from.clone(), to: to.clone(), link: SimLink::new(spec, rng) });
        }
    }

    /// Moves packets along the wires of [`connect`](Self::connect), as far as they have come by now.
    pub fn carry(&self) {
        let now_ns = self.now_ns();
        for Cable { from, to, link } in self.cables().iter_mut() {
            while let Some(packet) = self.queue(from).next_sent() {
                if let Err(lost) = link.offer(now_ns, packet.len(), packet) {
                    self.queue(from).recycle(lost);
                }
            }
            while let Some(packet) = link.next(now_ns) {
                let mut nic = self.queue(to);
                nic.inject(&packet);
                nic.recycle(packet);
            }
        }
    }

    /// What the wire from one queue to the other counted, this way; `None` if there is none.
    #[must_use]
    pub fn carried(&self, from: &QueueId, to: &QueueId) -> Option<LinkCounters> {
        self.cables().iter().find(|it| it.from == *from && it.to == *to).map(|it| it.link.counters())
    }

    fn cables(&self) -> MutexGuard<'_, Vec<Cable>> {
        self.0.cables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Virtual time passes.
    pub fn advance(&self, by: Duration) {
        self.0.clock_ns.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Virtual time since the net was made.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.now_ns())
    }

    /// What `queue` counted.
    #[must_use]
    pub fn counters(&self, queue: &QueueId) -> NicCounters {
        self.queue(queue).counters()
    }

    /// Packets that arrived at `queue` and were not looked at yet.
    #[must_use]
    pub fn waiting(&self, queue: &QueueId) -> u64 {
        self.queue(queue).waiting()
    }

    /// Frames that the kernel's side has of the socket at `queue`; all zero where there is none.
    #[must_use]
    pub fn holdings(&self, queue: &QueueId) -> Holdings {
        self.queue(queue).holdings()
    }

    /// What the kernel's side of `queue` found that must never be. A test asserts that it is empty.
    #[must_use]
    pub fn violations(&self, queue: &QueueId) -> Vec<Violation> {
        self.queue(queue).violations()
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.0.clock_ns.load(Ordering::Relaxed)
    }

    /// The kernel's number of `interface`: another one each time it is made. `None` while it is deleted.
    #[must_use]
    pub fn ifindex(&self, interface: &str) -> Option<u32> {
        let place = self.0.interfaces.iter().position(|it| it.name == interface)?;
        let nic = lock(self.0.queues.get(&QueueId::new(interface, 0))?);
        let made = nic.generation().checked_mul(self.0.interfaces.len() as u64)?;
        nic.is_present().then_some(1 + place as u32 + made as u32)
    }

    /// The interfaces there are, as netlink has them: numbers, names, hardware addresses; no routes and
    /// no neighbours.
    #[must_use]
    pub fn links(&self) -> Vec<net::Link> {
        let there = self.0.interfaces.iter().filter_map(|it| Some((it, self.ifindex(&it.name)?)));
        let link = |(it, index): (&SimInterface, u32)| net::Link {
            index,
            name: it.name.clone(),
            mac: it.mac,
            mtu: it.mtu,
            up: true,
            kind: LinkKind::Ethernet,
            addresses: Vec::new(),
        };
        there.map(link).collect()
    }

    /// The interface of a queue, and the queue.
    pub(super) fn find(&self, id: &QueueId) -> Option<(&SimInterface, &Arc<Mutex<NicQueue>>)> {
        let interface = self.0.interfaces.iter().find(|interface| interface.name == id.interface)?;
        Some((interface, self.0.queues.get(id)?))
    }

    #[allow(clippy::panic)] // see the type's documentation
    fn queue(&self, id: &QueueId) -> MutexGuard<'_, NicQueue> {
        match self.0.queues.get(id) {
            Some(nic) => lock(nic),
            None => panic!("the simulated net has no queue {id}"),
        }
    }

    fn each_of(&self, interface: &str, act: impl Fn(&mut NicQueue)) {
        let of_it = self.0.queues.iter().filter(|(id, _)| id.interface == interface);
        let mut any = false;
        for (_, nic) in of_it {
            act(&mut lock(nic));
            any = true;
        }
        assert!(any, "the simulated net has no interface {interface}");
    }
}

/// A panic elsewhere leaves the state as it was between two packets: whole.
pub(super) fn lock<T>(nic: &Mutex<T>) -> MutexGuard<'_, T> {
    nic.lock().unwrap_or_else(PoisonError::into_inner)
}
