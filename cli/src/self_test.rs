//! Implements `oxide doctor --self-test`: sends packets through the real backend, on a veth pair in a new network
//! namespace. It touches no existing interface, leaves nothing behind, and always ends.
//!
//! ```text
//!   namespace of one thread
//!   +-----------------------------------------------------------------+
//!   |  xdp::Socket, client oxide-a ====== oxide-b   xdp::Socket, echo  |
//!   +-----------------------------------------------------------------+
//! ```
//!
//! The namespace and its content disappear with the thread and its descriptors, also when the process is killed.
//! Steps without a namespace come first, so that a user who may not create one sees all other results.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use oxide_topology::doctor::{SelfTestStep, StepOutcome};
use rtnetlink::{LinkUnspec, LinkVeth};

use oxide::packet::build::UdpFrame;
use oxide::packet::{Flow, reflect};
use oxide::port::{Burst, PortError};
use oxide::umem::{PageKind, RingSizes};
use oxide::xdp::steering::{AttachMode, Steering, SteeringError, SteeringOptions};
use oxide::xdp::{Device, Socket, SocketConfig, XdpOptions, try_memory, try_program};

/// Time limit for the whole test.
const ALL_WITHIN: Duration = Duration::from_secs(15);
/// Time limit for the packets, which take a few milliseconds.
const PACKETS_WITHIN: Duration = Duration::from_secs(5);
const ROUNDS: usize = 16;
/// This is below the smallest ring and below the 190 frames that copy mode keeps in flight.
const PER_ROUND: usize = 32;

/// Capabilities that bpf(2) needs to load an XDP program (bpf_prog_load, kernel/bpf/syscall.c).
const LOADING: &[&[&str]] = &[&["CAP_BPF", "CAP_SYS_ADMIN"], &["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]];

const ASKER: &str = "oxide-a";
const ECHO: &str = "oxide-b";
/// TEST-NET-1 (RFC 5737).
const ASKER_AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4000);
const ECHO_AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 7);

/// Runs every step in order; `packets` is the last.
#[must_use]
pub fn run() -> Vec<SelfTestStep> {
    let mut trials = vec![program(), memory()];
    let (tell, results) = mpsc::channel();
    let until = Instant::now() + ALL_WITHIN;
    let lab = thread::Builder::new().name("oxide-self-test".to_owned()).spawn(move || in_namespace(&tell));
    if let Err(error) = lab {
        let remedy = "raise ulimit -u or the cgroup's pids.max".to_owned();
        trials.push(trial("namespace", failed(format!("cannot create a thread: {error}"), remedy)));
        return trials;
    }
    // The thread drops its sender when it is done. A thread that hangs is abandoned and ends with the process.
    loop {
        match results.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(trial) => trials.push(trial),
            Err(mpsc::RecvTimeoutError::Disconnected) => return trials,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let after = trials.last().map_or("nothing", |trial| trial.step);
                let text = format!("no answer within {ALL_WITHIN:?}, after {after}");
                trials.push(trial(
                    "packets",
                    failed(text, "please report it, with the kernel's version and dmesg".into()),
                ));
                return trials;
            }
        }
    }
}

fn trial(step: &'static str, outcome: StepOutcome) -> SelfTestStep {
    let wanted = match step {
        "program" => "the kernel accepts the steering program and its maps",
        "memory" => "the kernel accepts an AF_XDP socket and its packet memory",
        "namespace" => "a network namespace for the test",
        "veth" => "a veth pair in the namespace",
        "attach" => "the program is attached to an interface",
        _ => "every packet returns unchanged",
    };
    SelfTestStep { step, wanted, outcome }
}

fn failed(text: String, remedy: String) -> StepOutcome {
    StepOutcome::Failed { text, remedy }
}

fn refused(text: impl Into<String>, needs: &'static [&'static [&'static str]], relay_needs_it: bool) -> StepOutcome {
    StepOutcome::Refused { text: text.into(), needs, relay_needs_it }
}

fn program() -> SelfTestStep {
    trial(
        "program",
        match try_program() {
            Ok(()) => StepOutcome::Done("loaded".to_owned()),
            Err(SteeringError::NotPermitted { .. }) => refused("EPERM", LOADING, true),
            Err(error) => failed(error.to_string(), "use Linux 6.1 or newer (uname -r)".to_owned()),
        },
    )
}

fn memory() -> SelfTestStep {
    use rustix::io::Errno;
    trial(
        "memory",
        match try_memory(&options()) {
            Ok(bytes) => StepOutcome::Done(format!("{} KiB registered", bytes / 1024)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::PERM | Errno::ACCESS) => refused("EPERM", &[&["CAP_NET_RAW"]], true),
                Some(Errno::NOBUFS | Errno::NOMEM) => failed(
                    format!("{error}: the memlock limit is too low for the test's memory"),
                    "ulimit -l unlimited; in a unit file LimitMEMLOCK=infinity; or CAP_IPC_LOCK".to_owned(),
                ),
                Some(Errno::AFNOSUPPORT) => failed(
                    "EAFNOSUPPORT: this kernel has no AF_XDP".to_owned(),
                    "use a kernel with CONFIG_XDP_SOCKETS=y".to_owned(),
                ),
                _ => failed(error.to_string(), "see dmesg".to_owned()),
            },
        },
    )
}

