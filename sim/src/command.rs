//! Prints a run as a command line.

use super::{Application, FaultRates, SimOptions};
use oxide::port::sim::{KernelFaultRates, LinkSpec};

/// Limits the packets of a run that uses the reference by default, because it is several times slower than the relay.
const CHECKED: u64 = 2_000_000;

impl Application {
    /// Returns the default application of `oxide sim` for this number of packets.
    #[must_use]
    pub fn usual(packets: u64) -> Self {
        if packets <= CHECKED { Self::CheckedRelay } else { Self::Relay }
    }

    /// Returns the name for `--handler`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Relay => "relay",
            Self::CheckedRelay => "checked-relay",
        }
    }
}

impl SimOptions {
    /// Returns the command that repeats this run. For a replayed capture, add `--pcap-in`.
    #[must_use]
    pub fn command(&self) -> String {
        let Self { queues, packets, faults, fault_rates, application, links, only, replay, seed } = self;
        let mut words = vec![format!("oxide sim --queues {queues} --packets {packets} --seed {seed}")];
        let both = (*faults, *fault_rates);
        if both == (KernelFaultRates::all(), FaultRates::all()) {
            words.push("--faults all".to_owned());
        } else if both != (KernelFaultRates::none(), FaultRates::none()) {
            let names: Vec<String> = faults.names().chain(fault_rates.names()).collect();
            words.push(format!("--faults {}", names.join(",")));
        }
        // A replayed capture always uses the relay with the reference.
        if replay.is_none() && *application != Application::usual(*packets) {
            words.push(format!("--handler {}", application.name()));
        }
        words.extend(only.map(|only| format!("--only {only}")));
        for (side, link) in ["clients", "servers"].iter().zip(links).filter(|(_, link)| **link != LinkSpec::default()) {
            words.push(format!("--link {side}:{link}"));
        }
        words.join(" ")
    }
}
