//! Provides the handle with which tests control all simulated NIC queues.

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

/// Describes one simulated interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimInterface {
    /// Name of the interface.
    pub name: String,
    /// Number of queues.
    pub queues: u32,
    /// Hardware address.
    pub mac: MacAddr,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Transmit behaviour.
    pub driver: Driver,
}

impl SimInterface {
    /// Describes an interface with MTU 1500 in copy mode. Its hardware address is derived from its name.
    #[must_use]
    pub fn new(name: &str, queues: u32) -> Self {
        let bits = name.bytes().fold(0u32, |bits, byte| bits.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let [a, b, c, d] = bits.to_be_bytes();
        // The first byte 02 means locally administered and unicast.
        let mac = MacAddr([0x02, 0, a, b, c, d]);
        Self { name: name.to_owned(), queues, mac, mtu: 1500, driver: Driver::Copy }
    }
}

/// Controls simulated NIC queues. Clones control the same queues.
///
/// Calls with an unknown queue or interface panic. Such a call is a mistake in the test, which must not look like a
/// result.
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

/// Holds one direction of a wire between two queues.
struct Cable {
    from: QueueId,
    to: QueueId,
    link: SimLink<Vec<u8>>,
}

impl SimNet {
    /// Creates interfaces with all their queues, links up, without faults. All random choices come from `seed`.
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

    /// Sets the RSS settings by which [`arrive`](Self::arrive) selects a queue of `interface`.
    pub fn set_rss(&self, interface: &str, rss: Rss) {
        lock(&self.0.rss).insert(interface.to_owned(), rss);
    }

    /// Injects a packet at the queue of `interface` that its RSS settings select. Without RSS settings or UDP flow, it
    /// is the first queue. Returns the queue.
    pub fn arrive(&self, interface: &str, packet: &[u8]) -> QueueId {
        let header_bytes = std::array::from_fn(|i| packet.get(i).copied().unwrap_or(0));
        let flow = u16::try_from(packet.len()).ok().and_then(|length| parse(&header_bytes, length).ok());
        let queue = flow.and_then(|parsed| lock(&self.0.rss).get(interface)?.queue_of(&parsed.flow));
        let id = QueueId::new(interface, queue.unwrap_or(0));
        self.inject(&id, packet);
        id
    }

    /// Injects a packet at `queue`. It begins with the Ethernet header and has no FCS.
    pub fn inject(&self, queue: &QueueId, packet: &[u8]) {
        self.queue(queue).inject(packet);
    }

    /// Removes and returns the packets that `queue` has sent, in order.
    #[must_use]
    pub fn sent(&self, queue: &QueueId) -> Vec<Vec<u8>> {
        let mut nic = self.queue(queue);
        std::iter::from_fn(|| nic.next_sent()).collect()
    }

    /// Removes the packets like [`sent`](Self::sent), but passes each one to `look` and reuses its buffer. It is meant
    /// for runs with many packets.
    pub fn drain_sent(&self, queue: &QueueId, mut look: impl FnMut(&[u8])) {
        let mut nic = self.queue(queue);
        while let Some(packet) = nic.next_sent() {
            look(&packet);
            nic.recycle(packet);
        }
    }

    /// Sets the fault rates of one queue.
    pub fn set_faults(&self, queue: &QueueId, faults: KernelFaultRates) {
        self.queue(queue).faults = faults;
    }

    /// Sets the fault rates of all queues.
    pub fn set_all_faults(&self, faults: KernelFaultRates) {
        for nic in self.0.queues.values() {
            lock(nic).faults = faults;
        }
    }

    /// Sets the link of `interface` up or down. While it is down, no packet arrives or leaves. Packets on the TX rings
    /// leave when it is up again.
    pub fn set_link(&self, interface: &str, up: bool) {
        self.each_of(interface, |nic| nic.set_link(up));
    }

    /// Deletes `interface`. Its sockets fail permanently ([`PortError::Gone`](crate::port::PortError)).
    pub fn delete(&self, interface: &str) {
        self.each_of(interface, |nic| nic.set_present(false));
    }

    /// Re-creates a deleted `interface`. New sockets can be bound to its queues.
    pub fn create(&self, interface: &str) {
        self.each_of(interface, |nic| nic.set_present(true));
    }

    /// Makes the next `times` attempts to open `queue` fail with `errno` (EBUSY, ENOMEM, EPERM, ...).
    pub fn refuse_open(&self, queue: &QueueId, errno: i32, times: usize) {
        self.queue(queue).refuse(errno, times);
    }

