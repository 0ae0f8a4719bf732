//! Contains the datapath methods that the actor calls between turns.

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

/// Calls `call` and returns its panic message as the error.
fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| panic_message(panic.as_ref()))
}

/// Drops a handler that may be in an inconsistent state.
fn discard<H>(handler: H) {
    if let Err(message) = caught(|| drop(handler)) {
        tracing::warn!(message, "handler panicked while it was dropped");
    }
}

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let owned = || panic.downcast_ref::<String>().cloned();
    let message = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(owned);
    message.unwrap_or_else(|| "panic without a message".to_owned())
}

// Methods that the actor calls between turns.
impl<P: Port, H: Handler> Datapath<P, H> {
    /// Returns the panic message of the handler, if it panicked and was not replaced.
    #[must_use]
    pub fn handler_panic(&self) -> Option<&str> {
        self.handler_panic.as_deref()
    }

    /// Replaces the handler, which may have panicked, by the one that `make` creates. Ports and frames are untouched.
    /// With `inherit`, returns what the new handler took over ([`Handler::inherit`]).
    ///
    /// # Errors
    /// Returns the message of a panic in `make`. Nothing changes in this case.
    pub fn replace_handler(&mut self, make: impl Fn() -> H, inherit: bool) -> Result<Result<u64, String>, String> {
        let made = || caught(&make);
        let mut next = made()?;
        let why = if self.handler_panic.is_some() { Replaced::Panicked } else { Replaced::Asked };
        let kept = match inherit.then(|| caught(|| next.inherit(&mut self.handler, why))) {
            Some(Ok(kept)) => kept,
            Some(Err(message)) => {
                // The handler may have taken over a part of the state, so a new one replaces it.
                discard(std::mem::replace(&mut next, made()?));
                Err(format!("inherit: the new handler panicked: {message}"))
            }
            None => Err("inherit: skipped, because the last handler failed right after it inherited".to_owned()),
        };
        discard(std::mem::replace(&mut self.handler, next));
        self.handler_panic = None;
        Ok(kept)
    }

    /// Sets new tables. Returns the old ones, so that another thread frees them.
    ///
    /// An interface that left the tables, or whose number has another name, has been deleted. Its port is marked as
    /// failed, because an idle socket gets no error. [`find_failed_port`](Self::find_failed_port) returns that port.
    pub fn set_tables(&mut self, tables: Box<Tables>) -> Box<Tables> {
        let has = |tables: &Tables, port: &PortInfo| {
            tables.link(port.ifindex).is_some_and(|link| link.name == port.id.interface)
        };
        let left = |info: &PortInfo| has(&self.tables, info) && !has(&tables, info);
        super::port_slots::mark_gone(&mut self.port_slots, self.info.ports.iter().map(left));
        // The next turn shows held packets again, because a next hop may be known now.
        self.next_tick = self.next_tick.checked_sub(TICK).unwrap_or(self.next_tick);
        std::mem::replace(&mut self.tables, tables)
    }

    /// Pauses `port` (`true`) or resumes it. While it is paused, new packets stay on its RX ring; when the ring is
    /// full, the kernel drops and counts them. Packets in progress are finished. On resume, the packets on the ring are
    /// too old and are dropped as [`DropReason::Paused`].
    pub fn set_paused(&mut self, port: PortIndex, paused: bool) {
        if port.is_in(self.paused) && !paused {
            self.discard_waiting(port);
        }
        self.paused = if paused { self.paused | port.bit() } else { self.paused & !port.bit() };
    }

    /// Drops the packets that are on the RX ring of `port` now.
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

    /// Returns the ports that receive packets now; none if the handler failed.
    pub(crate) fn taking(&self) -> impl Iterator<Item = &P> {
        let taking = if self.handler_panic.is_some() { &[] } else { self.ports.as_slice() };
        taking.iter().enumerate().filter(|(at, _)| self.paused >> at & 1 == 0).filter_map(|(_, port)| port.as_ref())
    }

    /// Sets whether the handler must start no new sessions.
    pub fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Starts or stops the steering of new packets to all ports.
    ///
    /// # Errors
    /// Returns the first port's error, after it has tried the other ports.
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

    /// Removes and returns the next hops that the handler requested.
    pub(crate) fn requests(&mut self) -> impl Iterator<Item = (u32, std::net::IpAddr)> + '_ {
        self.requests.take()
    }

    /// Returns whether no packet is in progress: none in hand, none in a TX ring, none in the inbox.
    #[must_use]
    pub fn quiescent(&self) -> bool {
        let census = self.umem.census();
        census.app == 0 && census.transmit == 0 && self.peers.is_empty()
    }

    /// Counts the frames with the application, which wait for a TX ring, a next hop or another queue.
    #[must_use]
    pub fn in_hand(&self) -> usize {
        self.held.len() + self.out.iter().map(TxBacklog::len).sum::<usize>() + self.burst.len()
    }

    /// Returns whether the ledger matches the frames in hand, and every packet was counted exactly once.
    #[must_use]
    pub fn balanced(&self) -> bool {
        let census = self.umem.census();
        let counters = &self.counters;
        census.balanced()
            && census.app as usize == self.in_hand()
            && counters.received + counters.taken_over
                == counters.forwarded + counters.handed_over + counters.drops.total() + self.in_hand() as u64
    }

    /// Returns the open ports.
    pub fn ports(&self) -> impl Iterator<Item = &P> {
        self.ports.iter().flatten()
    }

    /// Returns the port with this number for reading its shared rings, or `None` while it is closed.
    pub fn port_mut(&mut self, port: PortIndex) -> Option<&mut P> {
        self.ports.get_mut(usize::from(port))?.as_mut()
    }

    /// Returns the packet memory.
    #[must_use]
    pub fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Returns the packet memory and the open ports, for a simulated kernel.
    #[doc(hidden)]
    pub fn kernel_side(&mut self) -> (&mut Umem, impl Iterator<Item = &mut P>) {
        (&mut self.umem, self.ports.iter_mut().flatten())
    }

    /// Returns the packet memory, to open a port with it.
    pub(crate) fn umem_mut(&mut self) -> &mut Umem {
        &mut self.umem
    }

    /// Returns the handler.
    #[must_use]
    pub fn handler(&self) -> &H {
        &self.handler
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> &QueueCounters {
        &self.counters
    }

    /// Returns the counters, to which the actor adds its times.
    pub(crate) fn counters_mut(&mut self) -> &mut QueueCounters {
        &mut self.counters
    }

    /// Returns whether packets of other queues wait. The actor checks this before it sleeps. Packets on RX rings wake
    /// the actor without a check.
    #[must_use]
    pub fn has_handovers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Sets the inbox address for packets of the queue at `place`.
    pub fn set_peer(&mut self, place: u32, address: Option<Address<Handover>>) {
        self.peers.set(place, address);
    }
}
