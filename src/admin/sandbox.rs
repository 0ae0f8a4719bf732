//! Privileges given up before anything is opened, by the first thread, so that every later one has no more.
//!
//! What a start needs a restart needs again (a socket, a program, locked memory), so the capabilities for that are
//! kept for the life of the process, and all others go at once: there is no second step after set-up that a restart
//! could stumble over.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::config::SandboxLevel;

/// What is kept, and what for.
const KEPT: [(CapabilitySet, &str, &str); 6] = [
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "XDP programs, device settings, neighbours"),
    (CapabilitySet::NET_RAW, "CAP_NET_RAW", "AF_XDP sockets"),
    (CapabilitySet::BPF, "CAP_BPF", "XDP programs and their maps"),
    (CapabilitySet::PERFMON, "CAP_PERFMON", "programs that kernels before 5.19 verify with it only"),
    (CapabilitySet::IPC_LOCK, "CAP_IPC_LOCK", "packet memory above the memlock limit"),
    (CapabilitySet::SYS_NICE, "CAP_SYS_NICE", "engine.realtime"),
];
/// Without these nothing can be opened.
const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW).union(CapabilitySet::BPF);

/// Why the process cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// It has less than it needs.
    #[error(
        "this process lacks {missing}; as root outside of a container it would have them, in a systemd unit write \
         AmbientCapabilities={names}, in Docker --cap-add for each (and no user namespace), in Kubernetes \
         securityContext.capabilities.add"
    )]
    Missing {
        /// Which, and what for.
        missing: String,
        /// Their names, for a unit file.
        names: String,
    },
    /// A layer that was required cannot be had.
    #[error("admin.sandbox = \"require\": {layer}: {source} (\"auto\" goes on without)")]
    Layer {
        /// Which.
        layer: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// Gives up what is not needed. To be called before any other thread is started. Returns a line for each layer:
/// what holds now, or why it does not.
///
/// # Errors
/// [`SandboxError`].
pub fn enter(level: SandboxLevel) -> Result<Vec<String>, SandboxError> {
    let own = capabilities(None).map_or_else(|_| CapabilitySet::empty(), |sets| sets.permitted);
    check(own)?;
    if level == SandboxLevel::Off {
        return Ok(vec!["sandbox off".to_owned()]);
    }
    let kept = own & KEPT.iter().fold(CapabilitySet::empty(), |all, (one, ..)| all | *one);
    let layers = [
        ("capabilities", drop_capabilities(kept), format!("capabilities: only {}", names(kept))),
        ("no_new_privs", set_no_new_privs(true), "no new privileges".to_owned()),
    ];
    let mut lines = Vec::new();
    for (layer, done, text) in layers {
        match done {
            Ok(()) => lines.push(text),
            Err(error) if level == SandboxLevel::Require => {
                return Err(SandboxError::Layer { layer, source: error.into() });
            }
            Err(error) => lines.push(format!("{layer}: not to be had ({error})")),
        }
    }
    Ok(lines)
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
    // What a program that is executed could get: nothing is. The last capability is found by asking
    // (capabilities(7), "/proc/sys/kernel/cap_last_cap").
    let all = (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    for one in all.filter(|one| !kept.contains(*one)) {
        match capability_is_in_bounding_set(one) {
            Ok(true) => match remove_capability_from_bounding_set(one) {
                // Without CAP_SETPCAP the bounding set stays; with no_new_privs it has no effect.
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
    fn what_is_missing_is_named_with_its_use_and_the_mend() {
        assert!(check(CapabilitySet::all()).is_ok());
        let text = check(NEEDED - CapabilitySet::NET_RAW).unwrap_err().to_string();
        for word in ["CAP_NET_RAW (AF_XDP sockets)", "AmbientCapabilities=CAP_NET_RAW,", "--cap-add"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.contains("CAP_BPF"), "{text}");
    }
}
