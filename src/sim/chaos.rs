//! Faults above the kernel's: what happens to actors, links and devices.

use crate::port::sim::{Faults, UnknownFault};

/// How often, in parts per million of the simulation's steps, something happens to a queue or an
/// interface drawn at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chaos {
    /// The handler panics in the middle of a batch.
    pub panic_ppm: u32,
    /// An actor gets no time on its core: for some steps, or for longer than its heartbeat may stand.
    pub stall_ppm: u32,
    /// A link goes down, and up again some milliseconds later.
    pub link_ppm: u32,
    /// An interface is deleted, and made again some milliseconds later.
    pub device_ppm: u32,
    /// An operator restarts a queue, its handler or all of it.
    pub restart_ppm: u32,
    /// An actor gets a hundred control messages at once.
    pub flood_ppm: u32,
    /// Clients send more than the rings of a queue hold.
    pub overload_ppm: u32,
    /// All next hops' addresses are forgotten, until they are asked for. Of effect with the relay.
    pub neighbour_ppm: u32,
}

/// The names that [`named`] knows beside those of the kernel's faults.
const NAMES: [&str; 8] = ["panic", "stall", "link", "device", "restart", "flood", "overload", "neighbour"];

impl Chaos {
    /// Nothing happens.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// All of it, now and then.
    #[must_use]
    pub fn all() -> Self {
        Self {
            panic_ppm: 600,
            stall_ppm: 1_000,
            link_ppm: 300,
            device_ppm: 150,
            restart_ppm: 150,
            flood_ppm: 500,
            overload_ppm: 2_000,
            neighbour_ppm: 500,
        }
    }
}

impl Chaos {
    /// The same, `factor` times as often.
    #[must_use]
    pub fn times(self, factor: u32) -> Self {
        Self {
            panic_ppm: self.panic_ppm.saturating_mul(factor),
            stall_ppm: self.stall_ppm.saturating_mul(factor),
            link_ppm: self.link_ppm.saturating_mul(factor),
            device_ppm: self.device_ppm.saturating_mul(factor),
            restart_ppm: self.restart_ppm.saturating_mul(factor),
            flood_ppm: self.flood_ppm.saturating_mul(factor),
            overload_ppm: self.overload_ppm.saturating_mul(factor),
            neighbour_ppm: self.neighbour_ppm.saturating_mul(factor),
        }
    }
}

/// Faults of either kind by their names, separated by commas: those of [`Faults::named`], and panic,
/// stall, link, device, restart, flood, overload, neighbour. `all` is all of both kinds.
///
/// # Errors
/// [`UnknownFault`] for a name that is none of these.
pub fn named(names: &str) -> Result<(Faults, Chaos), UnknownFault> {
    let all = Chaos::all();
    let mut chaos = Chaos::none();
    let mut others = Vec::new();
    for name in names.split(',').map(str::trim) {
        match name {
            "panic" => chaos.panic_ppm = all.panic_ppm,
            "stall" => chaos.stall_ppm = all.stall_ppm,
            "link" => chaos.link_ppm = all.link_ppm,
            "device" => chaos.device_ppm = all.device_ppm,
            "restart" => chaos.restart_ppm = all.restart_ppm,
            "flood" => chaos.flood_ppm = all.flood_ppm,
            "overload" => chaos.overload_ppm = all.overload_ppm,
            "neighbour" => chaos.neighbour_ppm = all.neighbour_ppm,
            other => {
                if other == "all" {
                    chaos = all;
                }
                others.push(other);
            }
        }
    }
    match Faults::named(&others.join(",")) {
        Ok(faults) => Ok((faults, chaos)),
        Err(unknown) => Err(unknown.besides(&NAMES)),
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
        assert!(faults.reorder_ppm > 0 && chaos.panic_ppm > 0 && chaos.link_ppm == 0);
        for name in NAMES {
            assert_ne!(named(name).unwrap().1, Chaos::none(), "{name}");
        }
        let text = named("panik").unwrap_err().to_string();
        assert!(text.contains("\"panik\"") && text.contains("reorder") && text.contains("panic"), "{text}");
    }
}
