//! Needs root: the program is loaded into the kernel, on a veth in a network namespace of its own.
#![no_main]

#[path = "../../tests/steering/fuzz.rs"]
mod fuzz;
#[path = "../../tests/steering/lab.rs"]
mod lab;
#[path = "../../tests/fuzz/mutate.rs"]
mod mutate;
#[path = "../../tests/steering/packets.rs"]
mod packets;

use std::sync::{LazyLock, Mutex, mpsc};

use oxide::xdp::steering::Steering;

/// The program outlives the namespace's thread: it is reached by its descriptors.
static STEERING: LazyLock<Mutex<Steering>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel();
    lab::in_namespace("fuzz", move || {
        let _ = sender.send(fuzz::steering());
    });
    Mutex::new(receiver.recv().expect("needs root, see above"))
});

libfuzzer_sys::fuzz_target!(|frame: &[u8]| fuzz::body(&STEERING.lock().expect("no panic before"), frame));
