//! Limits file access with Landlock. The rules apply to the calling thread and to threads that it starts later.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

/// Lists the files that the confined process needs. /proc and /sys stay readable.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Files to read, and directories to read with everything below.
    pub read: Vec<PathBuf>,
    /// Existing files to read and write.
    pub update: Vec<PathBuf>,
    /// Directories in which files are created and replaced.
    pub replace_in: Vec<PathBuf>,
    /// Directories from which a file is removed at the end.
    pub remove_from: Vec<PathBuf>,
    /// Interfaces whose device settings are written. Interfaces created later in the same directory are included.
    pub interfaces: Vec<String>,
}

const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{WriteFile | Truncate});

/// Allows only `files`. Forbids TCP ports, and signals and abstract sockets outside the sandbox. Returns the Landlock
/// version in use, or `None` if the kernel has no Landlock or enforces nothing.
///
/// # Errors
/// Returns the kernel's error as text.
pub(super) fn restrict(files: &Files) -> Result<Option<i32>, String> {
    let status = rules(files).and_then(RulesetCreated::restrict_self).map_err(|e| e.to_string())?;
    Ok(match status {
        RestrictionStatus { ruleset: RulesetStatus::NotEnforced, .. } => None,
        RestrictionStatus { landlock: LandlockStatus::Available { effective_abi, .. }, .. } => {
            Some(effective_abi as i32)
        }
        _ => None,
    })
}

fn rules(files: &Files) -> Result<RulesetCreated, RulesetError> {
    // A kernel with an older version restricts less. These rules were tested with version 7.
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(ABI::V7))?;
    rules = rules.handle_access(AccessNet::from_all(ABI::V7))?;
    // A service manager may use an abstract socket (sd_notify(3)).
    let abstract_manager =
        std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| path.as_encoded_bytes().starts_with(b"@"));
    rules = rules.scope(if abstract_manager { Scope::Signal.into() } else { Scope::from_all(ABI::V7) })?;

    let list = |paths: &[PathBuf], access: BitFlags<AccessFs>| -> Vec<(PathBuf, BitFlags<AccessFs>)> {
        paths.iter().map(|path| (path.clone(), access)).collect()
    };
    let devices: Vec<PathBuf> =
        files.interfaces.iter().filter_map(|name| device_directory(Path::new("/sys"), name)).collect();
    // The process reads its own program: a backtrace takes function names from it.
    let program: Vec<PathBuf> = std::env::current_exe().into_iter().collect();
    let all = [
        list(&["/proc", "/sys"].map(PathBuf::from), READ),
        list(&program, READ),
        list(&files.read, READ),
        list(&files.update, WRITE | AccessFs::ReadFile),
        list(&files.replace_in, WRITE | AccessFs::MakeReg | AccessFs::RemoveFile),
        list(&files.remove_from, AccessFs::RemoveFile.into()),
        list(&devices, WRITE),
    ];
    all.concat().iter().try_fold(rules.create()?, |rules, (path, access)| allow(rules, path, *access))
}

/// Adds a rule. A path that does not exist needs none.
fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    let Ok(beneath) = PathFd::new(path) else { return Ok(rules) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V7) };
    rules.add_rule(PathBeneath::new(beneath, access))
}

/// Returns the directory for the Landlock rule of an interface. A rule holds one directory. So the directory must
/// persist when the interface is re-created, its driver is bound again, or its device is unplugged and plugged in.
/// For a PCI device it is the bus; for a virtual interface it is the directory of all virtual interfaces.
fn device_directory(sysfs: &Path, interface: &str) -> Option<PathBuf> {
    let place = sysfs.join("class/net").join(interface).canonicalize().ok()?;
    let on_pci = |directory: &&Path| {
        let bus = directory.join("subsystem").canonicalize();
        bus.is_ok_and(|bus| bus.ends_with("bus/pci"))
    };
    let device = place.ancestors().find(on_pci).unwrap_or(&place);
    device.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directory_of_interface_outlives_its_driver_and_its_device() {
        let root = tempfile::tempdir().unwrap();
        let sysfs = root.path().canonicalize().unwrap();
        let make = |path: &str| std::fs::create_dir_all(sysfs.join(path)).unwrap();
        let link = |to: &str, from: &str| symlink(sysfs.join(to), sysfs.join(from)).unwrap();
        for path in ["class/net", "bus/pci", "bus/virtio", "devices/virtual/net/veth0"] {
            make(path);
        }
        // One NIC is behind a bridge. The other is a virtio device, which is on another bus itself.
        make("devices/pci0000:00/0000:00:01.0/0000:01:00.0/net/eth0");
        make("devices/pci0000:00/0000:00:04.0/virtio1/net/eth1");
        link("bus/pci", "devices/pci0000:00/0000:00:01.0/subsystem");
        link("bus/pci", "devices/pci0000:00/0000:00:01.0/0000:01:00.0/subsystem");
        link("bus/pci", "devices/pci0000:00/0000:00:04.0/subsystem");
        link("bus/virtio", "devices/pci0000:00/0000:00:04.0/virtio1/subsystem");
        link("devices/pci0000:00/0000:00:01.0/0000:01:00.0/net/eth0", "class/net/eth0");
        link("devices/pci0000:00/0000:00:04.0/virtio1/net/eth1", "class/net/eth1");
        link("devices/virtual/net/veth0", "class/net/veth0");
        let directory = |name: &str| device_directory(&sysfs, name);
        assert_eq!(directory("eth0"), Some(sysfs.join("devices/pci0000:00/0000:00:01.0")));
        assert_eq!(directory("eth1"), Some(sysfs.join("devices/pci0000:00")));
        assert_eq!(directory("veth0"), Some(sysfs.join("devices/virtual/net")));
        assert_eq!(directory("absent"), None);
    }
}
