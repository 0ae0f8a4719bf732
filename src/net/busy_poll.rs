//! Settings of a device in sysfs that preferred busy polling needs: changed with a guard that puts back
//! what was there. Owned by whoever opens the interface's first port, and shared by none.
//!
//! See Documentation/networking/napi.rst ("IRQ suspension", "busy polling"): the driver's interrupt stays
//! off for `napi_defer_hard_irqs` empty polls of `gro_flush_timeout` each, while the application polls.

mod record;

pub use record::SETTINGS_RECORDS;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use record::Change;

const SYSFS: &str = "/sys/class/net";

/// What to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusyPollSettings {
    /// `napi_defer_hard_irqs`: empty polls before the device's interrupt is switched on again.
    pub defer_hard_irqs: u32,
    /// `gro_flush_timeout`: time between two of them. In whole nanoseconds.
    pub flush_timeout: Duration,
}

impl Default for BusyPollSettings {
    /// The values in common use with AF_XDP.
    fn default() -> Self {
        Self { defer_hard_irqs: 2, flush_timeout: Duration::from_micros(200) }
    }
}

/// Why a setting could not be made. Nothing is left changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Not a name an interface can have.
    #[error("`{interface}` is not the name of an interface: 1 to 15 bytes without `/`, blanks, and not a dot alone")]
    Name {
        /// The name.
        interface: String,
    },
    /// sysfs shows the devices of another network namespace.
    #[error(
        "{SYSFS}/{interface} is not interface {interface} of this network namespace (its ifindex there: {found}, here: \
         {wanted}); mount its own: `mount -t sysfs sysfs /sys` (`ip netns exec` does)"
    )]
    OtherNamespace {
        /// The interface.
        interface: String,
        /// What sysfs says.
        found: String,
        /// The kernel's number of the interface here.
        wanted: u32,
    },
    /// Cannot be written.
    #[error(
        "cannot set {} to {wanted}: {source}; as root: `echo {wanted} > {}` (a container needs /sys mounted \
         read-write), or switch busy polling off", file.display(), file.display()
    )]
    Write {
        /// The file.
        file: PathBuf,
        /// The value.
        wanted: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Cannot be read, so could not be put back.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The settings in force. Puts back what was there when dropped, but nothing that somebody else has changed meanwhile. A
/// process that is killed leaves a record, by which [`put_back_settings`] does it later.
#[derive(Debug)]
#[must_use = "the settings are put back when this is dropped"]
pub struct SettingsGuard {
    index: u32,
    device: PathBuf,
    record: PathBuf,
    changed: Vec<Change>,
    /// Settings this device or kernel does not have: by name, for the start-up summary.
    pub unsupported: Vec<&'static str>,
}

impl BusyPollSettings {
    /// Makes the settings on `interface`, whose kernel number in this namespace is `index`.
    ///
    /// # Errors
    /// [`SettingsError`]; what had been changed by then is put back. A setting that does not exist here is
    /// no error: see [`SettingsGuard::unsupported`].
    pub fn apply(self, interface: &str, index: u32) -> Result<SettingsGuard, SettingsError> {
        self.apply_in(Path::new(SYSFS), Path::new(SETTINGS_RECORDS), interface, index)
    }

    fn apply_in(
        self,
        sysfs: &Path,
        records: &Path,
        interface: &str,
        index: u32,
    ) -> Result<SettingsGuard, SettingsError> {
        // The rules of dev_valid_name in net/core/dev.c.
        let bad = |b: u8| b == b'/' || b == b':' || b.is_ascii_whitespace() || b == 0;
        if interface.is_empty()
            || interface.len() > 15
            || [".", ".."].contains(&interface)
            || interface.bytes().any(bad)
        {
            return Err(SettingsError::Name { interface: interface.into() });
        }
        let device = sysfs.join(interface);
        let found = fs::read_to_string(device.join("ifindex")).unwrap_or_else(|error| error.to_string());
        if found.trim().parse() != Ok(index) {
            let (interface, found) = (interface.into(), found.trim().into());
            return Err(SettingsError::OtherNamespace { interface, found, wanted: index });
        }
        let record = record::file(records, interface);
        let mut guard = SettingsGuard { index, device, record, changed: Vec::new(), unsupported: Vec::new() };
        // The timeout first: deferring takes effect with one only.
        guard.set("gro_flush_timeout", self.flush_timeout.as_nanos().to_string())?;
        guard.set("napi_defer_hard_irqs", self.defer_hard_irqs.to_string())?;
        Ok(guard)
    }
}

impl SettingsGuard {
    fn set(&mut self, name: &'static str, wanted: String) -> Result<(), SettingsError> {
        let file = self.device.join(name);
        let before = match fs::read_to_string(&file) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.unsupported.push(name);
                return Ok(());
            }
            Err(source) => return Err(SettingsError::Read { file, source }),
        };
        if before == wanted {
            return Ok(());
        }
        // Before the change: a process may be killed at any moment.
        self.changed.push(Change { name: name.to_owned(), before: before.clone(), now: wanted.clone() });
        self.keep_record();
        if let Err(source) = fs::write(&file, &wanted) {
            self.changed.pop();
            self.keep_record();
            return Err(SettingsError::Write { file, wanted, source });
        }
        tracing::info!(file = %file.display(), before, now = wanted, "device setting changed");
        Ok(())
    }

    fn keep_record(&self) {
        if let Err(error) = record::write(&self.record, self.index, &self.changed) {
            let file = self.record.display();
            tracing::warn!(%file, %error, "device settings not recorded: after a kill -9 they are not put back");
        }
    }
}

