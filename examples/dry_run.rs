//! Plans for a machine that does not exist: two sockets of 32 cores, each with a NIC. It opens and changes nothing, and
//! needs no privilege.
//!
//! `cargo run --example dry_run [PICTURE.svg]`; docs/planning.md explains what it prints.

use oxide::config::EngineConfig;
use oxide::engine::EngineError;
use oxide_topology::{PlanRequest, Snapshot, plan};

/// Describes the NIC towards the clients and the NIC towards the servers.
const NICS: [&str; 2] = [
    "eth0:node=0,queues=16,max=64,speed=100G,driver=mlx5_core,mtu=1500",
    "eth1:node=1,queues=16,max=64,speed=100G,driver=mlx5_core,mtu=1500",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut machine = Snapshot::synthetic("pack:2 [numa(memory=128GiB)] l3:4 core:8 pu:2")?;
    for nic in NICS {
        machine.describe_nic(nic)?;
    }

    println!("-- one relay on each node: no packet crosses the nodes\n");
    let apart = [one(&machine, "eth0")?, one(&machine, "eth1")?];
    for plan in &apart {
        println!("{}", summary(plan));
    }

    println!("\n-- one relay over both: packets of eth1 cross the nodes, and the plan warns\n");
    let both = plan(&machine, &request(&["eth0", "eth1"])?)?;
    println!("{both}");
    println!("{}", both.tree(&machine));

    println!("-- differences from eth0 alone\n");
    for change in apart[0].diff(&both).iter().take(4) {
        println!("{change}");
    }
    if let Some(path) = std::env::args().nth(1) {
        std::fs::write(&path, both.svg(&machine))?;
        println!("\npicture: {path}");
    }
    Ok(())
}

/// Builds the request that the engine makes by default: enough frames for each queue.
fn request(interfaces: &[&str]) -> Result<PlanRequest, EngineError> {
    oxide::engine::request(&EngineConfig::new(interfaces.iter().copied()))
}

fn one(machine: &Snapshot, interface: &str) -> Result<oxide_topology::Plan, Box<dyn std::error::Error>> {
    Ok(plan(machine, &request(&[interface])?)?)
}

fn summary(plan: &oxide_topology::Plan) -> String {
    let cpus: oxide_topology::CpuList = plan.actors.iter().map(|actor| actor.cpu).collect();
    let nic = plan.actors.first().and_then(|actor| actor.ports.first()).map_or("", |port| &port.interface);
    format!("{nic}: {} actors on cpu {cpus}, {} warnings", plan.actors.len(), plan.warnings.len())
}
