//! Attaches the program through a bpf_link, and detaches conflicting programs on request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::interface::Interface;
use super::{AttachMode, SteeringError, bpf};

/// Holds a program on an interface. Closing the link detaches it, and the kernel does so when the process ends for any
/// reason.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) link: OwnedFd,
    pub(super) ifindex: u32,
    /// Mode in force: Native or Generic.
    pub(super) mode: AttachMode,
    /// Reason why the mode is not native, if native mode was tried.
    pub(super) why: Option<String>,
    /// Kernel's id of the attached program; 0 if the kernel did not report it.
    program: u32,
}

/// States whether an attachment is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttachmentState {
    /// The link is on the interface, with the attached program.
    Ours,
    /// The link is on the interface, with another program (set by `bpftool link`, or by a process that opens links by
    /// id).
    Swapped(u32),
    /// The link is on no interface.
    Detached,
}

impl Attachment {
    /// Attaches `program`. With `replace`, it detaches another program first.
    pub(super) fn new(
        program: BorrowedFd<'_>,
        interface: &str,
        mode: AttachMode,
        replace: bool,
    ) -> Result<Self, SteeringError> {
        let attach = |mode| match Self::once(program, interface, mode) {
            Err(SteeringError::Busy { .. }) if replace => {
                clear(interface)?;
                Self::once(program, interface, mode)
            }
            other => other,
        };
        if mode != AttachMode::Auto {
            return attach(mode);
        }
        match attach(AttachMode::Native) {
            Err(refusal) if refusal.is_refusal_of_native() => {
                let mut attached = attach(AttachMode::Generic)?;
                attached.why = Some(refusal.to_string());
                Ok(attached)
            }
            other => other,
        }
    }

    fn once(program: BorrowedFd<'_>, name: &str, mode: AttachMode) -> Result<Self, SteeringError> {
        let interface = find(name)?;
        // This calls bpf(2) directly. After an EINVAL, the loader library would attach by netlink, and that attachment
        // would outlive the process.
        match bpf::link_create(program, interface.index, mode.flags()) {
            Ok(link) => {
                let program = bpf::link_info(link.as_fd()).map_or(0, |info| info.program);
                Ok(Self { link, ifindex: interface.index, mode, why: None, program })
            }
            Err(error) => Err(refusal(name, &interface, mode, error)),
        }
    }

    /// Returns whether the program still is on the interface. Another process with the privilege can detach it or put
    /// another program into the link, and deleting the interface detaches it. No event of the link reports this.
    pub(super) fn hold(&self) -> io::Result<AttachmentState> {
        let info = bpf::link_info(self.link.as_fd())?;
        Ok(match (info.ifindex == self.ifindex, info.program == self.program || self.program == 0) {
            (false, _) => AttachmentState::Detached,
            (true, false) => AttachmentState::Swapped(info.program),
            (true, true) => AttachmentState::Ours,
        })
    }

    /// Puts `program` back into this attachment's link.
    pub(super) fn restore(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        bpf::link_update(self.link.as_fd(), program)
    }
}

impl Drop for Attachment {
    /// Detaches the link. Closing it may not suffice, because a child that another thread spawns has a copy of the
    /// descriptor until its exec.
    fn drop(&mut self) {
        // Before kernel 5.19, this fails for a process without CAP_BPF. Closing the link detaches it then.
        let _ = bpf::link_detach(self.link.as_fd());
    }
}

fn find(name: &str) -> Result<Interface, SteeringError> {
    Interface::find(name).map_err(|e| SteeringError::kernel(name, "look the interface up", e))
}

/// Converts an error of `dev_xdp_attach` (net/core/dev.c), or of a driver for `XDP_SETUP_PROG`.
fn refusal(name: &str, interface: &Interface, mode: AttachMode, source: io::Error) -> SteeringError {
    let code = source.raw_os_error().unwrap_or(0);
    let mtu = interface.mtu;
    let native = mode == AttachMode::Native;
    let name_owned = name.to_owned();
    match code {
        // EBUSY means that the same mode is in use, EEXIST that the other one is.
        libc::EBUSY | libc::EEXIST => {
            let (holder, linked) = holder(name);
            SteeringError::Busy { interface: name_owned, wanted: mode, holder, linked }
        }
        libc::EPERM | libc::EACCES | libc::ENODEV => SteeringError::kernel(name, "attach the XDP program", source),
        libc::ERANGE if native => SteeringError::Mtu { interface: name_owned, mtu, source },
        // Several drivers return EINVAL for the MTU. LRO and other features give EINVAL at any MTU.
        libc::EINVAL if native && mtu > 1500 => SteeringError::Mtu { interface: name_owned, mtu, source },
        libc::ENOSPC if native => SteeringError::Queues { interface: name_owned, source },
        _ if native => SteeringError::NoNative { interface: name_owned, mtu, source },
        _ => SteeringError::kernel(name, "attach the XDP program", source),
    }
}

