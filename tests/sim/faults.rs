//! The fault table: one row, one test. Each asserts that the fault really struck.

use oxide::sim::{SimOptions, SimReport, named};
use oxide::telemetry::DropReason;

use super::pass;

/// Some seeds of runs with the faults of these names; their reports.
fn with(names: &str) -> Vec<SimReport> {
    let (faults, chaos) = named(names).unwrap();
    // As often in some hundred steps as else in ten thousand.
    let chaos = chaos.times(25);
    (0..6)
        .map(|seed| pass(&SimOptions { queues: 2, packets: 20_000, faults, chaos, seed, ..Default::default() }))
        .collect()
}

/// A fault that may lose nothing.
fn lossless(names: &str) {
    for report in with(names) {
        assert_eq!((report.there, report.back), (report.sent, report.sent), "{names}: {report:?}");
    }
}

#[test]
fn small_batches() {
    lossless("batch");
}

#[test]
fn late_completions() {
    lossless("delay");
}

#[test]
fn completions_out_of_order() {
    lossless("reorder");
}

#[test]
fn bogus_descriptors_are_refused_and_counted() {
    for report in with("bogus") {
        assert!(report.bad_descriptors > 0);
        assert_eq!(report.lost_after, 0);
    }
}

#[test]
fn completions_that_come_twice_are_refused_and_counted() {
    for report in with("duplicate") {
        assert!(report.bad_descriptors > 0);
        assert_eq!(report.lost_after, 0);
    }
}

#[test]
fn packets_lost_on_the_wire_are_only_those() {
    for report in with("rx-drop,tx-drop") {
        assert!(report.lost_before > 0 && report.lost_after > 0);
        assert_eq!(report.drops.total(), 0);
    }
}

#[test]
fn a_panicking_handler_costs_its_batch_and_a_soft_restart() {
    let reports = with("panic");
    assert!(reports.iter().any(|report| report.soft_restarts > 0));
    for report in reports.iter().filter(|report| report.soft_restarts > 0) {
        let lost = report.drops.of(DropReason::HandlerPanic);
        assert!(lost > 0 && lost <= 64 * (report.soft_restarts + report.hard_restarts + 2), "{report:?}");
    }
}

#[test]
fn links_that_flap_lose_packets_and_no_frame() {
    let reports = with("link");
    assert!(reports.iter().any(|report| report.lost_before > 0));
    assert!(reports.iter().all(|report| report.lost_after == 0), "what waits for a link leaves when it is up");
}

#[test]
fn devices_that_go_and_come_are_opened_anew() {
    let reports = with("device");
    assert!(reports.iter().any(|report| report.hard_restarts > 0));
}

#[test]
fn operators_who_restart_queues() {
    let reports = with("restart");
    assert!(reports.iter().any(|report| report.hard_restarts > 0));
    assert!(reports.iter().any(|report| report.soft_restarts > 0));
}

#[test]
fn stalls_cost_packets_at_most() {
    with("stall");
}

#[test]
fn more_packets_than_the_rings_hold() {
    for report in with("overload") {
        assert!(report.lost_before > 0);
        assert_eq!((report.lost_after, report.drops.total()), (0, 0), "{report:?}");
    }
}

#[test]
fn a_flood_of_control_messages_loses_nothing() {
    lossless("flood");
}

#[test]
fn kicks_that_must_be_repeated_and_kernels_that_doze() {
    for report in with("again,doze,idle") {
        assert!(report.back > 0);
    }
}
