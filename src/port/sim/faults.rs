//! What the simulated kernel does to make life hard.

/// Faults of one NIC queue, all off by default. Rates are in parts per million of the occasions.
///
/// All but [`bogus_ppm`](Self::bogus_ppm), [`duplicate_ppm`](Self::duplicate_ppm) and
/// [`lost_ppm`](Self::lost_ppm) are what a kernel may do on any good day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Packets and completions moved in one step: 1 to this many, drawn anew each time; 0 for no limit.
    pub batch: u32,
    /// Descriptors taken by one kick; 0 for the kernel's own 32 (`TX_BATCH_SIZE`, net/xdp/xsk.c).
    pub kick_batch: u32,
    /// The longest time from a descriptor being taken to its completion, ns; each draws its own.
    pub delay_ns: u64,
    /// A step in which the kernel does nothing.
    pub idle_ppm: u32,
    /// A completion that overtakes those before it. Packets keep their order.
    pub reorder_ppm: u32,
    /// A kick that takes nothing (EAGAIN, ENOBUFS, EBUSY).
    pub again_ppm: u32,
    /// A step at whose end the kernel sleeps until it is kicked, having raised need-wakeup.
    pub doze_ppm: u32,
    /// A packet for which the kernel finds no frame, as if the fill ring were empty.
    pub starve_ppm: u32,
    /// A packet that is lost before it gets to the socket.
    pub rx_drop_ppm: u32,
    /// A packet that is completed without being sent (the peer is down, a full qdisc: EBUSY).
    pub tx_drop_ppm: u32,
    /// A descriptor or completion that comes twice.
    pub duplicate_ppm: u32,
    /// A descriptor or completion besides the right ones, with an address or a length that is wrong.
    pub bogus_ppm: u32,
    /// A completion that never comes: the frame is gone until the socket is.
    pub lost_ppm: u32,
}

/// The names by which [`Faults::named`] knows them.
const NAMES: [&str; 12] = [
    "batch",
    "delay",
    "idle",
    "reorder",
    "again",
    "doze",
    "starve",
    "rx-drop",
    "tx-drop",
    "duplicate",
    "bogus",
    "lost",
];

/// No fault has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no fault is named {name:?}: write none, all, or some of {}", known.join(", "))]
pub struct UnknownFault {
    /// As written.
    pub name: String,
    /// What could be written.
    known: Vec<&'static str>,
}

impl UnknownFault {
    /// The same, where `more` names could have been written as well.
    #[must_use]
    pub(crate) fn besides(mut self, more: &[&'static str]) -> Self {
        self.known.extend(more);
        self
    }
}

impl Faults {
    /// A kernel without faults.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything that a kernel may do, and that a packet's sender may not notice except by loss.
    #[must_use]
    pub fn legal() -> Self {
        Self {
            batch: 48,
            kick_batch: 0,
            delay_ns: 50_000,
            idle_ppm: 50_000,
            reorder_ppm: 50_000,
            again_ppm: 100_000,
            doze_ppm: 20_000,
            starve_ppm: 1_000,
            rx_drop_ppm: 1_000,
            tx_drop_ppm: 1_000,
            ..Self::none()
        }
    }

    /// All of them but completions that never come: those use the memory up, so that only a rebuilt
    /// port helps.
    #[must_use]
    pub fn all() -> Self {
        Self { duplicate_ppm: 2_000, bogus_ppm: 2_000, ..Self::legal() }
    }

    /// Faults by their names, separated by commas: `none`, `all`, `legal`, or some of batch, delay,
    /// idle, reorder, again, doze, starve, rx-drop, tx-drop, duplicate, bogus, lost.
    ///
    /// # Errors
    /// [`UnknownFault`] for a name that is none of these.
    pub fn named(names: &str) -> Result<Self, UnknownFault> {
        let all = Self::all();
        let mut faults = Self::none();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "none" => {}
                "legal" => faults = Self::legal(),
                "all" => faults = all,
                "batch" => faults.batch = all.batch,
                "delay" => faults.delay_ns = all.delay_ns,
                "idle" => faults.idle_ppm = all.idle_ppm,
                "reorder" => (faults.reorder_ppm, faults.delay_ns) = (all.reorder_ppm, all.delay_ns),
                "again" => faults.again_ppm = all.again_ppm,
                "doze" => faults.doze_ppm = all.doze_ppm,
                "starve" => faults.starve_ppm = all.starve_ppm,
                "rx-drop" => faults.rx_drop_ppm = all.rx_drop_ppm,
                "tx-drop" => faults.tx_drop_ppm = all.tx_drop_ppm,
                "duplicate" => faults.duplicate_ppm = all.duplicate_ppm,
                "bogus" => faults.bogus_ppm = all.bogus_ppm,
                "lost" => faults.lost_ppm = 100,
                other => return Err(UnknownFault { name: other.to_owned(), known: NAMES.to_vec() }),
            }
        }
        Ok(faults)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_name_switches_something_on() {
        for name in NAMES {
            assert_ne!(Faults::named(name).unwrap(), Faults::none(), "{name}");
        }
        assert_eq!(Faults::named("none").unwrap(), Faults::none());
        assert_eq!(Faults::named(" legal, duplicate,bogus").unwrap(), Faults::all());
        assert!(Faults::named("rx-dorp").unwrap_err().to_string().contains("rx-drop"));
    }
}
