#![allow(clippy::unwrap_used, clippy::panic)]
use std::sync::atomic::AtomicBool;

use super::super::{CommandRefused, RestartScope, StateReport, SupervisorError};
use super::*;
use crate::executor::{ExecutorHandle, ExecutorKind, ExecutorSpec, spawn};
use crate::mailbox::{Address, Mailbox, mailbox};
use crate::policy::RestartPolicy;

const MS: Duration = Duration::from_millis(1);
/// Exceeds every wait here; a test that waits so long has failed.
const LONG: Duration = Duration::from_secs(60);
const A: ActorId = ActorId(0);
const B: ActorId = ActorId(1);

#[path = "run_message_tests.rs"]
mod messages;
#[path = "run_reload_tests.rs"]
mod reload;

type Script = Arc<dyn Fn(&SupervisorLink<u32>, &Mailbox<SupervisorCommand>) -> ActorExit + Send + Sync>;

/// Runs a function as the actor on a plain thread.
struct Scripted {
    name: String,
    script: Script,
    actor: Option<(Address<SupervisorCommand>, ExecutorHandle<ActorExit>)>,
    /// Number of commands that find a full mailbox first.
    busy: usize,
    abandoned: Arc<AtomicBool>,
    notes: Sender<&'static str>,
}

impl Scripted {
    fn new(
        name: &str,
        script: impl Fn(&SupervisorLink<u32>, &Mailbox<SupervisorCommand>) -> ActorExit + Send + Sync + 'static,
    ) -> Self {
        let (name, script) = (name.to_owned(), Arc::new(script));
        Self { name, script, actor: None, busy: 0, abandoned: Arc::default(), notes: bounded(0).0 }
    }
}

impl ActorController for Scripted {
    type Report = u32;
    type EngineMessage = &'static str;

    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, generation: u64, link: SupervisorLink<u32>) -> Result<(), ActorExit> {
        assert_ne!((self.name.as_str(), generation), ("no start", 1), "defect in start");
        if self.name == "refused" {
            return Err(ActorExit::Refused("EPERM".into()));
        }
        let (address, mailbox) = mailbox(4).map_err(|error| ActorExit::Failed(error.to_string()))?;
        let spec = ExecutorSpec { name: self.name.clone(), cpu: None, kind: ExecutorKind::Thread };
        let script = Arc::clone(&self.script);
        let handle = spawn(spec, move |_| async move { script(&link, &mailbox) });
        self.actor = Some((address, handle.map_err(|error| ActorExit::Failed(error.to_string()))?));
        Ok(())
    }

    fn command(&mut self, command: SupervisorCommand) -> Result<(), Undelivered> {
        if self.busy > 0 {
            self.busy -= 1;
            return Err(Undelivered::Busy);
        }
        let Some((address, _)) = &self.actor else { return Err(Undelivered::Gone) };
        Ok(address.try_send(command)?)
    }

    fn on_engine_message(&mut self, message: &'static str) {
        self.notes.send(message).unwrap();
    }

    fn poll_end(&mut self) -> Option<ActorExit> {
        let (_, handle) = self.actor.as_mut()?;
        let end = handle.join_timeout(Duration::ZERO)?;
        self.actor = None;
        Some(end.into())
    }

    fn abandon(&mut self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }
}

/// Sends heartbeats until a command arrives.
fn command(link: &SupervisorLink<u32>, mailbox: &Mailbox<SupervisorCommand>) -> SupervisorCommand {
    loop {
        link.beat();
        if let Some(command) = mailbox.try_recv() {
            return command;
        }
        mailbox.wait(&[], 5 * MS, || false);
    }
}

/// Reports `Running` and follows each command.
fn follow_commands(link: &SupervisorLink<u32>, mailbox: &Mailbox<SupervisorCommand>) -> ActorExit {
    link.report_state(StateReport::Running);
    loop {
        match command(link, mailbox) {
            SupervisorCommand::Stop => return ActorExit::Done,
            SupervisorCommand::Drain { .. } => link.report_state(StateReport::Drained),
            _ => link.report_state(StateReport::Running),
        };
    }
}

struct Rig {
    supervisor: Supervisor<&'static str>,
    notices: Receiver<ObserverMessage<u32>>,
}

impl Rig {
    fn new(actors: Vec<Scripted>) -> Self {
        Self::with(Settings::default(), actors)
    }

    fn with(settings: Settings, actors: Vec<Scripted>) -> Self {
        let (sender, notices) = crossbeam_channel::unbounded();
        let supervisor = supervise(settings, actors, move |notice| drop(sender.send(notice))).unwrap();
        Self { supervisor, notices }
    }

