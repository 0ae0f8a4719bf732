//! Tests each row of the fault table in `docs/testing.md`. Each test asserts that the fault occurred, and its cost.

use oxide::telemetry::DropReason;
use oxide_sim::{Application, InjectedFault, SimOptions, SimReport, named};

use super::pass;

/// Runs several seeds with the faults of these names. Returns the reports.
fn with(names: &str) -> Vec<SimReport> {
    with_options(names, &SimOptions::default())
}

fn with_options(names: &str, options: &SimOptions) -> Vec<SimReport> {
    let (faults, fault_rates) = named(names).unwrap();
    // Raise the rates, because these runs have only some hundred steps.
    let fault_rates = fault_rates.times(25);
    let run = |seed| pass(&SimOptions { packets: 20_000, faults, fault_rates, seed, ..options.clone() });
    (0..6).map(run).collect()
}

fn sum(reports: &[SimReport], of: impl Fn(&SimReport) -> u64) -> u64 {
    reports.iter().map(of).sum()
}

/// Checks that a fault costs no packet.
fn lossless(names: &str) {
    for report in with(names) {
        assert_eq!((report.there, report.back), (report.sent, report.sent), "{names}: {report:?}");
    }
}

// Rings.

#[test]
fn ring_small_batches() {
    lossless("batch");
}

#[test]
fn ring_late_completions() {
    lossless("delay");
}

#[test]
fn ring_completions_out_of_order() {
    lossless("reorder");
}

#[test]
fn ring_bogus_descriptors_are_refused_and_counted() {
    for report in with("bogus") {
        assert!(report.bad_descriptors > 0);
        assert_eq!(report.lost_after, 0);
    }
}

#[test]
fn ring_duplicate_completions_are_refused_and_counted() {
    for report in with("duplicate") {
        assert!(report.bad_descriptors > 0);
        assert_eq!(report.lost_after, 0);
    }
}

#[test]
fn ring_lost_completions_cost_their_frames_until_restart() {
    let reports = with("lost");
    assert!(sum(&reports, |report| report.lost_completions) > 0);
    assert!(reports.iter().all(|report| report.port_restarts > 0 || report.lost_completions == 0));
    // A restart of the port is enough: its queue, its sessions and the other port continue.
    assert_eq!(sum(&reports, |report| report.hard_restarts), 0);
}

#[test]
fn ring_overload_drops_excess_packets() {
    for report in with("overload") {
        assert!(report.lost_before > 0);
        assert_eq!((report.lost_after, report.drops.total()), (0, 0), "{report:?}");
    }
}

#[test]
fn ring_repeated_kicks_and_needed_wakeups() {
    for report in with("again,doze,idle") {
        assert!(report.back > 0);
    }
}

// The wire.

#[test]
fn wire_packets_lost_are_only_those() {
    for report in with("rx-drop,tx-drop") {
        assert!(report.lost_before > 0 && report.lost_after > 0);
        assert_eq!(report.drops.total(), 0);
    }
}

// Handlers and restarts.

#[test]
fn restart_after_handler_panic_costs_its_batch() {
    let reports = with("panic");
    assert!(reports.iter().any(|report| report.soft_restarts > 0));
    for report in reports.iter().filter(|report| report.soft_restarts > 0) {
        let lost = report.drops.of(DropReason::HandlerPanic);
        assert!(lost > 0 && lost <= 64 * (report.soft_restarts + report.hard_restarts + 2), "{report:?}");
    }
}

#[test]
fn restart_by_operators() {
    let reports = with("restart");
    let depths: [fn(&SimReport) -> u64; 3] = [|r| r.soft_restarts, |r| r.port_restarts, |r| r.hard_restarts];
    for depth in depths {
        assert!(reports.iter().any(|report| depth(report) > 0), "{reports:?}");
    }
}

#[test]
fn restart_storm_fails_queue_until_operator_restarts_it() {
    let reports = with("storm");
    assert!(sum(&reports, |report| report.given_up) > 0, "no budget was used up");
    // The budget checker counts each restart; the recovery checker requires traffic afterwards.
    assert!(reports.iter().all(|report| report.back > 1_000), "{reports:?}");
}

#[test]
fn stall_costs_packets_at_most() {
    with("stall");
}

// Links, devices, sockets.

#[test]
fn link_flaps_lose_packets_and_no_frame() {
    let reports = with("link");
    assert!(reports.iter().any(|report| report.lost_before > 0));
    assert!(reports.iter().all(|report| report.lost_after == 0), "packets that wait for a link leave when it is up");
}

#[test]
fn device_recreated_is_reopened() {
    let reports = with("device");
    assert!(reports.iter().any(|report| report.port_restarts > 0));
    assert_eq!(sum(&reports, |report| report.hard_restarts), 0, "a fault of one port must not restart the queue");
}

/// Answers in flight reach their client, because the handler and its sessions stay.
#[test]
fn restart_of_ports_delivers_no_answer_to_another_client() {
    for names in ["device", "socket", "errno", "lost", "link"] {
        let reports = with_options(names, &SimOptions { application: Application::Relay, ..Default::default() });
        assert!(sum(&reports, |report| report.port_restarts) > 0 || names == "link", "{names}");
        assert_eq!(sum(&reports, |report| report.misdelivered), 0, "{names}: {reports:?}");
    }
}

