//! Tests failing files and readers: a full disk under the report, a log without a reader.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::netns::{Lab, in_namespace, skip_unless_root};
use crate::rig::Bench;

fn uptime(report: &Path) -> f64 {
    let text = std::fs::read(report).unwrap_or_default();
    serde_json::from_slice::<Value>(&text).ok().and_then(|report| report["uptime_s"].as_f64()).unwrap_or_default()
}

/// Mounts a small file system at `at`.
fn small_disk(lab: &Lab, at: &Path) {
    std::fs::create_dir(at).unwrap();
    lab.run("mount", &format!("-t tmpfs -o size=256k tmpfs {}", at.display()));
}

fn fill(disk: &Path) {
    let mut file = std::fs::File::create(disk.join("filler")).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

#[test]
fn full_disk_under_report_does_not_end_traffic() {
    if skip_unless_root("full_disk_under_report_does_not_end_traffic") {
        return;
    }
    in_namespace(|lab| {
        // The disk is full at the start: a restart must not wait until somebody frees space.
        let mut bench = Bench::with(lab, "", |dir, command| {
            let disk = dir.join("disk");
            small_disk(lab, &disk);
            fill(&disk);
            command.arg("--report").arg(disk.join("report.json"));
        });
        let (disk, report) = (bench.path("disk"), bench.path("disk/report.json"));
        bench.serves(5000);
        bench.wait("the failure is logged", |b| b.log().contains("report not written"));
        std::fs::remove_file(disk.join("filler")).unwrap();
        bench.wait("the report is written", |_| uptime(&report) > 0.0);
        bench.wait("the recovery is logged", |b| b.log().contains("report written again"));

        fill(&disk);
        bench.wait("the failure is logged again", |b| b.log().matches("report not written").count() == 2);
        let last = uptime(&report);
        assert!(last > 0.0, "a report that cannot be replaced stays complete");
        bench.serves(5000);
        bench.signal(Signal::TERM);
        assert_eq!(bench.end(), 0);
    });
}

#[test]
fn log_reader_that_goes_away_does_not_end_traffic() {
    if skip_unless_root("log_reader_that_goes_away_does_not_end_traffic") {
        return;
    }
    in_namespace(|lab| {
        let mut bench = Bench::with(lab, "", |_, command| {
            command.stderr(Stdio::piped());
        });
        drop(bench.child.stderr.take());
        // Supervisor, control socket and panic each log a message.
        bench.ctl_output(&["restart", "r0:0", "--depth", "queue"]);
        bench.inject("panic r0:1 1");
        bench.wait("the handler is replaced", |b| {
            let _ = b.answered(5000, 4, 1);
            b.queues()["queues"][1]["restarts"].as_u64() > Some(0)
        });
        bench.inject("panic r0:1 0");
        bench.wait("every queue runs", |b| b.queues()["state"] == "running");
        bench.serves(5000);
        bench.signal(Signal::TERM);
        assert_eq!(bench.end(), 0);
    });
}

#[test]
fn log_that_is_not_read_does_not_hold_up_traffic() {
    if skip_unless_root("log_that_is_not_read_does_not_hold_up_traffic") {
        return;
    }
    in_namespace(|lab| {
        let mut bench = Bench::with(lab, "", |_, command| {
            command.stderr(Stdio::piped());
        });
        // Each wake-up of each actor is logged, which is far more than a pipe holds.
        bench.ctl_output(&["log", "trace"]);
        for _ in 0..50 {
            assert!(bench.answered(5000, 8, 4) > 0);
        }
        bench.inject("panic r0:1 1");
        bench.wait("the handler is replaced", |b| {
            let _ = b.answered(5000, 4, 1);
            b.queues()["queues"][1]["restarts"].as_u64() > Some(0)
        });
        bench.inject("panic r0:1 0");
        bench.wait("every queue runs", |b| b.queues()["state"] == "running");
        bench.serves(5000);
        bench.signal(Signal::TERM);
        assert_eq!(bench.end(), 0);
    });
}
