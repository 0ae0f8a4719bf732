//! Whether glommio can start in this process, and, if not, why in words with the mend.

use std::sync::OnceLock;

use crate::executor::{GlommioRefusal, panic_text, try_glommio};

/// The answer, looked for once per process.
pub(crate) fn glommio_here() -> &'static Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER.get_or_init(|| {
        // On a thread of its own: glommio panics where it does not expect a refusal, and leaves its traces in
        // thread-local state.
        let refusal = match std::thread::Builder::new().name("oxide-probe".to_owned()).spawn(try_glommio) {
            Err(error) => GlommioRefusal::Other(format!("no thread for the probe: {error}")),
            Ok(thread) => match thread.join() {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(refusal)) => refusal,
                Err(payload) => GlommioRefusal::Other(panic_text(payload)),
            },
        };
        Err(explain(&refusal, io_uring_disabled()))
    })
}

/// `/proc/sys/kernel/io_uring_disabled` (kernel 6.6 and later): 0 open, 1 for the privileged, 2 for nobody.
pub(crate) fn io_uring_disabled() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// A file's one line, or a question mark.
pub(crate) fn file(path: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
}

/// The refusal in words, with the mend.
pub(crate) fn explain(refusal: &GlommioRefusal, disabled: Option<u32>) -> String {
    let text = match refusal {
        GlommioRefusal::Memlock { limit, wanted } => {
            return format!(
                "glommio wants {wanted} bytes of lockable memory and the limit is {limit}: raise it (`ulimit -l {}`, \
                 systemd LimitMEMLOCK=, docker --ulimit memlock=)",
                wanted.div_ceil(1024)
            );
        }
        GlommioRefusal::Other(text) => text,
    };
    // EPERM comes as an error's text from setting up, and as a panic's from entering the ring.
    if text.contains("(os error 1)") || text.contains("PermissionDenied") {
        match disabled {
            Some(level @ 1..) => format!(
                "io_uring is switched off (kernel.io_uring_disabled = {level}): `sysctl -w kernel.io_uring_disabled=0`"
            ),
            _ => "io_uring is forbidden here (EPERM), most likely by the container's seccomp profile: allow \
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
