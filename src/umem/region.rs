//! Maps the pages of the frames: faulted in, on the requested NUMA node, unmapped exactly.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Counts the bytes in a huge page.
pub const HUGE_PAGE: usize = 2 << 20;

/// Names the size of the pages of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PageKind {
    /// Base pages of the machine (4 KiB on x86-64).
    Base,
    /// Pages of 2 MiB from the reserved pool (`vm.nr_hugepages`).
    Huge,
}

/// Reports the pages of a region, and the reason if they are not the requested ones.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PageReport {
    /// Page size in force.
    pub kind: PageKind,
    /// NUMA node of the pages; `None` if the kernel chose.
    pub node: Option<u32>,
    /// Reason why requested huge pages are not used.
    pub fallback: Option<String>,
}

/// Reports that memory could not be allocated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The kernel refused mmap(2).
    #[error("packet memory: cannot map {bytes} bytes: {source}")]
    Map {
        /// Requested bytes.
        bytes: usize,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The kernel refused set_mempolicy(2).
    #[error(
        "packet memory: cannot use NUMA node {node}: {source}; to fix: use a node of `numactl \
         --hardware`, or numa = \"auto\""
    )]
    Node {
        /// Requested node.
        node: u32,
        /// Error of the kernel.
        source: io::Error,
    },
}

/// Maps whole pages, and unmaps them on drop. The kernel pins the pages that were registered with it, so a socket that
/// exists longer does no harm.
pub struct Region {
    pub(super) start: NonNull<u8>,
    pub(super) length: usize,
    pages: PageReport,
    /// Unmaps the region on drop.
    _mapping: Mapping,
}

// SAFETY: the region is memory that is reached only through `&self`/`&mut self` of the one `Umem` that owns it. Moving
// that owner to another thread moves all access with it.
unsafe impl Send for Region {}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("length", &self.length).field("pages", &self.pages).finish_non_exhaustive()
    }
}

impl Region {
    /// Maps at least `bytes` bytes, faulted in, on `node` if given. If huge pages are not available, it uses base pages
    /// and sets [`PageReport::fallback`].
    ///
    /// # Errors
    /// Returns a [`RegionError`] if base pages are not available either, or if the node does not exist.
    pub fn map(bytes: usize, wanted: PageKind, node: Option<u32>) -> Result<Self, RegionError> {
        let (kind, fallback) = choose_pages(bytes, wanted, node);
        let (mapping, kind, fallback) = with_node(node, || match Mapping::new(bytes, kind) {
            Err(RegionError::Map { source, .. }) if kind == PageKind::Huge => {
                let why = format!("the kernel refused to map huge pages: {source}");
                Mapping::new(bytes, PageKind::Base).map(|m| (m, PageKind::Base, Some(why)))
            }
            other => other.map(|m| (m, kind, fallback.clone())),
        })??;
        Ok(Self {
            start: mapping.start,
            length: mapping.length,
            pages: PageReport { kind, node, fallback },
            _mapping: mapping,
        })
    }

    /// Sets the reason why huge pages are not used, if the caller found one.
    #[must_use]
    pub(crate) fn because(mut self, why: Option<String>) -> Self {
        self.pages.fallback = why.or(self.pages.fallback);
        self
    }

    /// Returns the address of the first byte, as registered with the kernel.
    pub(super) fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// Returns the size of the region in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // A region is never empty.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Returns the kind of pages, with the reason.
    #[must_use]
    pub fn pages(&self) -> &PageReport {
        &self.pages
    }

    /// Returns `length` bytes from `at` on.
    ///
    /// # Safety
    /// `at + length` must not exceed [`len`](Self::len), and nothing may write to the range while the slice exists.
    #[inline]
    pub(super) unsafe fn slice(&self, at: usize, length: usize) -> &[u8] {
        debug_assert!(at + length <= self.length);
        // SAFETY: the caller guarantees bounds and aliasing. The kernel initialised the bytes, because it provides
        // zeroed pages.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().wrapping_add(at), length) }
    }

    /// Returns `length` bytes from `at` on, for writing.
    ///
    /// # Safety
    /// `at + length` must not exceed [`len`](Self::len), and nothing else may read or write the range while the slice
    /// exists.
    #[inline]
    #[allow(clippy::mut_from_ref)] // Frames are disjoint, and the caller holds the only token of this one.
    pub(super) unsafe fn slice_mut(&self, at: usize, length: usize) -> &mut [u8] {
        debug_assert!(at + length <= self.length);
        // SAFETY: the conditions of `slice` hold, and the caller guarantees exclusive access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().wrapping_add(at), length) }
    }

    #[inline]
    pub(super) fn prefetch(&self, at: usize) {
        prefetch(self.start.as_ptr().wrapping_add(at));
    }
}

