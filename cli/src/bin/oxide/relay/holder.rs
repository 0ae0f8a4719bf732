//! Finds the process that holds the XDP program of an interface. This happens before privileges are dropped: the
//! links of other processes are in their `fdinfo` (proc_pid_fdinfo(5)).

use std::fs;
use std::path::Path;

use oxide_topology::live_nics;

/// Returns a sentence for each of `interfaces` whose program belongs to a process that was found.
pub(super) fn holders(interfaces: &[String]) -> Vec<(String, String)> {
    let nics = live_nics(interfaces).unwrap_or_default();
    let holder = |nic: &oxide_topology::Nic| {
        let id = nic.xdp_program.as_ref()?.id?;
        let (process, command) = process_of(Path::new("/proc"), id)?;
        let relay = if command == "oxide" { ", an oxide relay" } else { "" };
        Some((
            nic.name.clone(),
            format!("in use by process {process} ({command}{relay}); to fix: stop it, or serve other interfaces"),
        ))
    };
    nics.iter().filter_map(holder).collect()
}

/// Returns the number and the command of the process that holds a link to program `id`.
fn process_of(proc: &Path, id: u32) -> Option<(u32, String)> {
    let wanted = format!("prog_id:\t{id}");
    let holds = |process: &Path| {
        let descriptors = fs::read_dir(process.join("fdinfo")).ok().into_iter().flatten().flatten();
        descriptors
            .filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .any(|text| text.lines().any(|line| line == "link_type:\txdp") && text.lines().any(|line| line == wanted))
    };
    let processes = fs::read_dir(proc).ok()?.flatten().filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((number, entry.path()))
    });
    let (number, path) = processes.into_iter().find(|(_, path)| holds(path))?;
    Some((number, fs::read_to_string(path.join("comm")).unwrap_or_default().trim().to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn process_is_found_by_its_link() {
        let proc = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = proc.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("17/fdinfo/3", "pos:\t0\nlink_type:\txdp\nlink_id:\t4\nprog_id:\t72\nifindex:\t2\n");
        write("17/comm", "other\n");
        write("42/fdinfo/9", "link_type:\txdp\nlink_id:\t5\nprog_id:\t7\nifindex:\t2\n");
        write("42/comm", "oxide\n");
        write("43/fdinfo/9", "link_type:\ttracing\nprog_id:\t8\n");
        assert_eq!(process_of(proc.path(), 7), Some((42, "oxide".to_owned())));
        assert_eq!(process_of(proc.path(), 8), None);
    }
}
