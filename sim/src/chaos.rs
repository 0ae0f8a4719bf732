//! Faults above the kernel's rings: what happens to actors, sockets, links, devices and the world around.

use oxide::port::sim::{Faults, UnknownFault, number};

/// Something that happens to a queue, an interface or the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Upset {
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
    Strangers,
    /// Time jumps by up to two minutes, as for a virtual machine that was stopped.
    Clock,
}

/// Each with its name, and how often it happens by default, in parts per million of steps.
const UPSETS: [(Upset, &str, u32); 15] = [
    (Upset::Panic, "panic", 600),
    (Upset::Storm, "storm", 200),
    (Upset::Stall, "stall", 1_000),
    (Upset::Restart, "restart", 150),
    (Upset::Link, "link", 300),
    (Upset::Device, "device", 150),
    (Upset::Socket, "socket", 100),
    (Upset::Errno, "errno", 150),
    (Upset::Memory, "memory", 100),
    (Upset::Flood, "flood", 500),
    (Upset::Overload, "overload", 2_000),
    (Upset::Neighbour, "neighbour", 500),
    (Upset::Malformed, "malformed", 10_000),
    (Upset::Strangers, "strangers", 1_000),
    (Upset::Clock, "clock", 100),
];

/// How often each [`Upset`] happens, to a queue or an interface drawn at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chaos([u32; UPSETS.len()]);

impl Chaos {
    /// Nothing happens.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// All of it, now and then.
    #[must_use]
    pub fn all() -> Self {
        Self(UPSETS.map(|(_, _, ppm)| ppm))
    }

    /// The same, `factor` times as often.
    #[must_use]
    pub fn times(self, factor: u32) -> Self {
        Self(self.0.map(|ppm| ppm.saturating_mul(factor)))
    }

    /// The same with `upset` in so many parts per million of the simulation's steps.
    #[must_use]
    pub fn with(mut self, upset: Upset, ppm: u32) -> Self {
        self.0[upset as usize] = ppm;
        self
    }

    /// How often `upset` happens, in parts per million of the simulation's steps.
    #[must_use]
    pub fn ppm(&self, upset: Upset) -> u32 {
        self.0[upset as usize]
    }

    /// The words that [`named`] makes these of; nothing where there are none.
    pub(super) fn words(&self) -> impl Iterator<Item = String> + '_ {
        let often = UPSETS.iter().map(|&(upset, name, _)| (name, self.ppm(upset)));
        often.filter(|&(_, ppm)| ppm > 0).map(|(name, ppm)| format!("{name}={ppm}"))
    }

    /// Without what strikes more than one queue at once: links, devices, next hops, the clock.
    pub(super) fn of_one_queue(self) -> Self {
        [Upset::Link, Upset::Device, Upset::Neighbour, Upset::Clock]
            .into_iter()
            .fold(self, |chaos, it| chaos.with(it, 0))
    }
}

/// Faults of either kind by their names, separated by commas: those of [`Faults::named`], and panic,
/// storm, stall, restart, link, device, socket, errno, memory, flood, overload, neighbour, malformed,
/// strangers, clock. `all` is all of both kinds; `name=number` is that often, in parts per million of steps.
///
/// # Errors
/// [`UnknownFault`] for a name that is none of these.
pub fn named(names: &str) -> Result<(Faults, Chaos), UnknownFault> {
    let mut chaos = Chaos::none();
    let mut others = Vec::new();
    for word in names.split(',').map(str::trim) {
        let (name, ppm) = number(word).unwrap_or((word, None));
        if let Some(&(upset, _, usual)) = UPSETS.iter().find(|(_, known, _)| *known == name) {
            let ppm = ppm.map_or(usual, |ppm| u32::try_from(ppm).unwrap_or(u32::MAX));
            chaos = chaos.with(upset, ppm);
            continue;
        }
        if name == "all" {
            chaos = Chaos::all();
        }
        others.push(word);
    }
    match Faults::named(&others.join(",")) {
        Ok(faults) => Ok((faults, chaos)),
        Err(unknown) => Err(unknown.besides(&UPSETS.map(|(_, name, _)| name))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_both_kinds_go_together() {
        assert_eq!(named("none").unwrap(), (Faults::none(), Chaos::none()));
        assert_eq!(named("all").unwrap(), (Faults::all(), Chaos::all()));
        let (faults, chaos) = named("panic, reorder").unwrap();
        assert!(faults.reorder_ppm > 0 && chaos.ppm(Upset::Panic) > 0 && chaos.ppm(Upset::Link) == 0);
        for (at, (upset, name, ppm)) in UPSETS.into_iter().enumerate() {
            assert_eq!(upset as usize, at, "the table is in the order of the variants");
            assert_eq!(named(name).unwrap().1, Chaos::none().with(upset, ppm), "{name}");
        }
        assert_eq!(named("panic=7,batch=3").unwrap().1, Chaos::none().with(Upset::Panic, 7));
        assert!(named("panic=often").is_err());
        let text = named("panik").unwrap_err().to_string();
        assert!(text.contains("\"panik\"") && text.contains("reorder") && text.contains("panic"), "{text}");
    }
}