#[test]
fn device_keeps_its_name_and_its_sockets_die() {
    let reports = with("socket");
    assert!(sum(&reports, |report| report.port_restarts) > 0);
    assert_eq!(sum(&reports, |report| report.hard_restarts), 0);
}

// The kernel's answers.

#[test]
fn errno_permanent_restarts_port() {
    let reports = with("errno");
    assert!(sum(&reports, |report| report.port_restarts) > 0);
    assert_eq!(sum(&reports, |report| report.hard_restarts), 0);
    assert!(reports.iter().all(|report| report.back > 1_000));
}

#[test]
fn memory_allocation_failure_is_retried() {
    let reports = with("memory");
    assert!(sum(&reports, |report| report.hard_restarts) > 0);
    // Each failed attempt uses the budget; an operator restarts a failed queue.
    assert!(reports.iter().all(|report| report.back > 1_000), "{reports:?}");
}

#[test]
fn memory_without_free_frame_costs_that_packet() {
    for report in with("starve") {
        assert!(report.lost_before > 0);
        assert_eq!((report.lost_after, report.drops.total()), (0, 0));
    }
}

// Faults from outside.

#[test]
fn control_flood_loses_only_what_waited_at_paused_ports() {
    for report in with("flood") {
        let (lost, paused) = (2 * report.sent - report.there - report.back, report.drops.of(DropReason::Paused));
        // An answer is lost with its request, so a paused packet costs one or two of the counts.
        assert!(lost >= paused && lost <= 2 * paused, "{lost} lost, {paused} dropped at a paused port: {report:?}");
        assert_eq!(report.drops.total(), paused, "{report:?}");
    }
}

#[test]
fn malformed_packets_are_dropped_with_reason() {
    for application in [Application::Forward, Application::CheckedRelay] {
        for report in with_options("malformed", &SimOptions { application, ..Default::default() }) {
            assert!(report.malformed > 50, "{report:?}");
            // The kernel refuses packets that are too long for a frame, the parser all others.
            assert_eq!(report.drops.total() + report.lost_before, report.malformed, "{report:?}");
            assert!(report.drops.nonzero().count() >= 8, "{report:?}");
            assert_eq!((report.there, report.back), (report.sent, report.sent));
        }
    }
}

#[test]
fn table_full_refuses_new_clients_and_serves_existing() {
    for application in [Application::Relay, Application::CheckedRelay] {
        let reports = with_options("one-time-clients", &SimOptions { application, ..Default::default() });
        for report in &reports {
            assert!(report.one_time_clients > 0);
            let refused = report.drops.of(DropReason::SessionsFull);
            assert!(refused > 0, "{report:?}");
            assert_eq!(report.there + refused, report.sent, "nothing else is lost: {report:?}");
            assert_eq!(report.back, report.there);
        }
    }
}

#[test]
fn clock_jumps_cost_no_packet_of_the_forwarder() {
    lossless("clock");
}

#[test]
fn clock_jumps_end_idle_sessions_and_no_others() {
    for report in with_options("clock", &SimOptions { application: Application::CheckedRelay, ..Default::default() }) {
        assert!(report.virtual_time.as_secs() > 120 && report.back > 10_000, "{report:?}");
    }
}

#[test]
fn next_hops_forgotten_are_requested_again() {
    for report in
        with_options("neighbour", &SimOptions { application: Application::CheckedRelay, ..Default::default() })
    {
        assert!(report.back > 10_000, "{report:?}");
    }
}

// Faults of one queue do not affect other queues.

#[test]
fn fault_free_queues_lose_nothing_while_one_has_every_fault() {
    let (faults, fault_rates) = named("all,lost").unwrap();
    let mut reports = Vec::new();
    for seed in 0..8 {
        let application = if seed % 2 == 0 { Application::Forward } else { Application::Relay };
        let (queues, only, fault_rates) = (4, Some(seed as u32 % 4), fault_rates.times(20));
        let options =
            SimOptions { queues, only, packets: 40_000, faults, fault_rates, application, seed, ..Default::default() };
        let report = pass(&options);
        let looked = report.checks.iter().find(|(checker, _)| checker.name() == "isolation").unwrap().1;
        assert!(looked > 10_000, "too few packets of fault-free queues: {report:?}");
        reports.push(report);
    }
    assert!(sum(&reports, |report| report.hard_restarts) > 0 && sum(&reports, |report| report.bad_descriptors) > 0);
}

/// This file and `oxide sim --faults` have the same names.
#[test]
fn every_fault_has_a_row() {
    let rows = include_str!("faults.rs");
    let error = named("no-such-fault").unwrap_err().to_string();
    let names = error.rsplit_once("a list of ").unwrap().1.split(", ");
    for name in names {
        let row = rows.lines().any(|line| {
            let quoted: Vec<_> = line.split('"').skip(1).step_by(2).flat_map(|text| text.split(',')).collect();
            line.contains("(\"") && quoted.contains(&name)
        });
        assert!(row, "no row tests {name}");
    }
    assert!(named("panic").unwrap().1.ppm(InjectedFault::Panic) > 0);
}
