//! Provides what a minimal root file system may lack for the testbed and the tests. It is created if missing and
//! removed at the end.

use crate::process::{Result, failed, io_error};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Removes on drop what it created.
#[derive(Debug)]
pub(crate) struct Host {
    made_tun: bool,
    mounted_sys: bool,
}

const TUN: &str = "/dev/net/tun";

impl Host {
    /// Provides /sys, which lists interfaces and their queues.
    pub(crate) fn with_sys() -> Result<Self> {
        let mut host = Self { made_tun: false, mounted_sys: false };
        if !Path::new("/sys/class/net").exists() {
            host.mounted_sys = quietly(&["mount", "-t", "sysfs", "sysfs", "/sys"]);
            if !host.mounted_sys {
                return failed("/sys: not mounted, and mounting failed; to fix: mount -t sysfs sysfs /sys");
            }
        }
        Ok(host)
    }

    /// Provides /sys, and /dev/net/tun for wireguard-go.
    pub(crate) fn with_sys_and_tun() -> Result<Self> {
        let mut host = Self::with_sys()?;
        if !Path::new(TUN).exists() {
            fs::create_dir_all("/dev/net").map_err(io_error("/dev/net"))?;
            host.made_tun = quietly(&["mknod", TUN, "c", "10", "200"]);
            if !host.made_tun {
                return failed(format!("{TUN}: missing, and creation failed; to fix: mknod {TUN} c 10 200"));
            }
        }
        match fs::OpenOptions::new().read(true).write(true).open(TUN) {
            Ok(_) => Ok(host),
            Err(e) => failed(format!("{TUN}: {e}; to fix: modprobe tun")),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.made_tun {
            let _ = fs::remove_file(TUN);
            // The directory is removed only if it is empty, as it was on a minimal root.
            let _ = fs::remove_dir("/dev/net");
        }
        if self.mounted_sys {
            quietly(&["umount", "/sys"]);
        }
    }
}

fn quietly(argv: &[&str]) -> bool {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).env("PATH", crate::process::path_with_sbin());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}
