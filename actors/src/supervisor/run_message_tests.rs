//! Checks the messages between actors, supervisor and observer: each one arrives or is counted as dropped.
use super::*;

#[test]
fn state_reports_are_never_lost_and_lost_telemetry_is_counted() {
    const MANY: u32 = 3000;
    const HOLD: u32 = 0;
    const TELEMETRY: u32 = 1;
    const REPORT: u32 = 2;
    const LAST: u32 = 3;
    let (go, gate) = bounded::<()>(1);
    let chatty = Scripted::new("chatty", move |link, mailbox| {
        link.report_state(StateReport::Running);
        link.report(HOLD);
        let sent = (0..MANY).filter(|_| link.telemetry(TELEMETRY)).count();
        assert!(sent <= MESSAGE_CAPACITY / 2, "the supervisor does not read, but {sent} messages were accepted");
        assert_eq!(sent as u64 + link.telemetry_dropped(), u64::from(MANY));
        go.send(()).unwrap();
        assert!((0..MANY).all(|_| link.report(REPORT)));
        link.report(LAST);
        follow_commands(link, mailbox)
    });
    let (sender, notices) = crossbeam_channel::unbounded();
    // The observer blocks the supervisor while the telemetry is sent.
    let supervisor = supervise(Settings::default(), vec![chatty], move |notice| {
        if matches!(notice, ObserverMessage::Report { report: HOLD, .. }) {
            gate.recv_timeout(LONG).unwrap();
        }
        let _ = sender.send(notice);
    })
    .unwrap();
    let mut counts = [0; 4];
    while counts[LAST as usize] == 0 {
        match notices.recv_timeout(LONG).unwrap() {
            ObserverMessage::Report { report, .. } => counts[report as usize] += 1,
            ObserverMessage::Event(event) => {
                assert!(!matches!(event, Event::Changed { to: ActorState::Restarting { .. }, .. }))
            }
        }
    }
    let dropped = supervisor.handle().status().unwrap().1[0].telemetry_dropped;
    assert_eq!(counts[TELEMETRY as usize] + dropped, u64::from(MANY));
    assert_eq!((counts[REPORT as usize], dropped > 0), (u64::from(MANY), true));
    supervisor.handle().stop(LONG).unwrap();
    supervisor.join().unwrap();
}

#[test]
fn final_snapshot_arrives_before_exit() {
    let last_report = Scripted::new("last", |link, _| {
        link.report_state(StateReport::Running);
        assert!((0..900).all(|n| link.report(n)));
        ActorExit::Refused("final refusal".into())
    });
    let rig = Rig::new(vec![last_report]);
    let mut next = 0;
    loop {
        match rig.notices.recv_timeout(LONG).unwrap() {
            ObserverMessage::Report { report, generation: 1, .. } => {
                assert_eq!(report, next);
                next += 1;
            }
            ObserverMessage::Event(Event::Changed { to: ActorState::Failed { .. }, .. }) => break,
            _ => {}
        }
    }
    assert_eq!(next, 900);
    rig.finish();
}

#[test]
fn waiting_actor_is_retried_when_woken_and_receives_messages() {
    let (notes, noted) = bounded(4);
    let mut actor = Scripted::new("waits", |link, mailbox| match link.generation() {
        1 => ActorExit::Waiting("eth7 is absent".into()),
        _ => follow_commands(link, mailbox),
    });
    actor.notes = notes;
    // The supervisor itself would not try again within the time of this test.
    let rig = Rig::with(Settings { retry_every: 10 * LONG, ..Settings::default() }, vec![actor]);
    assert_eq!(rig.until_state(A, "waiting").0, "eth7 is absent");
    rig.handle().send_engine_message(A, "new tables").unwrap();
    assert_eq!(noted.recv_timeout(LONG), Ok("new tables"));
    rig.handle().wake(A).unwrap();
    rig.until_state(A, "running");
    rig.finish();
}

#[test]
fn hundred_restarts_under_load_all_recover() {
    let policy = RestartPolicy { max_restarts: 1000, backoff_min: Duration::ZERO, ..RestartPolicy::default() };
    let policy = RestartPolicy { backoff_max: Duration::ZERO, ..policy };
    let fails = |link: &SupervisorLink<u32>, mailbox: &Mailbox<SupervisorCommand>| {
        link.report_state(StateReport::Running);
        if link.generation() <= 100 {
            return ActorExit::Failed("again".into());
        }
        follow_commands(link, mailbox)
    };
    let chatty = |link: &SupervisorLink<u32>, mailbox: &Mailbox<SupervisorCommand>| {
        link.report_state(StateReport::Running);
        loop {
            link.beat();
            link.telemetry(7);
            if let Some(SupervisorCommand::Stop) = mailbox.try_recv() {
                return ActorExit::Done;
            }
        }
    };
    let settings = Settings { policy, ..Settings::default() };
    let (sender, notices) = crossbeam_channel::unbounded();
    let actors = vec![Scripted::new("fails", fails), Scripted::new("chatty", chatty)];
    let supervisor = supervise(settings, actors, move |notice| {
        if let ObserverMessage::Event(event) = notice {
            let _ = sender.send(event);
        }
    })
    .unwrap();
    let mut runs = 0;
    while runs < 101 {
        match notices.recv_timeout(LONG).unwrap() {
            Event::Changed { actor: A, to: ActorState::Running, .. } => runs += 1,
            Event::Changed { to, .. } => assert_ne!(to.name(), "failed"),
            _ => {}
        }
    }
    let status = supervisor.handle().status().unwrap().1;
    assert_eq!((status[0].generation, status[1].generation), (101, 1));
    assert_eq!(supervisor.handle().stop(LONG), Ok(StopReport::default()));
    supervisor.join().unwrap();
}
