//! The life of one actor in the simulation: the real [`Worker`] over simulated ports, and around it,
//! stepped by hand, what `queue/actor.rs` and `engine/worker.rs` do with threads and clocks.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use oxide_actors::mailbox::{Address, Inbox, mailbox};
use oxide_actors::supervisor::{Command, End, Input, Word, WorkerId};

use super::app::{App, AppHandler};
use super::forward::Fused;
use crate::port::sim::{SimBackend, SimNet, SimPort};
use crate::port::{Backend, Port, PortError, QueueId};
use crate::queue::{Exit, Parcel, Parts, Peers, QueueCounters, QueueInfo, Worker};
use crate::simd::Processor;

/// Packets of other queues that may wait for one actor.
const PARCELS: usize = 512;
/// How long opening tries again while a queue is busy, as the AF_XDP port does.
const BUSY_DEADLINE: Duration = Duration::from_secs(2);
/// How long an actor that is told to stop may finish what is under way, as in the engine.
const STOP_WITHIN: Duration = Duration::from_millis(500);
/// How often the books are looked at, as in the actor.
const SNAPSHOT: Duration = Duration::from_millis(100);

/// What an actor's ended lives counted, and what they took with them.
#[derive(Debug, Clone, Default)]
pub(super) struct Ended {
    pub(super) counters: QueueCounters,
    /// Lives that ended.
    pub(super) lives: u64,
    /// Packets in hand, waiting for a TX ring or a next hop.
    pub(super) in_hand: u64,
    /// Descriptors the ledger refused.
    pub(super) bad_descriptors: u64,
}

/// The handler of every simulated actor.
type H = Fused<AppHandler>;

pub(super) struct Life {
    pub(super) worker: Worker<SimPort, H>,
    info: QueueInfo,
    parked_told: bool,
    draining: bool,
    drained_told: bool,
    stop_by: Option<Instant>,
    next_snapshot: Instant,
}

enum Phase {
    Down,
    Opening { by: Instant },
    Up(Box<Life>),
}

pub(super) struct SimActor {
    pub(super) id: WorkerId,
    pub(super) queue: u32,
    pub(super) ids: Vec<QueueId>,
    pub(super) ended: Ended,
    /// Lit: the handler panics at its next batch.
    pub(super) fuse: Rc<Cell<bool>>,
    /// Steps in which it gets no time on its core.
    pub(super) stalled: u32,
    pub(super) last_beat: Instant,
    generation: u64,
    queues: u32,
    net: SimNet,
    app: Rc<App>,
    phase: Phase,
}

impl SimActor {
    pub(super) fn new(queue: u32, queues: u32, ids: Vec<QueueId>, net: &SimNet, app: &Rc<App>, now: Instant) -> Self {
        Self {
            id: WorkerId(queue as usize),
            queue,
            ids,
            ended: Ended::default(),
            fuse: Rc::default(),
            stalled: 0,
            last_beat: now,
            generation: 0,
            queues,
            net: net.clone(),
            app: app.clone(),
            phase: Phase::Down,
        }
    }

    pub(super) fn life(&mut self) -> Option<&mut Life> {
        match &mut self.phase {
            Phase::Up(life) => Some(life),
            _ => None,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Down)
    }

    pub(super) fn start(&mut self, generation: u64, now: Instant) {
        self.generation = generation;
        self.last_beat = now;
        self.phase = Phase::Opening { by: now + BUSY_DEADLINE };
    }

    pub(super) fn obey(&mut self, command: Command, now: Instant) -> Option<Input> {
        let (id, generation) = (self.id, self.generation);
        let fuse = self.fuse.clone();
        let Phase::Up(life) = &mut self.phase else {
            let opening = matches!(self.phase, Phase::Opening { .. });
            if opening && command == Command::Stop {
                self.phase = Phase::Down;
                return Some(Input::Ended { worker: id, generation, end: End::Done });
            }
            return None;
        };
        match command {
            Command::Stop => {
                life.worker.set_draining(true);
                // A dead port is off already.
                let _ = life.worker.steer(false);
                life.stop_by = Some(now + STOP_WITHIN);
            }
            Command::Drain { .. } => {
                life.worker.set_draining(true);
                life.draining = true;
            }
            // The simulated engine restarts whole actors.
            Command::RestartPart(_) | Command::MendParts => {}
            Command::RestartHandler { inherit } => {
                life.info = life.info.for_next_handler();
                let make = || Fused::new(self.app.handler(&life.info), fuse.clone());
                let word = match life.worker.replace_handler(make, inherit) {
                    Ok(_) => Word::Running,
                    Err(words) => Word::SoftFailed(words),
                };
                life.parked_told = false;
                return Some(Input::Said { worker: id, generation, word });
            }
        }
        None
    }

