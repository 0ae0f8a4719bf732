//! Prints the plan as a table.

use std::fmt;

use crate::cpus::CpuList;
use crate::plan::{Page, Plan, Warning};

/// Prints rows of text with aligned columns.
pub(crate) fn columns(f: &mut impl fmt::Write, rows: &[Vec<String>]) -> fmt::Result {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Formats a size as `64 MiB`, `512 KiB` or bytes. The value is exact below 1 GiB; above 1 GiB it is rounded down to
/// MiB, above 64 GiB to GiB.
pub(crate) fn bytes(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0 => "0".to_owned(),
        b if b >= 64 << 30 || b % (1 << 30) == 0 => format!("{} GiB", b >> 30),
        b if b % MIB == 0 || b >= 1 << 30 => format!("{} MiB", b / MIB),
        b if b % 1024 == 0 => format!("{} KiB", b / 1024),
        b => format!("{b} B"),
    }
}

pub(crate) fn speed(mbps: u32) -> String {
    if mbps.is_multiple_of(1000) { format!("{} Gbit/s", mbps / 1000) } else { format!("{mbps} Mbit/s") }
}

pub(crate) fn page(page: Page) -> &'static str {
    match page {
        Page::Huge => "2 MiB",
        Page::Base => "base",
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["QUEUE", "CPU", "NODE", "MEMORY", "PAGES", "PORTS"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for actor in &self.actors {
            // A star marks packets that cross nodes, so that it is visible without colours.
            let ports = actor.ports.iter().map(|port| {
                let crosses =
                    port.numa_node.is_some() && actor.numa_node.is_some() && port.numa_node != actor.numa_node;
                format!("{}:{}{}", port.interface, port.queue, if crosses { "*" } else { "" })
            });
            rows.push(vec![
                actor.queue.to_string(),
                format!("{}{}", actor.cpu, if actor.shares_cpu { " (shared)" } else { "" }),
                actor.numa_node.map_or_else(|| "-".to_owned(), |id| id.to_string()),
                bytes(actor.umem_bytes),
                page(actor.page).to_owned(),
                ports.collect::<Vec<_>>().join(" "),
            ]);
        }
        columns(f, &rows)?;
        if rows.iter().flatten().any(|cell| cell.ends_with('*') || cell.contains("* ")) {
            writeln!(f, "* packets cross NUMA nodes")?;
        }
        let total = self.actors.iter().fold(0_u64, |sum, actor| sum.saturating_add(actor.umem_bytes));
        let kept: CpuList = self.housekeeping.iter().copied().collect();
        writeln!(f, "\nhousekeeping cpu {kept}; packet memory {} in all", bytes(total))?;
        for Warning { subject, text, remedy, .. } in &self.warnings {
            writeln!(f, "warning: {subject}: {text}\n    remedy: {remedy}")?;
        }
        Ok(())
    }
}