/// Describes the attached program. Returns also whether a link holds it, or may hold it.
fn holder(name: &str) -> (String, bool) {
    let Ok(interface) = Interface::find(name) else { return ("another XDP program".to_owned(), false) };
    let mut linked = false;
    let sees = bpf::sees_others();
    let programs: Vec<String> = interface
        .programs()
        .map(|(mode, id)| {
            if !sees {
                linked = true;
                return format!("a {mode} XDP program, id {id} (`bpftool prog show id {id}` shows its owner)");
            }
            let link = links_of(&interface, id).next();
            linked |= link.is_some();
            let program = aya::programs::loaded_programs().flatten().find(|program| program.id() == id);
            let program_name = program.as_ref().and_then(|p| p.name_as_str()).unwrap_or("no name").to_owned();
            let by = link.map_or("without a link".to_owned(), |(link, _)| format!("by link {link}"));
            format!("a {mode} XDP program, id {id} ({program_name}), {by}")
        })
        .collect();
    // The program may have been detached in between.
    let programs = if programs.is_empty() { "another XDP program".to_owned() } else { programs.join(" and ") };
    (programs, linked)
}

/// Returns the links that hold program `id` on the interface. Interface numbers repeat in other network namespaces,
/// program ids do not.
fn links_of(interface: &Interface, id: u32) -> impl Iterator<Item = (u32, OwnedFd)> {
    let index = interface.index;
    bpf::link_ids().filter_map(move |link_id| {
        let link = bpf::link_by_id(link_id).ok()?;
        let info = bpf::link_info(link.as_fd()).ok()?;
        let is_it = info.kind == bpf::LINK_TYPE_XDP && info.ifindex == index && info.program == id;
        is_it.then_some((link_id, link))
    })
}

/// Detaches every other program from the interface.
pub(super) fn clear(name: &str) -> Result<(), SteeringError> {
    let interface = find(name)?;
    let failed = |e| SteeringError::kernel(name, "detach the attached XDP program", e);
    for (mode, id) in interface.programs() {
        tracing::warn!(interface = name, %mode, program = id, "replacing another XDP program, as configured");
        let mut linked = false;
        for (_, link) in links_of(&interface, id) {
            bpf::link_detach(link.as_fd()).map_err(failed)?;
            linked = true;
        }
        if !linked {
            interface.detach_unlinked(mode).map_err(failed)?;
        }
    }
    Ok(())
}

/// Puts `program` into every XDP link of the interface.
pub(super) fn swap(name: &str, program: BorrowedFd<'_>) -> Result<(), SteeringError> {
    let interface = find(name)?;
    let links = interface.programs().flat_map(|(_, id)| links_of(&interface, id));
    let mut swapped = links.map(|(_, link)| bpf::link_update(link.as_fd(), program));
    swapped.try_for_each(|done| done).map_err(|e| SteeringError::kernel(name, "update the XDP link", e))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::super::pass_all;
    use super::*;

    /// Checks a program without a link, as `ip link set dev X xdp object ...` attaches it.
    fn unlinked_program_is_named_and_replaced_on_request() {
        let program = pass_all::program().unwrap();
        let lo = Interface::find("lo").unwrap();
        lo.set_program(AttachMode::Generic, program.as_raw_fd()).unwrap();

        for wanted in [AttachMode::Auto, AttachMode::Generic] {
            let error = Attachment::new(program.as_fd(), "lo", wanted, false).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("a generic XDP program, id "), "{text}");
            assert!(text.contains("(oxide_pass_all), without a link;"), "{text}");
            assert!(text.contains("`ip link set dev lo xdp off`"), "{text}");
        }
        assert_eq!(Interface::find("lo").unwrap().programs().count(), 1);

        let attachment = Attachment::new(program.as_fd(), "lo", AttachMode::Auto, true).unwrap();
        assert_eq!(attachment.mode, AttachMode::Generic);
        assert_eq!(attachment.hold().unwrap(), AttachmentState::Ours);
        drop(attachment);
        assert_eq!(Interface::find("lo").unwrap().programs().count(), 0);
    }

    #[test]
    fn unlinked_program() {
        if !rustix::process::geteuid().is_root() {
            let _ = writeln!(io::stderr(), "SKIPPED unlinked_program: needs root");
            return;
        }
        let thread = std::thread::spawn(|| {
            // The thread has its own network namespace, so nothing else uses `lo`. The deprecation concerns flags for
            // descriptors.
            #[allow(deprecated)]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
            unlinked_program_is_named_and_replaced_on_request();
        });
        thread.join().unwrap();
    }
}
