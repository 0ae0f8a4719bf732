//! Restarting an executor costs no file descriptor and no thread. Alone in its process, as it counts them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use oxide_actors::executor::{ExecutorChoice, ExecutorKind, ExecutorSpec, ThreadOutcome, spawn};
use oxide_actors::mailbox::mailbox;

fn count(path: &str) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

/// The count when it has come down to `wanted`, or what it is in the end: glommio's helper threads end, and
/// close their eventfd, a moment after their executor.
fn settled(path: &str, wanted: usize) -> usize {
    for _ in 0..1000 {
        if count(path) <= wanted {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    count(path)
}

fn one_life(kind: ExecutorKind, life: usize) {
    let (address, mailbox) = mailbox::<usize>(4).unwrap();
    let spec = ExecutorSpec { name: format!("life-{life}"), cpu: None, kind };
    let handle = spawn(spec, move |runtime| async move {
        loop {
            runtime.checkpoint().await;
            match mailbox.try_recv() {
                Some(life) if life % 2 == 0 => return life,
                Some(life) => panic!("life {life}"),
                None => {
                    mailbox.wait(&[], Duration::from_millis(10), || false);
                }
            }
        }
    })
    .unwrap();
    address.send_timeout(life, Duration::from_secs(60)).unwrap();
    match handle.join() {
        ThreadOutcome::Finished(n) => assert_eq!((n, n % 2), (life, 0)),
        ThreadOutcome::Panicked(text) => assert_eq!((text, life % 2), (format!("life {life}"), 1)),
        ThreadOutcome::Lost(text) => assert_eq!(text, "not lost"),
    }
}

#[test]
fn two_hundred_restarts_leave_neither_descriptors_nor_threads() {
    // Half of the lives end by a panic; 100 printed backtraces would say nothing.
    std::panic::set_hook(Box::new(|_| {}));
    let mut kinds = vec![ExecutorKind::Thread];
    match ExecutorChoice::Auto.resolve() {
        (ExecutorKind::Glommio, _) => kinds.push(ExecutorKind::Glommio),
        (ExecutorKind::Thread, reason) => eprintln!("SKIPPED-OK 200 restarts of glommio: {reason:?}"),
    }
    for kind in kinds {
        // What is made once per process (membarrier, global state) is made by the first life.
        one_life(kind, 0);
        let threads = settled("/proc/self/task", 2);
        let descriptors = count("/proc/self/fd");
        for life in 1..=200 {
            one_life(kind, life);
        }
        assert_eq!(settled("/proc/self/task", threads), threads, "{kind:?}");
        assert_eq!(settled("/proc/self/fd", descriptors), descriptors, "{kind:?}");
    }
}
