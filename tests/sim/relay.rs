//! Tests the relay in the simulated engine; each decision is compared with the reference relay.

use oxide::port::sim::KernelFaultRates;
use oxide_sim::{Application, Checker, FaultRates, SimOptions, named};

use super::pass;

#[test]
fn without_faults_every_client_gets_every_answer() {
    for application in [Application::Relay, Application::CheckedRelay] {
        for queues in [1, 3] {
            let report = pass(&SimOptions { queues, packets: 10_000, application, ..Default::default() });
            assert_eq!((report.there, report.back), (10_000, 10_000), "{report:?}");
            assert_eq!(report.drops.total(), 0);
        }
    }
}

#[test]
fn relay_equals_reference_under_all_faults() {
    let mut back = 0;
    for seed in 0..6 {
        let options = SimOptions {
            queues: 1 + seed as u32 % 3,
            packets: 15_000,
            faults: KernelFaultRates::all(),
            fault_rates: FaultRates::all().times(5),
            application: if seed % 2 == 0 { Application::CheckedRelay } else { Application::Relay },
            seed,
            ..Default::default()
        };
        back += pass(&options).back;
    }
    assert!(back > 10_000, "too few packets got through: {back}");
}

#[test]
fn held_packets_keep_their_order() {
    let (faults, fault_rates) = named("neighbour").unwrap();
    for seed in 0..4 {
        let fault_rates = fault_rates.times(40);
        let application = Application::CheckedRelay;
        let report = pass(&SimOptions {
            queues: 2,
            packets: 20_000,
            faults,
            fault_rates,
            application,
            seed,
            ..Default::default()
        });
        let order = report.checks.iter().find(|(checker, _)| *checker == Checker::Order).unwrap();
        assert!(order.1 > 10_000);
    }
}