    /// Makes the next kick of the socket at `queue` fail with `errno`, like a system call on a failed port.
    pub fn fail_next_kick(&self, queue: &QueueId, errno: i32) {
        self.queue(queue).fail_kick(errno);
    }

    /// Removes the socket at `queue` from the XSKMAP without informing its owner.
    pub fn steer_away(&self, queue: &QueueId) {
        self.queue(queue).steer_away();
    }

    /// Cancels the effects of [`refuse_open`](Self::refuse_open) and [`fail_next_kick`](Self::fail_next_kick) that are
    /// still pending.
    pub fn repair(&self, queue: &QueueId) {
        self.queue(queue).repair();
    }

    /// Makes the socket at `queue` fail while its interface stays. The next kick returns
    /// [`PortError::Gone`](crate::port::PortError), and packets bypass the socket. A new socket can be bound.
    pub fn kill_socket(&self, queue: &QueueId) {
        self.queue(queue).kill_socket();
    }

    /// Connects two queues by a wire with `spec` in both directions. Each call of [`carry`](Self::carry) moves the
    /// packets of one queue to the other.
    pub fn connect(&self, a: &QueueId, b: &QueueId, spec: LinkSpec) {
        for end in [a, b] {
            // An unknown name panics here, at the call with the mistake.
            let _ = self.waiting(end);
        }
        let mut cables = self.cables();
        for (from, to) in [(a, b), (b, a)] {
            let rng = Rng::part(self.0.seed, u64::MAX - 1 - cables.len() as u64);
            cables.push(Cable { from: from.clone(), to: to.clone(), link: SimLink::new(spec, rng) });
        }
    }

    /// Moves packets along the wires of [`connect`](Self::connect), up to the current virtual time.
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

    /// Returns the counters of the wire in this direction; `None` if there is no wire.
    #[must_use]
    pub fn carried(&self, from: &QueueId, to: &QueueId) -> Option<LinkCounters> {
        self.cables().iter().find(|it| it.from == *from && it.to == *to).map(|it| it.link.counters())
    }

    fn cables(&self) -> MutexGuard<'_, Vec<Cable>> {
        self.0.cables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Advances the virtual time.
    pub fn advance(&self, by: Duration) {
        self.0.clock_ns.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Returns the virtual time since the net was created.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.now_ns())
    }

    /// Returns the counters of `queue`.
    #[must_use]
    pub fn counters(&self, queue: &QueueId) -> NicCounters {
        self.queue(queue).counters()
    }

    /// Returns the number of packets that arrived at `queue` and were not processed yet.
    #[must_use]
    pub fn waiting(&self, queue: &QueueId) -> u64 {
        self.queue(queue).waiting()
    }

    /// Returns the frames that the kernel side holds for the socket at `queue`; all zero without a socket.
    #[must_use]
    pub fn holdings(&self, queue: &QueueId) -> Holdings {
        self.queue(queue).holdings()
    }

    /// Returns the contract violations that the kernel side of `queue` found. Tests assert that there are none.
    #[must_use]
    pub fn violations(&self, queue: &QueueId) -> Vec<Violation> {
        self.queue(queue).violations()
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.0.clock_ns.load(Ordering::Relaxed)
    }

    /// Returns the kernel's number of `interface`, which changes each time it is created. `None` while it is deleted.
    #[must_use]
    pub fn ifindex(&self, interface: &str) -> Option<u32> {
        let place = self.0.interfaces.iter().position(|it| it.name == interface)?;
        let nic = lock(self.0.queues.get(&QueueId::new(interface, 0))?);
        let made = nic.generation().checked_mul(self.0.interfaces.len() as u64)?;
        nic.is_present().then_some(1 + place as u32 + made as u32)
    }

    /// Returns the existing interfaces in netlink's form: numbers, names and hardware addresses, without routes and
    /// neighbours.
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

    /// Returns a queue and its interface.
    pub(super) fn find(&self, id: &QueueId) -> Option<(&SimInterface, &Arc<Mutex<NicQueue>>)> {
        let interface = self.0.interfaces.iter().find(|interface| interface.name == id.interface)?;
        Some((interface, self.0.queues.get(id)?))
    }

    #[allow(clippy::panic)] // The documentation of the type explains the panic.
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

/// Locks `nic`. A panic between two packets leaves its state consistent, so a poisoned lock is usable.
pub(super) fn lock<T>(nic: &Mutex<T>) -> MutexGuard<'_, T> {
    nic.lock().unwrap_or_else(PoisonError::into_inner)
}