/// Returns small rings: the test checks function, not speed.
fn options() -> XdpOptions {
    let rings = RingSizes { fill: 256, rx: 128, tx: 128, completion: 128 };
    XdpOptions { rings, pages: PageKind::Base, busy_poll: None, ..XdpOptions::default() }
}

type Step = (&'static str, fn() -> StepOutcome);

/// Runs the steps that need a namespace. They have their own thread, because unshare(2) affects the calling thread.
fn in_namespace(tell: &mpsc::Sender<SelfTestStep>) {
    let steps: [Step; 4] = [("namespace", namespace), ("veth", veth), ("attach", attach), ("packets", packets)];
    let mut stopped: Option<&str> = None;
    for (step, try_it) in steps {
        let outcome = match stopped {
            Some(at) => StepOutcome::Untried { why: format!("{at} failed"), remedy: format!("see {at} above") },
            None => try_it(),
        };
        if stopped.is_none() && !matches!(outcome, StepOutcome::Done(_)) {
            stopped = Some(step);
        }
        let _ = tell.send(trial(step, outcome));
    }
}

fn namespace() -> StepOutcome {
    use rustix::io::Errno;
    use rustix::thread::UnshareFlags;
    // This function is safe without CLONE_FILES, the only reason for its deprecation.
    #[allow(deprecated)]
    let left = rustix::thread::unshare(UnshareFlags::NEWNET);
    match left {
        Ok(()) => {
            // This stops IPv6 traffic on the new link. If the file is absent or read-only, the test tolerates the
            // extra packets.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            StepOutcome::Done("created; it is removed with the test".to_owned())
        }
        Err(Errno::PERM) => refused("EPERM", &[&["CAP_SYS_ADMIN"]], false),
        Err(error) => StepOutcome::Untried {
            why: format!("cannot create a network namespace: {error}"),
            remedy: "use a kernel with CONFIG_NET_NS=y; raise sysctl user.max_net_namespaces".to_owned(),
        },
    }
}

fn veth() -> StepOutcome {
    let made = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string(), "see ulimit -n".to_owned()))
        .and_then(|runtime| runtime.block_on(make_veth()));
    made.err().unwrap_or_else(|| StepOutcome::Done(format!("{ASKER} and {ECHO}, up")))
}

async fn make_veth() -> Result<(), StepOutcome> {
    let broken = |error: std::io::Error| failed(error.to_string(), "see dmesg".to_owned());
    let (connection, handle, _) = rtnetlink::new_connection().map_err(broken)?;
    let connection = tokio::spawn(connection);
    handle.link().add(LinkVeth::new(ASKER, ECHO).build()).execute().await.map_err(netlink)?;
    for name in [ASKER, ECHO] {
        let index = Device::named(name).map_err(broken)?.ifindex;
        handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.map_err(netlink)?;
    }
    connection.abort();
    Ok(())
}

fn netlink(error: rtnetlink::Error) -> StepOutcome {
    let text = error.to_string();
    let rtnetlink::Error::NetlinkError(message) = error else { return failed(text, "see dmesg".to_owned()) };
    let error = message.to_io();
    match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::PERM) => refused("EPERM", &[&["CAP_NET_ADMIN"]], false),
        Some(rustix::io::Errno::OPNOTSUPP) => {
            StepOutcome::Untried { why: "this kernel has no veth".to_owned(), remedy: "modprobe veth".to_owned() }
        }
        _ => failed(error.to_string(), "see dmesg".to_owned()),
    }
}

fn attach() -> StepOutcome {
    match Steering::attach(ASKER, &SteeringOptions::default()) {
        Ok(steering) if steering.mode() == AttachMode::Native => StepOutcome::Done("in native mode".to_owned()),
        Ok(steering) => StepOutcome::Done(format!("in generic mode: {}", steering.why().unwrap_or("reason unknown"))),
        Err(SteeringError::NotPermitted { .. }) => refused("EPERM", LOADING, true),
        Err(error) => failed(error.to_string(), "see dmesg".to_owned()),
    }
}

