//! Declares faults above the kernel's rings: of actors, sockets, links, devices, neighbours and the clock.

use oxide::port::sim::{KernelFaultRates, UnknownFault, number};

/// Names a fault of a queue, an interface or the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InjectedFault {
    /// Makes the handler panic in the middle of a batch.
    Panic,
    /// Makes a handler panic repeatedly until the restart budget of its queue is used up.
    Storm,
    /// Gives an actor no CPU time for some steps, or for longer than the heartbeat timeout.
    Stall,
    /// Restarts a handler, a port or a whole queue, as an operator does.
    Restart,
    /// Takes a link down and up again some milliseconds later.
    Link,
    /// Deletes an interface and re-creates it some milliseconds later.
    Device,
    /// Ends a socket while its interface stays, as a driver reset does.
    Socket,
    /// Makes a system call fail with an error that a retry does not fix. Reopening may also fail at first.
    Errno,
    /// Restarts a queue, and makes opening it fail for lack of memory for a while.
    Memory,
    /// Sends 150 control messages to an actor at once.
    Flood,
    /// Makes clients send more packets than the rings of a queue hold.
    Overload,
    /// Forgets the addresses of all next hops until they are requested. Affects the relay only.
    Neighbour,
    /// Sends packets that are malformed in one of the ways of `docs/malformed.md`.
    Malformed,
    /// Sends packets of new clients, more than a queue's session table holds. Affects the relay only.
    OneTimeClients,
    /// Advances the clock by up to two minutes, as for a virtual machine that was stopped.
    Clock,
}

/// Lists each fault with its name and its default rate in parts per million of steps.
const INJECTED_FAULTS: [(InjectedFault, &str, u32); 15] = [
    (InjectedFault::Panic, "panic", 600),
    (InjectedFault::Storm, "storm", 200),
    (InjectedFault::Stall, "stall", 1_000),
    (InjectedFault::Restart, "restart", 150),
    (InjectedFault::Link, "link", 300),
    (InjectedFault::Device, "device", 150),
    (InjectedFault::Socket, "socket", 100),
    (InjectedFault::Errno, "errno", 150),
    (InjectedFault::Memory, "memory", 100),
    (InjectedFault::Flood, "flood", 500),
    (InjectedFault::Overload, "overload", 2_000),
    (InjectedFault::Neighbour, "neighbour", 500),
    (InjectedFault::Malformed, "malformed", 10_000),
    (InjectedFault::OneTimeClients, "one-time-clients", 1_000),
    (InjectedFault::Clock, "clock", 100),
];

/// Holds the rate of each [`InjectedFault`]; queue or interface are chosen at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultRates([u32; INJECTED_FAULTS.len()]);

impl FaultRates {
    /// Returns rates of zero.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Returns the default rate of every fault.
    #[must_use]
    pub fn all() -> Self {
        Self(INJECTED_FAULTS.map(|(_, _, ppm)| ppm))
    }

    /// Multiplies all rates by `factor`.
    #[must_use]
    pub fn times(self, factor: u32) -> Self {
        Self(self.0.map(|ppm| ppm.saturating_mul(factor)))
    }

    /// Sets the rate of `fault`, in parts per million of the simulation's steps.
    #[must_use]
    pub fn with(mut self, fault: InjectedFault, ppm: u32) -> Self {
        self.0[fault as usize] = ppm;
        self
    }

    /// Returns the rate of `fault`, in parts per million of the simulation's steps.
    #[must_use]
    pub fn ppm(&self, fault: InjectedFault) -> u32 {
        self.0[fault as usize]
    }

    /// Returns the names that [`named`] parses into these rates; nothing for rates of zero.
    pub(super) fn names(&self) -> impl Iterator<Item = String> + '_ {
        let often = INJECTED_FAULTS.iter().map(|&(fault, name, _)| (name, self.ppm(fault)));
        often.filter(|&(_, ppm)| ppm > 0).map(|(name, ppm)| format!("{name}={ppm}"))
    }

    /// Returns these rates without the faults that affect several queues at once: links, devices, next hops, the clock.
    pub(super) fn of_one_queue(self) -> Self {
        [InjectedFault::Link, InjectedFault::Device, InjectedFault::Neighbour, InjectedFault::Clock]
            .into_iter()
            .fold(self, |fault_rates, it| fault_rates.with(it, 0))
    }
}

/// Parses fault names of both kinds, separated by commas: those of [`KernelFaultRates::named`], and panic,
/// storm, stall, restart, link, device, socket, errno, memory, flood, overload, neighbour, malformed,
/// one-time-clients, clock. `all` is every fault; `name=number` sets a rate in parts per million of steps.
///
/// # Errors
/// Returns [`UnknownFault`] for any other name.
pub fn named(names: &str) -> Result<(KernelFaultRates, FaultRates), UnknownFault> {
    let mut fault_rates = FaultRates::none();
    let mut others = Vec::new();
    for word in names.split(',').map(str::trim) {
        let (name, ppm) = number(word).unwrap_or((word, None));
        if let Some(&(fault, _, usual)) = INJECTED_FAULTS.iter().find(|(_, known, _)| *known == name) {
            let ppm = ppm.map_or(usual, |ppm| u32::try_from(ppm).unwrap_or(u32::MAX));
            fault_rates = fault_rates.with(fault, ppm);
            continue;
        }
        if name == "all" {
            fault_rates = FaultRates::all();
        }
        others.push(word);
    }
    match KernelFaultRates::named(&others.join(",")) {
        Ok(faults) => Ok((faults, fault_rates)),
        Err(unknown) => Err(unknown.besides(&INJECTED_FAULTS.map(|(_, name, _)| name))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kernel_and_injected_fault_names_combine() {
        assert_eq!(named("none").unwrap(), (KernelFaultRates::none(), FaultRates::none()));
        assert_eq!(named("all").unwrap(), (KernelFaultRates::all(), FaultRates::all()));
        let (faults, fault_rates) = named("panic, reorder").unwrap();
        assert!(
            faults.reorder_ppm > 0
                && fault_rates.ppm(InjectedFault::Panic) > 0
                && fault_rates.ppm(InjectedFault::Link) == 0
        );
        for (at, (fault, name, ppm)) in INJECTED_FAULTS.into_iter().enumerate() {
            assert_eq!(fault as usize, at, "the table is in the order of the variants");
            assert_eq!(named(name).unwrap().1, FaultRates::none().with(fault, ppm), "{name}");
        }
        assert_eq!(named("panic=7,batch=3").unwrap().1, FaultRates::none().with(InjectedFault::Panic, 7));
        assert!(named("panic=often").is_err());
        let text = named("panik").unwrap_err().to_string();
        assert!(text.contains("\"panik\"") && text.contains("reorder") && text.contains("panic"), "{text}");
    }
}
