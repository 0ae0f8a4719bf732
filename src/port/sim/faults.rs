//! What the simulated kernel does to make life hard.

/// Faults of one NIC queue, all off by default. Rates are in parts per million of the occasions.
///
/// All but [`bogus_ppm`](Self::bogus_ppm), [`duplicate_ppm`](Self::duplicate_ppm) and
/// [`lost_ppm`](Self::lost_ppm) are what a kernel may do on any good day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelFaultRates {
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

/// The names by which [`KernelFaultRates::named`] knows them.
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
    pub fn besides(mut self, more: &[&'static str]) -> Self {
        self.known.extend(more);
        self
    }
}

impl KernelFaultRates {
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
    /// idle, reorder, again, doze, starve, rx-drop, tx-drop, duplicate, bogus, lost. `name=number` sets that
    /// field alone: packets for batch, nanoseconds for delay, parts per million for the others.
    ///
    /// # Errors
    /// [`UnknownFault`] for a name that is none of these, and for a number that is none.
    pub fn named(names: &str) -> Result<Self, UnknownFault> {
        let usual = Self { lost_ppm: 100, ..Self::all() };
        let mut faults = Self::none();
        for word in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let unknown = || UnknownFault { name: word.to_owned(), known: NAMES.to_vec() };
            let (name, number) = number(word).map_err(|()| unknown())?;
            match name {
                "none" => {}
                "legal" => faults = Self::legal(),
                "all" => faults = Self::all(),
                name => {
                    let at = NAMES.iter().position(|known| *known == name).ok_or_else(unknown)?;
                    faults.set(at, number.unwrap_or_else(|| usual.get(at)));
                    if name == "reorder" && number.is_none() {
                        // What is not delayed is never overtaken.
                        faults.delay_ns = usual.delay_ns;
                    }
                }
            }
        }
        Ok(faults)
    }

    /// The words that [`named`](Self::named) makes these of; nothing where there are none.
    pub fn names(&self) -> impl Iterator<Item = String> + use<> {
        let faults = *self;
        let word = move |(at, name): (usize, &str)| match faults.get(at) {
            0 => None,
            number => Some(format!("{name}={number}")),
        };
        NAMES.into_iter().enumerate().filter_map(word)
    }

    /// The field with this place in [`NAMES`].
    fn get(&self, at: usize) -> u64 {
        let ppm = [self.idle_ppm, self.reorder_ppm, self.again_ppm, self.doze_ppm, self.starve_ppm];
        let more = [self.rx_drop_ppm, self.tx_drop_ppm, self.duplicate_ppm, self.bogus_ppm, self.lost_ppm];
        match at {
            0 => self.batch.into(),
            1 => self.delay_ns,
            _ => ppm.into_iter().chain(more).nth(at - 2).unwrap_or(0).into(),
        }
    }

    fn set(&mut self, at: usize, number: u64) {
        let small = u32::try_from(number).unwrap_or(u32::MAX);
        let ppm = [&mut self.idle_ppm, &mut self.reorder_ppm, &mut self.again_ppm, &mut self.doze_ppm];
        let more = [&mut self.starve_ppm, &mut self.rx_drop_ppm, &mut self.tx_drop_ppm, &mut self.duplicate_ppm];
        let most = [&mut self.bogus_ppm, &mut self.lost_ppm];
        match at {
            0 => self.batch = small,
            1 => self.delay_ns = number,
            _ => ppm.into_iter().chain(more).chain(most).skip(at - 2).take(1).for_each(|field| *field = small),
        }
    }
}

/// A name, and the number behind it.
///
/// # Errors
/// Where it is no number.
#[allow(clippy::result_unit_err)] // the caller names the word
pub fn number(word: &str) -> Result<(&str, Option<u64>), ()> {
    match word.split_once('=') {
        None => Ok((word, None)),
        Some((name, number)) => Ok((name.trim(), Some(number.trim().parse().map_err(|_| ())?))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_fault_name_enables_a_fault() {
        for name in NAMES {
            assert_ne!(KernelFaultRates::named(name).unwrap(), KernelFaultRates::none(), "{name}");
        }
        assert_eq!(KernelFaultRates::named("none").unwrap(), KernelFaultRates::none());
        assert_eq!(KernelFaultRates::named(" legal, duplicate,bogus").unwrap(), KernelFaultRates::all());
        for (at, name) in NAMES.into_iter().enumerate() {
            let faults = KernelFaultRates::named(&format!("{name}={}", at + 7)).unwrap();
            assert_eq!(faults.names().collect::<Vec<_>>(), [format!("{name}={}", at + 7)], "its own field, no other");
        }
        let words = |faults: KernelFaultRates| faults.names().collect::<Vec<_>>().join(",");
        assert_eq!(KernelFaultRates::named(&words(KernelFaultRates::all())).unwrap(), KernelFaultRates::all());
        assert!(KernelFaultRates::named("batch=many").is_err() && KernelFaultRates::named("batch=").is_err());
        assert!(KernelFaultRates::named("rx-dorp").unwrap_err().to_string().contains("rx-drop"));
    }
}
