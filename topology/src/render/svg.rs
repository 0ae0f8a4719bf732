//! Draws the plan: NICs with their queues on the left, nodes with cores and memory on the right, and arrows between
//! them. Arrows that cross nodes are dashed and red.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::cpus::CpuList;
use crate::plan::Plan;
use crate::snapshot::{Core, Nic, Snapshot};

use super::table::bytes;

const NIC_X: u32 = 20;
const NIC_WIDTH: u32 = 230;
const NODE_X: u32 = 430;
const CELL: u32 = 38;
const THREAD: u32 = 18;
const COLUMNS: u32 = 16;
const QUEUES_IN_ROW: u32 = 20;
/// Width of the label above an arrow's start.
const LABEL: u32 = 104;
/// Distance between the starts of two arrows.
const ARROW: u32 = 15;

const STYLE: &str = "text{font:12px sans-serif;fill:#1f2933}.b{font-weight:bold}.s{font-size:10px}.t{font-size:8px}.w{fill:#fff}.h{paint-order:stroke;\
stroke:#fff;stroke-width:3px}\
.box{fill:#f7f9fb;stroke:#9aa5b1}.core{fill:#fff;stroke:#9aa5b1}.free{fill:#e4e7eb}.actor{fill:#1f6fb2}\
.shared{fill:#d98e04}.housekeeping{fill:#52606d}.out{fill:#fff;stroke:#cbd2d9;stroke-dasharray:2 2}.queue{fill:#1f6fb2}\
.idle{fill:#cbd2d9}.near{stroke:#2e7d32;fill:none;stroke-width:2}.far{stroke:#c62828;fill:none;stroke-width:2;\
stroke-dasharray:7 4}.nt{fill:#2e7d32}.ft{fill:#c62828}";

/// Groups queues by NIC and by the node of their cores. Each group has one arrow, because hundreds of lines would
/// hide the machine.
type Arrows<'a> = BTreeMap<(&'a str, Option<u32>), CpuList>;

/// Holds the box of a node.
struct Frame<'a> {
    id: Option<u32>,
    y: u32,
    height: u32,
    cores: Vec<&'a Core>,
    threads: u32,
}

/// Escapes a text for XML. XML cannot contain control characters, and names in a file can.
fn escape(text: &str) -> String {
    text.replace(char::is_control, "?")
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn text(out: &mut String, x: u32, y: u32, class: &str, content: &str) {
    let _ = write!(out, "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}</text>", escape(content));
}

fn rectangle(out: &mut String, (x, y, width, height): (u32, u32, u32, u32), class: &str, radius: u32) {
    let _ = write!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"{radius}\" class=\"{class}\"/>"
    );
}

