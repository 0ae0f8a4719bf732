//! A run as a command line.

use super::{Application, FaultRates, SimOptions};
use oxide::port::sim::{KernelFaultRates, LinkSpec};

/// Packets above which every decision is no longer held against the reference unless asked for: it is several
/// times slower than the relay.
const CHECKED: u64 = 2_000_000;

impl Application {
    /// What `oxide sim` runs where no other is asked for.
    #[must_use]
    pub fn usual(packets: u64) -> Self {
        if packets <= CHECKED { Self::CheckedRelay } else { Self::Relay }
    }

    /// As `--handler` names it.
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
    /// The command that makes the same run. A capture that is replayed has to be named besides (`--pcap-in`).
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
        // A capture goes through the relay, and is held against the reference, whatever is asked for.
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
