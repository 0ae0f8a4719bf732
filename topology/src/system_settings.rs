//! Shows, checks, applies and undoes system settings that a plan recommends, one by one.
//!
//! A setting is applied only on request. It is printed first, and the previous value is on disk before the change, so
//! that `undo` restores it even after a crash. Only files of the kinds listed here are ever written, whatever a
//! record contains.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cpus::CpuList;
use crate::plan::Plan;
use crate::snapshot::Snapshot;

/// Lists the kinds of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SettingKind {
    /// Reserve the 2 MiB pages of the plan's packet memory, on its nodes.
    HugePages,
    /// Deliver the interrupt of each queue to the CPU of its actor.
    IrqAffinity,
}

/// Holds one file and its wanted content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Kind of the setting.
    pub kind: SettingKind,
    /// Absolute path of the file.
    pub file: PathBuf,
    /// Wanted content.
    pub wanted: String,
    /// Reason.
    pub why: String,
}

/// Compares a setting with its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The file has the wanted content.
    AsWanted,
    /// The file has this content instead.
    Differs(String),
}

/// Holds one line of the record: the previous value of a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replaced {
    setting: Setting,
    before: String,
}

/// Describes why a setting could not be read, written or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// A file cannot be used.
    #[error("{file}: {step} failed: {cause}; to fix: run as root, with /proc and /sys writable")]
    File {
        /// Failed step: `reading`, `writing`.
        step: &'static str,
        /// Path of the file.
        file: String,
        /// Error of the system.
        cause: String,
    },
    /// The kernel accepted less than was written.
    #[error("{file}: the kernel accepted only {now}; expected {wanted}; {remedy}")]
    NotTaken {
        /// Path of the file.
        file: String,
        /// Written value.
        wanted: String,
        /// Value afterwards.
        now: String,
        /// Remedy.
        remedy: &'static str,
    },
    /// The record of an earlier apply cannot be used.
    #[error("record {file}: {cause}")]
    Record {
        /// Path of the file.
        file: String,
        /// Error.
        cause: String,
    },
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "echo {} > {}   # {}", self.wanted, self.file.display(), self.why)
    }
}

/// Returns the settings of `kinds` that the plan needs and that differ now. `root` is `/`, except in tests.
#[must_use]
pub fn settings(plan: &Plan, snapshot: &Snapshot, kinds: &[SettingKind], root: &Path) -> Vec<Setting> {
    let mut all = Vec::new();
    if kinds.contains(&SettingKind::HugePages) {
        all.extend(huge_pages(plan, snapshot, root));
    }
    if kinds.contains(&SettingKind::IrqAffinity) {
        all.extend(irq_affinity(plan, snapshot));
    }
    all.retain(|setting| !matches!(setting.check(root), Ok(Standing::AsWanted)));
    all
}