fn packets() -> StepOutcome {
    match exchange() {
        Ok(seen) => StepOutcome::Done(seen),
        Err(SelfTestError::Port(PortError::Refused { source, step, .. }))
            if source.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) =>
        {
            refused(format!("EPERM at {step}"), &[&["CAP_NET_RAW"]], true)
        }
        Err(SelfTestError::Port(error)) => failed(error.to_string(), "see dmesg".to_owned()),
        Err(SelfTestError::Text(text)) => failed(text, "please report it, with the kernel's version".to_owned()),
    }
}

enum SelfTestError {
    Port(PortError),
    Text(String),
}

impl From<PortError> for SelfTestError {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}

/// Sends every frame from one end to the other and back, and compares it.
fn exchange() -> Result<String, SelfTestError> {
    let open = |interface: &str, at: SocketAddr| {
        let config = SocketConfig::new(interface, 0, at.ip(), at.port()..=at.port());
        Socket::open(SocketConfig { options: options(), ..config })
    };
    let mut asker = open(ASKER, ASKER_AT)?;
    let mut echo = open(ECHO, ECHO_AT)?;
    let started = Instant::now();
    let until = started + PACKETS_WITHIN;
    let mut back = 0;
    for round in 0..ROUNDS {
        let numbers = round * PER_ROUND..(round + 1) * PER_ROUND;
        let mut waiting: Vec<Vec<u8>> = numbers.filter_map(|number| question(number, &asker, &echo)).collect();
        ask(&mut asker, &waiting)?;
        while !waiting.is_empty() {
            if Instant::now() >= until {
                let all = ROUNDS * PER_ROUND;
                return Err(SelfTestError::Text(format!("{back} of {all} packets returned within {PACKETS_WITHIN:?}")));
            }
            answer(&mut echo)?;
            back += compare(&mut asker, &mut waiting)?;
        }
    }
    let (info, took) = (asker.info(), started.elapsed());
    let why = if info.mode_reason.is_empty() { String::new() } else { format!(" ({})", info.mode_reason) };
    Ok(format!("{back} of {back} packets returned in {} ms, {} mode{why}", took.as_millis(), info.mode))
}

/// Builds frame `number`. Its length and its bytes differ from those of its neighbours.
fn question(number: usize, asker: &Socket, echo: &Socket) -> Option<Vec<u8>> {
    let length = 2 + number * 37 % 1400;
    let mut payload: Vec<u8> = (0..length).map(|at| (at * 31 + number * 7) as u8).collect();
    payload.splice(..2, (number as u16).to_be_bytes());
    let flow = Flow { source: ASKER_AT.into(), destination: ECHO_AT.into() };
    let (source_mac, destination_mac) = (asker.info().mac, echo.info().mac);
    UdpFrame { source_mac, destination_mac, ..UdpFrame::new(flow, &payload) }.to_vec()
}

fn ask(socket: &mut Socket, frames: &[Vec<u8>]) -> Result<(), SelfTestError> {
    let mut burst = Burst::new();
    for bytes in frames {
        let mut frame = socket.take().ok_or_else(|| SelfTestError::Text("no free frame".to_owned()))?;
        if !socket.set_length(&mut frame, bytes.len() as u16) {
            return Err(SelfTestError::Text(format!("{} bytes do not fit a frame", bytes.len())));
        }
        socket.packet_mut(&mut frame).copy_from_slice(bytes);
        if let Err(full) = burst.push(frame) {
            socket.give(full);
        }
    }
    send(socket, &mut burst)
}

/// Sends the burst. Frames that do not fit the ring are dropped; then the round ends at its deadline.
fn send(socket: &mut Socket, burst: &mut Burst) -> Result<(), SelfTestError> {
    socket.send_batch(burst)?;
    for frame in burst.drain() {
        socket.give(frame);
    }
    Ok(())
}

fn answer(socket: &mut Socket) -> Result<(), SelfTestError> {
    let mut burst = Burst::new();
    socket.poll(Duration::from_millis(5))?;
    socket.recv_batch(&mut burst)?;
    for frame in burst.iter_mut() {
        reflect(socket.packet_mut(frame));
    }
    send(socket, &mut burst)
}

/// Removes each returned frame from `waiting`. An unknown frame fails the test.
fn compare(socket: &mut Socket, waiting: &mut Vec<Vec<u8>>) -> Result<usize, SelfTestError> {
    let mut burst = Burst::new();
    socket.poll(Duration::from_millis(5))?;
    let came = socket.recv_batch(&mut burst)?;
    for frame in burst.drain() {
        // A frame that is reflected again equals the frame that was sent.
        let mut bytes = socket.packet(&frame).to_vec();
        reflect(&mut bytes);
        socket.give(frame);
        let Some(at) = waiting.iter().position(|sent| *sent == bytes) else {
            return Err(SelfTestError::Text(format!("a packet of {} bytes returned that was not sent", bytes.len())));
        };
        waiting.swap_remove(at);
    }
    Ok(came)
}
