//! Compares the steering program in the kernel (BPF_PROG_TEST_RUN) with an independent specification, over the corpus of
//! `fuzz/corpus/steering` and seeded mutations of it.

use oxide::xdp::steering::{AttachMode, Fallback, Steering, SteeringOptions, Verdict};

use crate::lab::{in_namespace, veth};
use crate::mutate;
use crate::packets::{PORT, V4, V6, follows_another, second_opinion};

/// Attaches the program to an interface of the thread's namespace, with both addresses of the corpus listed.
pub(crate) fn steering() -> Steering {
    veth();
    let options = SteeringOptions { attach: AttachMode::Native, fallback: Fallback::Drop, replace: false };
    let mut steering = Steering::attach("vb", &options).unwrap();
    steering.allow(V4.into(), [PORT..=PORT]).unwrap();
    steering.allow(V6.into(), [PORT..=PORT]).unwrap();
    steering
}

/// Checks that the program counts the verdict of the specification. Test runs require an Ethernet header and accept at
/// most a page.
pub(crate) fn body(steering: &Steering, frame: &[u8]) {
    if !(14..=3000).contains(&frame.len()) {
        return;
    }
    let before = steering.counters().unwrap();
    let _ = steering.test_run(frame, 0).unwrap();
    let after = steering.counters().unwrap();
    let counted = Verdict::ALL.iter().find(|&&verdict| after.of(verdict) > before.of(verdict));
    let wanted = second_opinion(frame, |to, port| steering.listed(to, port));
    let followed = follows_another(frame) && counted == Some(&Verdict::NoSocket);
    assert!(followed || counted == Some(&wanted), "{counted:?}, not {wanted:?}: {frame:02x?}");
}

#[test]
fn mutated_packets_get_the_second_opinion() {
    in_namespace("mutated_packets_get_the_second_opinion", || {
        let steering = steering();
        mutate::run("steering", 8_000, |frame| body(&steering, frame));
    });
}