fn huge_pages(plan: &Plan, snapshot: &Snapshot, root: &Path) -> Vec<Setting> {
    let mut needed: std::collections::BTreeMap<u32, u64> = std::collections::BTreeMap::new();
    for actor in &plan.actors {
        if let Some(node) = actor.numa_node {
            *needed.entry(node).or_default() += actor.umem_bytes.div_ceil(2 << 20);
        }
    }
    let setting = |(node, needed): (u32, u64)| {
        let folder = PathBuf::from(format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB"));
        let file = folder.join("nr_hugepages");
        let reserved: u64 = read(root, &file).ok()?.parse().ok()?;
        let free = snapshot.machine.node(node)?.free_huge_pages?;
        let short = needed.saturating_sub(free);
        let why = format!("{needed} free 2 MiB pages for the packet memory on node {node}, {free} are free");
        (short > 0).then(|| Setting { kind: SettingKind::HugePages, file, wanted: (reserved + short).to_string(), why })
    };
    needed.into_iter().filter_map(setting).collect()
}

fn irq_affinity(plan: &Plan, snapshot: &Snapshot) -> Vec<Setting> {
    let ports = plan.actors.iter().flat_map(|actor| actor.ports.iter().map(move |port| (actor.cpu, port)));
    ports
        .filter_map(|(cpu, port)| {
            let irq = snapshot.nic(&port.interface)?.irqs.iter().find(|irq| irq.queue == port.queue)?.irq;
            Some(Setting {
                kind: SettingKind::IrqAffinity,
                file: PathBuf::from(format!("/proc/irq/{irq}/smp_affinity_list")),
                wanted: cpu.to_string(),
                why: format!("interrupt of {} queue {} to its actor's cpu", port.interface, port.queue),
            })
        })
        .collect()
}

impl Setting {
    /// Compares the setting with its file.
    ///
    /// # Errors
    /// Returns [`SettingError::File`] if the file cannot be read.
    pub fn check(&self, root: &Path) -> Result<Standing, SettingError> {
        let now = read(root, &self.file)?;
        // `0-1` and `0,1` are the same list.
        let same = match (now.parse::<CpuList>(), self.wanted.parse::<CpuList>(), self.kind) {
            (Ok(now), Ok(wanted), SettingKind::IrqAffinity) => now == wanted,
            _ => now == self.wanted,
        };
        Ok(if same { Standing::AsWanted } else { Standing::Differs(now) })
    }

    /// Returns whether [`settings`] could return this file. A record is a file, and files can be changed.
    fn is_known(&self) -> bool {
        let Some(path) = self.file.to_str() else { return false };
        let number = |text: Option<&str>| text.is_some_and(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()));
        match self.kind {
            SettingKind::HugePages => number(
                path.strip_prefix("/sys/devices/system/node/node")
                    .and_then(|rest| rest.strip_suffix("/hugepages/hugepages-2048kB/nr_hugepages")),
            ),
            SettingKind::IrqAffinity => {
                number(path.strip_prefix("/proc/irq/").and_then(|rest| rest.strip_suffix("/smp_affinity_list")))
            }
        }
    }
}

/// Applies `settings` in order. Appends each previous value to `record` and syncs it before the change. Returns the
/// number of changes. Stops at the first error; then [`undo`] restores the changed values.
///
/// # Errors
/// Returns [`SettingError`].
pub fn apply(settings: &[Setting], root: &Path, record: &Path) -> Result<usize, SettingError> {
    let mut changed = 0;
    for setting in settings {
        let Standing::Differs(before) = setting.check(root)? else { continue };
        note(record, &Replaced { setting: setting.clone(), before })?;
        write(root, &setting.file, &setting.wanted)?;
        changed += 1;
        if let Standing::Differs(now) = setting.check(root)? {
            let remedy = match setting.kind {
                SettingKind::HugePages => {
                    "memory is fragmented or too small; to fix: reserve them at boot (hugepages=N)"
                }
                SettingKind::IrqAffinity => "this interrupt cannot be moved",
            };
            let (file, wanted) = (setting.file.display().to_string(), setting.wanted.clone());
            return Err(SettingError::NotTaken { file, wanted, now, remedy });
        }
    }
    Ok(changed)
}

/// Restores the values that [`apply`] replaced, the last first, and removes the record. Returns their number.
///
/// # Errors
/// Returns [`SettingError`]. The record stays if a value could not be restored.
pub fn undo(root: &Path, record: &Path) -> Result<usize, SettingError> {
    let error = |cause: String| SettingError::Record { file: record.display().to_string(), cause };
    let text = std::fs::read_to_string(record).map_err(|e| error(e.to_string()))?;
    let mut replaced = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let entry: Replaced = serde_json::from_str(line).map_err(|e| error(format!("line {number}: {e}")))?;
        if !entry.setting.is_known() {
            return Err(error(format!("line {number}: {} is not a known setting", entry.setting.file.display())));
        }
        replaced.push(entry);
    }
    for entry in replaced.iter().rev() {
        write(root, &entry.setting.file, &entry.before)?;
    }
    std::fs::remove_file(record).map_err(|e| error(e.to_string()))?;
    Ok(replaced.len())
}

