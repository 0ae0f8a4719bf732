//! What the actor does with its worker between turns, and what it reads of it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use oxide_actors::mailbox::Address;

use super::{Datapath, QueueCounters, TICK, TxBacklog};
use crate::net::Tables;
use crate::packet::LANES;
use crate::port::{Port, PortError, PortInfo};
use crate::queue::peers::Handover;
use crate::queue::{Handler, Replaced};
use crate::telemetry::DropReason;
use crate::umem::{PortIndex, Umem};

/// What a call said when it panicked.
fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| panic_message(panic.as_ref()))
}

/// Drops a handler that may be broken.
fn discard<H>(handler: H) {
    if let Err(message) = caught(|| drop(handler)) {
        tracing::warn!(message, "a handler panicked while it was dropped");
    }
}

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let owned = || panic.downcast_ref::<String>().cloned();
    let message = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(owned);
    message.unwrap_or_else(|| "a panic without words".to_owned())
}

/// What the actor does between turns.
impl<P: Port, H: Handler> Datapath<P, H> {
    /// The handler's last words, if it panicked and was not replaced.
    #[must_use]
    pub fn handler_panic(&self) -> Option<&str> {
        self.handler_panic.as_deref()
    }

    /// Puts a handler that `make` makes in the place of the one there is, which may have panicked. Ports and
    /// frames are untouched. Returns what the new one took over ([`Handler::inherit`]), if it was to.
    ///
    /// # Errors
    /// The words of a panic while it was made; everything is as before then.
    pub fn replace_handler(&mut self, make: impl Fn() -> H, inherit: bool) -> Result<Result<u64, String>, String> {
        let made = || caught(&make);
        let mut next = made()?;
        let why = if self.handler_panic.is_some() { Replaced::Panicked } else { Replaced::Asked };
        let kept = match inherit.then(|| caught(|| next.inherit(&mut self.handler, why))) {
            Some(Ok(kept)) => kept,
            Some(Err(message)) => {
                // Half of it is taken over, perhaps.
                discard(std::mem::replace(&mut next, made()?));
                Err(format!("taking over panicked: {message}"))
            }
            None => Err("it failed again right after it had taken over".to_owned()),
        };
        discard(std::mem::replace(&mut self.handler, next));
        self.handler_panic = None;
        Ok(kept)
    }

    /// New tables; the old ones are returned, so that they need not be freed on this core.
    ///
    /// A port whose interface is not among them any more under its name is dead, and need not notice by itself: an
    /// idle socket is never told. [`lame`](Self::find_failed_port) names it.
    pub fn set_tables(&mut self, tables: Box<Tables>) -> Box<Tables> {
        let has = |tables: &Tables, port: &PortInfo| {
            tables.link(port.ifindex).is_some_and(|link| link.name == port.id.interface)
        };
        let left = |info: &PortInfo| has(&self.tables, info) && !has(&tables, info);
        super::port_slots::mark_gone(&mut self.port_slots, self.info.ports.iter().map(left));
        // Whoever waits for a next hop is looked at in the next turn.
        self.next_tick = self.next_tick.checked_sub(TICK).unwrap_or(self.next_tick);
        std::mem::replace(&mut self.tables, tables)
    }

    /// Takes no new packets of `port` while `true`: they stay on its RX ring, and when that is full the kernel
    /// drops and counts them. What is under way goes on. What has waited until the port is resumed is old by then: it is
    /// dropped as [`DropReason::Paused`].
    pub fn set_paused(&mut self, port: PortIndex, paused: bool) {
        if port.is_in(self.paused) && !paused {
            self.discard_waiting(port);
        }
        self.paused = if paused { self.paused | port.bit() } else { self.paused & !port.bit() };
    }

