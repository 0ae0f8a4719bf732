//! Tests faults of one interface: they cost the queues of the other interface no packet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/hairpin.rs"]
mod hairpin;
#[path = "common/netns.rs"]
mod netns;

use std::time::Duration;

use hairpin::{Flows, LONG, all_run, id, lost, plug, plug_as, start_on, wait};
use netns::{Far, Lab, in_namespace, skip_unless_root};
use oxide::engine::{Engine, EngineState, EngineStatus, QueueState, RestartScope};
use oxide::xdp::steering::PassAll;

/// Runs traffic on both interfaces and applies `with_fault` to the first one. The second one must lose nothing, and the
/// first one must recover completely.
fn with_first_interface(test: &'static str, inject: fn(&Lab, &Far, &Engine)) {
    with_fault(test, &[], move |lab, far, engine| {
        let others = Flows::find(far, &[1]).run(far);
        drop(Flows::find(far, &[0]));
        inject(lab, far, engine);
        wait(engine, "all run again", all_run);
        std::thread::sleep(Duration::from_millis(100));
        let (_, counts) = others.end();
        assert_eq!(lost(&counts, |_, _| true), 0, "{counts:?} {:#?}", engine.status());
    });
}

/// Runs an engine on these queues (empty: all) with `with_fault`; all queues must recover completely.
fn with_fault(test: &'static str, queues: &'static [u32], fault: impl FnOnce(&Lab, &Far, &Engine) + Send + 'static) {
    if skip_unless_root(test) {
        return;
    }
    in_namespace(move |lab| {
        let far = lab.second_namespace();
        plug(lab, &far, 0);
        plug(lab, &far, 1);
        let engine = start_on(queues);
        fault(lab, &far, &engine);
        wait(&engine, "all run again", all_run);
        if queues.is_empty() {
            let traffic = Flows::find(&far, &[0, 1]).run(&far);
            std::thread::sleep(Duration::from_millis(200));
            let (_, after) = traffic.end();
            assert_eq!(lost(&after, |_, _| true), 0, "{after:?} {:#?}", engine.status());
        }
        let status = engine.stop(LONG);
        assert!(status.balanced && status.unaccounted == 0, "{status:#?}");
    });
}

#[test]
fn link_flap_costs_no_restart() {
    with_first_interface("link_flap_costs_no_restart", |lab, _, engine| {
        for _ in 0..5 {
            lab.ip("link set near0 down");
            lab.ip("link set near0 up");
            lab.running("near0");
        }
        assert!(engine.status().queues.iter().all(|queue| queue.restarts == 0), "{:#?}", engine.status());
    });
}

#[test]
fn interface_is_deleted_and_recreated() {
    with_first_interface("interface_is_deleted_and_recreated", |lab, far, engine| {
        for _ in 0..2 {
            lab.ip("link del near0");
            let waits = |s: &oxide::engine::EngineStatus| s.queues.iter().all(|q| q.state == QueueState::Waiting);
            wait(engine, "noticed", waits);
            plug(lab, far, 0);
            wait(engine, "served again", all_run);
        }
    });
}

#[test]
fn interface_is_renamed_and_renamed_back() {
    with_first_interface("interface_is_renamed_and_renamed_back", |lab, _, engine| {
        lab.ip("link set near0 down");
        lab.ip("link set near0 name other");
        wait(engine, "noticed", |s| s.queues.iter().all(|q| q.state == QueueState::Waiting));
        lab.ip("link set other name near0");
        lab.ip("link set near0 up");
        lab.running("near0");
    });
}

#[test]
fn program_is_detached() {
    with_first_interface("program_is_detached", |lab, _, engine| {
        // Act as another privileged process.
        assert!(program(lab, "near0").is_some());
        oxide::xdp::steering::detach_all("near0").unwrap();
        until(engine, "attached again", || program(lab, "near0").is_some());
        assert!(engine.status().queues.iter().all(|queue| queue.restarts == 0), "{:#?}", engine.status());
    });
}

