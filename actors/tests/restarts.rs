//! Checks that restarting an executor leaks no file descriptor and no thread. The test has its own process, because
//! it counts them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use oxide_actors::executor::{ExecutorChoice, ExecutorKind, ExecutorSpec, ThreadOutcome, spawn};
use oxide_actors::mailbox::mailbox;

fn count(path: &str) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

/// Waits until the count fails to `wanted` and returns the last count. glommio's helper threads end, and close their
/// eventfd, shortly after their executor.
fn settled(path: &str, wanted: usize) -> usize {
    for _ in 0..1000 {
        if count(path) <= wanted {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    count(path)
}

fn one_run(kind: ExecutorKind, run: usize) {
    let (address, mailbox) = mailbox::<usize>(4).unwrap();
    let spec = ExecutorSpec { name: format!("run-{run}"), cpu: None, kind };
    let handle = spawn(spec, move |runtime| async move {
        loop {
            runtime.checkpoint().await;
            match mailbox.try_recv() {
                Some(run) if run % 2 == 0 => return run,
                Some(run) => panic!("run {run}"),
                None => {
                    mailbox.wait(&[], Duration::from_millis(10), || false);
                }
            }
        }
    })
    .unwrap();
    address.send_timeout(run, Duration::from_secs(60)).unwrap();
    match handle.join() {
        ThreadOutcome::Finished(n) => assert_eq!((n, n % 2), (run, 0)),
        ThreadOutcome::Panicked(text) => assert_eq!((text, run % 2), (format!("run {run}"), 1)),
        ThreadOutcome::Lost(text) => assert_eq!(text, "not lost"),
    }
}

#[test]
fn two_hundred_restarts_leave_neither_descriptors_nor_threads() {
    // Half of the runs end by a panic; 100 printed backtraces would be useless.
    std::panic::set_hook(Box::new(|_| {}));
    let mut kinds = vec![ExecutorKind::Thread];
    match ExecutorChoice::Auto.resolve() {
        (ExecutorKind::Glommio, _) => kinds.push(ExecutorKind::Glommio),
        (ExecutorKind::Thread, reason) => eprintln!("SKIPPED-OK 200 restarts of glommio: {reason:?}"),
    }
    for kind in kinds {
        // The first run creates what exists once per process (membarrier, global state).
        one_run(kind, 0);
        let threads = settled("/proc/self/task", 2);
        let descriptors = count("/proc/self/fd");
        for run in 1..=200 {
            one_run(kind, run);
        }
        assert_eq!(settled("/proc/self/task", threads), threads, "{kind:?}");
        assert_eq!(settled("/proc/self/fd", descriptors), descriptors, "{kind:?}");
    }
}
