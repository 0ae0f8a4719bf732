//! The guest's initial file system: an archive in cpio's "newc" form (kernel: Documentation/driver-api/early-userspace/
//! buffer-format.rst) with busybox, the host's network tools, their libraries and the kernel's driver modules.

use super::packages::{Kernel, Packages};
use crate::process::{Error, Result, failed, io_error, path_with_sbin};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules in the order in which they are loaded; a kernel that has one built in lacks the file.
pub(super) const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "netfs",
    "fscache",
    "failover",
    "net_failover",
    "virtio_net",
    "i2c-algo-bit",
    "dca",
    "igb",
    "veth",
    "9pnet",
    "9p",
    "9pnet_virtio",
    "xsk_diag",
    "inet_diag",
    "udp_diag",
];
/// Tools of the host that tests call in the guest.
const TOOLS: &[&str] = &["ip", "ethtool", "setpriv"];
const INIT: &str = include_str!("init.sh");

/// One entry of the archive.
enum Entry {
    Folder,
    File(Vec<u8>),
}

/// Builds the archive for a kernel; `binaries` are programs of the share whose libraries the guest needs.
pub(super) fn build(packages: &Packages, kernel: &Kernel, binaries: &[&Path], to: &Path) -> Result<()> {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for folder in ["bin", "proc", "sys", "dev", "tmp", "run", "etc", "host", "root", "var", "var/lib"] {
        entries.insert(folder.to_owned(), Entry::Folder);
    }
    add(&mut entries, "init", INIT.as_bytes().to_vec());
    add(&mut entries, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n".to_vec());
    add(&mut entries, "bin/busybox", read(&busybox(packages))?);
    let mut programs: Vec<PathBuf> = binaries.iter().map(|path| (*path).to_owned()).collect();
    for tool in TOOLS {
        let path = host_program(tool)?;
        add(&mut entries, &format!("bin/{tool}"), read(&path)?);
        programs.push(path);
    }
    for library in libraries(&programs)? {
        add(&mut entries, library.trim_start_matches('/'), read(Path::new(&library))?);
    }
    let folder = packages.kernel(kernel);
    let mut order = String::new();
    for module in MODULES {
        let Ok(path) = find_prefixed(&folder, &format!("{module}.ko")) else { continue };
        add(&mut entries, &format!("lib/modules/{module}.ko"), uncompressed(packages, &path)?);
        order.push_str(module);
        order.push('\n');
    }
    add(&mut entries, "etc/modules", order.into_bytes());
    fs::write(to, archive(&entries)).map_err(io_error(to.display()))
}

/// The kernel's boot image.
pub(super) fn vmlinuz(packages: &Packages, kernel: &Kernel) -> Result<PathBuf> {
    find_prefixed(&packages.kernel(kernel), "vmlinuz")
}

fn add(entries: &mut BTreeMap<String, Entry>, name: &str, content: Vec<u8>) {
    for (at, _) in name.match_indices('/') {
        entries.entry(name[..at].to_owned()).or_insert(Entry::Folder);
    }
    entries.insert(name.to_owned(), Entry::File(content));
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(io_error(path.display()))
}

fn host_program(name: &str) -> Result<PathBuf> {
    let paths = path_with_sbin();
    match paths.split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => failed(format!("{name}: not found; to fix: cargo xtask setup")),
    }
}

/// The shared libraries of the programs, by the paths that the dynamic linker uses.
fn libraries(programs: &[PathBuf]) -> Result<Vec<String>> {
    let output = Command::new("ldd").args(programs).output().map_err(io_error("ldd"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut found: Vec<String> = text
        .lines()
        .filter(|line| line.starts_with('\t'))
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned))
        .collect();
    found.sort();
    found.dedup();
    if found.is_empty() { failed("ldd named no library") } else { Ok(found) }
}

/// Debian 12 keeps busybox in /bin, later versions in /usr/bin. Other files of its packages have the same name.
fn busybox(packages: &Packages) -> PathBuf {
    let root = packages.qemu().join("root");
    let old = root.join("bin/busybox");
    if old.is_file() { old } else { root.join("usr/bin/busybox") }
}

fn find_prefixed(folder: &Path, prefix: &str) -> Result<PathBuf> {
    walk(folder, &|file| file.starts_with(prefix))
        .ok_or_else(|| Error::Failed(format!("{}: {prefix}* is not in its packages", folder.display())))
}

/// The first file below `folder` whose name fits.
fn walk(folder: &Path, fits: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut folders = vec![];
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let kind = entry.file_type().ok()?;
        if kind.is_dir() {
            folders.push(entry.path());
        } else if kind.is_file() && fits(&entry.file_name().to_string_lossy()) {
            return Some(entry.path());
        }
    }
    folders.iter().find_map(|folder| walk(folder, fits))
}

/// Reads a module; busybox expands the compressed ones.
fn uncompressed(packages: &Packages, path: &Path) -> Result<Vec<u8>> {
    if path.extension() != Some("xz".as_ref()) {
        return read(path);
    }
    let output =
        Command::new(busybox(packages)).args(["xz", "-dc"]).arg(path).output().map_err(io_error(path.display()))?;
    if output.status.success() { Ok(output.stdout) } else { failed(format!("{}: xz failed", path.display())) }
}

/// The entries in "newc" form, folders before what they hold (the map's order sees to that).
fn archive(entries: &BTreeMap<String, Entry>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, (name, entry)) in entries.iter().enumerate() {
        match entry {
            Entry::Folder => record(&mut bytes, number, name, 0o040_755, &[]),
            Entry::File(content) => record(&mut bytes, number, name, 0o100_755, content),
        }
    }
    record(&mut bytes, 0, "TRAILER!!!", 0, &[]);
    bytes
}

fn record(bytes: &mut Vec<u8>, number: usize, name: &str, mode: u32, content: &[u8]) {
    let (inode, size, named) = (number + 1, content.len(), name.len() + 1);
    // Magic, inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, checksum.
    let header = format!(
        "070701{inode:08X}{mode:08X}{0:08X}{0:08X}{1:08X}{0:08X}{size:08X}{0:08X}{0:08X}{0:08X}{0:08X}{named:08X}{0:08X}",
        0, 1
    );
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend_from_slice(content);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_holds_folders_before_their_files() {
        let mut entries = BTreeMap::new();
        add(&mut entries, "lib/modules/a.ko", b"12345".to_vec());
        let bytes = archive(&entries);
        let text = String::from_utf8_lossy(&bytes);
        let at = |what: &str| text.find(what);
        assert!(at("lib\0") < at("lib/modules\0") && at("lib/modules\0") < at("lib/modules/a.ko\0"));
        assert!(at("lib/modules/a.ko\0") < at("TRAILER!!!"));
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(text.matches("070701").count(), 4);
    }
}