impl Plan {
    /// Draws the machine of `snapshot` with this plan: one SVG document without scripts and external references.
    #[must_use]
    pub fn svg(&self, snapshot: &Snapshot) -> String {
        let frames = frames(snapshot);
        let arrows = self.arrows(snapshot);
        let nics = self.nic_places(snapshot, &frames, &arrows);
        let bottom =
            frames.iter().map(|f| f.y + f.height).chain(nics.iter().map(|(_, y, h)| y + h)).max().unwrap_or(60);
        let (width, height) = (NODE_X + COLUMNS * CELL + 40, bottom + 50);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} \
             {height}\"><style>{STYLE}</style>"
        );
        for (class, colour) in [("n", "#2e7d32"), ("f", "#c62828")] {
            let _ = write!(
                out,
                "<marker id=\"{class}\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"6\" markerHeight=\"6\" \
                 orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"{colour}\"/></marker>"
            );
        }
        rectangle(&mut out, (0, 0, width, height), "w", 0);
        text(&mut out, NIC_X, 26, "b", &snapshot.source);
        for frame in &frames {
            self.draw_node(&mut out, snapshot, frame);
        }
        for (nic, y, height) in &nics {
            self.draw_nic(&mut out, nic, *y, *height);
        }
        draw_arrows(&mut out, &arrows, &frames, &nics);
        legend(&mut out, bottom + 22);
        out.push_str("</svg>\n");
        out
    }

    /// Places each NIC next to its node, one below the other.
    fn nic_places<'a>(
        &self,
        snapshot: &'a Snapshot,
        frames: &[Frame<'_>],
        arrows: &Arrows<'_>,
    ) -> Vec<(&'a Nic, u32, u32)> {
        let serves = |nic: &&Nic| self.actors.iter().any(|a| a.ports.iter().any(|p| p.interface == nic.name));
        let wanted = |nic: &Nic| {
            let only = if let [frame] = frames { Some(frame) } else { None };
            frames.iter().find(|f| f.id == nic.numa_node).or(only).map_or(u32::MAX, |f| f.y)
        };
        let mut nics: Vec<&Nic> = snapshot.nics.iter().filter(serves).collect();
        nics.sort_by_key(|nic| (wanted(nic), nic.name.clone()));
        let mut free = 44;
        let mut places = Vec::new();
        for nic in nics {
            let lines = arrows.keys().filter(|(name, _)| *name == nic.name).count() as u32;
            let queues = 52 + 12 * nic.rx_queues.unwrap_or(0).min(400).div_ceil(QUEUES_IN_ROW);
            let height = queues.max(24 + ARROW * lines);
            let wanted = wanted(nic);
            let y = if wanted == u32::MAX { free } else { free.max(wanted) };
            places.push((nic, y, height));
            free = y + height + 14;
        }
        places
    }

    fn draw_node(&self, out: &mut String, snapshot: &Snapshot, frame: &Frame<'_>) {
        rectangle(out, (NODE_X, frame.y, COLUMNS * CELL + 16, frame.height), "box", 6);
        let node = frame.id.and_then(|id| snapshot.machine.node(id));
        let mut title = frame.id.map_or_else(|| "node unknown".to_owned(), |id| format!("node {id}"));
        if let Some(memory) = node.and_then(|node| node.memory_bytes) {
            title.push_str(&format!(" · {}", bytes(memory)));
        }
        text(out, NODE_X + 8, frame.y + 17, "b", &title);
        let packet =
            self.actors.iter().filter(|a| a.numa_node == frame.id).fold(0_u64, |s, a| s.saturating_add(a.umem_bytes));
        text(out, NODE_X + 250, frame.y + 17, "", &format!("packet memory {}", bytes(packet)));
        let kept: CpuList = self.housekeeping.iter().copied().collect();
        let usable = snapshot.usable_cpus();
        for (core, index) in frame.cores.iter().zip(0_u32..) {
            let x = NODE_X + 8 + (index % COLUMNS) * CELL;
            let y = frame.y + 26 + (index / COLUMNS) * (frame.threads * THREAD + 8);
            rectangle(out, (x, y, CELL - 4, core.cpus.len() as u32 * THREAD + 2), "core", 2);
            for (cpu, row) in core.cpus.iter().zip(0_u32..) {
                let on: Vec<u32> = self.actors.iter().filter(|a| a.cpu == cpu).map(|a| a.queue).collect();
                let (class, ink, label) = match on.as_slice() {
                    [] if kept.contains(cpu) => ("housekeeping", "s w", "hk".to_owned()),
                    [] if !usable.contains(cpu) => ("out", "s", cpu.to_string()),
                    [] => ("free", "s", cpu.to_string()),
                    // Four digits fill the box.
                    [queue] if *queue > 999 => ("actor", "t w", format!("q{queue}")),
                    [queue] => ("actor", "s w", format!("q{queue}")),
                    [queue, ..] => ("shared", "s w", format!("q{queue}+")),
                };
                let top = y + 1 + row * THREAD;
                let queues: CpuList = on.into_iter().collect();
                let _ = write!(out, "<g><title>cpu {cpu}, queues [{queues}]</title>");
                rectangle(out, (x + 1, top, CELL - 6, THREAD - 1), class, 2);
                text(out, x + 5, top + 12, ink, &label);
                out.push_str("</g>");
            }
        }
    }

    fn draw_nic(&self, out: &mut String, nic: &Nic, y: u32, height: u32) {
        rectangle(out, (NIC_X, y, NIC_WIDTH, height), "box", 6);
        let node = nic.numa_node.map_or_else(|| "node unknown".to_owned(), |id| format!("node {id}"));
        text(out, NIC_X + 8, y + 17, "b", &nic.name);
        text(out, NIC_X + 140, y + 17, "s", &node);
        let queues = nic.rx_queues.map(|queues| format!("{queues} queues"));
        let facts: Vec<String> =
            [nic.driver.clone(), queues, nic.speed_mbps.map(super::table::speed)].into_iter().flatten().collect();
        text(out, NIC_X + 8, y + 34, "s", &facts.join(" · "));
        let served: CpuList = self
            .actors
            .iter()
            .filter(|actor| actor.ports.iter().any(|port| port.interface == nic.name))
            .map(|actor| actor.queue)
            .collect();
        for queue in 0..nic.rx_queues.unwrap_or(0).min(400) {
            let (x, row) = (NIC_X + 9 + (queue % QUEUES_IN_ROW) * 10, queue / QUEUES_IN_ROW);
            let class = if served.contains(queue) { "queue" } else { "idle" };
            rectangle(out, (x, y + 42 + row * 12, 8, 9), class, 1);
        }
    }

    fn arrows(&self, snapshot: &Snapshot) -> Arrows<'_> {
        let mut arrows = Arrows::new();
        for actor in &self.actors {
            let node = snapshot.machine.core_of(actor.cpu).and_then(|core| core.node);
            for port in &actor.ports {
                arrows.entry((&port.interface, node)).or_default().insert(actor.queue);
            }
        }
        arrows
    }
}

