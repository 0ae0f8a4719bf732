//! Reads the kernel's report about a mapped region: actual page size and NUMA nodes.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::Region;

/// Describes the pages of a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagesSeen {
    /// Size of the kernel's pages in KiB (`KernelPageSize` of /proc/self/smaps); `None` if /proc does not report it.
    pub page_kib: Option<u64>,
    /// Number of sampled base-page addresses by NUMA node (move_pages(2)); empty if the kernel does not report it.
    pub nodes: BTreeMap<u32, u64>,
}

/// Limits the sampled addresses, which are spread evenly over the region.
const SAMPLE: usize = 512;

impl Region {
    /// Asks the kernel for page size and nodes. It reads /proc and makes one system call, so it is for start-up only.
    #[must_use]
    pub fn seen(&self) -> PagesSeen {
        PagesSeen { page_kib: page_kib(self.start.as_ptr() as usize), nodes: self.nodes().unwrap_or_default() }
    }

    fn nodes(&self) -> io::Result<BTreeMap<u32, u64>> {
        let step = (self.length / SAMPLE).next_multiple_of(4096).max(4096);
        let pages: Vec<*mut libc::c_void> =
            (0..self.length).step_by(step).map(|at| self.start.as_ptr().wrapping_add(at).cast()).collect();
        let mut status = vec![-1i32; pages.len()];
        // SAFETY: with a null node list, move_pages(2) moves nothing. It reads `pages.len()` addresses and writes as
        // many ints to `status`, which has that length. The addresses need not be mapped.
        let failed = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                pages.len(),
                pages.as_ptr(),
                std::ptr::null::<i32>(),
                status.as_mut_ptr(),
                0,
            )
        } != 0;
        if failed {
            return Err(io::Error::last_os_error());
        }
        let mut nodes = BTreeMap::new();
        // A negative value is an errno, for a missing page.
        for node in status.into_iter().filter_map(|node| u32::try_from(node).ok()) {
            *nodes.entry(node).or_default() += 1;
        }
        Ok(nodes)
    }
}

/// Returns `KernelPageSize` of the mapping that contains `address` (proc_pid_smaps(5)).
fn page_kib(address: usize) -> Option<u64> {
    let smaps = fs::read_to_string("/proc/self/smaps").ok()?;
    let mut inside = false;
    for line in smaps.lines() {
        let first = line.split_whitespace().next()?;
        if let Some((start, end)) = first.split_once('-') {
            let hex = |text| usize::from_str_radix(text, 16).ok();
            inside = hex(start)? <= address && address < hex(end)?;
        } else if inside && first == "KernelPageSize:" {
            return line.split_whitespace().nth(1)?.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::umem::{PageKind, Region};

    #[test]
    fn kernel_reports_mapped_pages() {
        let region = Region::map(1 << 20, PageKind::Base, Some(0)).unwrap();
        let seen = region.seen();
        assert_eq!(seen.page_kib, Some(rustix::param::page_size() as u64 / 1024));
        assert_eq!(seen.nodes.keys().copied().collect::<Vec<_>>(), [0], "bound to node 0");
        assert_eq!(seen.nodes[&0], 256, "one address in every page of the MiB");
    }
}
