//! Tests the commands of an operator: restart, pause, drain, reload.

use rustix::process::Signal;
use serde_json::Value;

use crate::rig::{lab, write_config};

#[test]
fn queues_are_restarted_paused_and_drained() {
    lab("queues_are_restarted_paused_and_drained", "executor = \"thread\"", |_, bench| {
        bench.serves(5000);
        for depth in ["handler", "port", "queue"] {
            let before = bench.queues()["queues"][0]["restarts"].as_u64().unwrap();
            bench.ctl_output(&["restart", "r0:0", "--depth", depth]);
            bench.wait("the queue is back", |b| {
                let queue = &b.queues()["queues"][0];
                queue["restarts"].as_u64().unwrap() > before && queue["state"] == "running"
            });
            bench.serves(5000);
        }
        let queues = bench.queues();
        assert_eq!(queues["queues"][1]["restarts"], 0, "{queues:#}");
        assert_eq!(bench.refused(&["restart", "r9:0"]).0, 1);
        assert!(bench.refused(&["restart", "r9:0"]).1.contains("expected one of r0:0"));
        assert_eq!(bench.refused(&["restart", "r0"]).0, 2);

        for queue in ["r0:0", "r0:1"] {
            bench.ctl_output(&["pause", queue]);
        }
        bench.wait("nobody is answered", |b| b.answered(5000, 4, 1) == 0);
        for queue in ["r0:0", "r0:1"] {
            bench.ctl_output(&["resume", queue]);
        }
        bench.serves(5000);

        bench.ctl_output(&["drain", "r0:1", "--within", "0"]);
        bench.wait("one queue has stopped", |b| b.queues()["queues"][1]["state"] == "stopped");
        assert_eq!(bench.get("/ready").0, 200, "the other one takes packets");
        // A reload keeps the operator's decision, and names the queue without the new handler.
        let config = bench.path("relay.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("allow_private", "packets_per_s = 1000000\nallow_private")).unwrap();
        let reloaded = bench.ctl_output(&["reload"]);
        assert!(reloaded.contains("queue 1: stopped; new handler when it is restarted"), "{reloaded}");
        assert_eq!(bench.queues()["queues"][1]["state"], "stopped");
        bench.ctl_output(&["restart", "r0:1"]);
        bench.serves(5000);

        let status: Value = serde_json::from_str(&bench.ctl_output(&["status"])).unwrap();
        assert_eq!((&status["balanced"], &status["unaccounted"]), (&true.into(), &0.into()), "{status:#}");
        bench.ctl_output(&["drain", "--within", "1"]);
        assert_eq!(bench.end(), 0);
        assert_eq!(bench.refused(&["queues"]).0, 3, "nobody there any more");
        assert!(!bench.path("ctl.sock").exists());
    });
}

#[test]
fn reload_keeps_unchanged_state() {
    lab("reload_keeps_unchanged_state", "", |_, bench| {
        bench.serves(5000);
        let (config, socket) = (bench.path("relay.toml"), bench.path("ctl.sock"));
        assert_eq!(bench.ctl_output(&["reload"]).trim(), "nothing has changed");

        std::fs::write(&config, "[engine]\ninterfaces = [\"r0\"]\nring_size = 100\n[[rely]]\n").unwrap();
        let (code, words) = bench.refused(&["reload"]);
        assert!(code == 1 && words.contains("nothing has changed") && words.contains("to fix: write relay"), "{words}");
        bench.serves(5000);

        write_config(&config, &socket, "batch_size = 16");
        let text = std::fs::read_to_string(&config).unwrap().replace("10.1.0.1:5000", "10.1.0.1:5001");
        std::fs::write(&config, text.replace("ring_size = 256", "ring_size = 512")).unwrap();
        let words = bench.ctl_output(&["reload"]);
        for line in [
            "relay[a].listen: \"10.1.0.1:5000\" -> \"10.1.0.1:5001\": in force",
            "engine.batch_size: 64 -> 16: in force for a queue with its next restart",
            "engine.ring_size: 256 -> 512: in force with the next start of the process",
        ] {
            assert!(words.contains(line), "{line}: {words}");
        }
        bench.serves(5001);
        assert_eq!(bench.answered(5000, 2, 1), 0, "the old address is the kernel's again");
        assert_eq!(bench.queues()["queues"][0]["state"], "running");
        bench.ctl_output(&["restart", "r0:0"]);
        bench.serves(5001);

        // Return to the first address by a signal.
        write_config(&config, &socket, "batch_size = 16");
        // Read only now: a service manager that does not read must not delay anything.
        bench.notified("READY=1\n");
        bench.notified("WATCHDOG=1\n");
        bench.signal(Signal::HUP);
        bench.serves(5000);
        bench.notified("RELOADING=1\nMONOTONIC_USEC=");
        bench.notified("READY=1\n");
        let in_force: Value = serde_json::from_str(&bench.ctl_output(&["config"])).unwrap();
        assert_eq!((&in_force["engine"]["batch_size"], &in_force["engine"]["ring_size"]), (&16.into(), &256.into()));
    });
}