    fn handle(&self) -> SupervisorHandle<&'static str> {
        self.supervisor.handle()
    }

    /// Reads messages up to the first one for which `wanted` returns a value.
    fn until<A>(&self, wanted: impl Fn(&ObserverMessage<u32>) -> Option<A>) -> A {
        loop {
            let notice = self.notices.recv_timeout(LONG).unwrap();
            if let Some(answer) = wanted(&notice) {
                return answer;
            }
        }
    }

    /// Reads messages until `actor` reaches the state `name`.
    fn until_state(&self, actor: ActorId, name: &str) -> (String, Option<Duration>) {
        self.until(|notice| match notice {
            ObserverMessage::Event(Event::Changed { actor: w, to, cause, gap, .. })
                if *w == actor && to.name() == name =>
            {
                Some((cause.to_string(), *gap))
            }
            _ => None,
        })
    }

    /// Stops the supervisor and checks that every actor ended.
    fn finish(self) {
        assert_eq!(self.handle().stop(LONG), Ok(StopReport::default()));
        self.supervisor.join().unwrap();
    }
}

#[test]
fn panic_restarts_its_actor_only_and_reports_cause_and_gap() {
    let fails = |link: &SupervisorLink<u32>, mailbox: &Mailbox<SupervisorCommand>| {
        if link.generation() <= 2 {
            link.report_state(StateReport::Running);
            panic!("run {}", link.generation());
        }
        follow_commands(link, mailbox)
    };
    let rig = Rig::new(vec![Scripted::new("fails", fails), Scripted::new("healthy", follow_commands)]);
    for run in 1..=2 {
        assert_eq!(rig.until_state(A, "restarting").0, format!("panicked: run {run}"));
    }
    let (cause, gap) = rig.until_state(A, "running");
    assert_eq!((cause.as_str(), gap.is_some()), ("opened", true));
    let (health, status) = rig.handle().status().unwrap();
    assert_eq!(health, EngineHealth::Healthy);
    assert_eq!((status[0].generation, status[0].restarts, status[0].state.name()), (3, 2, "running"));
    assert_eq!((status[1].generation, status[1].restarts, status[1].name.as_str()), (1, 0, "healthy"));
    rig.finish();
}

#[test]
fn handler_failure_is_answered_by_command_after_backoff() {
    let soft = |link: &SupervisorLink<u32>, mailbox: &Mailbox<SupervisorCommand>| {
        link.report_state(StateReport::Running);
        link.report_state(StateReport::SoftFailed("handler: index 9".into()));
        assert_eq!(command(link, mailbox), SupervisorCommand::RestartHandler { inherit: true });
        follow_commands(link, mailbox)
    };
    let rig = Rig::new(vec![Scripted::new("soft", soft)]);
    assert_eq!(rig.until_state(A, "restarting").0, "handler: index 9");
    let (cause, gap) = rig.until_state(A, "running");
    assert_eq!(cause, "handler restarted");
    assert!(gap.is_some());
    assert_eq!(rig.handle().status().unwrap().1[0].generation, 1);
    // An operator may request both scopes.
    rig.handle().restart(A, RestartScope::Handler, 0).unwrap();
    assert_eq!(rig.until_state(A, "running").0, "handler restarted");
    assert_eq!(
        rig.handle().restart(B, RestartScope::Handler, 0),
        Err(CommandRefused::Unknown { actor: B, actors: 1 }.into())
    );
    rig.finish();
}

#[test]
fn panic_during_start_is_an_ordinary_failure() {
    let rig = Rig::new(vec![Scripted::new("no start", follow_commands)]);
    assert!(rig.until_state(A, "restarting").0.contains("defect in start"));
    rig.until_state(A, "running");
    rig.finish();
}

#[test]
fn restart_storm_degrades_engine_and_leaves_others_running() {
    let policy = RestartPolicy { backoff_min: Duration::ZERO, backoff_max: Duration::ZERO, ..RestartPolicy::default() };
    let settings = Settings { policy, ..Settings::default() };
    let storm = Scripted::new("storm", |_, _| ActorExit::Failed("no frames".into()));
    let rig = Rig::with(settings, vec![storm, Scripted::new("healthy", follow_commands)]);
    rig.until(|notice| (*notice == ObserverMessage::Event(Event::Health(EngineHealth::Degraded))).then_some(()));
    let (_, status) = rig.handle().status().unwrap();
    assert_eq!((status[0].generation, status[0].state.name()), (6, "failed"));
    // The supervisor may not have waited for the other actor.
    assert!(matches!(status[1].state, ActorState::Opening | ActorState::Running));
    rig.finish();
}

