//! Debian packages of the guest: pinned versions, a package directory of its own, download and extraction.
//!
//! Nothing is installed on the host. apt-get works on lists and a cache below `target/guest/apt`, with the
//! machine's mirror and a copy of its package status, so that it downloads what QEMU needs and the host lacks.

use super::image::MODULES;
use crate::process::{Cancel, Error, Result, failed, io_error, path_with_sbin, run_lines};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The suites that hold the pinned versions; the first word is the folder on the mirror.
const SUITES: &[&str] = &[
    "debian bookworm",
    "debian bookworm-updates",
    "debian bookworm-backports",
    "debian-security bookworm-security",
    "debian trixie-backports",
];
/// QEMU 10 has the emulated igb NIC; Debian 12's own QEMU 7.2 does not.
const QEMU: &[&str] = &[
    "qemu-system-x86=1:10.0.2+ds-2+deb13u1~bpo12+1",
    "qemu-system-common=1:10.0.2+ds-2+deb13u1~bpo12+1",
    "qemu-system-data=1:10.0.2+ds-2+deb13u1~bpo12+1",
    "seabios",
    "ipxe-qemu",
    "busybox-static",
];

/// One guest kernel: the name that tests use, and the pinned packages that hold it.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) name: &'static str,
    packages: &'static [&'static str],
}

/// The oldest kernel that README names, the next long-term one of Debian, and the newest with zero-copy drivers.
pub(super) const KERNELS: &[Kernel] = &[
    Kernel { name: "6.1", packages: &["linux-image-6.1.0-57-amd64=6.1.192-3"] },
    Kernel { name: "6.12", packages: &["linux-image-6.12.95+deb12-amd64=6.12.95-1~bpo12+1"] },
    Kernel {
        name: "7.3",
        packages: &[
            "linux-binary-7.3.4+deb13-amd64=7.3.4-1~bpo13+1",
            "linux-modules-7.3.4+deb13-amd64=7.3.4-1~bpo13+1",
        ],
    },
];

/// Names the file that marks a complete folder; its text is the pinned versions.
const COMPLETE: &str = "complete";

/// Extracted packages below one folder, usually `target/guest`.
#[derive(Debug)]
pub(super) struct Packages {
    pub(super) dir: PathBuf,
}

impl Packages {
    /// The folder that holds QEMU, its libraries and busybox.
    pub(super) fn qemu(&self) -> PathBuf {
        self.dir.join("qemu")
    }

    /// The folder that holds a kernel and its modules.
    pub(super) fn kernel(&self, kernel: &Kernel) -> PathBuf {
        self.dir.join(format!("linux-{}", kernel.name))
    }

    /// Whether an earlier run prepared all of this.
    pub(super) fn has(&self, kernels: &[&Kernel]) -> bool {
        is_complete(&self.qemu(), QEMU)
            && kernels.iter().all(|kernel| is_complete(&self.kernel(kernel), kernel.packages))
    }

    /// Downloads and extracts QEMU and these kernels unless an earlier run did. The error states why a guest cannot
    /// be had on this machine.
    pub(super) fn prepare(&self, cancel: &Cancel, kernels: &[&Kernel]) -> Result<()> {
        let mut missing: Vec<(PathBuf, &[&str])> = vec![];
        if !is_complete(&self.qemu(), QEMU) {
            missing.push((self.qemu(), QEMU));
        }
        for kernel in kernels.iter().filter(|kernel| !is_complete(&self.kernel(kernel), kernel.packages)) {
            missing.push((self.kernel(kernel), kernel.packages));
        }
        if missing.is_empty() {
            return Ok(());
        }
        let config = self.package_directory(cancel)?;
        for (folder, packages) in missing {
            println!("guest: downloading {}", packages.join(" "));
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(folder.join("deb")).map_err(io_error(folder.display()))?;
            self.download(cancel, &config, &folder.join("deb"), packages)?;
            extract(&folder)?;
            let mark = folder.join(COMPLETE);
            fs::write(&mark, packages.join("\n")).map_err(io_error(mark.display()))?;
        }
        Ok(())
    }

    /// Writes apt's configuration for our own folder and fetches the package lists.
    fn package_directory(&self, cancel: &Cancel) -> Result<PathBuf> {
        let apt = self.dir.join("apt");
        for folder in ["sourceparts", "parts", "state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.join(folder)).map_err(io_error(apt.display()))?;
        }
        let mirror = mirror().ok_or_else(|| {
            Error::Failed(
                "no Debian mirror in /etc/apt/sources.list or /etc/apt/sources.list.d; expected a line with \
                 <mirror>/debian; to fix: run the guest on Debian 12"
                    .to_owned(),
            )
        })?;
        let key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        let sources: String = SUITES.iter().map(|suite| format!("deb {key} {mirror}/{suite} main\n")).collect();
        let write = |path: &Path, text: &str| fs::write(path, text).map_err(io_error(path.display()));
        write(&apt.join("sources.list"), &sources)?;
        fs::copy("/var/lib/dpkg/status", apt.join("status")).map_err(io_error("/var/lib/dpkg/status"))?;
        let at = apt.display();
        let config = apt.join("apt.conf");
        // Mirrors of a fixed day are older than the machine's clock allows.
        let text = format!(
            "Dir::Etc::sourcelist \"{at}/sources.list\"; Dir::Etc::sourceparts \"{at}/sourceparts\";\n\
             Dir::Etc::parts \"{at}/parts\"; Dir::Etc::preferencesparts \"{at}/parts\"; Dir::State \"{at}/state\";\n\
             Dir::State::status \"{at}/status\"; Dir::Cache \"{at}/cache\"; Acquire::Languages \"none\";\n\
             Acquire::Check-Valid-Until \"false\"; Acquire::Check-Date \"false\"; Acquire::Retries \"3\";\n\
             APT::Sandbox::User \"root\"; Debug::NoLocking \"true\"; APT::Install-Recommends \"false\";\n"
        );
        write(&config, &text)?;
        self.apt(cancel, &config, "apt-get", &["--quiet=2", "update"])?;
        Ok(config)
    }

