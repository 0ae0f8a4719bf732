//! Checks that new handlers for all actors are one request, which succeeds or fails as a whole.
use super::*;

/// Returns a commit function that sets `flag`.
fn commit(flag: &Arc<AtomicBool>) -> impl FnOnce() + Send + 'static {
    let flag = Arc::clone(flag);
    move || flag.store(true, Ordering::SeqCst)
}

#[test]
fn replacement_returns_when_all_handlers_are_new_and_names_stopped_workers() {
    let rig = Rig::new(vec![Scripted::new("a", follow_commands), Scripted::new("b", follow_commands)]);
    rig.until_state(A, "running");
    let committed = Arc::default();
    assert_eq!(rig.handle().replace_handlers(LONG, commit(&committed)), Ok(vec![]));
    assert!(committed.load(Ordering::SeqCst));
    rig.handle().drain(Some(B), LONG).unwrap();
    let without = rig.handle().replace_handlers(LONG, || {}).unwrap();
    assert_eq!(without, [NotReplaced { actor: B, handler: HandlerAge::None, state: ActorState::Stopped }]);
    let (_, status) = rig.handle().status().unwrap();
    assert_eq!((status[0].restarts, status[0].generation), (2, 1));
    assert_eq!((status[1].state.clone(), status[1].generation), (ActorState::Stopped, 1), "no actor was started");
    rig.finish();
}

#[test]
fn replacement_does_not_wait_past_its_deadline() {
    let (go, gate) = bounded::<()>(0);
    let slow = Scripted::new("slow", move |link, mailbox| {
        link.report_state(StateReport::Running);
        let _ = gate.recv();
        follow_commands(link, mailbox)
    });
    let rig = Rig::with(Settings { stall_after: LONG, end_within: LONG, ..Settings::default() }, vec![slow]);
    rig.until_state(A, "running");
    let without = rig.handle().replace_handlers(20 * MS, || {}).unwrap();
    assert_eq!((without.len(), without[0].handler), (1, HandlerAge::Pending));
    drop(go);
    assert_eq!(rig.handle().replace_handlers(LONG, || {}), Ok(vec![]));
    rig.finish();
}

#[test]
fn replacement_after_stop_changes_nothing() {
    let (go, gate) = bounded::<()>(0);
    let unresponsive = Scripted::new("unresponsive", move |link, _| {
        link.report_state(StateReport::Running);
        let _ = gate.recv();
        ActorExit::Done
    });
    let rig = Rig::new(vec![unresponsive]);
    rig.until_state(A, "running");
    let (handle, committed) = (rig.handle(), Arc::default());
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| rig.handle().stop(LONG));
        rig.until_state(A, "draining");
        let refused = handle.replace_handlers(LONG, commit(&committed));
        assert_eq!(refused, Err(CommandRefused::Stopping.into()));
        drop(go);
        stop.join().unwrap().unwrap();
    });
    rig.supervisor.join().unwrap();
    assert_eq!(handle.replace_handlers(LONG, commit(&committed)), Err(SupervisorError::Gone));
    assert!(!committed.load(Ordering::SeqCst));
}
