#![allow(clippy::unwrap_used, clippy::panic)]
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::sched_getaffinity;

use super::*;
use crate::probe::explain;

/// Returns both kinds, or one kind after printing the reason.
fn kinds() -> Vec<ExecutorKind> {
    let mut kinds = vec![ExecutorKind::Thread];
    match ExecutorChoice::Auto.resolve() {
        (ExecutorKind::Glommio, _) => kinds.push(ExecutorKind::Glommio),
        (ExecutorKind::Thread, reason) => eprintln!("SKIPPED-OK executor test: no glommio: {reason:?}"),
    }
    kinds
}

fn spec(name: &str, kind: ExecutorKind) -> ExecutorSpec {
    ExecutorSpec { name: name.to_owned(), cpu: None, kind }
}

/// Returns the highest CPU that this process may use.
fn some_cpu() -> u32 {
    let allowed = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).rfind(|&cpu| allowed.is_set(cpu)).unwrap() as u32
}

/// Counts the threads of this process whose kernel name is `name`.
fn threads_named(name: &str) -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|comm| comm.trim() == name)
        .count()
}

/// Adds one to its counter when dropped.
struct Owned(Arc<AtomicU32>);
impl Drop for Owned {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn body_runs_pinned_and_returns_its_value() {
    for kind in kinds() {
        let cpu = some_cpu();
        let handle = spawn(ExecutorSpec { name: "t-pin".into(), cpu: Some(cpu), kind }, |runtime| async move {
            runtime.checkpoint().await;
            let set = sched_getaffinity(None).unwrap();
            let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&n| set.is_set(n)).collect();
            (runtime.kind(), runtime.cpu(), cpus, std::thread::current().name().map(str::to_owned))
        })
        .unwrap();
        let ThreadOutcome::Finished((ran_kind, ran_cpu, cpus, name)) = handle.join() else { panic!("{kind:?}") };
        assert_eq!((ran_kind, ran_cpu, cpus), (kind, Some(cpu), vec![cpu as usize]));
        assert_eq!(name.as_deref(), Some("t-pin"));
    }
}

#[test]
fn panic_is_caught_with_its_text_after_owned_values_are_dropped() {
    for kind in kinds() {
        let drops = Arc::new(AtomicU32::new(0));
        let owned = Owned(Arc::clone(&drops));
        let formatted = spawn(spec("t-panic", kind), move |runtime| async move {
            let _owned = owned;
            runtime.checkpoint().await;
            let index = 7;
            if index > 3 {
                panic!("lane {index} of 4");
            }
        });
        let outcome = formatted.unwrap().join();
        assert_eq!(outcome, ThreadOutcome::Panicked("lane 7 of 4".into()), "{kind:?}");
        assert_eq!(drops.load(Ordering::SeqCst), 1);
        let literal = spawn(spec("t-panic", kind), |_| async { panic!("literal") });
        assert_eq!(literal.unwrap().join(), ThreadOutcome::<()>::Panicked("literal".into()));
        let before_the_future =
            spawn(spec("t-panic", kind), |_| -> std::future::Ready<()> { panic!("making the future") });
        assert_eq!(before_the_future.unwrap().join(), ThreadOutcome::Panicked("making the future".into()));
        let no_text = spawn(spec("t-panic", kind), |_| async { std::panic::panic_any(5u8) });
        let ThreadOutcome::<()>::Panicked(text) = no_text.unwrap().join() else { panic!("{kind:?}") };
        assert!(text.contains("not text"), "{text}");
    }
}

