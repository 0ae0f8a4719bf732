//! Takes the snapshot of this machine.

use super::{Nic, SNAPSHOT_SCHEMA, Snapshot, SnapshotError, hwloc, nics, system};

impl Snapshot {
    /// Describes this machine and the calling thread's network namespace. It needs no privilege; a fact that would
    /// need one is `None`. It takes about 0.1 s, mostly in hwloc. Call it once, before threads are pinned.
    ///
    /// `interfaces` selects the interfaces; an empty list selects all except loopback.
    ///
    /// # Errors
    /// Returns [`SnapshotError`] if the processors, the allowed CPUs or the list of interfaces cannot be read, or one
    /// of `interfaces` does not exist.
    pub fn live(interfaces: &[String]) -> Result<Self, SnapshotError> {
        let mut machine = hwloc::live()?;
        system::complete(&mut machine);
        Ok(Self {
            schema: SNAPSHOT_SCHEMA,
            source: "live".into(),
            machine,
            nics: nics::read(interfaces)?,
            limits: system::limits()?,
        })
    }
}

/// Reads only the interfaces of a live [`Snapshot`]: a few netlink requests, cheap enough for once a second.
///
/// # Errors
/// Returns the errors of [`Snapshot::live`] that concern interfaces.
pub fn live_nics(interfaces: &[String]) -> Result<Vec<Nic>, SnapshotError> {
    nics::read(interfaces)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_machine_can_be_described() {
        let snapshot = Snapshot::live(&[]).unwrap();
        assert_eq!(snapshot.problems(), []);
        let usable = snapshot.usable_cpus();
        assert_eq!(usable.len(), std::thread::available_parallelism().unwrap().get());
        assert!(snapshot.nics.iter().all(|nic| nic.ifindex.is_some() && nic.name != "lo"));
        let json = serde_json::to_string_pretty(&snapshot).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), snapshot);
    }

    #[test]
    fn absent_interface_is_named_with_existing_ones() {
        let error = Snapshot::live(&["no-such-nic".into()]).unwrap_err().to_string();
        assert!(error.contains("no-such-nic") && error.contains("lo"), "{error}");
    }
}
