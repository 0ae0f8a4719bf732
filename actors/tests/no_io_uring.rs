//! Checks that `auto` uses threads and reports the reason where glommio cannot start. The test has its own process,
//! because it lowers a limit.
#![allow(clippy::unwrap_used, clippy::panic)]

use oxide_actors::executor::{ExecutorChoice, ExecutorError, ExecutorKind, ExecutorSpec, ThreadOutcome, spawn};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn refused_glommio_falls_back_to_threads_with_reason_and_remedy() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Memlock);
    setrlimit(Resource::Memlock, Rlimit { current: Some(64 << 10), maximum }).unwrap();

    let (kind, reason) = ExecutorChoice::Auto.resolve();
    assert_eq!(kind, ExecutorKind::Thread);
    let reason = reason.unwrap();
    assert!(reason.contains("ulimit -l 512") || reason.contains("io_uring"), "{reason}");

    let spec = |kind| ExecutorSpec { name: "q0".to_owned(), cpu: None, kind };
    let Err(ExecutorError::IoUring { executor, observed }) = spawn(spec(ExecutorKind::Glommio), |_| async {}) else {
        panic!("glommio started without lockable memory");
    };
    assert_eq!((executor.as_str(), observed), ("q0", reason));
    assert_eq!(spawn(spec(kind), |_| async { 1 }).unwrap().join(), ThreadOutcome::Finished(1));
}