#[test]
fn joined_thread_has_ended() {
    for kind in kinds() {
        let name = format!("t-gone-{}", kind.name());
        let (go, gate) = bounded::<()>(1);
        let mut handle = spawn(spec(&name, kind), move |_| async move { gate.recv().is_ok() }).unwrap();
        assert!(threads_named(&name) >= 1);
        assert!(!handle.is_finished());
        assert_eq!(handle.join_timeout(Duration::from_millis(1)), None);
        go.send(()).unwrap();
        assert_eq!(handle.join_timeout(Duration::from_secs(60)), Some(ThreadOutcome::Finished(true)));
        assert!(handle.is_finished());
        // glommio's helper thread has the same name and ends shortly after its executor.
        for _ in 0..1000 {
            if threads_named(&name) == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(threads_named(&name), 0);
        let Some(ThreadOutcome::Lost(text)) = handle.join_timeout(Duration::ZERO) else {
            panic!("the outcome was delivered twice")
        };
        assert!(text.contains("taken before"), "{text}");
    }
}

#[test]
fn missing_cpu_is_named_with_remedy_and_leaves_no_thread() {
    for kind in kinds() {
        // CPU 1023 is the last that the interface can name and is probably absent; higher numbers cannot be named.
        for cpu in [1023, 1024, u32::MAX] {
            let refused = spawn(ExecutorSpec { name: "t-cpu".into(), cpu: Some(cpu), kind }, |_| async {});
            let Err(error @ ExecutorError::Cpu { .. }) = refused else { panic!("{kind:?} ran on CPU {cpu}") };
            let text = error.to_string();
            for part in ["t-cpu", &format!("CPU {cpu}"), "online: 0", "taskset"] {
                assert!(text.contains(part), "{part:?} is missing in {text:?}");
            }
        }
    }
}

#[test]
fn dropped_handle_does_not_stop_body() {
    for kind in kinds() {
        let (done_tx, done_rx) = bounded(1);
        let (go, gate) = bounded::<()>(1);
        drop(spawn(spec("t-drop", kind), move |_| async move {
            let _ = gate.recv();
            let _ = done_tx.send(41);
        }));
        go.send(()).unwrap();
        assert_eq!(done_rx.recv(), Ok(41));
    }
}

#[test]
fn nul_in_name_does_not_panic() {
    assert_eq!(spawn(spec("a\0b", ExecutorKind::Thread), |_| async { 3 }).unwrap().join(), ThreadOutcome::Finished(3));
}

#[test]
fn waiting_executor_is_woken_by_other_thread() {
    for kind in kinds() {
        let (waker_tx, waker_rx) = bounded::<std::task::Waker>(1);
        let handle = spawn(spec("t-wake", kind), move |_| async move {
            let mut polls = 0;
            std::future::poll_fn(|cx| {
                polls += 1;
                if polls > 1 {
                    return std::task::Poll::Ready(polls);
                }
                waker_tx.send(cx.waker().clone()).unwrap();
                std::task::Poll::Pending
            })
            .await
        });
        waker_rx.recv().unwrap().wake();
        assert!(matches!(handle.unwrap().join(), ThreadOutcome::Finished(2..)), "{kind:?}");
    }
}

#[test]
fn explicit_choice_skips_probe() {
    assert_eq!(ExecutorChoice::Thread.resolve(), (ExecutorKind::Thread, None));
    assert_eq!(ExecutorChoice::Glommio.resolve(), (ExecutorKind::Glommio, None));
    assert_eq!(ExecutorChoice::default(), ExecutorChoice::Auto);
    // A second call returns the same answer.
    assert_eq!(ExecutorChoice::Auto.resolve(), ExecutorChoice::Auto.resolve());
}

#[test]
fn each_io_uring_refusal_names_its_remedy() {
    // These are glommio's messages under seccomp filters that refuse one system call each.
    let set_up =
        || GlommioRefusal::Other("failed to create an io_uring: Operation not permitted (os error 1). ..".into());
    let enter = GlommioRefusal::Other("Failed to poll io!: Os { code: 1, kind: PermissionDenied, .. }".into());
    let absent = GlommioRefusal::Other("failed to create an io_uring: Function not implemented (os error 38)".into());
    let cases = [
        (explain(&set_up(), Some(2)), "sysctl -w kernel.io_uring_disabled=0"),
        (explain(&set_up(), Some(1)), "kernel.io_uring_disabled = 1"),
        (explain(&set_up(), Some(0)), "seccomp"),
        (explain(&enter, None), "seccomp"),
        (explain(&absent, Some(0)), "has no io_uring"),
        (explain(&GlommioRefusal::Memlock { limit: 65_536, wanted: 524_288 }, Some(0)), "ulimit -l 512"),
        (explain(&GlommioRefusal::Other("odd".into()), None), "odd"),
    ];
    for (text, part) in cases {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
}
