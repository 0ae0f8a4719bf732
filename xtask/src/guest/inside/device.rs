//! Tests of device settings and device faults.

use super::lab::{bring_up, driver, read, run_line, wait_until, write};
use super::relay::{Relay, all_entries, log, oxide, recovers, states};
use super::traffic::{Entry, Server, exchange};
use super::zero_copy::REQUIRED;
use crate::process::{Result, failed};
use std::fs;

/// Device settings that busy polling changes.
fn settings() -> Result<Vec<String>> {
    let mut values = vec![];
    for port in ["ra", "rb"] {
        for name in ["napi_defer_hard_irqs", "gro_flush_timeout"] {
            values.push(format!("{port}.{name}={}", read(&format!("/sys/class/net/{port}/{name}"))?));
        }
    }
    Ok(values)
}

/// Settings are put back after SIGTERM, and after a start that follows kill -9.
pub(super) fn restored(_: &Server) -> Result<String> {
    write("/sys/class/net/ra/napi_defer_hard_irqs", "7")?;
    let before = settings()?;
    let check = |when: &str| {
        let now = settings()?;
        if now == before { Ok(()) } else { failed(format!("{when}: {now:?}; expected {before:?}")) }
    };
    let result = (|| {
        let relay = Relay::start(REQUIRED)?;
        let during = settings()?;
        relay.stop()?;
        check("after SIGTERM")?;
        Relay::start(REQUIRED)?.kill()?;
        Relay::start(REQUIRED)?.stop()?;
        check("after kill -9, a start and SIGTERM")?;
        Ok(during.join(" "))
    })();
    write("/sys/class/net/ra/napi_defer_hard_irqs", "0")?;
    let during = result?;
    Ok(format!("restored; while running {during}"))
}

/// The driver is unbound and bound again under a running relay.
pub(super) fn rebind(_: &Server) -> Result<String> {
    let relay = Relay::start(REQUIRED)?;
    exchange(Entry::Four, 8, 40, 1200)?.check("before")?;
    let device = fs::canonicalize("/sys/class/net/ra/device").unwrap_or_default();
    let device = device.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = format!("/sys/bus/pci/drivers/{}", driver("ra"));
    write(&format!("{folder}/unbind"), &device)?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    write(&format!("{folder}/bind"), &device)?;
    bring_up(2, "ra")?;
    recovers("after bind")?;
    no_permission_errors()?;
    relay.stop()?;
    Ok(format!("{device} relays again"))
}

/// The card is unplugged and another one is plugged in.
pub(super) fn unplug(_: &Server) -> Result<String> {
    let relay = Relay::start(REQUIRED)?;
    exchange(Entry::Four, 8, 40, 1200)?.check("before")?;
    println!("@monitor device_del nic2");
    wait_until("the card is gone", 60, || !super::lab::exists("/sys/class/net/ra"))?;
    println!("@monitor device_add igb,id=nic2,bus=rp2,netdev=h2,mac=52:54:00:00:00:02");
    bring_up(2, "ra")?;
    recovers("after the replacement")?;
    no_permission_errors()?;
    relay.stop()?;
    Ok("the replaced card relays".to_owned())
}

/// Settings of a re-created interface must not be refused by the relay's own sandbox.
fn no_permission_errors() -> Result<()> {
    match log().lines().find(|line| line.contains("ermission denied")) {
        None => Ok(()),
        Some(line) => failed(format!("the sandbox refuses the new device: {line}")),
    }
}

/// A queue restarted while its CPU is offline runs elsewhere, and is pinned again when the CPU is back.
pub(super) fn cpu_offline(_: &Server) -> Result<String> {
    let relay = Relay::start(REQUIRED)?;
    let online = "/sys/devices/system/cpu/cpu2/online";
    let queue = queue_of_cpu(&relay, "2");
    let result = queue.and_then(|queue| {
        write(online, "0")?;
        let (restarted, text) = oxide(&format!("ctl restart ra:{queue} --depth queue"))?;
        if !restarted {
            return failed(format!("restart: {text}"));
        }
        std::thread::sleep(std::time::Duration::from_secs(3));
        wait_until("all queues run without their CPU", 30, || states().iter().all(|state| state == "running"))?;
        recovers("with the CPU offline")?;
        write(online, "1")?;
        wait_until("the queue is pinned to its CPU again", 30, || queue_of_cpu(&relay, "2").is_ok())?;
        all_entries(&[300])?;
        Ok(format!("queue {queue} ran elsewhere and is back on CPU 2"))
    });
    let _ = write(online, "1");
    let seen = result?;
    relay.stop()?;
    Ok(seen)
}

/// The queue whose thread may run on this CPU only.
fn queue_of_cpu(relay: &Relay, cpu: &str) -> Result<String> {
    let tasks = format!("/proc/{}/task", relay.pid());
    for task in fs::read_dir(&tasks).into_iter().flatten().flatten() {
        let task = task.path().display().to_string();
        let allowed = read(&format!("{task}/status")).unwrap_or_default();
        let allowed = allowed.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
        let name = read(&format!("{task}/comm")).unwrap_or_default();
        if let Some(queue) = name.strip_prefix("oxide-q").filter(|_| allowed.trim() == cpu) {
            return Ok(queue.to_owned());
        }
    }
    failed(format!("no queue is pinned to CPU {cpu}"))
}

/// The link of a port is lost for a while; sessions and sockets stay.
pub(super) fn link(_: &Server) -> Result<String> {
    let relay = Relay::start(REQUIRED)?;
    exchange(Entry::Four, 8, 40, 1200)?.check("before")?;
    println!("@monitor set_link nic2 off");
    wait_until("carrier is lost", 30, || read("/sys/class/net/ra/carrier").is_ok_and(|carrier| carrier == "0"))?;
    println!("@monitor set_link nic2 on");
    recovers("after carrier is back")?;
    run_line("ip link set ra down")?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    run_line("ip link set ra up")?;
    run_line("ip addr add 2001:db8:1::1/64 dev ra nodad")?;
    recovers("after admin down and up")?;
    relay.stop()?;
    Ok("carrier loss and admin down".to_owned())
}
