//! Finds out whether glommio can start in this process, and explains a refusal with its remedy.

use std::sync::OnceLock;

use crate::executor::{GlommioRefusal, panic_text, try_glommio};

/// Probes once per process and returns the kept answer.
pub(crate) fn glommio_here() -> &'static Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER.get_or_init(|| {
        // The probe has its own thread: glommio panics on some refusals, and leaves data in thread-local state.
        let refusal = match std::thread::Builder::new().name("oxide-probe".to_owned()).spawn(try_glommio) {
            Err(error) => GlommioRefusal::Other(format!("cannot create a thread for the probe: {error}")),
            Ok(thread) => match thread.join() {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(refusal)) => refusal,
                Err(payload) => GlommioRefusal::Other(panic_text(payload)),
            },
        };
        Err(explain(&refusal, io_uring_disabled()))
    })
}

/// Reads `/proc/sys/kernel/io_uring_disabled` (kernel 6.6 and later): 0 means enabled, 1 privileged only, 2 disabled.
pub(crate) fn io_uring_disabled() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// Returns the content of a one-line file, or a question mark.
pub(crate) fn file(path: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
}

/// Describes a refusal and its remedy.
pub(crate) fn explain(refusal: &GlommioRefusal, disabled: Option<u32>) -> String {
    let text = match refusal {
        GlommioRefusal::Memlock { limit, wanted } => {
            return format!(
                "glommio needs {wanted} bytes of lockable memory; the limit is {limit}; to fix: raise it (`ulimit -l {}`, \
                 systemd LimitMEMLOCK=, docker --ulimit memlock=)",
                wanted.div_ceil(1024)
            );
        }
        GlommioRefusal::Other(text) => text,
    };
    // EPERM is in the text of the error from the set-up, or in the panic from entering the ring.
    if text.contains("(os error 1)") || text.contains("PermissionDenied") {
        match disabled {
            Some(level @ 1..) => format!(
                "io_uring is disabled (kernel.io_uring_disabled = {level}); to fix: sysctl -w kernel.io_uring_disabled=0"
            ),
            _ => "io_uring is forbidden (EPERM), probably by the container's seccomp profile; to fix: allow \
                  io_uring_setup, io_uring_enter and io_uring_register in it"
                .to_owned(),
        }
    } else if text.contains("(os error 38)") {
        "this kernel, or the sandbox around it, has no io_uring (ENOSYS): Linux 5.8 or later has it, gVisor and \
         some seccomp profiles hide it"
            .to_owned()
    } else {
        format!("glommio cannot start: {text}")
    }
}
