//! The side of `cargo xtask guest` that runs in the guest: topology, traffic and the tests themselves.
//!
//! The program prints one line `@row PASS|FAIL|SKIP NAME DETAIL` for each test; the host reads the console.

mod device;
mod lab;
mod memory;
mod queues;
mod relay;
mod start;
mod traffic;
mod zero_copy;

use crate::process::{Error, Result};
use traffic::Server;

/// A test in the guest; the text of a pass says what was seen.
type Test = fn(&Server) -> Result<String>;

/// All tests by name. `guest::TESTS` says on which kernel and NIC each runs.
const TESTS: &[(&str, Test)] = &[
    ("start", start::documented_capabilities),
    ("small-frames", zero_copy::small_frames),
    ("hidden", zero_copy::hidden),
    ("sizes", zero_copy::sizes),
    ("auto", zero_copy::auto),
    ("restored", device::restored),
    ("cpuset", memory::cpuset),
    ("huge-pages", memory::huge_pages),
    ("cpu-offline", device::cpu_offline),
    ("link", device::link),
    ("rebind", device::rebind),
    ("unplug", device::unplug),
    ("spare-pairs", queues::spare_pairs),
];

/// Whether the guest has a test of this name.
#[cfg(test)]
pub(super) fn has(name: &str) -> bool {
    TESTS.iter().any(|test| test.0 == name)
}

/// Runs the named tests one after the other on one topology.
pub(crate) fn run(names: &[String]) -> Result<()> {
    lab::create()?;
    let server = Server::start()?;
    for name in names {
        let result = match TESTS.iter().find(|test| test.0 == *name) {
            Some((_, test)) => test(&server),
            None => Err(Error::Failed("the guest has no such test".to_owned())),
        };
        // The host reads one console line for each row.
        match result {
            Ok(seen) => println!("@row PASS {name} {}", seen.replace('\n', " | ")),
            Err(error) => println!("@row FAIL {name} {}", error.to_string().replace('\n', " | ")),
        }
    }
    Ok(())
}
