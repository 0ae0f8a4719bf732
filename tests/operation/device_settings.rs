//! Tests that a start restores the busy-poll settings that a killed relay left, from inside its sandbox.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::netns::{in_namespace, skip_unless_root};
use crate::rig::Bench;

const NAMES: [&str; 2] = ["gro_flush_timeout", "napi_defer_hard_irqs"];

fn setting(name: &str) -> PathBuf {
    PathBuf::from("/sys/class/net/r0").join(name)
}

fn values() -> [String; 2] {
    NAMES.map(|name| std::fs::read_to_string(setting(name)).unwrap().trim().to_owned())
}

/// Returns the record of a relay that was killed in this network namespace.
fn record() -> PathBuf {
    let namespace = std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
    PathBuf::from(format!("/run/oxide/settings.{namespace}.r0"))
}

#[test]
fn device_settings_of_killed_relay_are_put_back_by_next_start() {
    if skip_unless_root("device_settings_of_killed_relay_are_put_back_by_next_start") {
        return;
    }
    in_namespace(|lab| {
        let mut bench = Bench::with(lab, "", |_, _| {
            NAMES.iter().zip(["200000", "2"]).for_each(|(name, value)| std::fs::write(setting(name), value).unwrap());
            let index = std::fs::read_to_string(setting("ifindex")).unwrap();
            std::fs::create_dir_all("/run/oxide").unwrap();
            let changes = format!("{} 7000 200000\n{} 1 2\n", NAMES[0], NAMES[1]);
            std::fs::write(record(), format!("{}\n{changes}", index.trim())).unwrap();
        });
        assert_eq!(values(), ["7000", "1"].map(str::to_owned));
        assert!(!record().exists());
        bench.serves(5000);
    });
}