    /// Downloads `packages`, and for QEMU what its dependencies need beyond the host's installed packages.
    fn download(&self, cancel: &Cancel, config: &Path, folder: &Path, packages: &[&str]) -> Result<()> {
        let archives = format!("Dir::Cache::archives={}", folder.display());
        fs::create_dir_all(folder.join("partial")).map_err(io_error(folder.display()))?;
        let mut arguments = vec!["--quiet=2", "--assume-yes", "--download-only", "--reinstall", "--allow-downgrades"];
        arguments.extend(["--option", &archives, "--target-release", "bookworm-backports", "install"]);
        if packages == QEMU {
            arguments.extend(packages);
            return self.apt(cancel, config, "apt-get", &arguments);
        }
        // A kernel's dependencies (initramfs tools) are of no use here.
        let mut command = Command::new("apt-get");
        command.args(["--quiet=2", "download"]).args(packages).current_dir(folder);
        run(cancel, command.env("APT_CONFIG", config), "apt-get download")
    }

    fn apt(&self, cancel: &Cancel, config: &Path, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(program);
        command.args(arguments).env("APT_CONFIG", config).env("DEBIAN_FRONTEND", "noninteractive");
        run(cancel, &mut command, program)
    }
}

/// Runs a command; its last line is in the error.
fn run(cancel: &Cancel, command: &mut Command, name: &str) -> Result<()> {
    let mut last = String::new();
    let status = run_lines(cancel, command.env("PATH", path_with_sbin()), |line| {
        if !line.trim().is_empty() {
            last = line.to_owned();
        }
    })?;
    if status.success() { Ok(()) } else { Err(Error::Failed(format!("{name} ended with {status}: {last}"))) }
}

fn is_complete(folder: &Path, packages: &[&str]) -> bool {
    fs::read_to_string(folder.join(COMPLETE)).is_ok_and(|text| text == packages.join("\n"))
}

/// Unpacks each archive into `root` beside it and deletes the archives. Of a kernel, only the boot image and the
/// modules that the guest loads: all of them would be a gigabyte.
fn extract(folder: &Path) -> Result<()> {
    let root = folder.join("root");
    fs::create_dir_all(&root).map_err(io_error(root.display()))?;
    let archives = fs::read_dir(folder.join("deb")).map_err(io_error(folder.display()))?;
    for archive in archives.flatten().map(|entry| entry.path()).filter(|path| path.extension() == Some("deb".as_ref()))
    {
        let is_kernel = archive.file_name().is_some_and(|name| name.to_string_lossy().starts_with("linux-"));
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("--fsys-tarfile").arg(&archive).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut unpack = unpack.spawn().map_err(io_error("dpkg-deb"))?;
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--directory"]).arg(&root);
        if is_kernel {
            tar.args(["--wildcards", "--no-anchored", "vmlinuz*"]);
            tar.args(MODULES.iter().map(|module| format!("{module}.ko*")));
        }
        tar.stdin(unpack.stdout.take().map_or_else(Stdio::null, Stdio::from)).stderr(Stdio::null());
        let extracted = tar.status().map_err(io_error("tar"))?;
        let unpacked = unpack.wait().map_err(io_error("dpkg-deb"))?;
        // tar fails for a module that this kernel has built in; the image reports what it misses.
        if !unpacked.success() || !(is_kernel || extracted.success()) {
            return failed(format!("{}: cannot be unpacked", archive.display()));
        }
    }
    fs::remove_dir_all(folder.join("deb")).map_err(io_error(folder.display()))
}

/// The mirror's address without `/debian`, from the machine's own sources.
fn mirror() -> Option<String> {
    let folder = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = folder.collect();
    files.sort();
    files.insert(0, PathBuf::from("/etc/apt/sources.list"));
    files.iter().find_map(|file| mirror_in(&fs::read_to_string(file).ok()?))
}

fn mirror_in(sources: &str) -> Option<String> {
    let lines = sources.lines().filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"));
    let mut words = lines.flat_map(str::split_whitespace).map(|word| word.trim_end_matches('/'));
    words.find_map(|word| word.strip_suffix("/debian").filter(|rest| rest.contains("://")).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_comes_from_both_forms_of_sources() {
        let one_line = "# deb http://old/debian x\ndeb [arch=amd64] http://mirror.example/debian/ bookworm main\n";
        assert_eq!(mirror_in(one_line).as_deref(), Some("http://mirror.example"));
        let block = "Types: deb\nURIs: https://deb.debian.org/debian\nSuites: bookworm\n";
        assert_eq!(mirror_in(block).as_deref(), Some("https://deb.debian.org"));
        assert_eq!(mirror_in("deb https://packages.example/apt main\n"), None);
    }
}