    /// Drops what is on the RX ring of `port` now.
    fn discard_waiting(&mut self, port: PortIndex) {
        let Self { ports, umem, burst, counters, .. } = self;
        let Some(Some(port)) = ports.get_mut(usize::from(port)) else { return };
        let mut waiting = port.occupancy().rx as usize;
        while waiting > 0 {
            let received = port.receive(umem, burst, waiting.min(LANES));
            if received == 0 {
                return;
            }
            waiting = waiting.saturating_sub(received);
            counters.received += received as u64;
            counters.drops.add(DropReason::Paused, received as u64);
            burst.drain().for_each(|frame| umem.give(frame));
        }
    }

    /// The ports whose packets would be taken now: none while the handler is parked.
    pub(crate) fn taking(&self) -> impl Iterator<Item = &P> {
        let taking = if self.handler_panic.is_some() { &[] } else { self.ports.as_slice() };
        taking.iter().enumerate().filter(|(at, _)| self.paused >> at & 1 == 0).filter_map(|(_, port)| port.as_ref())
    }

    /// Tells the handler to start nothing new.
    pub fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Opens or closes the way of new packets to all ports.
    ///
    /// # Errors
    /// The first port's refusal; the others were tried.
    pub fn steer(&mut self, on: bool) -> Result<(), PortError> {
        let mut first = Ok(());
        for port in self.ports.iter_mut().flatten() {
            let done = port.steer(on);
            if first.is_ok() {
                first = done;
            }
        }
        first
    }

    /// What the handler asked to have resolved.
    pub(crate) fn requests(&mut self) -> impl Iterator<Item = (u32, std::net::IpAddr)> + '_ {
        self.requests.take()
    }

    /// Whether everything that was received is gone again: nothing in hand, nothing being sent.
    #[must_use]
    pub fn quiescent(&self) -> bool {
        let census = self.umem.census();
        census.app == 0 && census.transmit == 0 && self.peers.is_empty()
    }

    /// Frames with the application: waiting for a TX ring, or for a next hop.
    #[must_use]
    pub fn in_hand(&self) -> usize {
        self.held.len() + self.out.iter().map(TxBacklog::len).sum::<usize>() + self.burst.len()
    }

    /// Whether each frame is where the books say, and each packet became exactly one thing.
    #[must_use]
    pub fn balanced(&self) -> bool {
        let census = self.umem.census();
        let counters = &self.counters;
        census.balanced()
            && census.app as usize == self.in_hand()
            && counters.received + counters.taken_over
                == counters.forwarded + counters.handed_over + counters.drops.total() + self.in_hand() as u64
    }

    /// The ports that are open.
    pub fn ports(&self) -> impl Iterator<Item = &P> {
        self.ports.iter().flatten()
    }

    /// The port with this number, to read rings that are shared with the kernel; `None` while it is closed.
    pub fn port_mut(&mut self, port: PortIndex) -> Option<&mut P> {
        self.ports.get_mut(usize::from(port))?.as_mut()
    }

    /// The packet memory.
    #[must_use]
    pub fn umem(&self) -> &Umem {
        &self.umem
    }

    /// The packet memory, for a simulated kernel to work in.
    #[doc(hidden)]
    pub fn kernel_side(&mut self) -> (&mut Umem, impl Iterator<Item = &mut P>) {
        (&mut self.umem, self.ports.iter_mut().flatten())
    }

    /// The packet memory, to open a port on.
    pub(crate) fn umem_mut(&mut self) -> &mut Umem {
        &mut self.umem
    }

    /// The handler.
    #[must_use]
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &QueueCounters {
        &self.counters
    }

    /// What was counted, for the actor to add its times to.
    pub(crate) fn counters_mut(&mut self) -> &mut QueueCounters {
        &mut self.counters
    }

    /// Whether packets of other queues wait: the look before sleeping. What waits on RX rings wakes by
    /// itself.
    #[must_use]
    pub fn has_handovers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Sets where packets for the queue at `place` go from now on.
    pub fn set_peer(&mut self, place: u32, address: Option<Address<Handover>>) {
        self.peers.set(place, address);
    }
}