fn draw_arrows(out: &mut String, arrows: &Arrows<'_>, frames: &[Frame<'_>], nics: &[(&Nic, u32, u32)]) {
    for ((nic, y, _), from) in nics.iter().zip(0_u32..) {
        let own = arrows.iter().filter(|((name, _), _)| *name == nic.name);
        for (((_, node), queues), turn) in own.zip(0_u32..) {
            let Some(frame) = frames.iter().find(|frame| frame.id == *node) else { continue };
            let crosses = nic.numa_node.is_some() && node.is_some() && nic.numa_node != *node && frames.len() > 1;
            let (line, marker, ink) = if crosses { ("far", "f", "s h ft") } else { ("near", "n", "s h nt") };
            let (x1, y1) = (NIC_X + NIC_WIDTH, y + 18 + ARROW * turn);
            let (x2, y2) = (NODE_X, frame.y + 14 + (14 * from) % frame.height.saturating_sub(20).max(1));
            // The line is straight below its label, so that no line crosses the text.
            let bend = x1 + LABEL;
            let middle = u32::midpoint(bend, x2);
            let _ = write!(
                out,
                "<path d=\"M{x1} {y1}H{bend}C{middle} {y1} {middle} {y2} {x2} {y2}\" class=\"{line}\" \
                 marker-end=\"url(#{marker})\"/>"
            );
            let list = queues.to_string();
            let list = if list.len() > 12 { format!("{} queues", queues.len()) } else { format!("q {list}") };
            text(out, x1 + 8, y1.saturating_sub(3), ink, &format!("{list}{}", if crosses { " crosses" } else { "" }));
        }
    }
}

/// Places the boxes of the nodes, one below the other.
fn frames(snapshot: &Snapshot) -> Vec<Frame<'_>> {
    let machine = &snapshot.machine;
    let mut ids: Vec<Option<u32>> = machine.nodes.iter().map(|node| Some(node.id)).collect();
    if machine.cores.iter().any(|core| core.node.is_none()) {
        ids.push(None);
    }
    let mut y = 44;
    let mut frames = Vec::new();
    for id in ids {
        let cores: Vec<&Core> = machine.cores.iter().filter(|core| core.node == id).collect();
        let threads = cores.iter().map(|core| core.cpus.len()).max().unwrap_or(0) as u32;
        let rows = (cores.len() as u32).div_ceil(COLUMNS);
        let height = 34 + rows * (threads * THREAD + 8);
        frames.push(Frame { id, y, height, cores, threads });
        y += height + 14;
    }
    frames
}

fn legend(out: &mut String, y: u32) {
    let mut x = NIC_X;
    let entries = [
        ("actor", "actor's cpu (q: queue)"),
        ("shared", "several actors"),
        ("housekeeping", "housekeeping"),
        ("free", "free (number: cpu)"),
        ("out", "outside the cpuset"),
    ];
    for (class, label) in entries {
        rectangle(out, (x, y, 14, 12), class, 2);
        text(out, x + 19, y + 10, "s", label);
        x += 34 + 6 * label.len() as u32;
    }
    let _ = write!(out, "<path d=\"M{x} {}h26\" class=\"far\"/>", y + 6);
    text(out, x + 32, y + 10, "s ft", "packets cross NUMA nodes");
}
