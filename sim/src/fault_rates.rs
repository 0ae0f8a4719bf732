//! Faults above the kernel's rings: what happens to actors, sockets, links, devices and the world around.

use oxide::port::sim::{KernelFaultRates, UnknownFault, number};

/// Something that happens to a queue, an interface or the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InjectedFault {
    /// The handler panics in the middle of a batch.
    Panic,
    /// A handler panics again and again, until its queue's budget of restarts is used up.
    Storm,
    /// An actor gets no time on its core: for some steps, or for longer than its heartbeat may stand.
    Stall,
    /// An operator restarts a queue, its handler or all of it.
    Restart,
    /// A link goes down, and up again some milliseconds later.
    Link,
    /// An interface is deleted, and made again some milliseconds later.
    Device,
    /// A socket dies while its interface stays (a driver's reset).
    Socket,
    /// A system call answers with an error that no second try mends; opening again meets others first.
    Errno,
    /// Opening a queue anew finds no memory, for a while.
    Memory,
    /// An actor gets a hundred and fifty control messages at once.
    Flood,
    /// Clients send more than the rings of a queue hold.
    Overload,
    /// All next hops' addresses are forgotten, until they are asked for. Of effect with the relay.
    Neighbour,
    /// Packets arrive that are wrong in one of the ways of `docs/malformed.md`.
    Malformed,
    /// Ever new clients arrive, more than a queue's table of sessions holds. Of effect with the relay.
    OneTimeClients,
    /// Time jumps by up to two minutes, as for a virtual machine that was stopped.
    Clock,
}

/// Each with its name, and how often it happens by default, in parts per million of steps.
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

/// How often each [`InjectedFault`] happens, to a queue or an interface drawn at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultRates([u32; INJECTED_FAULTS.len()]);

impl FaultRates {
    /// Nothing happens.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// All of it, now and then.
    #[must_use]
    pub fn all() -> Self {
        Self(INJECTED_FAULTS.map(|(_, _, ppm)| ppm))
    }

    /// The same, `factor` times as often.
    #[must_use]
    pub fn times(self, factor: u32) -> Self {
        Self(self.0.map(|ppm| ppm.saturating_mul(factor)))
    }

    /// The same with `upset` in so many parts per million of the simulation's steps.
    #[must_use]
    pub fn with(mut self, fault: InjectedFault, ppm: u32) -> Self {
        self.0[fault as usize] = ppm;
        self
    }

    /// How often `upset` happens, in parts per million of the simulation's steps.
    #[must_use]
    pub fn ppm(&self, fault: InjectedFault) -> u32 {
        self.0[fault as usize]
    }

    /// The words that [`named`] makes these of; nothing where there are none.
    pub(super) fn names(&self) -> impl Iterator<Item = String> + '_ {
        let often = INJECTED_FAULTS.iter().map(|&(fault, name, _)| (name, self.ppm(fault)));
        often.filter(|&(_, ppm)| ppm > 0).map(|(name, ppm)| format!("{name}={ppm}"))
    }

    /// Without what strikes more than one queue at once: links, devices, next hops, the clock.
    pub(super) fn of_one_queue(self) -> Self {
        [InjectedFault::Link, InjectedFault::Device, InjectedFault::Neighbour, InjectedFault::Clock]
            .into_iter()
            .fold(self, |fault_rates, it| fault_rates.with(it, 0))
    }
}

/// Faults of either kind by their names, separated by commas: those of [`KernelFaultRates::named`], and panic,
/// storm, stall, restart, link, device, socket, errno, memory, flood, overload, neighbour, malformed,
/// strangers, clock. `all` is all of both kinds; `name=number` is that often, in parts per million of steps.
///
/// # Errors
/// [`UnknownFault`] for a name that is none of these.
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
