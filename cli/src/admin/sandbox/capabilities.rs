//! Drops capabilities. Those that open a queue are kept while the process runs, because a restart opens a queue
//! again. All others are dropped at once.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::SandboxError;

/// Capabilities that are kept, with their use.
const KEPT: [(CapabilitySet, &str, &str); 5] = [
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "XDP programs, device settings, neighbours"),
    (CapabilitySet::NET_RAW, "CAP_NET_RAW", "AF_XDP sockets"),
    (CapabilitySet::BPF, "CAP_BPF", "XDP programs and their maps"),
    (CapabilitySet::IPC_LOCK, "CAP_IPC_LOCK", "packet memory above the memlock limit"),
    (CapabilitySet::SYS_NICE, "CAP_SYS_NICE", "engine.realtime"),
];
/// Capabilities without which no queue can be opened.
const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW).union(CapabilitySet::BPF);

/// Returns the capabilities of the process.
///
/// # Errors
/// Returns [`SandboxError::Missing`] if they do not suffice to open a queue.
pub(super) fn own() -> Result<CapabilitySet, SandboxError> {
    let own = capabilities(None).map_or_else(|_| CapabilitySet::empty(), |sets| sets.permitted);
    check(own)?;
    Ok(own)
}

/// Drops all capabilities of `own` that no restart needs. Returns the names of the kept ones.
///
/// # Errors
/// Returns the kernel's error as text.
pub(super) fn restrict(own: CapabilitySet) -> Result<String, String> {
    let kept = own & KEPT.iter().fold(CapabilitySet::empty(), |all, (one, ..)| all | *one);
    drop_capabilities(kept).map_err(|e| e.to_string())?;
    Ok(names(kept))
}

/// Sets `no_new_privs`: an executed program gets no more privileges than this process has.
///
/// # Errors
/// Returns the kernel's error as text.
pub(super) fn no_new() -> Result<(), String> {
    set_no_new_privs(true).map_err(|e| e.to_string())
}

fn check(own: CapabilitySet) -> Result<(), SandboxError> {
    let missing: Vec<_> = KEPT.iter().filter(|(one, ..)| NEEDED.contains(*one) && !own.contains(*one)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(SandboxError::Missing {
        missing: missing.iter().map(|(_, name, what)| format!("{name} ({what})")).collect::<Vec<_>>().join(", "),
        names: missing.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(" "),
    })
}

fn drop_capabilities(kept: CapabilitySet) -> rustix::io::Result<()> {
    // The bounding set limits what an executed program could get. The loop ends at the first capability that the
    // kernel does not know (capabilities(7), "/proc/sys/kernel/cap_last_cap").
    let all = (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    for one in all.filter(|one| !kept.contains(*one)) {
        match capability_is_in_bounding_set(one) {
            Ok(true) => match remove_capability_from_bounding_set(one) {
                // Without CAP_SETPCAP the bounding set stays; `no_new_privs` makes it irrelevant.
                Ok(()) | Err(rustix::io::Errno::PERM) => {}
                Err(error) => return Err(error),
            },
            Ok(false) => {}
            Err(_) => break,
        }
    }
    clear_ambient_capability_set()?;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })
}

fn names(set: CapabilitySet) -> String {
    let names: Vec<_> = KEPT.iter().filter(|(one, ..)| set.contains(*one)).map(|(_, name, _)| &name[4..]).collect();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn missing_capability_is_named_with_use_and_remedy() {
        assert!(check(CapabilitySet::all()).is_ok());
        let text = check(NEEDED - CapabilitySet::NET_RAW).unwrap_err().to_string();
        for word in ["CAP_NET_RAW (AF_XDP sockets)", "AmbientCapabilities=CAP_NET_RAW;", "--cap-add"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.contains("CAP_BPF"), "{text}");
    }
}
