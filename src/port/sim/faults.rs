//! Defines the faults of the simulated kernel.

/// Holds the fault rates of one NIC queue, all 0 by default. Rates are in parts per million of the occasions.
///
/// A correct kernel may cause all of them, except [`bogus_ppm`](Self::bogus_ppm),
/// [`duplicate_ppm`](Self::duplicate_ppm) and [`lost_ppm`](Self::lost_ppm).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelFaultRates {
    /// Maximum of packets and completions moved in one step, drawn for each step from 1 on; 0 for no limit.
    pub batch: u32,
    /// Descriptors taken by one kick; 0 for the kernel's own 32 (`TX_BATCH_SIZE`, net/xdp/xsk.c).
    pub kick_batch: u32,
    /// Longest time in ns from taking a descriptor to its completion, drawn for each descriptor.
    pub delay_ns: u64,
    /// Rate of steps in which the kernel does nothing.
    pub idle_ppm: u32,
    /// Rate of completions that overtake earlier ones. Packets keep their order.
    pub reorder_ppm: u32,
    /// Rate of kicks that take nothing (EAGAIN, ENOBUFS, EBUSY).
    pub again_ppm: u32,
    /// Rate of steps after which the kernel sets need-wakeup and sleeps until the next kick.
    pub doze_ppm: u32,
    /// Rate of packets for which the kernel finds no frame, as with an empty fill ring.
    pub starve_ppm: u32,
    /// Rate of packets lost before they reach the socket.
    pub rx_drop_ppm: u32,
    /// Rate of packets completed without being sent (veth peer down, or a full qdisc: EBUSY).
    pub tx_drop_ppm: u32,
    /// Rate of duplicated descriptors and completions.
    pub duplicate_ppm: u32,
    /// Rate of additional descriptors and completions with a wrong address or length.
    pub bogus_ppm: u32,
    /// Rate of missing completions. The frame is unusable until the socket closes.
    pub lost_ppm: u32,
}

/// Lists the names that [`KernelFaultRates::named`] accepts.
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

/// Reports an unknown fault name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("faults: unknown name: {name:?}; expected none, all, or a list of {}", known.join(", "))]
pub struct UnknownFault {
    /// Name in the input.
    pub name: String,
    /// Accepted names.
    known: Vec<&'static str>,
}

impl UnknownFault {
    /// Adds `more` names to those that the message lists.
    #[must_use]
    pub fn besides(mut self, more: &[&'static str]) -> Self {
        self.known.extend(more);
        self
    }
}

impl KernelFaultRates {
    /// Returns rates without faults.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Returns rates for everything that a correct kernel may do. A sender notices nothing but packet loss.
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

    /// Returns rates for all faults except missing completions. Those use up the memory until the port is rebuilt.
    #[must_use]
    pub fn all() -> Self {
        Self { duplicate_ppm: 2_000, bogus_ppm: 2_000, ..Self::legal() }
    }

    /// Parses fault names, separated by commas: `none`, `all`, `legal`, or any of batch, delay, idle, reorder, again,
    /// doze, starve, rx-drop, tx-drop, duplicate, bogus, lost. `name=number` sets one field: packets for batch,
    /// nanoseconds for delay, parts per million for the others.
    ///
    /// # Errors
    /// Returns [`UnknownFault`] for an unknown name or an invalid number.
    pub fn named(names: &str) -> Result<Self, UnknownFault> {
        let usual = Self { lost_ppm: 100, ..Self::all() };
        let mut faults = Self::none();
        for item in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let unknown = || UnknownFault { name: item.to_owned(), known: NAMES.to_vec() };
            let (name, number) = number(item).map_err(|()| unknown())?;
            match name {
                "none" => {}
                "legal" => faults = Self::legal(),
                "all" => faults = Self::all(),
                name => {
                    let at = NAMES.iter().position(|known| *known == name).ok_or_else(unknown)?;
                    faults.set(at, number.unwrap_or_else(|| usual.get(at)));
                    if name == "reorder" && number.is_none() {
                        // Only delayed completions can be overtaken.
                        faults.delay_ns = usual.delay_ns;
                    }
                }
            }
        }
        Ok(faults)
    }

    /// Returns the items that [`named`](Self::named) parses to these rates; none if there are no faults.
    pub fn names(&self) -> impl Iterator<Item = String> + use<> {
        let faults = *self;
        let item = move |(at, name): (usize, &str)| match faults.get(at) {
            0 => None,
            number => Some(format!("{name}={number}")),
        };
        NAMES.into_iter().enumerate().filter_map(item)
    }

    /// Returns the field at this position in [`NAMES`].
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

/// Splits `name=number` into the name and the number, if there is one.
///
/// # Errors
/// Returns an error if the number is invalid.
#[allow(clippy::result_unit_err)] // The caller's error names the item.
pub fn number(item: &str) -> Result<(&str, Option<u64>), ()> {
    match item.split_once('=') {
        None => Ok((item, None)),
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
            assert_eq!(
                faults.names().collect::<Vec<_>>(),
                [format!("{name}={}", at + 7)],
                "{name} must set its own field only"
            );
        }
        let items = |faults: KernelFaultRates| faults.names().collect::<Vec<_>>().join(",");
        assert_eq!(KernelFaultRates::named(&items(KernelFaultRates::all())).unwrap(), KernelFaultRates::all());
        assert!(KernelFaultRates::named("batch=many").is_err() && KernelFaultRates::named("batch=").is_err());
        assert!(KernelFaultRates::named("rx-dorp").unwrap_err().to_string().contains("rx-drop"));
    }
}
