//! Describes machines other than this one: synthetic, hwloc XML, saved snapshots, and described NICs.

use std::path::Path;

use super::{HostLimits, Nic, RssView, SNAPSHOT_SCHEMA, Snapshot, SnapshotError, hwloc, hwloc_xml};

/// Maximum size of a file in bytes. An hwloc file of 1,024 threads has about 2 MB.
const MAX_FILE: u64 = 64 << 20;

/// Describes why a NIC description cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NicSpecError {
    /// The syntax is wrong.
    #[error(
        "--nic {spec:?}: {what}; expected NAME:node=N,queues=Q,speed=S,driver=D (also max=, mtu=), all but NAME optional"
    )]
    Shape {
        /// Complete text.
        spec: String,
        /// Description of the error.
        what: String,
    },
    /// A value is wrong.
    #[error("--nic {spec:?}: {key}: invalid value {value:?}; expected {wanted}")]
    Value {
        /// Complete text.
        spec: String,
        /// Key with the error.
        key: String,
        /// Value of the key.
        value: String,
        /// Expected form.
        wanted: &'static str,
    },
}

impl Snapshot {
    /// Creates a machine from a synthetic hwloc description (`pack:2 [numa] core:32 pu:2`), without NICs and without
    /// limits.
    ///
    /// # Errors
    /// Returns [`SnapshotError::Hwloc`] if hwloc cannot read the description, or it has more than [`crate::MAX_CPUS`]
    /// threads.
    pub fn synthetic(description: &str) -> Result<Self, SnapshotError> {
        let machine = hwloc::synthetic(description)?;
        Ok(Self { schema: SNAPSHOT_SCHEMA, source: format!("synthetic {description}"), machine, ..Self::default() })
    }

    /// Creates a machine from an hwloc XML file (`lstopo --of xml`, hwloc 1, 2 or 3), with the NICs that it lists.
    /// Their queues are unknown: describe them with [`Snapshot::describe_nic`].
    ///
    /// # Errors
    /// Returns [`SnapshotError::File`], or [`SnapshotError::Xml`] with the line.
    pub fn from_hwloc_file(path: &Path) -> Result<Self, SnapshotError> {
        Self::from_hwloc_xml(&read(path)?, &path.display().to_string())
    }

    /// Creates a machine like [`Snapshot::from_hwloc_file`], from the text of a file. Messages contain `path`.
    ///
    /// # Errors
    /// Returns [`SnapshotError::Xml`] with the line.
    pub fn from_hwloc_xml(text: &str, path: &str) -> Result<Self, SnapshotError> {
        let described = hwloc_xml::read(text)
            .map_err(|cause| SnapshotError::Xml { path: path.into(), cause: cause.to_string() })?;
        let limits = HostLimits { allowed_cpus: described.allowed, ..HostLimits::default() };
        let source = format!("hwloc xml {path}");
        Ok(Self { schema: SNAPSHOT_SCHEMA, source, machine: described.machine, nics: described.nics, limits })
    }

    /// Loads a saved snapshot.
    ///
    /// # Errors
    /// Returns [`SnapshotError::File`], [`SnapshotError::Json`] with line and column, or [`SnapshotError::Schema`].
    pub fn load(path: &Path) -> Result<Self, SnapshotError> {
        Self::from_json(&read(path)?, &path.display().to_string())
    }

    /// Parses a snapshot's JSON form. Messages contain `path`.
    ///
    /// # Errors
    /// Returns the errors of [`Snapshot::load`].
    pub fn from_json(text: &str, path: &str) -> Result<Self, SnapshotError> {
        #[derive(serde::Deserialize)]
        struct Version {
            schema: u32,
        }
        let json = |e: serde_json::Error| SnapshotError::Json { path: path.into(), cause: e.to_string() };
        // The version is checked first: another version may have unknown fields.
        let Version { schema } = serde_json::from_str(text).map_err(json)?;
        if schema != SNAPSHOT_SCHEMA {
            return Err(SnapshotError::Schema { path: path.into(), found: schema });
        }
        serde_json::from_str(text).map_err(json)
    }