    /// One turn of the actor's loop. What it has to say goes to `said`; an inbox it opened is returned.
    pub(super) fn turn(&mut self, now: Instant, said: &mut Vec<Input>) -> Option<Address<Parcel>> {
        if self.stalled > 0 {
            self.stalled -= 1;
            return None;
        }
        self.last_beat = now;
        let (worker, generation) = (self.id, self.generation);
        match &mut self.phase {
            Phase::Down => None,
            Phase::Opening { by } => {
                let by = *by;
                match self.open(now) {
                    Ok((life, address)) => {
                        self.phase = Phase::Up(Box::new(life));
                        said.push(Input::Said { worker, generation, word: Word::Running });
                        Some(address)
                    }
                    Err(error) if error.is_transient() && now < by => None,
                    Err(error) => {
                        self.phase = Phase::Down;
                        said.push(Input::Ended { worker, generation, end: Exit::NotOpened(error).end() });
                        None
                    }
                }
            }
            Phase::Up(life) => {
                let mut say = |word| said.push(Input::Said { worker, generation, word });
                if let Some(end) = life.turn(now, &mut say) {
                    self.close();
                    said.push(Input::Ended { worker, generation, end });
                }
                None
            }
        }
    }

    fn open(&self, now: Instant) -> Result<(Life, Address<Parcel>), PortError> {
        let (umem, ports) = SimBackend::new(&self.net, &self.ids).open()?;
        let refused = |e: &dyn std::fmt::Display| PortError::Steering {
            id: self.ids[0].clone(),
            text: format!("making an inbox: {e}"),
        };
        let (_, bell) = mailbox::<()>(1).map_err(|e| refused(&e))?;
        let (address, inbox) = Inbox::with_doorbell(PARCELS, bell.doorbell()).map_err(|e| refused(&e))?;
        let info = QueueInfo {
            queue: self.queue,
            queues: self.queues,
            ports: ports.iter().map(|port| port.info().clone()).collect(),
            rss: vec![None; ports.len()],
            changes: 0,
            processor: Processor::detect(),
            // Another one for each life, as the engine has it.
            seed: u64::from(self.queue) << 32 ^ self.generation,
        };
        let parts = Parts {
            umem,
            ports: ports.into_iter().map(Some).collect(),
            handler: Fused::new(self.app.handler(&info), self.fuse.clone()),
            processor: info.processor,
            info: info.clone(),
            peers: Peers::new(inbox, self.queues),
            batch_size: 64,
        };
        let mut worker = Worker::new(parts, now);
        worker.set_tables(Box::new(self.app.tables(&self.net)));
        worker.steer(true)?;
        let life = Life {
            worker,
            info,
            parked_told: false,
            draining: false,
            drained_told: false,
            stop_by: None,
            next_snapshot: now,
        };
        Ok((life, address))
    }

    /// The kernel's step for each of this actor's ports. It goes on while the actor is stalled.
    pub(super) fn run_kernel(&mut self) {
        if let Phase::Up(life) = &mut self.phase {
            let (umem, ports) = life.worker.kernel_side();
            for port in ports {
                port.run_kernel(umem);
            }
        }
    }

    fn close(&mut self) {
        if let Phase::Up(mut life) = std::mem::replace(&mut self.phase, Phase::Down) {
            // Not an error: a port that is gone is off already.
            let _ = life.worker.steer(false);
            add(&mut self.ended.counters, life.worker.counters());
            self.ended.lives += 1;
            self.ended.in_hand += life.worker.in_hand() as u64;
            self.ended.bad_descriptors += life.bad_descriptors();
        }
    }

    /// Everything this actor counted in all its lives.
    pub(super) fn counters(&mut self) -> QueueCounters {
        let mut sum = self.ended.counters.clone();
        if let Some(life) = self.life() {
            add(&mut sum, life.worker.counters());
        }
        sum
    }
}

impl Life {
    fn turn(&mut self, now: Instant, say: &mut impl FnMut(Word)) -> Option<End> {
        let turn = match self.worker.turn(now) {
            Ok(turn) => turn,
            Err((_, error)) => return Some(End::Failed(error.to_string())),
        };
        if let Some(words) = self.worker.parked()
            && !self.parked_told
        {
            say(Word::SoftFailed(words.to_owned()));
            self.parked_told = true;
        }
        if now >= self.next_snapshot {
            self.next_snapshot = now + SNAPSHOT;
            if let Some((_, error)) = self.worker.lame(now) {
                return Some(End::Failed(error.to_string()));
            }
            if !self.worker.balanced() {
                return Some(Exit::Leaked.end());
            }
            if self.draining && !self.drained_told && self.worker.quiescent() {
                self.drained_told = true;
                say(Word::Drained);
            }
        }
        let by = self.stop_by?;
        (now >= by || turn.packets == 0 && self.worker.quiescent()).then(|| Exit::Stopped.end())
    }

    pub(super) fn bad_descriptors(&self) -> u64 {
        self.worker.ports().map(|port| port.counters().bad_descriptors).sum()
    }
}

fn add(sum: &mut QueueCounters, more: &QueueCounters) {
    sum.received += more.received;
    sum.taken_over += more.taken_over;
    sum.forwarded += more.forwarded;
    sum.handed_over += more.handed_over;
    sum.drops.merge(&more.drops);
    sum.batches.merge(&more.batches);
    sum.turns += more.turns;
}