#[test]
fn consequences_of_refused_start_are_reported_after_their_cause() {
    let rig = Rig::new(vec![Scripted::new("refused", follow_commands)]);
    let next_health = || {
        rig.until(|notice| match notice {
            ObserverMessage::Event(Event::Health(health)) => Some(*health),
            _ => None,
        })
    };
    assert_eq!(next_health(), EngineHealth::Degraded);
    rig.handle().restart(A, RestartScope::Queue, 0).unwrap();
    assert_eq!((next_health(), next_health()), (EngineHealth::Healthy, EngineHealth::Degraded));
    assert_eq!(rig.handle().status().unwrap().0, EngineHealth::Degraded);
    rig.finish();
}

#[test]
fn commands_for_full_mailbox_arrive_later_in_order() {
    let mut actor = Scripted::new("busy", |link, mailbox| {
        link.report_state(StateReport::Running);
        assert!(matches!(command(link, mailbox), SupervisorCommand::Drain { .. }));
        assert_eq!(command(link, mailbox), SupervisorCommand::Stop);
        ActorExit::Done
    });
    actor.busy = 2;
    let rig = Rig::new(vec![actor]);
    rig.until_state(A, "running");
    // The drain's deadline passes at once, so the stop follows before the actor receives the drain.
    assert_eq!(rig.handle().drain(None, Duration::ZERO), Ok(StopReport::default()));
    assert_eq!(rig.until_state(A, "stopped").0, "ended");
    rig.finish();
}

#[test]
fn drained_actor_stops_and_can_be_restarted() {
    let rig = Rig::new(vec![Scripted::new("a", follow_commands), Scripted::new("b", follow_commands)]);
    rig.until_state(A, "running");
    assert_eq!(rig.handle().drain(Some(A), LONG), Ok(StopReport::default()));
    assert_eq!(rig.handle().status().unwrap().1[0].state, ActorState::Stopped);
    rig.until_state(A, "stopped");
    rig.handle().restart(A, RestartScope::Handler, 0).unwrap();
    rig.until_state(A, "running");
    assert_eq!(rig.handle().drain(None, LONG), Ok(StopReport::default()));
    assert!(rig.handle().status().unwrap().1.iter().all(|status| status.state == ActorState::Stopped));
    rig.finish();
}

#[test]
fn unresponsive_actor_is_abandoned_and_named() {
    let (go, gate) = bounded::<()>(0);
    let unresponsive = Scripted::new("unresponsive", move |link, _| {
        link.report_state(StateReport::Running);
        let _ = gate.recv();
        ActorExit::Done
    });
    let abandoned = Arc::clone(&unresponsive.abandoned);
    let rig = Rig::new(vec![unresponsive, Scripted::new("b", follow_commands)]);
    rig.until_state(A, "running");
    assert_eq!(rig.handle().stop(20 * MS), Ok(StopReport { not_ended: vec!["unresponsive".to_owned()] }));
    assert!(abandoned.load(Ordering::SeqCst));
    let handle = rig.handle();
    rig.supervisor.join().unwrap();
    assert_eq!(handle.restart(A, RestartScope::Queue, 0), Err(SupervisorError::Gone));
    assert_eq!(handle.status(), Err(SupervisorError::Gone));
    drop(go);
}

#[test]
fn stopped_and_resumed_heartbeat_are_reported() {
    let (go, gate) = bounded::<()>(0);
    let stalls = Scripted::new("stalls", move |link, mailbox| {
        link.report_state(StateReport::Running);
        let _ = gate.recv();
        follow_commands(link, mailbox)
    });
    let rig = Rig::with(Settings { stall_after: 20 * MS, ..Settings::default() }, vec![stalls]);
    let age = rig.until(|notice| match notice {
        ObserverMessage::Event(Event::Stalled { actor: A, age }) => Some(*age),
        _ => None,
    });
    assert!(age > 20 * MS);
    assert!(rig.handle().status().unwrap().1[0].stalled);
    drop(go);
    rig.until(|notice| (*notice == ObserverMessage::Event(Event::Recovered { actor: A })).then_some(()));
    rig.finish();
}

#[test]
fn last_handle_dropped_stops_everything() {
    let rig = Rig::new(vec![Scripted::new("a", follow_commands), Scripted::new("b", follow_commands)]);
    rig.until_state(A, "running");
    let Rig { supervisor, notices } = rig;
    supervisor.join().unwrap();
    let stopped = notices
        .iter()
        .filter(|notice| matches!(notice, ObserverMessage::Event(Event::Changed { to: ActorState::Stopped, .. })));
    assert_eq!(stopped.count(), 2);
}
