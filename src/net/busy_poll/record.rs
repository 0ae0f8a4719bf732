//! What a process that is killed could not put back: a file of the changed settings, under /run, which a restart of the
//! machine empties. The next start puts them back.
//!
//! One file for each network namespace and interface: the interface's number on the first line, then a line for each
//! setting: its name, its value before, and the value we gave it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where the files are. A process that confines itself leaves itself this directory to read and write.
pub const SETTINGS_RECORDS: &str = "/run/oxide";

/// One setting that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) name: String,
    pub(super) before: String,
    pub(super) now: String,
}

/// The file of `interface` in the calling thread's network namespace.
pub(super) fn file(directory: &Path, interface: &str) -> PathBuf {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_or(0, |metadata| metadata.ino());
    directory.join(format!("settings.{namespace}.{interface}"))
}

/// Keeps `changes` of the interface with this number; none: there is nothing to put back any more.
pub(super) fn write(file: &Path, index: u32, changes: &[Change]) -> io::Result<()> {
    if changes.is_empty() {
        return match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let lines = changes.iter().map(|Change { name, before, now }| format!("{name} {before} {now}\n"));
    let text = format!("{index}\n{}", lines.collect::<String>());
    // Whole or not at all, whenever the process is killed.
    let beside = file.with_extension("new");
    fs::write(&beside, text)?;
    fs::rename(&beside, file)
}

/// Reads the number of the interface and the changes, if there is such a file and it makes sense.
pub(super) fn read(file: &Path) -> Option<(u32, Vec<Change>)> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines();
    let index = lines.next()?.parse().ok()?;
    let change = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        Some(Change { name: words.next()?, before: words.next()?, now: words.next()? })
    };
    Some((index, lines.map(change).collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn record_is_read_as_written_and_removed_when_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path(), "eth0");
        let change = |name: &str| Change { name: name.into(), before: "0".into(), now: "2".into() };
        let changes = vec![change("a"), change("b")];
        write(&path, 7, &changes).unwrap();
        assert_eq!(read(&path), Some((7, changes)));
        write(&path, 7, &[]).unwrap();
        write(&path, 7, &[]).unwrap();
        assert_eq!((read(&path), fs::read_dir(directory.path()).unwrap().count()), (None, 0));
        for nonsense in ["", "seven\n", "7\na b\n"] {
            fs::write(&path, nonsense).unwrap();
            assert_eq!(read(&path), None, "{nonsense:?}");
        }
    }
}
