//! Tests the whole engine with simulated NICs. Every failure prints the command that repeats it.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod faults;
mod links;
#[path = "../common/live.rs"]
mod live;
mod relay;
mod replay;
mod stalled;
mod threads;
mod verdicts;

use oxide::port::sim::{KernelFaultRates, LinkSpec};
use oxide_sim::{Application, Checker, FaultRates, SimOptions, SimReport, run};

/// Runs a simulation; panics with the command that repeats it if a checker fails.
fn pass(options: &SimOptions) -> SimReport {
    let report = run(options);
    if let Some(failure) = &report.failure {
        let (checker, step, text) = (failure.checker.name(), failure.step, &failure.text);
        panic!(
            "checker {checker} failed: seed {}, step {step}: {text}\nrun again: {}",
            options.seed,
            options.command()
        );
    }
    report
}

#[test]
fn without_faults_nothing_is_lost() {
    for queues in [1, 2, 5] {
        let report = pass(&SimOptions { queues, packets: 30_000, seed: u64::from(queues), ..Default::default() });
        assert_eq!((report.sent, report.there, report.answers, report.back), (30_000, 30_000, 30_000, 30_000));
        assert_eq!((report.drops.total(), report.lost_before, report.lost_after), (0, 0, 0));
        let looked: Vec<_> = report.checks.iter().filter(|(_, n)| *n > 0).map(|(checker, _)| *checker).collect();
        let elsewhere = [Checker::Budget, Checker::Reference, Checker::Isolation];
        assert!(Checker::ALL.iter().all(|c| elsewhere.contains(c) || looked.contains(c)), "{looked:?}");
    }
}

/// Returns a report without real times, which differ between equal runs.
fn comparable(report: &SimReport) -> serde_json::Value {
    let mut report = serde_json::to_value(report).unwrap();
    for field in ["real_time", "packets_per_second"] {
        assert!(report.as_object_mut().unwrap().remove(field).is_some());
    }
    report
}

/// Equal seeds give equal reports and the same bytes at the same times.
#[test]
fn one_seed_is_one_run_bit_for_bit() {
    for application in [Application::Forward, Application::Relay, Application::CheckedRelay] {
        let mut seen = std::collections::HashSet::new();
        for (queues, seed) in [(1, 1), (2, 1), (2, 2), (5, 1)] {
            let options = SimOptions {
                packets: 8_000,
                queues,
                seed,
                application,
                faults: KernelFaultRates::all(),
                fault_rates: FaultRates::all().times(10),
                links: ["delay=1ms,loss=ge:0.01/0.3,reorder=0.02,rate=1G".parse().unwrap(), LinkSpec::default()],
                ..Default::default()
            };
            let (a, b) = (replay::tapped(&options), replay::tapped(&options));
            assert_eq!(comparable(&a.0), comparable(&b.0), "{}", options.command());
            assert!(a.1 == b.1, "different bytes left: {}", options.command());
            assert!(
                seen.insert(a.0.fingerprint),
                "two seeds, or two counts of queues, are one run: {}",
                options.command()
            );
        }
    }
}

#[test]
fn every_checker_holds_with_all_faults_at_once() {
    for seed in 0..12 {
        let queues = 1 + seed as u32 % 4;
        let options = SimOptions {
            queues,
            packets: 20_000,
            faults: KernelFaultRates::all(),
            fault_rates: FaultRates::all(),
            seed,
            ..Default::default()
        };
        let report = pass(&options);
        assert!(report.there > 5_000 && report.back > 1_000, "too few packets got through: {report:?}");
        assert!(report.bad_descriptors > 0);
    }
}

/// Tests a long run: `cargo test --release --test sim -- --ignored --nocapture long`. `SIM_PACKETS` and `SIM_SEED` set
/// length and seed.
#[test]
#[ignore = "a long run; the speed it prints means something only in release builds"]
fn long() {
    let number = |name: &str, or: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or);
    let (packets, seed) = (number("SIM_PACKETS", 2_000_000), number("SIM_SEED", 1));
    for (name, faults, fault_rates) in
        [("none", KernelFaultRates::none(), FaultRates::none()), ("all", KernelFaultRates::all(), FaultRates::all())]
    {
        let report = pass(&SimOptions { queues: 4, packets, faults, fault_rates, seed, ..Default::default() });
        eprintln!("faults {name}: {:.2} M packets/s on one core", report.packets_per_second / 1e6);
        eprintln!("{report:?}");
    }
}

/// Runs many seeds with very high fault rates: `SIM_SEEDS=first..last`.
#[test]
#[ignore = "as long as the seeds it is given"]
fn seeds() {
    let range = std::env::var("SIM_SEEDS").unwrap_or_else(|_| "0..20".to_owned());
    let (first, last) = range.split_once("..").unwrap();
    for seed in first.parse().unwrap()..last.parse().unwrap() {
        let fault_rates = FaultRates::all().times(1 + seed as u32 % 20);
        pass(&SimOptions {
            queues: 1 + seed as u32 % 5,
            packets: 20_000,
            faults: KernelFaultRates::all(),
            fault_rates,
            seed,
            ..Default::default()
        });
    }
}
