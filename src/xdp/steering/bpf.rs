//! Wraps the calls of bpf(2) that the loader library lacks or implements differently. This is the only unsafe code of
//! steering. Layouts and numbers follow `union bpf_attr` in include/uapi/linux/bpf.h.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const PROG_LOAD: u32 = 5;
const PROG_TEST_RUN: u32 = 10;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const LINK_GET_FD_BY_ID: u32 = 30;
const LINK_GET_NEXT_ID: u32 = 31;
const LINK_DETACH: u32 = 34;

const PROG_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;
pub(super) const LINK_TYPE_XDP: u32 = 6;

/// Marks plain numbers in the layout of the kernel's `union bpf_attr` for one command.
///
/// # Safety
/// Implementors are `repr(C)`, hold integers only, and have no padding. Every address among them points to memory of
/// the stated length, valid for the time of the call.
unsafe trait Attribute {}

fn call<A: Attribute>(command: u32, attribute: &mut A) -> io::Result<i32> {
    // SAFETY: `attribute` is valid for reads and writes of its size, which is an argument of the call. The kernel takes
    // fields beyond it as zero. The addresses inside are valid by the contract of `Attribute`.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut::<A>(attribute), std::mem::size_of::<A>() as u32)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}

/// Takes ownership of a descriptor that the kernel has just created. It is close-on-exec by kernel/bpf/syscall.c.
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: called only with the result of a command that returns a new descriptor, which nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[repr(C)]
struct MapElement {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}
// SAFETY: integers, 8-byte fields at offset 8. The callers below set `key` and `value` to live `u32`s, and serve only
// maps with 4-byte keys and values.
unsafe impl Attribute for MapElement {}

/// Puts `socket` into entry `key` of an XSKMAP.
pub(super) fn xskmap_update(map: BorrowedFd<'_>, key: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    let value = socket.as_raw_fd() as u32;
    let mut attribute = MapElement {
        map: map.as_raw_fd() as u32,
        _pad: 0,
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_ref(&value) as u64,
        flags: 0,
    };
    call(MAP_UPDATE_ELEM, &mut attribute).map(drop)
}

/// Empties entry `key` of an XSKMAP.
pub(super) fn xskmap_delete(map: BorrowedFd<'_>, key: u32) -> io::Result<()> {
    let mut attribute =
        MapElement { map: map.as_raw_fd() as u32, _pad: 0, key: std::ptr::from_ref(&key) as u64, value: 0, flags: 0 };
    call(MAP_DELETE_ELEM, &mut attribute).map(drop)
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}
// SAFETY: integers, naturally aligned without gaps. `load_xdp` sets `instructions` and `license` to slices that outlive
// the call; the license ends in NUL. There is no log buffer.
unsafe impl Attribute for ProgramLoad {}

/// Loads an XDP program without maps from instructions in the kernel's encoding.
pub(super) fn load_xdp(instructions: &[u64], name: &[u8]) -> io::Result<OwnedFd> {
    let license = c"MIT OR Apache-2.0";
    let mut attribute = ProgramLoad {
        kind: PROG_TYPE_XDP,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected_attach_type: ATTACH_TYPE_XDP,
        ..Default::default()
    };
    // The name has at most 15 bytes, so that the last one stays NUL.
    for (to, from) in attribute.name.iter_mut().take(15).zip(name) {
        *to = *from;
    }
    call(PROG_LOAD, &mut attribute).map(owned)
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}
// SAFETY: four integers.
unsafe impl Attribute for LinkCreate {}

/// Attaches `program` to an interface for as long as the returned descriptor is open. `flags` are
/// XDP_FLAGS_* of include/uapi/linux/if_link.h.
pub(super) fn link_create(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attribute = LinkCreate {
        program: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: ATTACH_TYPE_XDP,
        flags,
    };
    call(LINK_CREATE, &mut attribute).map(owned)
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}
// SAFETY: four integers.
unsafe impl Attribute for LinkUpdate {}

/// Replaces the program of `link` by `program`. The interface always has one of the two.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link, program) = (link.as_raw_fd() as u32, program.as_raw_fd() as u32);
    call(LINK_UPDATE, &mut LinkUpdate { link, program, flags: 0, old_program: 0 }).map(drop)
}

/// Holds the kernel's description of a link (`struct bpf_link_info`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LinkInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) program: u32,
    _pad: u32,
    /// Interface number of an XDP link ([`LINK_TYPE_XDP`]); 0 once detached.
    pub(super) ifindex: u32,
    _rest: [u32; 11],
}

#[repr(C)]
struct Info {
    object: u32,
    length: u32,
    info: u64,
}
// SAFETY: integers without gaps. `link_info` sets `info` to a `LinkInfo`, plain integers of the stated length, which
// the kernel writes.
unsafe impl Attribute for Info {}

/// Returns the kernel's description of a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attribute = Info {
        object: link.as_raw_fd() as u32,
        length: std::mem::size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &mut attribute)?;
    Ok(info)
}

#[repr(C)]
#[derive(Default)]
struct LinkId {
    id: u32,
    next: u32,
    flags: u32,
}
// SAFETY: three integers.
unsafe impl Attribute for LinkId {}

/// Returns the ids of all links on the machine, of any owner.
pub(super) fn link_ids() -> impl Iterator<Item = u32> {
    let mut id = 0;
    std::iter::from_fn(move || {
        let mut attribute = LinkId { id, ..Default::default() };
        call(LINK_GET_NEXT_ID, &mut attribute).ok()?;
        id = attribute.next;
        Some(id)
    })
}

/// Returns whether this process may read links and programs of other processes (CAP_SYS_ADMIN: bpf_link_get_fd_by_id in
/// kernel/bpf/syscall.c).
pub(super) fn sees_others() -> bool {
    // ENOENT means that the machine has no link.
    let refused = |e: io::Error| e.raw_os_error() == Some(libc::EPERM);
    !call(LINK_GET_NEXT_ID, &mut LinkId::default()).is_err_and(refused)
}

/// Opens a link by its id.
pub(super) fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    call(LINK_GET_FD_BY_ID, &mut LinkId { id, ..Default::default() }).map(owned)
}

/// Detaches a link of any owner. The owner keeps an empty link.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    call(LINK_DETACH, &mut LinkId { id: link.as_raw_fd() as u32, ..Default::default() }).map(drop)
}

/// Mirrors `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    action: u32,
    data_in_length: u32,
    data_out_length: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_length: u32,
    context_out_length: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
}
// SAFETY: integers without gaps. `test_run` sets `data_in` and `context_in` to memory of the stated lengths that
// outlives the call. Only the action is read back.
unsafe impl Attribute for TestRun {}

/// Runs an XDP program once over `packet`, as if queue `queue` of interface `ifindex` had received it. Returns its
/// action (net/bpf/test_run.c, `bpf_prog_test_run_xdp`). Nothing is sent or delivered. Packets of less than 14 bytes
/// give `EINVAL`; no driver passes such packets to a program either.
pub(super) fn test_run(program: BorrowedFd<'_>, packet: &[u8], ifindex: u32, queue: u32) -> io::Result<u32> {
    let context = XdpContext {
        data_end: packet.len() as u32,
        ingress_ifindex: ifindex,
        rx_queue_index: queue,
        ..Default::default()
    };
    let mut attribute = TestRun {
        program: program.as_raw_fd() as u32,
        data_in_length: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat: 1,
        context_in_length: std::mem::size_of::<XdpContext>() as u32,
        context_in: std::ptr::from_ref(&context) as u64,
        ..Default::default()
    };
    call(PROG_TEST_RUN, &mut attribute)?;
    Ok(attribute.action)
}
