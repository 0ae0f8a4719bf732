#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;

use super::sections::SECTIONS;
use super::*;

const MINIMAL: &str = "[engine]\ninterfaces = [\"eth0\"]\n";

fn relay(fields: &str) -> String {
    format!("{MINIMAL}[[relay]]\n{fields}\n")
}

/// Returns all errors of `text`, one per line.
fn wrong(text: &str) -> String {
    match Config::from_toml(text) {
        Ok(config) => panic!("accepted:\n{text}\n{config:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn minimal_file_has_the_defaults() {
    let config = Config::from_toml(MINIMAL).unwrap();
    assert_eq!(config.engine, EngineConfig::new(["eth0"]));
    assert_eq!(config.sessions, SessionsConfig::default());
    assert!(config.relays.is_empty());
    assert_eq!(config, Config::from_engine(EngineConfig::new(["eth0"])).unwrap());
}

#[test]
fn example_parses_to_the_defaults() {
    let config = Config::from_toml(&Config::example()).unwrap();
    assert_eq!(config.engine, EngineConfig::new(["eth0"]));
    assert_eq!(config.sessions, SessionsConfig::default());
    assert_eq!(config.limits, LimitsConfig::default());
    assert_eq!(config.supervision, SupervisionConfig::default());
    let [relay] = config.relays.as_slice() else { panic!("one entry") };
    assert_eq!((relay.name.as_str(), relay.allow_private, relay.idle_timeout_s), ("dns", false, None));
    for section in SECTIONS {
        for field in section.fields {
            assert!(Config::example().contains(&format!("{} = ", field.name)), "{}", field.name);
        }
    }
}

/// The list of fields and the types have the same fields.
#[test]
fn every_field_is_listed() {
    let mut config = Config::from_toml(&Config::example()).unwrap();
    (config.relays[0].idle_timeout_s, config.relays[0].failover) = (Some(30), Some(true));
    let file = toml::Table::try_from(&config).unwrap();
    for section in SECTIONS {
        let table = match &file[section.name] {
            toml::Value::Array(entries) => entries[0].as_table().unwrap(),
            other => other.as_table().unwrap(),
        };
        let mut listed: Vec<_> = section.fields.iter().map(|field| field.name).collect();
        listed.sort_unstable();
        assert_eq!(table.keys().map(String::as_str).collect::<Vec<_>>(), listed);
    }
}

#[test]
fn written_configuration_reads_back() {
    let text = format!(
        "{MINIMAL}queues = [0, 2]\nframe_count = 9000\nhuge_pages = true\npin = [3]\nnuma = 1\nrealtime = 7\nsimd = \
         \"sse4.2\"\nzero_copy = \"require\"\nexecutor = \"thread\"\nfallback = \"pass\"\nattach = \"generic\"\n\
         [sessions]\nsource_ports = [\"2000-3000\", \"4000-4100\"]\nsources = [\"2001:db8::3\"]\n[[relay]]\nname = \"six\"\nlisten = \"[2001:db8::1]:53\"\nupstreams \
         = [\"[2001:db8::2]:53\"]\nidle_timeout_s = 10\n"
    );
    let config = Config::from_toml(&text).unwrap();
    assert_eq!(config.engine.queues, Choice::Fixed(vec![0, 2]));
    assert_eq!(config.engine.realtime, Realtime(Some(7)));
    assert_eq!(config.engine.simd, Choice::Fixed(oxide::simd::Level::Sse42));
    let again = Config::from_toml(&toml::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    assert_eq!(config.sessions.idle_timeout(&config.relays[0]).as_secs(), 10);
}

#[test]
fn engine_values_out_of_range() {
    for (line, wanted) in [
        (
            "ring_size = 1000",
            "engine.ring_size = 1000: expected a power of two from 64 to 32768, entries; to fix: write ring_size = 1024",
        ),
        ("ring_size = 0", "write ring_size = 64"),
        ("ring_size = 4294967295", "write ring_size = 32768"),
        ("ring_size = -1", "engine.ring_size = -1: expected"),
        ("ring_size = \"big\"", "engine.ring_size = \"big\": expected"),
        ("frame_size = 3000", "write frame_size = 4096"),
        ("frame_count = 100", "at least 3456 frames"),
        ("frame_count = 4000000", "at most 1048576 are possible"),
        ("frame_count = \"many\"", "engine.frame_count = \"many\""),
        ("batch_size = 0", "1 to 64, packets"),
        ("batch_size = 65", "1 to 64, packets"),
        ("busy_poll = 1", "true or false"),
        ("busy_poll_timeout_us = 0", "busy_poll = false"),
        ("busy_poll_timeout_us = 20000", "the unit is microseconds"),
        ("zero_copy = \"yes\"", "\"require\""),
        ("simd = \"AVX2\"", "\"avx2\""),
        ("huge_pages = \"2M\"", "engine.huge_pages"),
        ("queues = []", "engine.queues = []"),
        ("queues = [1, 1]", "different queue numbers"),
        ("queues = [256]", "0 to 255"),
        ("queues = 4", "engine.queues = 4"),
        ("pin = [0, 9000]", "0 to 8191"),
        ("numa = 5000", "0 to 1023"),
        ("realtime = 50", "1 to 49"),
        ("realtime = true", "engine.realtime = true"),
        ("realtime = 300", "engine.realtime = 300"),
        ("executor = \"tokio\"", "\"glommio\""),
        ("fallback = \"abort\"", "\"pass\""),
        ("attach = \"offload\"", "\"native\""),
    ] {
        let text = wrong(&format!("{MINIMAL}{line}\n"));
        assert!(text.contains(wanted), "{line}: {text}");
        assert_eq!(text.lines().count(), 1, "{line}: {text}");
    }
}

#[test]
fn interfaces() {
    for (line, wanted) in [
        ("[engine]", "engine.interfaces: missing"),
        ("", "engine.interfaces: missing"),
        ("[engine]\ninterfaces = []", "at least one interface"),
        ("[engine]\ninterfaces = \"eth0\"", "engine.interfaces = \"eth0\": expected a list of 1 to 8"),
        ("[engine]\ninterfaces = [\"eth0\", \"eth0\"]", "each interface once"),
        ("[engine]\ninterfaces = [\"a/b\"]", "1 to 15 bytes"),
        ("[engine]\ninterfaces = [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]", "at most 8 interfaces"),
    ] {
        let text = wrong(line);
        assert!(text.contains(wanted), "{line}: {text}");
    }
    let name = |length: usize| format!("[engine]\ninterfaces = [\"{}\"]", "a".repeat(length));
    Config::from_toml(&name(127)).unwrap();
    assert!(wrong(&name(128)).contains("alternative name up to 127"));
}

#[test]
fn unknown_field_suggests_nearest_name() {
    for (text, wanted) in [
        (format!("{MINIMAL}rign_size = 64\n"), "engine.rign_size: no such field; to fix: write ring_size"),
        (format!("{MINIMAL}colour = 1\n"), "engine.colour: no such field; to fix: use one of interfaces, queues"),
        (format!("{MINIMAL}[session]\n"), "session: no such section; to fix: write sessions"),
        (format!("{MINIMAL}[sessions]\nidle_timeout = 300\n"), "to fix: write idle_timeout_s"),
        (
            relay("name=\"a\"\nlisten=\"192.0.2.1:1\"\nupstream=[]"),
            "relay[a].upstream: no such field; to fix: write upstreams",
        ),
    ] {
        let error = wrong(&text);
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn sections_of_the_wrong_kind() {
    assert!(wrong("engine = 1").contains("write [engine]"));
    assert!(wrong(&format!("{MINIMAL}[relay]\nname = \"a\"\n")).contains("write [[relay]]"));
    assert!(wrong("engine = [").starts_with("not valid TOML: TOML parse error at line 1"));
    assert!(wrong("[engine]\ninterfaces = [\"a\"]\ninterfaces = [\"b\"]").contains("line 3"));
}

#[test]
fn sessions_out_of_range() {
    for (line, wanted) in [
        ("capacity = 63", "64 to 16777216"),
        ("capacity = 16777217", "64 to 16777216"),
        ("idle_timeout_s = 119", "a shorter idle_timeout_s in the [[relay]] entry"),
        ("idle_timeout_s = 300000", "the unit is seconds"),
        ("source_ports = \"65535-61000\"", "\"first-last\""),
        ("source_ports = \"61000\"", "\"first-last\""),
        ("source_ports = 61000", "\"first-last\""),
        ("source_ports = \"61000-70000\"", "\"first-last\""),
        ("source_ports = \"80-90\"", "from 1024"),
        ("source_ports = []", "at most 8 such ranges"),
        ("source_ports = [\"2000-2999\", \"2999-3999\"]", "at most 8 such ranges"),
        ("source_ports = [\"2000-2999\", \"39-40x\"]", "sessions.source_ports[1] = \"39-40x\""),
        ("sources = [\"192.0.2.1\", \"192.0.2.1\"]", "sessions.sources[1] = \"192.0.2.1\": each address once"),
        ("sources = [\"127.0.0.1\"]", "a loopback address"),
        ("sources = [\"::ffff:192.0.2.1\"]", "write \"192.0.2.1\""),
        ("sources = [\"eth0\"]", "sessions.sources[0] = \"eth0\""),
        ("drain_s = 3601", "the unit is seconds"),
    ] {
        let text = wrong(&format!("{MINIMAL}[sessions]\n{line}\n"));
        assert!(text.contains(wanted), "{line}: {text}");
    }
}

#[test]
fn admin_listeners() {
    for (line, wanted) in [
        ("http = \"0.0.0.0:9797\"", "allow_remote = true"),
        ("http = \"[::]:9797\"", "allow_remote = true"),
        ("http = \"192.0.2.1:80\"", "without a password"),
        ("http = \"localhost:80\"", "admin.http = \"localhost:80\": expected"),
        ("http = true", "admin.http = true: expected"),
        ("socket = \"oxide.sock\"", "an absolute path"),
        ("sandbox = \"some\"", "\"require\""),
        ("htpp = \"off\"", "to fix: write http"),
    ] {
        let text = wrong(&format!("{MINIMAL}[admin]\n{line}\n"));
        assert!(text.contains(wanted), "{line}: {text}");
        assert_eq!(text.lines().count(), 1, "{line}: {text}");
    }
    let text = "[admin]\nhttp = \"[::]:1\"\nallow_remote = true\nsocket = \"/run/a.sock\"\nsandbox = \"off\"\n";
    let config = Config::from_toml(&format!("{MINIMAL}{text}")).unwrap();
    assert_eq!(config.admin.socket, ListenSetting::At("/run/a.sock".into()));
    assert_eq!(Config::from_toml(&toml::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn limits_out_of_range() {
    for (line, wanted) in [
        (
            "source_packets_per_s = 1000000001",
            "limits.source_packets_per_s = 1000000001: expected 0 (no limit), or up to",
        ),
        ("reply_bytes_per_s = 12500000001", "limits.reply_bytes_per_s"),
        ("source_bytes_per_s = \"10M\"", "limits.source_bytes_per_s"),
        ("burst_ms = 0", "write burst_ms = 1000"),
        ("ipv4_prefix = 33", "write ipv4_prefix = 32"),
        ("ipv6_prefix = 8", "write ipv6_prefix = 64"),
        ("sources = 10", "write sources = 65536"),
    ] {
        let text = wrong(&format!("{MINIMAL}[limits]\n{line}\n"));
        assert!(text.contains(wanted), "{line}: {text}");
    }
}

#[test]
fn supervision_out_of_range() {
    for (line, wanted) in [
        ("restarts = 1000001", "supervision.restarts = 1000001: expected 0 to 1000000"),
        ("window_s = 0", "write window_s = 60"),
        ("backoff_min_ms = 6000", "or a longer backoff_max_ms"),
        ("backoff_max_ms = 86400001", "write backoff_max_ms = 5000"),
        ("port_every_ms = 99", "write port_every_ms = 5000"),
        ("stall_after_ms = 249", "write stall_after_ms = 1000"),
        ("exit_when_stuck_s = 86401", "write exit_when_stuck_s = 0, or at least 1"),
        ("stall_after_ms = 2500\nexit_when_stuck_s = 2", "at least 3"),
    ] {
        let text = wrong(&format!("{MINIMAL}[supervision]\n{line}\n"));
        assert!(text.contains(wanted), "{line}: {text}");
    }
}

#[test]
fn invalid_relay_entries_are_refused() {
    for (name, listen, upstreams, more, wanted) in [
        ("dns", "0.0.0.0:53", "192.0.2.9:53", "", "relay[dns].listen = \"0.0.0.0:53\": a wildcard"),
        ("dns", "[::]:53", "[2001:db8::9]:53", "", "a wildcard"),
        ("dns", "127.0.0.1:53", "192.0.2.9:53", "", "a loopback address: no client can reach it"),
        ("dns", "224.0.0.1:53", "192.0.2.9:53", "", "a multicast address"),
        ("dns", "[::ffff:192.0.2.1]:53", "192.0.2.9:53", "", "write \"192.0.2.1:53\""),
        ("dns", "192.0.2.1:0", "192.0.2.9:53", "", "port 0"),
        ("dns", "192.0.2.1", "192.0.2.9:53", "", "relay[dns].listen = \"192.0.2.1\": expected"),
        ("dns", "192.0.2.1:53", "192.0.2.9:0", "", "port 0"),
        ("dns", "192.0.2.1:53", "dns.example:53", "", "names are not resolved"),
        ("dns", "192.0.2.1:53", "192.0.2.1:54", "", "would loop"),
        ("dns", "192.0.2.1:53", "127.0.0.1:53", "allow_private = true", "127.0.0.1 is a loopback address"),
        ("dns", "[2001:db8::1]:53", "[::ffff:127.0.0.1]:53", "", "carries 127.0.0.1, which is a loopback address"),
        ("dns", "192.0.2.1:53", "169.254.169.254:80", "allow_private = true", "cloud metadata"),
        ("dns", "192.0.2.1:53", "10.0.0.1:53", "", "write allow_private = true"),
        ("dns", "192.0.2.1:53", "[::ffff:192.0.2.9]:53", "", "write \"192.0.2.9:53\""),
        ("", "192.0.2.1:53", "192.0.2.9:53", "", "relay[#1].name = \"\""),
        ("d n s", "192.0.2.1:53", "192.0.2.9:53", "", "1 to 32 letters"),
        ("dns", "192.0.2.1:53", "192.0.2.9:53", "idle_timeout_s = 0", "1 to 86400 seconds"),
        ("dns", "192.0.2.1:53", "192.0.2.9:53", "packets_per_s = 1000000001", "leave it out for no limit"),
        ("dns", "192.0.2.1:53", "192.0.2.9:53", "bytes_per_s = -1", "relay[dns].bytes_per_s = -1: expected"),
        ("dns", "192.0.2.1:53", "192.0.2.9:53", "down_after_sessions = 33", "expected 0 to 32"),
        ("dns", "192.0.2.1:53", "192.0.2.9:53", "down_after_ms = 3", "the unit is milliseconds"),
        (
            "dns",
            "192.0.2.1:53",
            "192.0.2.9:53",
            "down_after_sessions = 0\nfailover = true",
            "write down_after_sessions = 8",
        ),
        ("dns", "192.0.2.1:53", "192.0.2.9:53", "answer_grace_ms = 99", "expected 100 to 600000"),
        ("dns", "192.0.2.1:53", "192.0.2.9:53", "affinity = \"client\"", "\"address\""),
        ("dns", "192.0.2.1:53", "192.0.2.9:53", "gate = \"password\"", "\"cookie\""),
    ] {
        let entry = format!("name = {name:?}\nlisten = \"{listen}\"\nupstreams = [\"{upstreams}\"]\n{more}");
        let text = wrong(&relay(&entry));
        assert!(text.contains(wanted), "{entry}: {text}");
        assert_eq!(text.lines().count(), 1, "{entry}: {text}");
    }
}

#[test]
fn valid_relay_entries_are_accepted() {
    for (listen, upstreams, more) in [
        ("192.0.2.1:53", "198.51.100.1:53", ""),
        ("10.0.0.1:53", "10.0.0.2:53", "allow_private = true"),
        ("[fd00::1]:53", "[fd00::2]:53", "allow_private = true"),
        ("192.0.2.1:60999", "198.51.100.1:61000", "idle_timeout_s = 1"),
        ("192.0.2.1:61000", "198.51.100.1:53", ""),
        ("192.0.2.1:53", "[2001:db8::9]:53", "packets_per_s = 5\nbytes_per_s = 12500000000"),
        ("[2001:db8::1]:53", "192.0.2.9:53", "down_after_sessions = 8\nfailover = true"),
    ] {
        let entry = format!("name = \"a\"\nlisten = \"{listen}\"\nupstreams = [\"{upstreams}\"]\n{more}");
        Config::from_toml(&relay(&entry)).unwrap();
    }
}

#[test]
fn entries_against_each_other() {
    let entry = |name: &str, listen: &str| {
        format!("[[relay]]\nname = \"{name}\"\nlisten = \"{listen}\"\nupstreams = [\"198.51.100.1:53\"]\n")
    };
    let two = |a: &str, b: &str| format!("{MINIMAL}{a}{b}");
    assert!(Config::from_toml(&two(&entry("a", "192.0.2.1:53"), &entry("b", "192.0.2.1:54"))).is_ok());
    let text = wrong(&two(&entry("a", "192.0.2.1:53"), &entry("b", "192.0.2.1:53")));
    assert_eq!(
        text,
        "relay[#2].listen = \"192.0.2.1:53\": relay[a] listens there already; to fix: write another port, or add the upstreams \
         to that entry"
    );
    assert!(wrong(&two(&entry("a", "192.0.2.1:53"), &entry("a", "192.0.2.1:54"))).contains("entry 1 has this name"));
    let twice = "name=\"a\"\nlisten=\"192.0.2.1:1\"\nupstreams=[\"192.0.2.9:1\", \"192.0.2.9:1\"]";
    assert!(wrong(&relay(twice)).contains("each upstream once"));
    let none = "name=\"a\"\nlisten=\"192.0.2.1:1\"\nupstreams=[]";
    assert!(wrong(&relay(none)).contains("1 to 256 upstreams"));
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = wrong(&format!("{MINIMAL}ring_size = 100\nbatch_size = 100\n[sessions]\ncapacity = 1\n"));
    assert_eq!(text.lines().count(), 3, "{text}");
}

/// If `ip_local_reserved_ports` has the whole range, no program of the host can open a connection.
#[test]
fn source_ports_leave_ports_to_the_host() {
    let with = |ports: &str| format!("{MINIMAL}[sessions]\nsource_ports = \"{ports}\"\n");
    let text = wrong(&with("5000-65535"));
    assert!(text.contains("sessions.source_ports") && text.contains("4096 ports"), "{text}");
    Config::from_toml(&with("5120-65535")).unwrap();
}

/// One typing error in a list of 200 servers is reported alone.
#[test]
fn one_bad_value_of_a_list_is_named() {
    let mut upstreams: Vec<String> = (1..=200).map(|n| format!("\"198.51.100.{n}:53\"")).collect();
    upstreams[76] = "\"198.51.100.77O:53\"".to_owned();
    let entry = format!("name = \"dns\"\nlisten = \"192.0.2.1:53\"\nupstreams = [{}]", upstreams.join(", "));
    let text = wrong(&relay(&entry));
    assert!(text.starts_with("relay[dns].upstreams[76] = \"198.51.100.77O:53\": "), "{text}");
    assert!(text.len() < 300 && text.lines().count() == 1, "{text}");
    let queues = wrong(&format!("{MINIMAL}queues = [0, 1, \"two\", -3]\n"));
    assert_eq!(
        queues.lines().map(|line| line.split(':').next().unwrap()).collect::<Vec<_>>(),
        ["engine.queues[2] = \"two\"", "engine.queues[3] = -3"]
    );
}

#[test]
fn missing_file_is_reported() {
    let text = Config::load("/nonexistent/relay.toml").unwrap_err().to_string();
    assert!(text.contains("/nonexistent/relay.toml") && text.contains("oxide config example"), "{text}");
}

proptest::proptest! {
    /// Any text gives a configuration or an error. An accepted configuration reads back after it is written.
    #[test]
    fn damaged_files_get_an_error(edits in proptest::collection::vec((0usize..4000, " -~"), 1..8)) {
        // Remove comments, so that most edits change a field.
        let lines = Config::example();
        let lines: Vec<_> = lines.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        let mut text = lines.join("\n");
        for (at, letter) in edits {
            let at = at % text.len();
            text.replace_range(at..=at, &letter);
        }
        match Config::from_toml(&text) {
            Ok(config) => assert_eq!(Config::from_toml(&toml::to_string(&config).unwrap()).unwrap(), config),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// `docs/configuration.md` has the table of the list of fields.
#[test]
fn document_lists_every_field() {
    let document = include_str!("../../../docs/configuration.md");
    let mut wanted = String::new();
    for section in SECTIONS {
        for field in section.fields {
            let default = field.default.map_or("required".into(), |default| format!("`{default}`"));
            let about = field.about.split_whitespace().collect::<Vec<_>>().join(" ");
            let _ = writeln!(wanted, "| `{}` | {default} | {} | {about} |", field.name, field.allowed);
        }
    }
    let missing: Vec<_> = wanted.lines().filter(|line| !document.contains(line)).collect();
    assert!(missing.is_empty(), "docs/configuration.md lacks:\n{}", missing.join("\n"));
}

#[test]
fn session_bound_names_the_field_that_sets_it() {
    let entry = |name: &str, port: u16, upstream: &str| {
        format!("[[relay]]\nname = \"{name}\"\nlisten = \"192.0.2.1:{port}\"\nupstreams = [\"{upstream}\"]\n")
    };
    let bound = |lines: &str, entries: &str| {
        Config::from_toml(&format!("{MINIMAL}[sessions]\n{lines}\n{entries}")).unwrap().session_bound()
    };
    // One port of the default ranges is listened on.
    let one = entry("a", 61_000, "198.51.100.1:53");
    let ports = bound("", &one);
    assert_eq!((ports.total, ports.ports, ports.field()), (26_035, 26_035, "sessions.source_ports"));
    let text = ports.to_string();
    assert!(text.starts_with("at most 26035 sessions at once, set by sessions.source_ports"), "{text}");
    assert!(text.contains("sessions.capacity = 65536 cannot be reached"), "{text}");
    let three = [one.clone(), entry("b", 54, "198.51.100.2:53"), entry("c", 55, "198.51.100.3:53")].concat();
    let capacity = bound("", &three);
    assert_eq!((capacity.total, capacity.field()), (65_536, "sessions.capacity"));
    assert_eq!(
        capacity.to_string(),
        "at most 65536 sessions at once, set by sessions.capacity; at most 26035 to one upstream"
    );
    let sources = bound("sources = [\"192.0.2.8\", \"192.0.2.9\", \"2001:db8::1\"]", &one);
    assert_eq!((sources.total, sources.addresses), (52_070, 2));
    assert!(sources.to_string().ends_with("at most 26035 to one upstream from each of 2 source addresses"));
}

/// What the documentation promises of the defaults.
#[test]
fn default_ports_allow_26000_sessions_of_one_upstream() {
    let ports = SessionsConfig::default().source_ports;
    assert!(ports.count() >= 26_000);
    assert!(!(32_768..=60_999).any(|port| ports.contains(port)), "the kernel's ephemeral ports");
}
