//! The fault table, one interface: what happens to it costs the queues of the other one not one packet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/hairpin.rs"]
mod hairpin;
#[path = "common/netns.rs"]
mod netns;

use std::time::Duration;

use hairpin::{Flows, LONG, all_run, lost, plug, start, wait};
use netns::{Far, Lab, in_namespace, skip_unless_root};
use oxide::engine::Engine;

/// Traffic on both interfaces, `upset` to the first one; the second one loses nothing, and then the first one is as
/// good as before.
fn upset_first(test: &'static str, upset: fn(&Lab, &Far, &Engine)) {
    if skip_unless_root(test) {
        return;
    }
    in_namespace(move |lab| {
        let far = lab.second_namespace();
        plug(lab, &far, 0);
        plug(lab, &far, 1);
        let engine = start();
        let others = Flows::find(&far, &[1]).run(&far);
        drop(Flows::find(&far, &[0]));
        upset(lab, &far, &engine);
        wait(&engine, "all run again", all_run);
        std::thread::sleep(Duration::from_millis(100));
        let (_, counts) = others.end();
        assert_eq!(lost(&counts, |_, _| true), 0, "{counts:?} {:#?}", engine.status());
        let traffic = Flows::find(&far, &[0, 1]).run(&far);
        std::thread::sleep(Duration::from_millis(200));
        let (_, after) = traffic.end();
        assert_eq!(lost(&after, |_, _| true), 0, "{after:?} {:#?}", engine.status());
        let status = engine.stop(LONG);
        assert!(status.balanced && status.unaccounted == 0, "{status:#?}");
    });
}

#[test]
fn its_link_flaps() {
    upset_first("its_link_flaps", |lab, _, engine| {
        for _ in 0..5 {
            lab.ip("link set near0 down");
            lab.ip("link set near0 up");
            lab.running("near0");
        }
        assert!(engine.status().queues.iter().all(|queue| queue.restarts == 0), "{:#?}", engine.status());
    });
}

#[test]
fn it_is_deleted_and_made_again() {
    upset_first("it_is_deleted_and_made_again", |lab, far, engine| {
        for _ in 0..2 {
            lab.ip("link del near0");
            let waits = |s: &oxide::engine::EngineStatus| s.queues.iter().all(|q| q.state.starts_with("waiting"));
            wait(engine, "noticed", waits);
            plug(lab, far, 0);
            wait(engine, "served again", all_run);
        }
    });
}

#[test]
fn it_is_renamed_and_named_back() {
    upset_first("it_is_renamed_and_named_back", |lab, _, engine| {
        lab.ip("link set near0 down");
        lab.ip("link set near0 name other");
        wait(engine, "noticed", |s| s.queues.iter().all(|q| q.state.starts_with("waiting")));
        lab.ip("link set other name near0");
        lab.ip("link set near0 up");
        lab.running("near0");
    });
}

#[test]
fn its_program_is_taken_off() {
    upset_first("its_program_is_taken_off", |lab, _, engine| {
        // As another process with the privilege would.
        assert!(lab.ip("link show dev near0").contains("prog/xdp"));
        oxide::xdp::steering::detach_all("near0").unwrap();
        assert!(!lab.ip("link show dev near0").contains("prog/xdp"));
        let until = std::time::Instant::now() + LONG;
        while !lab.ip("link show dev near0").contains("prog/xdp") {
            assert!(std::time::Instant::now() < until, "not put back: {:#?}", engine.status());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(engine.status().queues.iter().all(|queue| queue.restarts == 0), "{:#?}", engine.status());
    });
}

#[test]
fn its_channels_are_changed() {
    upset_first("its_channels_are_changed", |lab, _, _| {
        // Fewer than there are sockets: the kernel refuses. The same again: the driver may restart its queues.
        let refused =
            std::process::Command::new("ethtool").args(["-L", "near0", "rx", "2", "tx", "2"]).output().unwrap();
        let _ = refused.status;
        let _ = std::process::Command::new("ethtool").args(["-L", "near0", "rx", "4", "tx", "4"]).output().unwrap();
        lab.running("near0");
    });
}