/// Prefetches the cache line at `address`. Any address is permitted; only the time changes.
#[inline]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is a hint and never faults; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks the kernel to use huge pages for the whole huge pages within `memory`, when it is first written to. It is for
/// large tables that are read in random order; smaller memory does not change. The kernel may ignore it, for example if
/// transparent huge pages are off (`never` in `/sys/kernel/mm/transparent_hugepage/enabled`).
pub(crate) fn advise_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    let range = memory.as_mut_ptr_range();
    let (start, end) = (range.start.addr().next_multiple_of(HUGE_PAGE), range.end.addr() / HUGE_PAGE * HUGE_PAGE);
    if cfg!(miri) || end <= start {
        return;
    }
    let start = range.start.with_addr(start);
    // SAFETY: MADV_HUGEPAGE changes how the kernel may back the pages, but neither their contents nor the access to
    // them. The range lies within `memory`, which is borrowed exclusively.
    let refused = unsafe { libc::madvise(start.cast(), end - start.addr(), libc::MADV_HUGEPAGE) } != 0;
    if refused {
        tracing::debug!(error = %io::Error::last_os_error(), "transparent huge pages refused");
    }
}

/// Owns an anonymous mapping, and unmaps it with its original length.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to the process; another thread may unmap it.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(bytes: usize, kind: PageKind) -> Result<Self, RegionError> {
        let (length, flags) = match kind {
            PageKind::Base => (bytes.next_multiple_of(4096).max(4096), 0),
            // munmap(2) of huge pages needs a multiple of their size; otherwise it fails and the pages stay.
            PageKind::Huge => {
                (bytes.next_multiple_of(HUGE_PAGE).max(HUGE_PAGE), libc::MAP_HUGETLB | libc::MAP_HUGE_2MB)
            }
        };
        // Miri supports neither MAP_POPULATE nor madvise(2).
        let populate = if cfg!(miri) { 0 } else { libc::MAP_POPULATE };
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | populate;
        // SAFETY: a new anonymous mapping at an address chosen by the kernel does not affect existing memory.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => {
                dont_fork(start, length);
                Ok(Self { start, length })
            }
            _ => Err(RegionError::Map { bytes: length, source: io::Error::last_os_error() }),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mapping made in `new`, and this is its only owner.
        let failed = unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) } != 0;
        if failed {
            tracing::error!(bytes = self.length, error = %io::Error::last_os_error(), "cannot unmap packet memory");
        }
    }
}

/// Keeps a forked child from inheriting the pages. While such a child exists, the queue cannot be bound again.
pub(crate) fn dont_fork(start: NonNull<u8>, length: usize) {
    if cfg!(miri) {
        return;
    }
    // SAFETY: MADV_DONTFORK changes what fork(2) copies, not the memory; the range is a live mapping.
    if unsafe { libc::madvise(start.as_ptr().cast(), length, libc::MADV_DONTFORK) } != 0 {
        tracing::warn!(error = %io::Error::last_os_error(), "MADV_DONTFORK refused; a forked child would keep the queue busy");
    }
}

/// Selects huge pages only if enough of them are free on the requested node. With an empty pool of the node, mmap(2)
/// succeeds and the first access raises SIGBUS.
#[must_use]
pub fn choose_pages(bytes: usize, wanted: PageKind, node: Option<u32>) -> (PageKind, Option<String>) {
    if wanted == PageKind::Base {
        return (PageKind::Base, None);
    }
    let folder = match node {
        Some(n) => format!("/sys/devices/system/node/node{n}/hugepages/hugepages-2048kB"),
        None => "/sys/kernel/mm/hugepages/hugepages-2048kB".to_owned(),
    };
    let pool = format!("{folder}/free_hugepages");
    let wanted = bytes.div_ceil(HUGE_PAGE);
    let free = fs::read_to_string(&pool).ok().and_then(|text| text.trim().parse::<usize>().ok());
    match free {
        Some(free) if free >= wanted => (PageKind::Huge, None),
        Some(free) => {
            let on = node.map(|n| format!(" on node {n}")).unwrap_or_default();
            // `vm.nr_hugepages` would spread the pages over all nodes.
            let remedy = format!(
                "{wanted} huge pages of 2 MiB requested{on}, {free} free; to fix: `oxide plan --apply huge-pages`, or \
                 raise {folder}/nr_hugepages by {}",
                wanted - free
            );
            (PageKind::Base, Some(remedy))
        }
        None => (PageKind::Base, Some(format!("this kernel offers no 2 MiB pages: {pool} is missing"))),
    }
}

/// Bits of a node mask: more nodes than the kernel's largest configuration has (`CONFIG_NODES_SHIFT` is at most 10).
const NODE_BITS: usize = 1024;

/// Holds a thread's memory policy in the form of set_mempolicy(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MemoryPolicy {
    /// Mode with its flags.
    mode: libc::c_int,
    /// Nodes of the mode.
    nodes: [u64; NODE_BITS / 64],
}

impl MemoryPolicy {
    /// Creates a policy that allocates on `node` only. Returns `None` if no kernel has a node of that number.
    fn bind(node: u32) -> Option<Self> {
        const MPOL_BIND: libc::c_int = 2;
        let mut nodes = [0u64; NODE_BITS / 64];
        *nodes.get_mut(node as usize / 64)? |= 1 << (node % 64);
        Some(Self { mode: MPOL_BIND, nodes })
    }