impl Drop for SettingsGuard {
    fn drop(&mut self) {
        put_back(&self.device, &self.changed);
        self.changed.clear();
        self.keep_record();
    }
}

/// Puts back what a process that was killed has left changed on `interface`, if its record is of this interface, whose
/// kernel number is `index`. To be called by whoever has the interface now, and nobody else.
pub fn put_back_settings(interface: &str, index: u32) {
    put_back_in(Path::new(SYSFS), Path::new(SETTINGS_RECORDS), interface, index);
}

fn put_back_in(sysfs: &Path, records: &Path, interface: &str, index: u32) {
    let file = record::file(records, interface);
    let Some((of, changes)) = record::read(&file) else { return };
    // Another one of that name never had them.
    if of == index {
        tracing::warn!(interface, "device settings left by a process that was killed are put back");
        put_back(&sysfs.join(interface), &changes);
    }
    if let Err(error) = record::write(&file, index, &[]) {
        tracing::warn!(file = %file.display(), %error, "record of device settings not removed");
    }
}

fn put_back(device: &Path, changes: &[Change]) {
    for Change { name, before, now } in changes.iter().rev() {
        let file = device.join(name);
        // Gone with its interface, or somebody else's by now: not ours to touch.
        if fs::read_to_string(&file).is_ok_and(|text| text.trim() == now)
            && let Err(error) = fs::write(&file, before)
        {
            tracing::warn!(file = %file.display(), before, %error, "device setting could not be put back");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WANTED: BusyPollSettings = BusyPollSettings { defer_hard_irqs: 2, flush_timeout: Duration::from_micros(200) };

    /// A sysfs with one device `v0` of number 7.
    fn sysfs(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("v0")).unwrap();
        for (name, value) in files.iter().chain(&[("ifindex", "7\n")]) {
            fs::write(root.path().join("v0").join(name), value).unwrap();
        }
        root
    }

    fn value(root: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(root.path().join("v0").join(name)).unwrap().trim().to_owned()
    }

    #[test]
    fn settings_are_set_and_restored() {
        let root = sysfs(&[("napi_defer_hard_irqs", "0\n"), ("gro_flush_timeout", "5\n")]);
        let guard = WANTED.apply_in(root.path(), root.path(), "v0", 7).unwrap();
        assert_eq!(
            (value(&root, "napi_defer_hard_irqs"), value(&root, "gro_flush_timeout")),
            ("2".into(), "200000".into())
        );
        assert!(guard.unsupported.is_empty());
        drop(guard);
        assert_eq!((value(&root, "napi_defer_hard_irqs"), value(&root, "gro_flush_timeout")), ("0".into(), "5".into()));
    }

    #[test]
    fn settings_of_killed_process_are_put_back_by_next_start() {
        let root = sysfs(&[("napi_defer_hard_irqs", "0\n"), ("gro_flush_timeout", "5\n")]);
        let values = || (value(&root, "napi_defer_hard_irqs"), value(&root, "gro_flush_timeout"));
        let (before, ours) = ((s("0"), s("5")), (s("2"), s("200000")));
        // Killed: the guard is never dropped.
        std::mem::forget(WANTED.apply_in(root.path(), root.path(), "v0", 7).unwrap());
        assert_eq!(values(), ours);
        put_back_in(root.path(), root.path(), "v0", 7);
        assert_eq!(values(), before);
        // Once: what an operator sets to the same values later is left alone.
        fs::write(root.path().join("v0/napi_defer_hard_irqs"), "2\n").unwrap();
        put_back_in(root.path(), root.path(), "v0", 7);
        assert_eq!(value(&root, "napi_defer_hard_irqs"), "2");
        fs::write(root.path().join("v0/napi_defer_hard_irqs"), "0\n").unwrap();
        // An ordered end leaves no record.
        drop(WANTED.apply_in(root.path(), root.path(), "v0", 7).unwrap());
        assert_eq!(values(), before);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "the device alone");
        // Another interface of that name is not touched, and the record is gone.
        std::mem::forget(WANTED.apply_in(root.path(), root.path(), "v0", 7).unwrap());
        fs::write(root.path().join("v0/ifindex"), "8\n").unwrap();
        put_back_in(root.path(), root.path(), "v0", 8);
        assert_eq!(values(), ours);
        put_back_in(root.path(), root.path(), "v0", 7);
        assert_eq!(values(), ours);
    }

    fn s(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn settings_changed_by_others_stay() {
        let root = sysfs(&[("napi_defer_hard_irqs", "2\n"), ("gro_flush_timeout", "5\n")]);
        let guard = WANTED.apply_in(root.path(), root.path(), "v0", 7).unwrap();
        for name in ["napi_defer_hard_irqs", "gro_flush_timeout"] {
            fs::write(root.path().join("v0").join(name), "9\n").unwrap();
        }
        drop(guard);
        assert_eq!((value(&root, "napi_defer_hard_irqs"), value(&root, "gro_flush_timeout")), ("9".into(), "9".into()));
    }

    #[test]
    fn missing_setting_is_reported_and_unwritable_one_undoes_the_other() {
        let root = sysfs(&[("gro_flush_timeout", "0\n")]);
        assert_eq!(WANTED.apply_in(root.path(), root.path(), "v0", 7).unwrap().unsupported, ["napi_defer_hard_irqs"]);
        // A folder can be neither read nor written, whoever we are.
        fs::create_dir(root.path().join("v0/napi_defer_hard_irqs")).unwrap();
        let error = WANTED.apply_in(root.path(), root.path(), "v0", 7).unwrap_err();
        assert!(error.to_string().contains("napi_defer_hard_irqs"), "{error}");
        assert_eq!(value(&root, "gro_flush_timeout"), "0");
    }

    #[test]
    fn foreign_namespace_or_missing_device_is_refused() {
        let root = sysfs(&[("gro_flush_timeout", "0\n")]);
        for (interface, index) in [("v0", 8), ("v1", 7)] {
            let error = WANTED.apply_in(root.path(), root.path(), interface, index).unwrap_err();
            assert!(matches!(error, SettingsError::OtherNamespace { .. }), "{error}");
        }
        for interface in ["", ".", "..", "../v0", "a b", "sixteen-bytes-xx"] {
            let error = WANTED.apply_in(root.path(), root.path(), interface, 7).unwrap_err();
            assert!(matches!(error, SettingsError::Name { .. }), "{interface}: {error}");
        }
        assert_eq!(value(&root, "gro_flush_timeout"), "0");
    }
}