/// Returns the id of the program on `dev`; `None` without one.
fn program(lab: &Lab, dev: &str) -> Option<String> {
    let shown = lab.ip(&format!("link show dev {dev}"));
    shown.split("prog/xdp id ").nth(1).map(|rest| rest.split_whitespace().next().unwrap_or_default().to_owned())
}

fn until(engine: &Engine, what: &str, mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + LONG;
    while !done() {
        assert!(std::time::Instant::now() < end, "{what}: {:#?}", engine.status());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn all_wait(status: &EngineStatus) -> bool {
    status.queues.iter().all(|queue| queue.state == QueueState::Waiting)
}

#[test]
fn other_program_replaces_ours() {
    with_first_interface("other_program_replaces_ours", |_, _, engine| {
        // Attach as soon as our program is detached.
        let mut other = None;
        until(engine, "another program", || {
            // This fails if the engine attaches ours again at the same moment.
            let _ = oxide::xdp::steering::detach_all("near0");
            other = PassAll::attach("near0").ok();
            other.is_some()
        });
        let status = wait(engine, "queues wait", all_wait);
        assert_eq!(status.state, EngineState::Degraded);
        for queue in &status.queues {
            assert!(queue.reason.contains("near0") && queue.reason.contains("oxide_pass_all"), "{}", queue.reason);
        }
        // A restart of the whole queue works without the port as well.
        engine.handle().restart(&id("near0", 0), RestartScope::Handler).unwrap();
        wait(engine, "restarted and waiting", |s| s.queues[0].restarts > 0 && all_wait(s));
        drop(other);
    });
}

/// The other program was first on the re-created interface.
#[test]
fn other_program_is_attached_before_start() {
    with_first_interface("other_program_is_attached_before_start", |lab, far, engine| {
        lab.ip("link del near0");
        wait(engine, "noticed", all_wait);
        plug_as(lab, far, 0, "tmp0");
        let other = PassAll::attach("tmp0").unwrap();
        lab.ip("link set tmp0 down");
        lab.ip("link set tmp0 name near0");
        lab.up("near0");
        lab.running("near0");
        wait(engine, "other program named", |s| s.queues.iter().all(|queue| queue.reason.contains("oxide_pass_all")));
        drop(other);
    });
}

#[test]
fn other_program_is_put_under_our_link() {
    with_first_interface("other_program_is_put_under_our_link", |lab, _, engine| {
        let ours = program(lab, "near0");
        for _ in 0..3 {
            oxide::xdp::steering::swap_all("near0").unwrap();
            until(engine, "our program attached", || program(lab, "near0") == ours);
        }
        // The sockets stayed in the map.
        assert!(engine.status().queues.iter().all(|queue| queue.restarts == 0), "{:#?}", engine.status());
    });
}

#[test]
fn interface_moves_to_other_namespace_and_back() {
    with_first_interface("interface_moves_to_other_namespace_and_back", |lab, _, engine| {
        let away = lab.second_namespace();
        lab.ip(&format!("link set near0 netns {}", away.path().display()));
        wait(engine, "interface absent", all_wait);
        // Our program must be gone from it.
        until(engine, "without our program", || away.run(|lab| program(lab, "near0")).is_none());
        let home = lab.path().to_owned();
        away.run(move |lab| lab.ip(&format!("link set near0 netns {}", home.display())));
        lab.address("near0", "10.9.0.1/24");
        lab.up("near0");
        lab.running("near0");
    });
}

#[test]
fn mtu_is_changed() {
    with_first_interface("mtu_is_changed", |lab, far, engine| {
        for mtu in [1400, 2000] {
            lab.ip(&format!("link set near0 mtu {mtu}"));
            far.run(move |lab| lab.ip(&format!("link set far0 mtu {mtu}")));
            drop(Flows::find(far, &[0]));
        }
        let raised = |s: &EngineStatus| s.drift.iter().any(|news| news.contains("MTU of near0 was raised from 1500"));
        wait(engine, "drift reported", raised);
        lab.ip("link set near0 mtu 1500");
        far.run(|lab| lab.ip("link set far0 mtu 1500"));
        wait(engine, "as planned again", |s| s.drift.is_empty());
        assert!(engine.status().queues.iter().all(|queue| queue.restarts == 0), "{:#?}", engine.status());
    });
}

#[test]
fn offloads_are_changed() {
    with_first_interface("offloads_are_changed", |lab, _, engine| {
        lab.run("ethtool", "-K near0 gro on");
        let reported = |s: &EngineStatus| s.drift.iter().any(|news| news.contains("offloads of near0 were changed"));
        wait(engine, "drift reported", reported);
        lab.run("ethtool", "-K near0 gro off");
        wait(engine, "as planned again", |s| s.drift.is_empty());
        assert!(engine.status().queues.iter().all(|queue| queue.restarts == 0), "{:#?}", engine.status());
    });
}

/// A queue that serves two interfaces restarts while one is absent: it starts with the other one.
#[test]
fn queue_restarts_while_one_interface_is_absent() {
    with_fault("queue_restarts_while_one_interface_is_absent", &[], |lab, far, engine| {
        lab.ip("link del near0");
        wait(engine, "noticed", all_wait);
        for queue in 0..hairpin::QUEUES {
            engine.handle().restart(&id("near1", queue), RestartScope::Queue).unwrap();
        }
        let without = |s: &EngineStatus| s.queues.iter().all(|queue| queue.restarts > 0) && all_wait(s);
        let status = wait(engine, "rebuilt", without);
        assert!(status.queues.iter().all(|queue| queue.reason.contains("near0")), "{status:#?}");
        let traffic = Flows::find(far, &[1]).run(far);
        std::thread::sleep(Duration::from_millis(200));
        let (flows, counts) = traffic.end();
        assert_eq!(lost(&counts, |_, _| true), 0, "{counts:?} {:#?}", engine.status());
        // The interface returns while the other one works.
        let traffic = flows.run(far);
        plug(lab, far, 0);
        wait(engine, "served again", all_run);
        let (_, counts) = traffic.end();
        assert_eq!(lost(&counts, |_, _| true), 0, "{counts:?} {:#?}", engine.status());
    });
}

#[test]
fn channels_are_reduced_or_raised() {
    // Two of four queues are served, so that the kernel allows a change of the number.
    with_fault("channels_are_reduced_or_raised", &[0, 1], |lab, far, engine| {
        for count in [2, 3, 4] {
            let near = || lab.run("ethtool", &format!("-L near0 rx {count} tx {count}"));
            let there = || far.run(move |lab| lab.run("ethtool", &format!("-L far0 rx {count} tx {count}")));
            // The far end must never have more transmit queues than this end has receive queues (veth_set_channels).
            if count == 2 {
                there();
                near();
            } else {
                near();
                there();
            }
            lab.running("near0");
            let reported = move |s: &EngineStatus| {
                let words = format!("near0: {count} receive queues instead of 4");
                s.drift.iter().any(|news| news.contains(&words)) == (count != 4)
            };
            wait(engine, "drift reported", reported);
        }
        assert!(engine.status().queues.iter().all(|queue| queue.restarts == 0), "{:#?}", engine.status());
    });
}

#[test]
fn channels_cannot_be_fewer_than_sockets() {
    with_first_interface("channels_cannot_be_fewer_than_sockets", |lab, _, _| {
        let fewer = ["-L", "near0", "rx", "2", "tx", "2"];
        let refused = std::process::Command::new("ethtool").args(fewer).output().unwrap();
        assert!(!refused.status.success(), "the kernel removed a queue with a socket");
        // Set the same number again: the driver may restart its queues.
        let _ = std::process::Command::new("ethtool").args(["-L", "near0", "rx", "4", "tx", "4"]).output().unwrap();
        lab.running("near0");
    });
}