fn note(record: &Path, replaced: &Replaced) -> Result<(), SettingError> {
    let error = |cause: String| SettingError::Record { file: record.display().to_string(), cause };
    let line = serde_json::to_string(replaced).map_err(|e| error(e.to_string()))?;
    let mut file =
        std::fs::OpenOptions::new().create(true).append(true).open(record).map_err(|e| error(e.to_string()))?;
    writeln!(file, "{line}").and_then(|()| file.sync_all()).map_err(|e| error(e.to_string()))
}

fn under(root: &Path, file: &Path) -> PathBuf {
    root.join(file.strip_prefix("/").unwrap_or(file))
}

fn read(root: &Path, file: &Path) -> Result<String, SettingError> {
    let error = |e: std::io::Error| SettingError::File {
        step: "reading",
        file: file.display().to_string(),
        cause: e.to_string(),
    };
    Ok(std::fs::read_to_string(under(root, file)).map_err(error)?.trim().to_owned())
}

fn write(root: &Path, file: &Path, content: &str) -> Result<(), SettingError> {
    let error = |e: std::io::Error| SettingError::File {
        step: "writing",
        file: file.display().to_string(),
        cause: e.to_string(),
    };
    // The file must exist: a file that does not exist does not belong to the kernel.
    let mut target = std::fs::OpenOptions::new().write(true).truncate(true).open(under(root, file)).map_err(error)?;
    target.write_all(content.as_bytes()).map_err(error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{PlanRequest, QueueIrq, plan};

    /// Creates a root with the two files, and a machine that needs both changed.
    fn lab() -> (tempfile::TempDir, Plan, Snapshot) {
        let root = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages", "3\n"),
            ("proc/irq/24/smp_affinity_list", "0-1\n"),
        ] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let mut snapshot = Snapshot::synthetic("pack:1 [numa] core:2 pu:1").unwrap();
        snapshot.machine.nodes[0].free_huge_pages = Some(1);
        snapshot.describe_nic("eth0:queues=1,mtu=1500").unwrap();
        snapshot.nics[0].irqs = vec![QueueIrq { queue: 0, irq: 24, cpus: "0-1".parse().unwrap() }];
        let plan = plan(&snapshot, &PlanRequest::new(vec!["eth0".into()], 8 << 20)).unwrap();
        (root, plan, snapshot)
    }

    #[test]
    fn defaults_change_nothing_and_changes_are_restored() {
        let (root, plan, snapshot) = lab();
        let root = root.path();
        assert_eq!(settings(&plan, &snapshot, &[], root), []);
        let all = settings(&plan, &snapshot, &[SettingKind::HugePages, SettingKind::IrqAffinity], root);
        assert_eq!(all.iter().map(|s| s.wanted.as_str()).collect::<Vec<_>>(), ["6", "1"]);
        assert!(all[0].to_string().starts_with("echo 6 > /sys/"), "{}", all[0]);
        let record = root.join("record");
        assert_eq!(apply(&all, root, &record).unwrap(), 2);
        assert_eq!(read(root, &all[0].file).unwrap(), "6");
        assert_eq!(apply(&all, root, &record).unwrap(), 0);
        assert_eq!(undo(root, &record).unwrap(), 2);
        assert_eq!(
            (read(root, &all[0].file).unwrap().as_str(), read(root, &all[1].file).unwrap().as_str()),
            ("3", "0-1")
        );
        assert!(!record.exists() && undo(root, &record).is_err());
    }

    #[test]
    fn record_cannot_name_other_files() {
        let (root, plan, snapshot) = lab();
        let root = root.path();
        std::fs::create_dir(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/passwd"), "x").unwrap();
        let record = root.join("record");
        let all = settings(&plan, &snapshot, &[SettingKind::IrqAffinity], root);
        for file in ["/etc/passwd", "/proc/irq/../../etc/passwd", "/proc/irq//smp_affinity_list"] {
            let setting = Setting { file: file.into(), ..all[0].clone() };
            note(&record, &Replaced { setting, before: "y".into() }).unwrap();
            assert!(matches!(undo(root, &record), Err(SettingError::Record { .. })), "{file}");
            std::fs::remove_file(&record).unwrap();
        }
        assert_eq!(std::fs::read_to_string(root.join("etc/passwd")).unwrap(), "x");
    }
}