    /// Returns the policy of the calling thread.
    fn current() -> io::Result<Self> {
        let mut policy = Self { mode: 0, nodes: [0; NODE_BITS / 64] };
        let (address, flags) = (std::ptr::null::<u8>(), 0);
        // SAFETY: get_mempolicy(2) writes one int and NODE_BITS bits, and both places have that size.
        let failed = unsafe {
            let (mode, nodes) = (&raw mut policy.mode, policy.nodes.as_mut_ptr());
            libc::syscall(libc::SYS_get_mempolicy, mode, nodes, NODE_BITS, address, flags)
        } != 0;
        if failed { Err(io::Error::last_os_error()) } else { Ok(policy) }
    }

    /// Makes this the policy of the calling thread.
    fn apply(&self) -> io::Result<()> {
        let empty = self.nodes.iter().all(|word| *word == 0);
        let (nodes, bits) = if empty { (std::ptr::null(), 0) } else { (self.nodes.as_ptr(), NODE_BITS) };
        // SAFETY: set_mempolicy(2) reads `bits` bits from `nodes`, which points to NODE_BITS bits or is null with zero
        // bits. It changes only the calling thread's policy.
        let failed = unsafe { libc::syscall(libc::SYS_set_mempolicy, self.mode, nodes, bits) } != 0;
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Restores a memory policy when it is dropped, also by a panic.
struct RestorePolicy(MemoryPolicy);

impl Drop for RestorePolicy {
    fn drop(&mut self) {
        if let Err(error) = self.0.apply() {
            tracing::error!(%error, "cannot restore the thread's memory policy");
        }
    }
}

/// Runs `f` with the calling thread's memory policy bound to `node`: pages that it faults in, by MAP_POPULATE or
/// because the kernel pins them, come from that node. The former policy is restored afterwards.
///
/// # Errors
/// [`RegionError::Node`] if the kernel has no such node.
pub fn with_node<T>(node: Option<u32>, f: impl FnOnce() -> T) -> Result<T, RegionError> {
    let Some(node) = node else { return Ok(f()) };
    let refused = |source| RegionError::Node { node, source };
    let bound = MemoryPolicy::bind(node).ok_or_else(|| refused(io::Error::from_raw_os_error(libc::EINVAL)))?;
    let former = MemoryPolicy::current().map_err(refused)?;
    bound.apply().map_err(refused)?;
    let _restore = RestorePolicy(former);
    Ok(f())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Returns the number of bytes mapped from `start` on, by /proc/self/maps.
    fn mapped_at(start: usize) -> usize {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let ranges = maps.lines().filter_map(|line| line.split_once(' ')?.0.split_once('-'));
        ranges
            .map(|(a, b)| (usize::from_str_radix(a, 16).unwrap(), usize::from_str_radix(b, 16).unwrap()))
            .find(|&(a, b)| a <= start && start < b)
            .map_or(0, |(_, b)| b - start)
    }

    #[test]
    fn former_memory_policy_is_restored() {
        const MPOL_INTERLEAVE: libc::c_int = 3;
        std::thread::spawn(|| {
            let own = MemoryPolicy { mode: MPOL_INTERLEAVE, ..MemoryPolicy::bind(0).unwrap() };
            own.apply().unwrap();
            let inside = with_node(Some(0), || MemoryPolicy::current().unwrap()).unwrap();
            assert_eq!(inside, MemoryPolicy::bind(0).unwrap());
            assert_eq!(MemoryPolicy::current().unwrap(), own);
            assert!(with_node(Some(100_000), || ()).is_err());
            assert_eq!(MemoryPolicy::current().unwrap(), own);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn region_is_unmapped_on_drop() {
        // The region is much larger than those of other tests, so that the freed range is not reused at once.
        let region = Region::map((64 << 20) + 1, PageKind::Base, None).unwrap();
        assert_eq!(region.len(), (64 << 20) + 4096);
        let (start, length) = (region.start.as_ptr() as usize, region.len());
        assert!(mapped_at(start) >= length);
        drop(region);
        assert!(mapped_at(start + length / 2) == 0, "still mapped");
    }

    #[test]
    fn missing_huge_pages_become_base_pages_with_reason() {
        // No machine has reserved so many huge pages.
        let (kind, why) = choose_pages(1 << 50, PageKind::Huge, None);
        assert_eq!(kind, PageKind::Base);
        assert!(why.is_some_and(|why| why.contains("2 MiB")));
        // The remedy must raise the pool of the requested node, not one that is spread over the nodes.
        let why = choose_pages(1 << 50, PageKind::Huge, Some(0)).1.unwrap();
        let pool = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB";
        assert!(why.contains(pool) && !why.contains("vm.nr_hugepages"), "{why}");
    }

    #[test]
    fn pages_come_from_requested_node() {
        let region = Region::map(64 * 4096, PageKind::Base, Some(0)).unwrap();
        assert_eq!(region.pages().node, Some(0));
        let absent = Region::map(4096, PageKind::Base, Some(900)).unwrap_err();
        assert!(absent.to_string().contains("node 900"), "{absent}");
    }
}