    /// Returns the JSON form, which is stable within one [`SNAPSHOT_SCHEMA`].
    #[must_use]
    pub fn to_json(&self) -> String {
        // Serialization to a String of maps with text keys cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Adds or corrects a NIC: `NAME:node=N,queues=Q,speed=S,driver=D`, also `max=` (maximum number of queues) and
    /// `mtu=`; `speed` is in Mbit/s, or has the suffix `M` or `G`.
    ///
    /// # Errors
    /// Returns [`NicSpecError`].
    pub fn describe_nic(&mut self, spec: &str) -> Result<(), NicSpecError> {
        let (name, settings) = spec.split_once(':').unwrap_or((spec, ""));
        let shape = |what: &str| NicSpecError::Shape { spec: spec.into(), what: what.into() };
        // The limit is IFNAMSIZ - 1; see dev_valid_name in net/core/dev.c.
        if name.is_empty()
            || name.len() > 15
            || name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
        {
            return Err(shape("the name is not an interface's (1 to 15 characters without / and spaces)"));
        }
        let known = self.nics.iter().position(|nic| nic.name == name);
        let mut nic = match known.and_then(|index| self.nics.get(index)) {
            Some(nic) => nic.clone(),
            None => Nic { name: name.into(), ..Nic::default() },
        };
        let mut seen = Vec::new();
        for setting in settings.split(',').map(str::trim).filter(|s| !s.is_empty()) {
            let (key, value) =
                setting.split_once('=').ok_or_else(|| shape(&format!("{setting:?} is not KEY=VALUE")))?;
            if seen.contains(&key) {
                return Err(shape(&format!("{key} is given twice")));
            }
            seen.push(key);
            set(&mut nic, spec, key.trim(), value.trim())?;
        }
        match known.and_then(|index| self.nics.get_mut(index)) {
            Some(place) => *place = nic,
            None => self.nics.push(nic),
        }
        self.nics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }
}

fn set(nic: &mut Nic, spec: &str, key: &str, value: &str) -> Result<(), NicSpecError> {
    let bad = |wanted| NicSpecError::Value { spec: spec.into(), key: key.into(), value: value.into(), wanted };
    let number = || value.parse::<u32>().map_err(|_| bad("a number"));
    match key {
        "node" => nic.numa_node = Some(number()?),
        "queues" => {
            (nic.rx_queues, nic.tx_queues) = (Some(number()?), Some(number()?));
            // The table belongs to the former number of queues; a table for the new number is unknown.
            nic.rss = nic.rss.take().map(|rss| RssView { table: None, ..rss });
        }
        "max" => nic.max_queues = Some(number()?),
        "mtu" => nic.mtu = Some(number()?),
        "driver" if !value.is_empty() => nic.driver = Some(value.into()),
        "driver" => return Err(bad("the name of a driver, as `ethtool -i` shows it")),
        "speed" => {
            let (digits, factor) = match value.strip_suffix(['G', 'g']) {
                Some(digits) => (digits, 1000),
                None => (value.strip_suffix(['M', 'm']).unwrap_or(value), 1),
            };
            let speed = digits.parse::<u32>().ok().and_then(|n| n.checked_mul(factor));
            nic.speed_mbps = Some(speed.ok_or_else(|| bad("Mbit/s, or a value such as 25G"))?);
        }
        _ => {
            let what = format!("{key:?} is an unknown key");
            return Err(NicSpecError::Shape { spec: spec.into(), what });
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, SnapshotError> {
    let error = |cause: String| SnapshotError::File { path: path.display().to_string(), cause };
    let size = std::fs::metadata(path).map_err(|e| error(e.to_string()))?.len();
    if size > MAX_FILE {
        return Err(error(format!("{size} bytes, more than {MAX_FILE}")));
    }
    std::fs::read_to_string(path).map_err(|e| error(e.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn synthetic_machine_matches_its_description() {
        let s = Snapshot::synthetic("pack:2 [numa] l3:4 core:8 pu:2").unwrap();
        assert_eq!(s.problems(), []);
        let m = &s.machine;
        assert_eq!((m.packages, m.nodes.len(), m.cores.len(), m.cpus().len()), (Some(2), 2, 64, 128));
        assert!(m.cores.iter().all(|c| c.cpus.len() == 2 && c.cache.is_some() && c.kind.is_none()));
        assert_eq!((m.cores[0].node, m.cores[63].node, m.nodes[0].memory_bytes), (Some(0), Some(1), None));
        let s = Snapshot::synthetic("pack:1 [numa(memory=8GiB)] core:2 pu:1").unwrap();
        assert_eq!(s.machine.nodes[0].memory_bytes, Some(8 << 30));
        for bad in
            ["", "x", "pack:0 pu:1", "pack:2 core:0", "pack:99999999 pu:999999999", "pack:2 pu:-1", "pu:2 pack:2", "\0"]
        {
            let error = Snapshot::synthetic(bad).unwrap_err().to_string();
            assert!(error.contains("pack:2"), "{bad}: {error}");
        }
    }

    #[test]
    fn nics_are_described_and_corrected() {
        let mut s = Snapshot::synthetic("pack:2 [numa] core:2 pu:1").unwrap();
        s.describe_nic("eth1:node=1,queues=8,speed=25G,driver=ice").unwrap();
        s.describe_nic("eth0").unwrap();
        s.describe_nic("eth1:queues=4,max=16,mtu=1500").unwrap();
        let nic = s.nic("eth1").unwrap();
        assert_eq!(
            (nic.numa_node, nic.rx_queues, nic.tx_queues, nic.max_queues),
            (Some(1), Some(4), Some(4), Some(16))
        );
        assert_eq!((nic.speed_mbps, nic.driver.as_deref(), s.nics.len()), (Some(25_000), Some("ice"), 2));
        let bad = [
            "",
            ":",
            "a b",
            "eth0:node",
            "eth0:node=x",
            "eth0:queues=-1",
            "eth0:speed=9999999G",
            "eth0:x=1",
            "eth0:node=1,node=2",
            "eth0:driver=",
            "a-name-that-is-too-long",
            "eth0:queues=99999999999",
        ];
        for spec in bad {
            assert!(s.describe_nic(spec).is_err(), "{spec}");
        }
        assert_eq!(s.nics.len(), 2);
    }

    #[test]
    fn old_snapshot_loads_without_newer_facts() {
        let mut s = Snapshot::synthetic("pack:1 core:2 pu:1").unwrap();
        s.describe_nic("eth0:queues=2").unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&s.to_json()).unwrap();
        let nic = value["nics"][0].as_object_mut().unwrap();
        for later in ["rss", "offloads", "peer", "master", "xsk_queues", "napi"] {
            assert!(nic.remove(later).is_some(), "{later}");
        }
        assert_eq!(Snapshot::from_json(&value.to_string(), "old.json").unwrap(), s);
    }

    #[test]
    fn json_error_names_position() {
        let good = Snapshot::synthetic("pack:1 core:2 pu:1").unwrap();
        assert_eq!(Snapshot::from_json(&good.to_json(), "f").unwrap(), good);
        let error = |text: &str| Snapshot::from_json(text, "f.json").unwrap_err().to_string();
        assert!(error("{").contains("f.json"));
        assert!(error(&good.to_json().replace("\"schema\": 1", "\"schema\": 2")).contains("schema 2"));
        let unknown = good.to_json().replace("\"limits\": {", "\"limits\": {\"colour\": 1,");
        assert!(error(&unknown).contains("unknown field `colour`"), "{}", error(&unknown));
        assert!(
            error(&good.to_json().replace("\"cpus\": \"0\"", "\"cpus\": \"0-4294967295\"")).contains("largest cpu")
        );
        assert!(error(&"[".repeat(100_000)).contains("f.json"));
    }
}
